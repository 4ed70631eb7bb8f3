"""Is the exported model the trained one, and how long does one answer take?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError, DataError
from archipelago.deploy.session import Session, prepared

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Latency", "compare", "measure", "stored", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Time of one answer, batch 1, on one thread of this machine. Lower is better.

    Attributes:
        median_ms: milliseconds that half of the runs did not exceed.
        p90_ms: milliseconds that nine in ten did not exceed.
        runs: timed after the warm-up.
    """

    median_ms: float
    p90_ms: float
    runs: int


def verify(
    path: str | Path, model: "Callable[[Tensor], Tensor]", x: "Tensor | np.ndarray"
) -> float:
    """Return the largest difference between the logits of an ONNX file and of `model`.

    Args:
        model: the trained network in evaluation mode, on the CPU.
        x: real rows as the network takes them, `[rows, *shape]`, at least one.

    Raises:
        DataError: the file cannot be used, or there are no rows.
    """
    return compare(Session.open(path), model, x)[0]


def compare(
    session: Session, model: "Callable[[Tensor], Tensor]", x: "Tensor | np.ndarray"
) -> tuple[float, float]:
    """Return the largest difference of a logit, as `verify`, and torch's largest absolute logit."""
    import torch

    rows = stored(session, np.asarray(x, np.float32))
    # Both sides start from the same stored values: only the networks may differ.
    inputs = np.ascontiguousarray(prepared(session.manifest, rows))
    with torch.no_grad():
        theirs = model(torch.from_numpy(inputs)).numpy()
    ours, _ = session.run(rows)
    return float(np.abs(ours.astype(np.float64) - theirs).max()), float(np.abs(theirs).max())


def measure(
    path: str | Path, x: "Tensor | np.ndarray", *, runs: int = 200, warm_up: int = 20
) -> Latency:
    """Time single answers.

    Args:
        x: rows as the network takes them, `[rows, *shape]`; taken in turn.
        runs: timed answers.
        warm_up: answers before these, which allocate.
    """
    at_least("runs", runs, 1)
    session = Session.open(path)
    rows = stored(session, np.asarray(x, np.float32)[:64])
    singles = [np.ascontiguousarray(row[None]) for row in rows]
    seconds: list[float] = []
    for turn in range(warm_up + runs):
        row = singles[turn % len(singles)]
        start = perf_counter()
        session.run(row)
        seconds.append(perf_counter() - start)
    median, p90 = np.percentile(seconds[warm_up:], [50, 90]) * 1e3
    return Latency(median_ms=float(median), p90_ms=float(p90), runs=runs)


def stored(session: Session, x: np.ndarray) -> np.ndarray:
    """Undo, for images and series, the arithmetic that is in the graph: inputs to stored values."""
    preparation = session.manifest.preparation
    if len(x) == 0:
        raise DataError("there are no rows to compare or to time", where=str(session.path))
    if tuple(x.shape[1:]) != preparation.shape:
        raise ConfigError(
            "rows have another shape than the network takes",
            got=tuple(x.shape[1:]),
            fix=f"give {preparation.shape}",
        )
    if preparation.modality == "table":
        return x
    channels = (-1, *(1 for _ in x.shape[2:]))
    multiply = np.array(preparation.multiply or (1.0,), np.float64).reshape(channels)
    add = np.array(preparation.add or (0.0,), np.float64).reshape(channels)
    return ((x - add) / multiply).astype(np.float32)
