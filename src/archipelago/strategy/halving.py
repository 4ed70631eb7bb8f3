"""Successive halving: many candidates for a little, the best of them for more."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Literal

from archipelago.core.checks import at_least, between
from archipelago.core.errors import ConfigError
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.strategy.base import Allowed, Memory

__all__ = ["Bracket", "SuccessiveHalving", "check_rungs", "climb", "standing"]

Draw = Callable[[Memory, Allowed | None], Arch | None]
"""Returns a new point, or None when there is none."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """One round of halving.

    Attributes:
        start: rung on which it begins.
        sizes: candidates on each rung from `start` on.
    """

    start: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessiveHalving:
    """Try `sizes[0]` random candidates at the first rung, promote the best to the next, and again.

    A promotion is the same point at a higher fidelity; its parent is the proposal that it was. The
    next bracket begins when one ends, or when one waits: a late or lost outcome blocks nobody.

    Attributes:
        rungs: ascending fidelities, as shares of the estimator's full budget.
        sizes: candidates on each rung.

    References:
        Jamieson and Talwalkar 2016, arXiv:1502.07943, figure 2.
    """

    kind: Literal["successive-halving"] = "successive-halving"
    rungs: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    sizes: tuple[int, ...] = (16, 8, 4, 2)

    def __post_init__(self) -> None:
        check_rungs(self.rungs)
        if len(self.sizes) != len(self.rungs):
            raise ConfigError(
                "give one size for each rung",
                got=(len(self.sizes), len(self.rungs)),
                where="strategy.sizes",
                fix=f"list {len(self.rungs)} sizes",
            )
        for few in self.sizes:
            at_least("strategy.sizes", few, 1)
        if any(more > fewer for fewer, more in pairwise(self.sizes)):
            raise ConfigError(
                "a rung cannot hold more than the one before",
                got=self.sizes,
                where="strategy.sizes",
            )

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` promotions and new points."""
        bracket = Bracket(0, self.sizes)
        return climb(state, n, allowed, rungs=self.rungs, bracket=lambda _: bracket, draw=uniform)


def check_rungs(rungs: Sequence[float]) -> None:
    """Raise `ConfigError` unless `rungs` ascend and end at the full budget."""
    for rung in rungs:
        between("strategy.rungs", rung, 0, 1, open_low=True)
    if not rungs or rungs[-1] != 1 or any(low >= high for low, high in pairwise(rungs)):
        raise ConfigError(
            "rungs ascend and end at 1, the full budget",
            got=tuple(rungs),
            where="strategy.rungs",
            fix="write for example [0.125, 0.25, 0.5, 1.0]",
        )


def uniform(state: Memory, allowed: Allowed | None) -> Arch | None:
    """Draw a new point uniformly."""
    return state.fresh(state.space.sample, allowed)


def standing(outcome: Outcome) -> tuple[bool, float, int]:
    """Return what ranks outcomes of one fidelity: finished before dropped, then by score."""
    return (outcome.status == "done", outcome.score, -outcome.number)


def climb(
    state: Memory,
    n: int,
    allowed: Allowed | None,
    *,
    rungs: Sequence[float],
    bracket: Callable[[int], Bracket],
    draw: Draw,
) -> tuple[Memory, tuple[Proposal, ...]]:
    """Return up to `n` proposals: promotions of open brackets first, then new points.

    Args:
        state: what was asked and told.
        n: most proposals.
        allowed: hard constraints on new points.
        rungs: ascending fidelities.
        bracket: gives the brackets in order, without end.
        draw: gives new points.
    """
    before, exhausted = state.asks, False
    ladders = list(_ladders(state, bracket))
    while state.asks - before < n:
        best = next((p for ladder in ladders for p in ladder.due(state, exhausted)), None)
        if best is not None:
            ladder = next(ladder for ladder in ladders if best.number in ladder.home)
            rung = ladder.home[best.number] + 1
            state = state.add(best.arch, best.number, rungs[ladder.bracket.start + rung])
            ladder.put(state.asks - 1, rung)
            continue
        if exhausted:
            break
        if not ladders or ladders[-1].full:
            ladders.append(_Ladder(bracket(len(ladders))))
        arch = draw(state, allowed)
        if arch is None:
            exhausted = True
            continue
        state = state.add(arch, None, rungs[ladders[-1].bracket.start])
        ladders[-1].put(state.asks - 1, 0)
    return state, state.asked[before:]


class _Ladder:
    """One bracket under way: who stands on which rung. Changes in place, within one ask."""

    __slots__ = ("bracket", "home", "levels")

    def __init__(self, bracket: Bracket) -> None:
        self.bracket = bracket
        self.levels: list[list[int]] = [[] for _ in bracket.sizes]
        self.home: dict[int, int] = {}

    @property
    def full(self) -> bool:
        return len(self.levels[0]) >= self.bracket.sizes[0]

    def put(self, number: int, level: int) -> None:
        self.levels[level].append(number)
        self.home[number] = level

    def due(self, state: Memory, exhausted: bool) -> Iterator[Proposal]:
        """Yield whom to promote next; a rung waits until everybody on it has been told."""
        if not self.full and not exhausted:
            return
        sizes = self.bracket.sizes
        for level in range(len(sizes) - 1):
            here, above = self.levels[level], self.levels[level + 1]
            told = [state.heard(number) for number in here]
            outcomes = [outcome for outcome in told if outcome is not None]
            if not here or len(outcomes) < len(here):
                return
            # A bracket that the space could not fill keeps the same shares.
            room = max(1, len(here) * sizes[level + 1] // sizes[level])
            promoted = {state.asked[number].parent for number in above}
            ranked = sorted(outcomes, key=standing, reverse=True)
            for outcome in ranked[: min(room, sizes[level + 1])]:
                if outcome.scored and outcome.number not in promoted:
                    yield state.asked[outcome.number]


def _ladders(state: Memory, bracket: Callable[[int], Bracket]) -> Iterator[_Ladder]:
    """Rebuild the brackets: new points fill them in order, a promotion stays in its parent's."""
    ladders: list[_Ladder] = []
    numbers = count()
    homes: dict[int, _Ladder] = {}
    for proposal in state.asked:
        if proposal.parent is None:
            if not ladders or ladders[-1].full:
                ladders.append(_Ladder(bracket(next(numbers))))
            ladder, level = ladders[-1], 0
        else:
            ladder = homes[proposal.parent]
            level = ladder.home[proposal.parent] + 1
        ladder.put(proposal.number, level)
        homes[proposal.number] = ladder
    yield from ladders
