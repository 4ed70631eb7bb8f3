"""Independent draws: the baseline that every method must beat."""

from dataclasses import dataclass
from typing import Literal

from archipelago.core.trial import Proposal
from archipelago.strategy.base import Allowed, Memory

__all__ = ["Random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Uniform over choices, without repetition.

    Attributes:
        again: whether a network may be proposed, and paid for, a second time.

    References:
        Bergstra and Bengio 2012, JMLR 13; Li and Talwalkar 2019, arXiv:1902.07638.
    """

    kind: Literal["random"] = "random"
    again: bool = False

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Draw up to `n` points not seen before."""
        before = len(state.asked)
        for _ in range(n):
            arch = state.fresh(state.space.sample, allowed, again=self.again)
            if arch is None:
                break
            state = state.add(arch)
        return state, state.asked[before:]
