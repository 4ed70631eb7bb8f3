"""Bayesian optimisation for several objectives, by random scalarisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.trial import Arch, Proposal
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.columns import Growing, Numbers, propose, rank_normal
from archipelago.strategy.gaussian_process import GaussianProcess
from archipelago.strategy.nsga2 import check_objectives
from archipelago.strategy.pareto import losses

__all__ = ["ParEgo", "chebyshev"]


def chebyshev(points: Numbers, weights: Numbers, *, slope: float = 0.05) -> Numbers:
    r"""Return the augmented Chebyshev loss: $\max_j w_j f_j + \rho \sum_j w_j f_j$.

    Args:
        points: shape `[points, objectives]`, each objective in [0, 1], lower is better.
        weights: of the objectives, summing to 1.
        slope: rho.

    References:
        Knowles 2006, IEEE Trans. Evolutionary Computation 10, equation 2.
    """
    weighted = points * weights
    return weighted.max(axis=1) + slope * weighted.sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParEgo:
    """For each proposal weigh the objectives at random, and improve the weighted worst of them.

    A Gaussian process learns the scalar; one factor serves all weightings. With one objective
    this is the Gaussian process alone.

    Attributes:
        objectives: `score` (raised) and names of costs or metrics of an outcome (lowered).
        startup: random proposals before the first model.
        inputs: the `choices` themselves, or `views` of the space where it has any. Views forget
            what does not change the function, and that may still cost parameters or energy.
        length: as of the Gaussian process; longer, since costs are nearly sums over choices.
        noise: as of the Gaussian process.
        candidates: as of the Gaussian process.

    References:
        Knowles 2006, ParEGO, IEEE Trans. Evolutionary Computation 10.
    """

    kind: Literal["parego"] = "parego"
    objectives: tuple[str, ...] = ("score", "params")
    startup: int = 10
    inputs: Literal["views", "choices"] = "choices"
    length: float = 1.0
    noise: float = 0.05
    candidates: int = 500

    def __post_init__(self) -> None:
        check_objectives(self.objectives)
        at_least("strategy.startup", self.startup, 2)
        between("strategy.length", self.length, 0, 100, open_low=True)
        between("strategy.noise", self.noise, 0, 100, open_low=True)
        at_least("strategy.candidates", self.candidates, 2)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` points, each for a weighting of its own."""
        return propose(state, n, allowed, startup=self.startup, choose=self._choose)

    def _choose(self, state: Memory, rng: Random) -> tuple[Sequence[Arch], Numbers]:
        points = self._points(state)
        draws = np.array([rng.expovariate(1.0) for _ in self.objectives])
        targets = -chebyshev(_unit(points), draws / draws.sum())
        model = GaussianProcess(
            startup=self.startup,
            inputs=self.inputs,
            length=self.length,
            noise=self.noise,
            candidates=self.candidates,
        )
        return model.improve(state, rng, rank_normal(targets))

    def _points(self, state: Memory) -> Numbers:
        key = ("parego", self.objectives)
        rows = state.log.notes.setdefault(key, Growing((len(self.objectives),)))
        new = state.log.told[rows.length : state.tells]
        for row in losses(new, self.objectives):
            rows.append(row)
        return rows.first(state.tells)


def _unit(points: Numbers) -> Numbers:
    """Scale each objective to [0, 1] by its extremes; what failed is twice as bad as the worst."""
    fine = np.isfinite(points)
    low = np.where(fine, points, np.inf).min(axis=0)
    high = np.where(fine, points, -np.inf).max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return np.where(fine, (np.where(fine, points, 0.0) - low) / span, 2.0)
