"""How sure a test score and a difference are, when clients and not rows are the sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from archipelago.core.seeds import Seed

__all__ = ["SHARE", "Bounds", "Gap", "Tested", "compared", "interval"]

DRAWS = 2000
"""Bootstrap samples; the 95 % bounds then have about two percent of the width as noise."""
SHARE = 0.9
"""Share of the samples on which a metric must have a value for bounds to be given. Below it they
would speak of luckier draws of clients than there are."""


@dataclass(frozen=True, slots=True)
class Tested:
    """One network on everybody's test rows.

    Attributes:
        vectors: sufficient statistics by client.
        metrics: of their sum.
    """

    vectors: Mapping[int, np.ndarray]
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return {
            "metrics": {name: _plain(value) for name, value in self.metrics.items()},
            "vectors": {str(client): vector.tolist() for client, vector in self.vectors.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Tested":
        """Rebuild what `to_json` wrote."""
        return cls(
            {int(client): np.array(vector) for client, vector in data["vectors"].items()},
            {n: float("nan") if v is None else v for n, v in data["metrics"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The 95 % interval over clients drawn with replacement.

    Attributes:
        low: NaN, as `high` is, where no interval can be given.
        note: why there is none, or how many samples it leaves out; empty where there is nothing to
            say.
    """

    low: float = nan
    high: float = nan
    note: str = ""

    @property
    def given(self) -> bool:
        """Whether there is an interval."""
        return isfinite(self.low) and isfinite(self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A difference of two scores on the same clients, and its interval."""

    value: float
    bounds: Bounds

    def turned(self, sign: int) -> "Gap":
        """Return the difference with positive as better, where `sign` is the metric's direction."""
        if sign > 0:
            return self
        low, high = -self.bounds.high, -self.bounds.low
        return Gap(value=-self.value, bounds=Bounds(low=low, high=high, note=self.bounds.note))


def interval(task: Any, tested: Tested, seed: Seed) -> Bounds:
    """Return the 95 % interval of the task's metric over clients drawn with replacement.

    Samples on which the metric has no value, since their clients have too few classes, are left
    out. There is no interval with fewer than two clients, or where less than `SHARE` of the samples
    are left.
    """
    vectors = [vector for _, vector in sorted(tested.vectors.items())]
    if len(vectors) < 2:
        return Bounds(note=_alone(len(vectors)))
    matrix = np.stack(vectors)
    values = [task.metrics(draw @ matrix)[task.metric] for draw in _draws(len(matrix), seed)]
    return _bounds(task, values, tested.metrics[task.metric])


def compared(task: Any, ours: Tested, theirs: Tested, seed: Seed) -> Gap:
    """Return the metric's difference, ours minus theirs, and its 95 % interval.

    Paired: both are scored, and drawn with replacement, on the clients that scored both. Samples
    are left out as in `interval`, the same ones of both.
    """
    shared = sorted(ours.vectors.keys() & theirs.vectors.keys())
    if not shared:
        return Gap(value=nan, bounds=Bounds(note=_alone(0)))
    a = np.stack([ours.vectors[client] for client in shared])
    b = np.stack([theirs.vectors[client] for client in shared])
    value = _score(task, ours, shared) - _score(task, theirs, shared)
    if len(shared) < 2:
        return Gap(value=value, bounds=Bounds(note=_alone(1)))
    gaps = [
        task.metrics(draw @ a)[task.metric] - task.metrics(draw @ b)[task.metric]
        for draw in _draws(len(shared), seed)
    ]
    return Gap(value=value, bounds=_bounds(task, gaps, value))


def _score(task: Any, tested: Tested, clients: Sequence[int]) -> float:
    if len(clients) == len(tested.vectors):
        return tested.metrics[task.metric]
    total = np.sum([tested.vectors[client] for client in clients], axis=0)
    return task.metrics(total)[task.metric]


def _bounds(task: Any, values: Sequence[float], value: float) -> Bounds:
    """Return the bounds of what samples gave, where `value` is what all clients gave."""
    if not isfinite(value):
        return Bounds(note=f"{task.metric} has no value on all rows together")
    fine = np.isfinite(values)
    left = int(fine.sum())
    out = f"{task.metric} has no value on {len(values) - left} of {len(values)} draws of clients"
    if left < SHARE * len(values):
        return Bounds(note=f"{out}: too few clients hold what it needs")
    low, high = np.percentile(np.asarray(values)[fine], [2.5, 97.5])
    note = "" if left == len(values) else f"{out}, which are left out"
    return Bounds(low=float(low), high=float(high), note=note)


def _alone(clients: int) -> str:
    how = "one client has" if clients == 1 else "no client has"
    return f"{how} test rows, and intervals come from drawing clients"


def _draws(clients: int, seed: Seed) -> np.ndarray:
    return seed.numpy().multinomial(clients, np.full(clients, 1 / clients), size=DRAWS)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
