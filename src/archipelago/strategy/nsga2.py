"""Evolution for several objectives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.errors import ConfigError
from archipelago.core.trial import Arch, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.columns import Numbers
from archipelago.strategy.pareto import crowding, fronts, losses

__all__ = ["Nsga2", "check_objectives"]


def check_objectives(objectives: Sequence[str]) -> None:
    """Raise `ConfigError` unless there are objectives, each named once."""
    if not objectives or len(set(objectives)) != len(objectives):
        raise ConfigError(
            "names each objective once",
            got=tuple(objectives),
            where="strategy.objectives",
            fix='write objectives = ["score", "params"]',
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Nsga2:
    """Parents win tournaments by front, then by how lonely they are on it; children are crossed.

    The population is chosen anew after every `every` outcomes: the paper's generation is
    `every = population`; 1 uses each outcome at once, which serves small budgets. With one
    objective this is elitist evolution.

    Attributes:
        objectives: `score` (raised) and names of costs or metrics of an outcome (lowered).
        population: outcomes that may be parents.
        every: outcomes between two selections.
        cross: chance that a child has two parents.
        mutate: expected number of choices changed in a child.

    References:
        Deb, Pratap, Agarwal and Meyarivan 2002, IEEE Trans. Evolutionary Computation 6.
    """

    kind: Literal["nsga2"] = "nsga2"
    objectives: tuple[str, ...] = ("score", "params")
    population: int = 20
    every: int = 1
    cross: float = 0.9
    mutate: float = 1.0

    def __post_init__(self) -> None:
        check_objectives(self.objectives)
        at_least("strategy.population", self.population, 2)
        at_least("strategy.every", self.every, 1)
        between("strategy.cross", self.cross, 0, 1)
        at_least("strategy.mutate", self.mutate, 0)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` children, or random points until the population is full."""
        before = state.asks
        for _ in range(n):
            parent, arch = None, None
            chosen = self._population(state) if state.asks >= self.population else None
            if chosen is not None and len(chosen[0]):
                parent, arch = self._child(state, chosen, allowed)
            if arch is None:
                parent, arch = None, state.fresh(state.space.sample, allowed)
            if arch is None:
                break
            state = state.add(arch, parent)
        return state, state.asked[before:]

    def _child(
        self, state: Memory, chosen: tuple[Numbers, Numbers, Numbers], allowed: Allowed | None
    ) -> tuple[int, Arch | None]:
        rng = state.rng("parents")
        mother, father = (state.log.told[_winner(chosen, rng)] for _ in range(2))
        crossed = rng.random() < self.cross
        draw = self._draw(state.space, mother.arch, father.arch if crossed else mother.arch)
        return mother.number, state.fresh(draw, allowed)

    def _draw(self, space: Space, mother: Arch, father: Arch) -> Callable[[Random], Arch]:
        tries = 0

        def draw(rng: Random) -> Arch:
            nonlocal tries
            tries += 1
            arch = space.crossover(mother, father, rng)
            share = self.mutate / len(arch)
            for _ in range(sum(rng.random() < share for _ in range(len(arch)))):
                arch = space.mutate(arch, rng)
            # Where all that the parents can have is known, walk further.
            for _ in range(tries // 20):
                arch = space.mutate(arch, rng)
            return arch

        return draw

    def _population(self, state: Memory) -> tuple[Numbers, Numbers, Numbers]:
        """Return the population's places among the outcomes, their ranks and crowding."""
        last = state.tells - state.tells % self.every
        key = ("nsga2", self.objectives, self.population, self.every)
        done, chosen = state.log.notes.get(key, (0, _EMPTY))
        if done > last:
            done, chosen = 0, _EMPTY
        while done < last:
            places = np.append(chosen[0], np.arange(done, done + self.every)).astype(np.int64)
            chosen = self._select(state, places)
            done += self.every
        state.log.notes[key] = (done, chosen)
        return chosen

    def _select(self, state: Memory, places: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        outcomes = [state.log.told[place] for place in places.tolist()]
        points = losses(outcomes, self.objectives)
        fine = np.isfinite(points).all(axis=1)
        places, points = places[fine], points[fine]
        if not len(places):
            return _EMPTY
        ranks, lonely = fronts(points), np.zeros(len(points))
        for rank in range(ranks.max() + 1):
            lonely[ranks == rank] = crowding(points[ranks == rank])
        order = np.lexsort((places, -lonely, ranks))[: self.population]
        return places[order], ranks[order], lonely[order]


_EMPTY = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _winner(chosen: tuple[Numbers, Numbers, Numbers], rng: Random) -> int:
    places, ranks, lonely = chosen
    a, b = rng.randrange(len(places)), rng.randrange(len(places))
    better = min(a, b, key=lambda i: (ranks[i], -lonely[i], i))
    return int(places[better])
