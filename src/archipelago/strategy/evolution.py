"""Evolution by tournaments: retire the oldest, or drop the worst."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random as Generator
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.columns import told

__all__ = ["RegularizedEvolution", "children"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizedEvolution:
    """Mutate the best of a random sample of the living, retire the oldest.

    The first `population` proposals are random. A failed candidate is born and ages like any
    other, and never wins a comparison against one that did not fail.

    Attributes:
        population: outcomes kept alive (`P` in the paper).
        sample: parents compared for each child (`S`); 1 is a random walk.
        retire: who dies at a birth: the `oldest` (ageing, the paper's), or the `worst`.
        again: whether a network may be proposed, and paid for, a second time.

    References:
        Real et al. 2019, arXiv:1802.01548, algorithm 1; Real et al. 2017, arXiv:1703.01041
        (dropping the worst).
    """

    kind: Literal["regularized-evolution"] = "regularized-evolution"
    population: int = 10
    sample: int = 3
    retire: Literal["oldest", "worst"] = "oldest"
    again: bool = False

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

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` children, or random points until the population is full."""
        before = state.asks
        for _ in range(n):
            parent = self._parent(state)
            arch: Arch | None = None
            if parent is not None:
                draw = children(state.space, parent.arch)
                arch = state.fresh(draw, allowed, again=self.again)
            if arch is None:
                parent = None
                arch = state.fresh(state.space.sample, allowed, again=self.again)
            if arch is None:
                break
            state = state.add(arch, parent.number if parent else None)
        return state, state.asked[before:]

    def _parent(self, state: Memory) -> Outcome | None:
        if state.asks < self.population or not state.tells:
            return None
        alive = self._alive(state)
        rng = state.rng("parents")
        drawn = [state.log.told[rng.choice(alive)] for _ in range(self.sample)]
        best = max(drawn, key=lambda outcome: (outcome.score, -outcome.number))
        return best if best.scored else None

    def _alive(self, state: Memory) -> Sequence[int]:
        """Return places among the outcomes: a population that loses its worst is the best ever."""
        if self.retire == "oldest" or state.tells <= self.population:
            return range(max(0, state.tells - self.population), state.tells)
        best = np.argsort(-told(state)[1], kind="stable")[: self.population]
        return np.sort(best).tolist()


def children(space: Space, arch: Arch) -> Callable[[Generator], Arch]:
    """Return draws of mutants: where every neighbour is known or not allowed, walk further."""
    tries = 0

    def draw(rng: Generator) -> Arch:
        nonlocal tries
        tries += 1
        child = space.mutate(arch, rng)
        for _ in range(tries // 50):
            child = space.mutate(child, rng)
        return child

    return draw
