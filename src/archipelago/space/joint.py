"""Settings of training as choices: searched with the architecture, or after it.

One rule makes them one mechanism: a choice named `train.x` changes no network. `settings` takes
such choices out of a point, a branch carries them, and the client's part replaces its field `x`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError
from archipelago.core.trial import Arch, Value
from archipelago.space.dims import Choice
from archipelago.space.family import Family
from archipelago.space.graph import Graph
from archipelago.space.space import Space

__all__ = ["TRAIN", "Joint", "Tune", "network", "settings"]

TRAIN = "train"
"""First part of the name of a choice that configures the client's training."""


def settings(arch: Arch) -> dict[str, Value]:
    """Return the choices of `arch` that change no network, without their prefix.

    Example:
        >>> settings({"depth": 2, "train.learning_rate": 0.1})
        {'learning_rate': 0.1}
    """
    prefix = f"{TRAIN}."
    return {k.removeprefix(prefix): v for k, v in arch.items() if k.startswith(prefix)}


def network(arch: Arch) -> dict[str, Value]:
    """Return the choices of `arch` that build its network.

    Example:
        >>> network({"depth": 2, "train.learning_rate": 0.1})
        {'depth': 2}
    """
    return {k: v for k, v in arch.items() if not k.startswith(f"{TRAIN}.")}


@dataclass(frozen=True, slots=True)
class JointKey:
    """A canonicaliser: the network's own key, and the settings with which it is trained."""

    networks: Space

    def __call__(self, arch: Arch) -> str:
        """Return the key of network and settings together."""
        with_it = json.dumps(settings(arch), sort_keys=True, separators=(",", ":"))
        return f"{self.networks.canonical(network(arch))} {with_it}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A family whose members are networks together with how they are trained.

    Attributes:
        family: declares and builds the networks.
        choices: field of the client's part -> what it may be.

    References:
        Zela et al. 2018, arXiv:1807.06906: architecture and hyperparameters interact, and are
        searched together.
    """

    family: Family
    choices: Mapping[str, Sequence[Value]]

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the family's choices and the settings under `train.`."""
        inner = self.family.space(input_shape, outputs)
        if TRAIN in inner.dims:
            raise ConfigError("a family may not have a choice of this name", got=TRAIN)
        return Space({**inner.dims, TRAIN: _dims(self.choices)}, canonicaliser=JointKey(inner))

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; the settings play no part in it."""
        return self.family.graph(network(arch), input_shape, outputs)

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return the family's hand-made network."""
        return self.family.baseline(input_shape, outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tune:
    """Searches the client's settings too: learning rate, batch, optimiser, and what else it has.

    Without `choices` nothing is tuned. Example: `choices = { learning_rate = [0.01, 0.1] }`.

    Attributes:
        choices: field of the client's part -> the values it may take; with `augment.` in front,
            an option of [augment]; `preprocess.scaling`, how a table's numbers are scaled.
        order: `joint` makes them choices of the one search; `after` searches them for the winning
            network, once the architecture is settled, by the same strategy and estimator.
        trials: settings tried by `after`.

    References:
        Zela et al. 2018, arXiv:1807.06906 (together); the usual practice is one after the other.
    """

    kind: Literal["choices"] = "choices"
    choices: Mapping[str, tuple[str | int | float | bool, ...]] = field(
        default_factory=dict[str, tuple[str | int | float | bool, ...]]
    )
    order: Literal["joint", "after"] = "joint"
    trials: int = 8

    def __post_init__(self) -> None:
        at_least("tune.trials", self.trials, 1)
        for name, options in self.choices.items():
            if not options:
                raise ConfigError("offer at least one", where=f"tune.choices.{name}")

    @property
    def afterwards(self) -> bool:
        """Whether the settings have a search of their own."""
        return bool(self.choices) and self.order == "after"

    def family(self, networks: Family) -> Family:
        """Return the family that the search runs over."""
        if not self.choices or self.afterwards:
            return networks
        return Joint(family=networks, choices=self.choices)

    def space(self) -> Space:
        """Return the settings alone."""
        return Space({TRAIN: _dims(self.choices)})


def _dims(choices: Mapping[str, Sequence[Value]]) -> dict[str, Any]:
    """Return a choice for each setting; `augment.flip` lies under the name of its part."""
    dims: dict[str, Any] = {}
    for name, options in choices.items():
        *outer, last = name.split(".")
        home = dims
        for step in outer:
            home = home.setdefault(step, {})
        home[last] = Choice(tuple(options))
    return dims
