"""How sure a test score and a difference are, when clients and not rows are the sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from archipelago.core.seeds import Seed

__all__ = ["Tested", "compared", "interval"]

DRAWS = 2000
"""Bootstrap samples; the 95 % bounds then have about two percent of the width as noise."""


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


def interval(task: Any, tested: Tested, seed: Seed) -> tuple[float, float]:
    """Return the 95 % interval of the task's metric over clients drawn with replacement."""
    matrix = np.stack([vector for _, vector in sorted(tested.vectors.items())])
    values = [task.metrics(draw @ matrix)[task.metric] for draw in _draws(len(matrix), seed)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def compared(task: Any, ours: Tested, theirs: Tested, seed: Seed) -> tuple[float, float, float]:
    """Return the metric's difference, ours minus theirs, and its 95 % interval.

    Paired: both are drawn on the same clients, with replacement.
    """
    shared = sorted(ours.vectors.keys() & theirs.vectors.keys())
    a = np.stack([ours.vectors[client] for client in shared])
    b = np.stack([theirs.vectors[client] for client in shared])
    gaps = [
        task.metrics(draw @ a)[task.metric] - task.metrics(draw @ b)[task.metric]
        for draw in _draws(len(shared), seed)
    ]
    low, high = np.nanpercentile(gaps, [2.5, 97.5])
    return ours.metrics[task.metric] - theirs.metrics[task.metric], float(low), float(high)


def _draws(clients: int, seed: Seed) -> np.ndarray:
    return seed.numpy().multinomial(clients, np.full(clients, 1 / clients), size=DRAWS)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
