"""Aging evolution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random as Generator
from typing import Literal

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory

__all__ = ["RegularizedEvolution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizedEvolution:
    """Mutate the best of a random sample of the living, retire the oldest.

    The first `population` proposals are random. A failed candidate is born and ages like any
    other, and never wins a comparison against one that did not fail.

    Attributes:
        population: outcomes kept alive (`P` in the paper).
        sample: parents compared for each child (`S`); 1 is a random walk.

    References:
        Real et al. 2019, arXiv:1802.01548, algorithm 1.
    """

    kind: Literal["regularized-evolution"] = "regularized-evolution"
    population: int = 10
    sample: int = 3

    def __post_init__(self) -> None:
        at_least("strategy.population", self.population, 1)
        at_least("strategy.sample", self.sample, 1)
        if self.sample > self.population:
            raise ConfigError(
                "cannot compare more parents than are alive",
                got=(self.sample, self.population),
                where="strategy.sample",
                fix=f"lower sample to {self.population} or raise population to {self.sample}",
            )

    def init(self, space: Space, seed: Seed) -> Memory:
        """Return an empty memory."""
        return Memory(space=space, seed=seed)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` children, or random points until the population is full."""
        before = len(state.asked)
        for _ in range(n):
            parent = self._parent(state)
            arch: Arch | None = None
            if parent is not None:
                arch = state.fresh(_children(state.space, parent.arch), allowed)
            if arch is None:
                parent, arch = None, state.fresh(state.space.sample, allowed)
            if arch is None:
                break
            state = state.add(arch, parent.number if parent else None)
        return state, state.asked[before:]

    def tell(self, state: Memory, outcomes: Sequence[Outcome]) -> Memory:
        """Add the newborn; the oldest are no longer compared."""
        return state.hear(outcomes)

    def _parent(self, state: Memory) -> Outcome | None:
        alive = state.told[-self.population :]
        if len(state.asked) < self.population or not alive:
            return None
        rng = state.rng("parents")
        drawn = [rng.choice(alive) for _ in range(self.sample)]
        best = max(drawn, key=lambda outcome: (outcome.score, -outcome.number))
        return None if best.status == "failed" else best


def _children(space: Space, arch: Arch) -> Callable[[Generator], Arch]:
    tries = 0

    def draw(rng: Generator) -> Arch:
        # Where every neighbour is known or not allowed, walk further.
        nonlocal tries
        tries += 1
        child = space.mutate(arch, rng)
        for _ in range(tries // 50):
            child = space.mutate(child, rng)
        return child

    return draw
