"""What is better when several things matter: dominance, fronts, crowding, hypervolume, archive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from archipelago.core.errors import ConfigError
from archipelago.core.trial import Outcome
from archipelago.strategy.columns import Numbers

__all__ = ["Archive", "crowding", "fronts", "hypervolume", "losses", "nondominated"]


def losses(outcomes: Sequence[Outcome], objectives: Sequence[str]) -> Numbers:
    """Return the objectives as numbers to be lowered, shape `[outcomes, objectives]`.

    `score` counts negated; any other name is a cost, or failing that a metric, of the outcome. A
    failed candidate is infinitely bad in all.

    Raises:
        ConfigError: an outcome that did not fail lacks an objective.
    """
    rows = np.full((len(outcomes), len(objectives)), np.inf)
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.scored:
            row[:] = [_loss(outcome, name) for name in objectives]
    return rows


def _loss(outcome: Outcome, name: str) -> float:
    if name == "score":
        return -outcome.score
    known: Mapping[str, float] = {**outcome.metrics, **outcome.costs}
    if name not in known:
        raise ConfigError(
            "the estimator does not report this objective",
            got=name,
            where="strategy.objectives",
            fix=f"use score or one of {sorted(known)}",
        )
    return known[name]


def nondominated(points: Numbers) -> Numbers:
    """Return which points no other one dominates (lower is better), shape `[points]`.

    Of equal points all stay.
    """
    no_worse = (points[:, None] <= points[None]).all(axis=2)
    better = (points[:, None] < points[None]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))


def fronts(points: Numbers) -> Numbers:
    """Return the rank of each point: 0 for the nondominated, 1 once those are gone, and so on.

    References:
        Deb et al. 2002, IEEE Trans. Evolutionary Computation 6, section III-A.
    """
    no_worse = (points[:, None] <= points[None]).all(axis=2)
    beats = np.asarray(no_worse & (points[:, None] < points[None]).any(axis=2))
    ranks, left, rank = np.zeros(len(points), np.int64), np.ones(len(points), bool), 0
    while left.any():
        front = left & ~beats[left].any(axis=0)
        ranks[front], left = rank, left & ~front
        rank += 1
    return ranks


def crowding(points: Numbers) -> Numbers:
    """Return each point's distance to its neighbours on one front; infinite at the ends.

    References:
        Deb et al. 2002, IEEE Trans. Evolutionary Computation 6, section III-B.
    """
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        distance[order[[0, -1]]] = np.inf
        span = column[order[-1]] - column[order[0]]
        if span > 0 and np.isfinite(span):
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance


def hypervolume(points: Numbers, reference: Sequence[float]) -> float:
    """Return the volume that is dominated by `points` and within `reference` (lower is better).

    Exact, by slicing along the last objective; two objectives are one sweep.

    Args:
        points: shape `[points, objectives]`; those beyond the reference count nothing.
        reference: worst value of each objective.

    Example:
        >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), (3.0, 3.0))
        3.0
    """
    limit = np.asarray(reference, float)
    points = points[(points < limit).all(axis=1)]
    if not len(points):
        return 0.0
    points = points[nondominated(points)]
    if points.shape[1] == 1:
        return float(limit[0] - points.min())
    if points.shape[1] == 2:
        order = np.lexsort((points[:, 1], points[:, 0]))
        xs, ys = points[order].T
        above = np.concatenate(([limit[1]], np.minimum.accumulate(ys)[:-1]))
        return float(((limit[0] - xs) * np.maximum(above - ys, 0)).sum())
    order = np.argsort(points[:, -1], kind="stable")
    depths = np.append(points[order, -1], limit[-1])
    volume = 0.0
    for place in range(len(order)):
        thick = depths[place + 1] - depths[place]
        if thick > 0:
            volume += thick * hypervolume(points[order[: place + 1], :-1], limit[:-1].tolist())
    return float(volume)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The outcomes that no other one beats in everything. With one objective, the best.

    Attributes:
        objectives: `score` (raised) and names of costs (lowered).
        outcomes: nondominated, in order of arrival.
    """

    objectives: tuple[str, ...] = ("score",)
    outcomes: tuple[Outcome, ...] = ()

    def add(self, outcomes: Sequence[Outcome]) -> "Archive":
        """Return the archive with these outcomes where they belong. Failed ones never do."""
        useful = (*self.outcomes, *(o for o in outcomes if o.scored))
        if not useful:
            return self
        keep = nondominated(losses(useful, self.objectives))
        kept = tuple(outcome for outcome, stays in zip(useful, keep, strict=True) if stays)
        return Archive(objectives=self.objectives, outcomes=kept)

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """Return the dominated volume; `reference` holds each objective's worst value.

        For `score` that is the lowest, for costs the highest. Keep it fixed over a search.
        """
        signs = {name: -1.0 if name == "score" else 1.0 for name in self.objectives}
        limit = [signs[name] * reference[name] for name in self.objectives]
        return hypervolume(losses(self.outcomes, self.objectives), limit)
