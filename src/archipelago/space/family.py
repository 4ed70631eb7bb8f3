"""What the families of networks share: the key of a point, and checks of their options."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from archipelago.core.checks import at_least, one_of
from archipelago.core.errors import ConfigError, IncompatibleParts
from archipelago.core.trial import Arch
from archipelago.space.graph import Graph
from archipelago.space.space import Space

__all__ = ["ByGraph", "Family", "image", "known_words", "odd_sizes", "sizes"]


@runtime_checkable
class Family(Protocol):
    """A part that declares a space for a data set and builds its members."""

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choices."""
        ...

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build one member."""
        ...

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return a sensible hand-made network to compare with; it need not be a member."""
        ...


@dataclass(frozen=True, slots=True)
class ByGraph:
    """A canonicaliser: members that build the same network, names apart, share a key.

    A pooling of a single pixel or a dropout of rate 0 changes nothing; so is no second candidate.
    """

    family: Family
    input_shape: tuple[int, ...]
    outputs: int

    def __call__(self, arch: Arch) -> str:
        """Return the key of the network that `arch` builds."""
        return self.family.graph(arch, self.input_shape, self.outputs).key


def sizes(where: str, values: Sequence[float], *, low: int = 1) -> None:
    """Raise `ConfigError` unless there are values and each is at least `low`."""
    if not values:
        raise ConfigError("offer at least one", where=where)
    for value in values:
        at_least(where, value, low)


def odd_sizes(where: str, values: Sequence[int]) -> None:
    """Raise `ConfigError` unless there are values, all odd: such a kernel keeps the size."""
    sizes(where, values)
    for value in values:
        if value % 2 == 0:
            raise ConfigError(
                "a kernel must be odd to keep the size",
                got=value,
                where=where,
                fix=f"write {value - 1} or {value + 1}",
            )


def known_words(where: str, values: Sequence[str], known: Sequence[str]) -> None:
    """Raise `ConfigError` unless there are values, all among `known`."""
    if not values:
        raise ConfigError("offer at least one", where=where)
    for value in values:
        one_of(where, value, known)


def image(name: str, shape: tuple[int, ...]) -> None:
    """Raise `IncompatibleParts` unless rows of this shape are pictures."""
    if len(shape) != 3:
        raise IncompatibleParts(
            f"{name} needs images (channels, height, width)",
            got=shape,
            where="space.kind",
            fix="use series-chain for series, table-mlp for tables",
        )
