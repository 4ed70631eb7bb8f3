"""Hill climbing with restarts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.strategy.base import Allowed, Memory

__all__ = ["LocalSearch"]

MOST_KNOWN = 5000
"""Points whose neighbours are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearch:
    """Climb from point to neighbouring point; at a summit, start again elsewhere.

    A neighbour differs in one choice. A climb walks through everything told: what is known
    already is not proposed again.

    Attributes:
        step: `first` moves as soon as a neighbour is better, `best` when all were tried.
        starts: random points before the first climb, which begins at the best of them.

    References:
        White, Nolen and Savani 2021, arXiv:2005.02960; den Ottelander et al. 2021,
        arXiv:2004.08996.
    """

    kind: Literal["local-search"] = "local-search"
    step: Literal["first", "best"] = "first"
    starts: int = 10

    def __post_init__(self) -> None:
        at_least("strategy.starts", self.starts, 1)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` unknown neighbours of where the climb stands, or a new start."""
        before = state.asks
        for _ in range(n):
            parent = self._stand(state, allowed)
            arch: Arch | None = None
            if parent is not None:
                near = self._unknown(state, parent, allowed)
                arch = state.rng("neighbour").choice(near) if near else None
            if arch is None:
                parent, arch = None, state.fresh(state.space.sample, allowed)
            if arch is None:
                break
            state = state.add(arch, parent.number if parent else None)
        return state, state.asked[before:]

    def _stand(self, state: Memory, allowed: Allowed | None) -> Outcome | None:
        """Return where the climb has come to; None before it starts."""
        stand = self._start(state)
        while stand is not None:
            if self.step == "best" and self._unknown(state, stand, allowed):
                return stand
            better = list(self._better(state, stand))
            if not better:
                return stand
            stand = max(better, key=lambda outcome: (outcome.score, -outcome.number))
        return None

    def _start(self, state: Memory) -> Outcome | None:
        if state.asks < self.starts or not state.tells:
            return None
        starts = [p.number for p in state.asked if p.parent is None]
        first = [state.heard(number) for number in starts[: self.starts]]
        if starts[self.starts :]:
            latest = state.heard(starts[-1])
            if latest is not None and latest.scored:
                return latest
        done = [o for o in first if o is not None and o.scored]
        return max(done, key=lambda outcome: (outcome.score, -outcome.number), default=None)

    def _better(self, state: Memory, stand: Outcome) -> Iterator[Outcome]:
        first, asks = state.log.first, state.asks
        for _, key in _near(state, stand):
            number = first.get(key, asks)
            if number < asks:
                outcome = state.heard(number)
                if outcome and outcome.scored and outcome.score > stand.score:
                    yield outcome

    def _unknown(self, state: Memory, stand: Outcome, allowed: Allowed | None) -> list[Arch]:
        first, asks = state.log.first, state.asks
        return [
            arch
            for arch, key in _near(state, stand)
            if first.get(key, asks) >= asks and (allowed is None or allowed(arch))
        ]


def _near(state: Memory, stand: Outcome) -> list[tuple[Arch, str]]:
    """Return the neighbours of where the climb stands with their keys; kept with the space."""
    space, places = state.space, state.log.places[stand.number]
    known = space.notes.setdefault("neighbours", {})
    if places not in known:
        if len(known) >= MOST_KNOWN:
            known.clear()
        known[places] = [(near, space.canonical(near)) for near in space.neighbours(stand.arch)]
    return known[places]
