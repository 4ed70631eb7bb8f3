"""Networks that are given, not searched: final training and reference lines are such stages."""

from dataclasses import dataclass

from archipelago.core.trial import Arch, Proposal
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

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return the next `n` points; constraints do not apply to what is given."""
        del allowed
        before = len(state.asked)
        for index in range(before, min(before + n, len(self.archs))):
            state = state.add(self.archs[index], self.parents[index] if self.parents else None)
        return state, state.asked[before:]
