"""Networks that are given, not searched: final training and reference lines are such stages."""

from collections.abc import Sequence
from dataclasses import dataclass

from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory

__all__ = ["Fixed"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A strategy that proposes what it was given, in order.

    Attributes:
        archs: members of the space, or empty for a network from outside it.
        parents: numbers under which the context knows weights to start from; empty: from scratch.
    """

    archs: tuple[Arch, ...]
    parents: tuple[int, ...] = ()

    def init(self, space: Space, seed: Seed) -> Memory:
        """Return an empty memory."""
        return Memory(space=space, seed=seed)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return the next `n` points; constraints do not apply to what is given."""
        del allowed
        before = len(state.asked)
        for index in range(before, min(before + n, len(self.archs))):
            state = state.add(self.archs[index], self.parents[index] if self.parents else None)
        return state, state.asked[before:]

    def tell(self, state: Memory, outcomes: Sequence[Outcome]) -> Memory:
        """Remember the outcomes."""
        return state.hear(outcomes)
