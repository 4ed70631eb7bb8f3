"""Bayesian optimisation with a Gaussian process."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.trial import Arch, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.columns import (
    Growing,
    Numbers,
    Pool,
    draw,
    pool,
    propose,
    rank_normal,
    standard,
    told,
    views,
)

__all__ = ["GaussianProcess", "expected_improvement"]


def expected_improvement(mean: Numbers, deviation: Numbers, best: float) -> Numbers:
    r"""Return $E[\max(Y - y^*, 0)] = (\mu - y^*)\Phi(z) + \sigma\varphi(z)$, $Y$ being normal.

    References:
        Jones, Schonlau and Welch 1998, J. Global Optimization 13, equation 15.
    """
    from scipy.special import ndtr

    z = (mean - best) / deviation
    return (mean - best) * ndtr(z) + deviation * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianProcess:
    """Propose what a Gaussian process expects to improve most on the best known mean.

    The kernel is the mean over the space's views (pruned operations, path counts; without views,
    the choices) of exp(-d / length), d being half the L1 distance. Small spaces are scored whole;
    each outcome then adds one row to the factor, at a cost linear in trials times classes.

    Attributes:
        startup: random proposals before the first model.
        inputs: `views` of the space where it has any, or the `choices` themselves.
        targets: `ranks` turned into normal quantiles, or `standard` scores.
        length: distance at which correlation falls to 1/e; 1 is as far apart as can be.
        noise: variance of one measurement, in units of the prior's.
        candidates: drawn for each proposal where the space is too large to be scored whole.

    References:
        Snoek, Larochelle and Adams 2012, arXiv:1206.2944; White et al. 2021, arXiv:1910.11858
        (path encoding).
    """

    kind: Literal["gaussian-process"] = "gaussian-process"
    startup: int = 10
    inputs: Literal["views", "choices"] = "views"
    targets: Literal["ranks", "standard"] = "ranks"
    length: float = 1 / 3
    noise: float = 0.05
    candidates: int = 500

    def __post_init__(self) -> None:
        at_least("strategy.startup", self.startup, 2)
        between("strategy.length", self.length, 0, 100, open_low=True)
        between("strategy.noise", self.noise, 0, 100, open_low=True)
        at_least("strategy.candidates", self.candidates, 2)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` points; the pending ones are believed to come back as predicted."""
        return propose(state, n, allowed, startup=self.startup, choose=self._choose)

    def _choose(self, state: Memory, rng: Random) -> tuple[Sequence[Arch], Numbers]:
        scores = told(state)[1]
        targets = rank_normal(scores) if self.targets == "ranks" else standard(scores)
        return self.improve(state, rng, targets)

    def improve(
        self, state: Memory, rng: Random, targets: Numbers
    ) -> tuple[Sequence[Arch], Numbers]:
        """Return candidates and the improvement expected of `targets`, shape `[tells]`."""
        archs, mean, variance = self.predict(state, rng, targets)
        if not archs:
            return archs, mean
        value = expected_improvement(mean, np.sqrt(variance), self._incumbent(state, mean, targets))
        small = pool(state.space)
        if small is not None:
            value = np.where(small.open(state), value, float("-inf"))
        return archs, value

    def predict(
        self, state: Memory, rng: Random, targets: Numbers
    ) -> tuple[Sequence[Arch], Numbers, Numbers]:
        """Return candidates with posterior mean and variance, shape `[candidates]` each."""
        small, choices = pool(state.space), self.inputs == "choices"
        factor = _factor(self, state)
        factor.catch_up(state, small)
        if small is None:
            archs: Sequence[Arch] = draw(state, rng, self.candidates)
            if not archs:
                return (), np.zeros(0), np.zeros(0)
            rows = views(state.space, archs, choices=choices)
            cross = factor.solve(self._kernel(factor.known(state.tells), rows), state.tells)
            variance = 1.0 - np.einsum("tc,tc->c", cross, cross)
        else:
            archs, rows = small.archs, small.views(state.space, choices=choices)
            cross, variance = factor.cross(state.tells), factor.variance(state.tells)
        weights = factor.solve(targets[:, None], state.tells)[:, 0]
        mean = weights.astype(cross.dtype) @ cross
        late = views(state.space, [p.arch for p in state.pending()], choices=choices)
        if len(late) and len(late[0]):
            variance = variance - self._believed(late, rows, factor, cross)
        return archs, mean, np.maximum(variance, 1e-9)

    def _believed(
        self, late: Sequence[Numbers], rows: Sequence[Numbers], factor: "_Factor", cross: Numbers
    ) -> Numbers:
        """Return how much variance goes if the pending ones come back with their means."""
        length = len(cross)
        inner = factor.solve(self._kernel(factor.known(length), late), length)
        own = self._kernel(late, late) - inner.T @ inner + self.noise * np.eye(len(late[0]))
        outer = self._kernel(late, rows) - inner.T @ cross
        more = _below(np.linalg.cholesky(own), outer)
        return np.einsum("pc,pc->c", more, more)

    def _kernel(self, a: Sequence[Numbers], b: Sequence[Numbers]) -> Numbers:
        total = np.zeros((len(a[0]), len(b[0])), np.float32)
        for one, other in zip(a, b, strict=True):
            for place, row in enumerate(one):
                distance = np.abs(other - row).sum(axis=1)
                total[place] += np.exp(distance * np.float32(-0.5 / self.length))
        return total / len(a)

    def _incumbent(self, state: Memory, mean: Numbers, targets: Numbers) -> float:
        # Measurements are noisy: what improves on the best mean, not on the luckiest draw.
        small = pool(state.space)
        return float(targets.max() if small is None else mean[small.told(state)].max())


class _Factor:
    """The Cholesky factor of the told points, and what it makes of the pool. Grows by rows."""

    def __init__(self, strategy: GaussianProcess, groups: int) -> None:
        self.strategy = strategy
        self.rows: list[Growing | None] = [None] * groups
        self.lower = np.zeros((64, 64))
        self.length = 0
        self.columns: Growing | None = None
        self.left: Numbers | None = None

    def known(self, length: int) -> list[Numbers]:
        """Return the views of the first told points."""
        return [rows.first(length) for rows in self.rows if rows is not None]

    def solve(self, right: Numbers, length: int) -> Numbers:
        """Return L^-1 right."""
        return _below(self.lower[:length, :length], right)

    def cross(self, length: int) -> Numbers:
        """Return L^-1 K(told, pool), shape `[length, classes]`."""
        assert self.columns is not None  # noqa: S101
        return self.columns.first(length)

    def variance(self, length: int) -> Numbers:
        """Return the posterior variance over the pool, shape `[classes]`."""
        if length == self.length and self.left is not None:
            return self.left
        cross = self.cross(length)
        return 1.0 - np.einsum("tc,tc->c", cross, cross)

    def catch_up(self, state: Memory, small: Pool | None) -> None:
        """Add a row for every outcome since the last time."""
        strategy, choices = self.strategy, self.strategy.inputs == "choices"
        while self.length < state.tells:
            outcome = state.log.told[self.length]
            if small is None:
                row = views(state.space, [outcome.arch], choices=choices)
                against = strategy._kernel(row, self.known(self.length))[0] if self.length else []
                half = self.solve(np.asarray(against, float), self.length) if self.length else []
                self._remember(row)
                self._extend(np.asarray(half, float))
                continue
            place = small.index[state.log.keys[outcome.number]]
            kernel = _kernel_row(strategy, small, state.space, place)
            if self.columns is None:
                self.columns = Growing((len(small.archs),), np.float32)
                self.left = np.ones(len(small.archs), np.float32)
                self._remember([v[:0] for v in small.views(state.space, choices=choices)])
            self._remember(
                [v[place : place + 1] for v in small.views(state.space, choices=choices)]
            )
            before = self.columns.first(self.length)
            half = before[:, place].astype(float)
            corner = self._extend(half)
            column = (kernel - before[:, place] @ before) / np.float32(corner)
            self.columns.append(column)
            assert self.left is not None  # noqa: S101
            self.left = self.left - column * column

    def _remember(self, row: Sequence[Numbers]) -> None:
        for group, view in enumerate(row):
            rows = self.rows[group]
            if rows is None:
                rows = self.rows[group] = Growing((view.shape[1],), np.float32)
            for entry in view:
                rows.append(entry)

    def _extend(self, half: Numbers) -> float:
        n = self.length
        if n == len(self.lower):
            more = np.zeros((2 * n, 2 * n))
            more[:n, :n] = self.lower
            self.lower = more
        corner = float(np.sqrt(max(1.0 + self.strategy.noise - half @ half, 1e-9)))
        self.lower[n, :n], self.lower[n, n] = half, corner
        self.length = n + 1
        return corner


def _factor(strategy: GaussianProcess, state: Memory) -> _Factor:
    key = ("gaussian-process", strategy.inputs, strategy.length, strategy.noise)
    found: Any = state.log.notes.get(key)
    if found is None:
        groups = 1
        if state.space.features is not None and strategy.inputs == "views":
            groups = len(state.space.features(state.log.told[0].arch))
        found = state.log.notes[key] = _Factor(strategy, groups)
    return found


MOST_ROWS = 4000


def _kernel_row(strategy: GaussianProcess, small: Pool, space: Space, place: int) -> Numbers:
    """Return the kernel of one class with every class; remembered, for searches share it."""
    key = ("kernel", strategy.inputs, strategy.length)
    rows = small.notes.setdefault(key, {})
    if place not in rows:
        if len(rows) >= MOST_ROWS:
            rows.clear()
        all_ = small.views(space, choices=strategy.inputs == "choices")
        rows[place] = strategy._kernel([v[place : place + 1] for v in all_], all_)[0]
    return rows[place]


def _below(lower: Numbers, right: Numbers) -> Numbers:
    from scipy.linalg import solve_triangular  # here: every run imports this module

    return solve_triangular(lower, right, lower=True, check_finite=False)
