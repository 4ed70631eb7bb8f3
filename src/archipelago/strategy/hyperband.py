"""Hyperband: successive halving from several starting fidelities in turn."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from archipelago.core.checks import between
from archipelago.core.trial import Proposal
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.halving import Bracket, check_rungs, climb, uniform

__all__ = ["Hyperband", "brackets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperband:
    """Brackets of successive halving, the most exploring first, over and over.

    No fidelity is right for every space: a bracket that starts low tries many candidates, the last
    one trains a few to the end.

    Attributes:
        rungs: ascending fidelities; the paper's differ by the factor `reduction`.
        reduction: of the candidates from rung to rung (eta in the paper).

    References:
        Li et al. 2018, arXiv:1603.06560, algorithm 1.
    """

    kind: Literal["hyperband"] = "hyperband"
    rungs: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)
    reduction: float = 3.0

    def __post_init__(self) -> None:
        check_rungs(self.rungs)
        between("strategy.reduction", self.reduction, 1, 1000, open_low=True)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` promotions and new points."""
        cycle = brackets(len(self.rungs), self.reduction)
        return climb(
            state,
            n,
            allowed,
            rungs=self.rungs,
            bracket=lambda index: cycle[index % len(cycle)],
            draw=uniform,
        )


def brackets(rungs: int, reduction: float) -> tuple[Bracket, ...]:
    """Return one cycle of brackets, from the lowest start to the highest.

    Example:
        >>> [bracket.sizes for bracket in brackets(3, 3)]
        [(9, 3, 1), (5, 1), (3,)]
    """
    cycle: list[Bracket] = []
    for steps in range(rungs - 1, -1, -1):
        # The sum is exact to 1e-9: 3.0 ** 4 / 5 must not round up by an error of the last bit.
        sizes = [ceil(rungs * reduction**steps / (steps + 1) - 1e-9)]
        for _ in range(steps):
            sizes.append(max(1, int(sizes[-1] / reduction + 1e-9)))
        cycle.append(Bracket(rungs - 1 - steps, tuple(sizes)))
    return tuple(cycle)
