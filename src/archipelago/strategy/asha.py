"""Asynchronous successive halving: promote as soon as someone is among the best."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import between
from archipelago.core.trial import Outcome, Proposal
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.halving import check_rungs, standing, uniform

__all__ = ["Asha"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asha:
    """Promote whoever is in the best `1/reduction` of a rung, the highest rung first; else draw.

    No rung is ever waited for, so that slow and lost candidates hold nobody up.

    Attributes:
        rungs: ascending fidelities, as shares of the estimator's full budget.
        reduction: of the candidates from rung to rung (eta in the paper).

    References:
        Li et al. 2020, arXiv:1810.05934, algorithm 2.
    """

    kind: Literal["asha"] = "asha"
    rungs: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)
    reduction: float = 3.0

    def __post_init__(self) -> None:
        check_rungs(self.rungs)
        between("strategy.reduction", self.reduction, 1, 1000, open_low=True)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` promotions and new points."""
        before, due = state.asks, list(self._due(state))
        for parent, rung in due[:n]:
            state = state.add(parent.arch, parent.number, self.rungs[rung])
        while state.asks - before < n:
            arch = uniform(state, allowed)
            if arch is None:
                break
            state = state.add(arch, None, self.rungs[0])
        return state, state.asked[before:]

    def _due(self, state: Memory) -> Iterator[tuple[Proposal, int]]:
        """Yield who may be promoted and to which rung; asking tells nobody, so all hold at once."""
        homes: dict[int, int] = {}
        promoted: set[int] = set()
        for proposal in state.asked:
            homes[proposal.number] = 0
            if proposal.parent is not None:
                homes[proposal.number] = homes[proposal.parent] + 1
                promoted.add(proposal.parent)
        rungs: list[list[Outcome]] = [[] for _ in self.rungs]
        for outcome in state.told:
            rungs[homes[outcome.number]].append(outcome)
        for rung in range(len(self.rungs) - 2, -1, -1):
            ranked = sorted(rungs[rung], key=standing, reverse=True)
            for outcome in ranked[: int(len(ranked) / self.reduction + 1e-9)]:
                if outcome.number not in promoted and outcome.scored:
                    yield state.asked[outcome.number], rung + 1
