"""Every point, in order."""

from dataclasses import dataclass
from itertools import islice
from typing import Literal

from archipelago.core.trial import Proposal
from archipelago.strategy.base import Allowed, Memory

__all__ = ["Grid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Enumerates the space; points that share a canonical key are visited once.

    Attributes:
        most: points looked at; a larger space is cut off there.
    """

    kind: Literal["grid"] = "grid"
    most: int = 100_000

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return the next `n` points."""
        before, seen = len(state.asked), set(state.keys())
        for arch in islice(state.space.enumerate(), self.most):
            if len(state.asked) - before >= n:
                break
            key = state.space.canonical(arch)
            if key not in seen and (allowed is None or allowed(arch)):
                seen.add(key)
                state = state.add(arch)
        return state, state.asked[before:]
