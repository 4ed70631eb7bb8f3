"""Hard limits on what a candidate may cost, written as people write them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from archipelago.core.checks import one_of
from archipelago.core.errors import ConfigError

__all__ = ["COSTS", "Constraint", "parse"]

COSTS = ("params", "macs", "bytes_per_round")
"""What is known of a network before anything is allocated; see `Graph.costs`."""

_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_TEXT = re.compile(
    r"\s*([A-Za-z_]+)\s*(<=|<)\s*([0-9][0-9_]*\.?[0-9]*(?:e[0-9]+)?)\s*([A-Za-z]*)\s*"
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """One limit: `cost < bound`, or `cost <= bound`.

    Attributes:
        cost: one of `COSTS`.
        bound: in scalars, multiply-accumulates or bytes.
        strict: whether the bound itself is too much.
    """

    cost: str
    bound: float
    strict: bool = True

    def __post_init__(self) -> None:
        one_of("constraints", self.cost, COSTS)
        if not (isfinite(self.bound) and self.bound > 0):
            raise ConfigError("a limit must be above 0", got=self.bound, where="constraints")

    def holds(self, costs: Mapping[str, float]) -> bool:
        """Whether a candidate of these costs is allowed."""
        return costs[self.cost] < self.bound or (not self.strict and costs[self.cost] == self.bound)

    def __str__(self) -> str:
        suffix, factor = "", 1.0
        for letter, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
            if self.bound % size == 0:
                suffix, factor = letter, size
        number = f"{self.bound / factor:.15g}"
        return f"{self.cost} {'<' if self.strict else '<='} {number}{suffix}"


def parse(text: str) -> Constraint:
    """Read one limit.

    Raises:
        ConfigError: saying how a limit is written.

    Example:
        >>> parse("params < 100k").holds({"params": 99_999})
        True
        >>> parse("macs <= 5M")
        Constraint(cost='macs', bound=5000000.0, strict=False)
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ConfigError(
            "cannot be read as a limit",
            got=text,
            where="constraints",
            fix='write "params < 100k", with < or <=; costs: ' + ", ".join(COSTS),
        )
    cost, sign, number, suffix = match.groups()
    if suffix.lower() not in _SUFFIX:
        raise ConfigError(
            "a limit ends in a number, or in k, M or G (thousands, millions, milliards)",
            got=text,
            where="constraints",
            fix='write "params < 100k"',
        )
    return Constraint(cost, float(number) * _SUFFIX[suffix.lower()], sign == "<")
