"""Loop one against a table: ask, look up, tell. Milliseconds instead of GPU days. No torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from archipelago.core.checks import at_least
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch
from archipelago.driver.live import Search
from archipelago.estimate.table import Numbers, Table
from archipelago.strategy.base import Memory, Strategy

__all__ = ["Trace", "replay"]

BLOCK = 500
"""Proposals whose distances to all earlier ones are computed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One replayed search, evaluation by evaluation.

    Attributes:
        scores: what each evaluation came back with, shape `[evaluations]`; -inf where it failed.
        incumbents: best score at full fidelity so far, shape `[evaluations]`.
        reported: the reported score of that incumbent, shape `[evaluations]`.
        spent: full trainings paid for so far, shape `[evaluations]`.
        explored: share of choices in which each proposal differs from the nearest one before it,
            shape `[evaluations]`; the first is 1.
        state: where the search ended.
        seconds: thinking time of the strategy.
    """

    scores: Numbers
    incumbents: Numbers
    reported: Numbers
    spent: Numbers
    explored: Numbers
    state: Memory
    seconds: float

    def at(self, budget: float) -> float:
        """Return the reported score of the best found for `budget` full trainings."""
        place = int(np.searchsorted(self.spent, budget + 1e-9, side="right"))
        return float("nan") if place == 0 else float(self.reported[place - 1])

    def found(self, budget: float) -> float:
        """Return the best score at full fidelity found for `budget` full trainings."""
        place = int(np.searchsorted(self.spent, budget + 1e-9, side="right"))
        return float("-inf") if place == 0 else float(self.incumbents[place - 1])


def replay(
    strategy: Strategy,
    table: Table,
    *,
    budget: float,
    seed: Seed,
    batch: int = 1,
    allowed: Callable[[Arch], bool] | None = None,
) -> Trace:
    """Search `table` until `budget` full trainings are spent or nothing new is proposed.

    A proposal at a higher fidelity of what was trained before pays the difference only.

    Args:
        strategy: proposes.
        table: answers.
        budget: full trainings, e.g. 100; an evaluation at fidelity f costs f.
        seed: the strategy's stream.
        batch: proposals asked for before any of them is told.
        allowed: hard constraints.
    """
    at_least("budget", budget, 1)
    at_least("batch", batch, 1)
    search, paid, trained = (
        Search(strategy, table.space, seed, allowed=allowed),
        0.0,
        dict[str, float](),
    )
    scores: list[float] = []
    spent: list[float] = []
    thought = 0.0
    while paid < budget - 1e-9:
        began = time.perf_counter()
        proposals = search.ask(batch)
        thought += time.perf_counter() - began
        if not proposals:
            break
        outcomes = [table.outcome(p) for p in proposals]
        for proposal, outcome in zip(proposals, outcomes, strict=True):
            key = search.state.log.keys[proposal.number]
            before = trained.get(key, 0.0)
            paid += proposal.fidelity - (before if before < proposal.fidelity else 0.0)
            trained[key] = max(before, proposal.fidelity)
            scores.append(outcome.score)
            spent.append(paid)
        began = time.perf_counter()
        search.tell(outcomes)
        thought += time.perf_counter() - began
    state = search.state
    incumbents, reported = _incumbents(state, table)
    return Trace(
        scores=np.array(scores),
        incumbents=incumbents,
        reported=reported,
        spent=np.array(spent),
        explored=_explored(state),
        state=state,
        seconds=thought,
    )


def _incumbents(state: Memory, table: Table) -> tuple[Numbers, Numbers]:
    best, report = float("-inf"), float("nan")
    incumbents: list[float] = []
    reported: list[float] = []
    for proposal in state.asked:
        outcome = state.heard(proposal.number)
        if outcome and outcome.fidelity == 1.0 and outcome.score > best:
            best, report = outcome.score, table.reported(proposal.arch)
        incumbents.append(best)
        reported.append(report)
    return np.array(incumbents), np.array(reported)


def _explored(state: Memory) -> Numbers:
    places = np.array(state.log.places[: state.asks])
    nearest = np.ones(len(places))
    for first in range(1, len(places), BLOCK):
        block = places[first : first + BLOCK]
        last = first + len(block)
        differ = np.zeros((len(block), last), np.int32)
        for ours, theirs in zip(block.T, places[:last].T, strict=True):
            differ += ours[:, None] != theirs
        before = np.tri(len(block), last, first - 1, dtype=bool)
        differ = np.where(before, differ, places.shape[1])
        nearest[first : first + BLOCK] = differ.min(axis=1) / places.shape[1]
    return nearest
