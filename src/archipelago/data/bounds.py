"""What a vector of sufficient statistics can be, given how many rows it is of.

A client's vector is added to everybody's. One that no rows could have given is refused before that,
with the relation that it breaks. A loss that is not finite breaks none: that is how a network that
diverged is told, see `finite`.
"""

from collections.abc import Callable, Mapping
from math import log
from typing import Any

import numpy as np

from archipelago.core.errors import UpdateRefused
from archipelago.data.scores import BINS
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.wire.frame import reading

__all__ = ["check", "finite", "labels_of", "wide"]

_SLACK = 1e-6
"""Of sums of float64 that are added in another order."""


@reading()
def check(task: Any, vector: np.ndarray, rows: int) -> None:
    """Check one client's statistics.

    Args:
        task: whose statistics these are.
        vector: `[task.length]` float64.
        rows: on which the client was asked to score.

    Raises:
        UpdateRefused: they are not those of so many rows.
    """
    if not (np.isfinite(vector[0]) and vector[0] == rows):
        _refuse("a score of other rows than were asked for", f"{vector[0]:g} rows of {rows}")
    for kind, rules in _RULES.items():
        if isinstance(task, kind):
            with np.errstate(all="ignore"):
                rules(task, vector, rows)
            return
    if not finite(task, vector) and np.isfinite(vector[:2]).all():
        _refuse("statistics that are not finite", int((~np.isfinite(vector)).sum()))


def finite(task: Any, vector: np.ndarray) -> bool:
    """Whether the loss is a number; in a network that diverged it is none."""
    part = vector[:3] if isinstance(task, Regression) else vector[:2]
    if not isinstance(task, Classification | MultiLabel | Regression):
        part = vector
    return bool(np.isfinite(part).all())


def labels_of(task: Any, vector: np.ndarray) -> bytes | None:
    """Return what of the statistics is the labels' alone, the same whatever network is scored."""
    match task:
        case Classification():
            k = task.outputs
            return vector[3 : 3 + k * k].reshape(k, k).sum(1).tobytes()
        case MultiLabel():
            hit, _, missed = vector[2 : 2 + 3 * task.outputs].reshape(3, task.outputs)
            return (hit + missed).tobytes()
        case Regression():
            return (vector[3:] + 0.0).tobytes()  # one zero
        case _:
            return None


def wide(task: Any) -> float:
    """Return a mean loss that only a network gives which has nothing to do with the rows."""
    return 1e4 * task.scale**2 if isinstance(task, Regression) else 1e4


def _classification(task: Classification, vector: np.ndarray, rows: int) -> None:
    k = task.outputs
    counts = np.concatenate([vector[2:3], vector[3:]])
    _counts(counts)
    confusion, top5 = vector[3 : 3 + k * k].reshape(k, k), vector[2]
    true, right = confusion.sum(1), confusion.trace()
    if confusion.sum() != rows:
        _refuse("counts by class of other rows than were scored", f"{confusion.sum():g} of {rows}")
    if not right <= top5 <= rows or (k <= 5 and top5 != rows):
        _refuse("top-5 hits that the counts by class rule out", f"{top5:g} of {rows} rows")
    if task.binned:
        curves = vector[3 + k * k :].reshape(-1, 2, BINS).sum(2)
        of = true[1:2] if k == 2 else true
        _histograms(curves, of, rows)
    _loss(vector[1], wrong=rows - right, rows=rows, share=1.0, right=log(max(k, 1)))


def _multi_label(task: MultiLabel, vector: np.ndarray, rows: int) -> None:
    k = task.outputs
    _counts(vector[2:])
    hit, extra, missed = vector[2 : 2 + 3 * k].reshape(3, k)
    if (hit + extra + missed > rows).any():
        _refuse(
            "more decisions on a label than rows", f"{(hit + extra + missed).max():g} of {rows}"
        )
    if task.binned:
        _histograms(vector[2 + 3 * k :].reshape(k, 2, BINS).sum(2), hit + missed, rows)
    wrong = float((extra + missed).sum())
    _loss(vector[1], wrong=wrong, rows=rows, share=1 / max(k, 1), right=log(2))


def _regression(task: Regression, vector: np.ndarray, rows: int) -> None:
    _, squared, absolute, total, square = vector  # float64 of numpy: its powers overflow to inf
    if not np.isfinite(vector[3:]).all() or square < 0 or (not rows and vector.any()):
        _refuse("moments of the target that cannot be", vector[3:].tolist())
    if total**2 > rows * square * (1 + _SLACK):
        _refuse("a target's mean that its squares rule out", vector[3:].tolist())
    if square > rows * (1e6 * task.scale) ** 2:
        _refuse("a target a million times as wide as all clients' rows", vector[3:].tolist())
    if squared < 0 or absolute < 0:
        _refuse("errors below zero", vector[1:3].tolist())
    if np.isfinite(vector[1:3]).all() and not (
        absolute**2 <= rows * squared * (1 + _SLACK) and squared <= absolute**2 * (1 + _SLACK)
    ):
        _refuse("absolute errors that the squared ones rule out", vector[1:3].tolist())


_RULES: Mapping[type, Callable[[Any, np.ndarray, int], None]] = {
    Classification: _classification,
    MultiLabel: _multi_label,
    Regression: _regression,
}


def _counts(counts: np.ndarray) -> None:
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts % 1 == 0).all()):
        _refuse("counts that are not whole numbers of rows", counts[:8].tolist())


def _histograms(curves: np.ndarray, positive: np.ndarray, rows: int) -> None:
    """Check sums over bins, `[labels, 2]`, negatives first."""
    if (curves.sum(1) != rows).any() or (curves[:, 1] != positive).any():
        _refuse("histograms of other rows than were counted by class", curves[:8].tolist())


def _loss(loss: float, *, wrong: float, rows: int, share: float, right: float) -> None:
    """Check a summed log loss: a wrong answer costs `log 2` at least, a right one `right` at most.

    `share` is what one decision weighs in its row.
    """
    if np.isfinite(loss):
        least, most = share * wrong * log(2), float("inf") if wrong else rows * right
    else:
        least, most = 0.0, float("inf")  # the network diverged; its answers are what they are
    slack = _SLACK * (1 + rows)
    if loss < least - slack or loss > most + slack:
        _refuse("a log loss that the counts rule out", f"{loss:g} of {rows} rows, {wrong:g} wrong")


def _refuse(what: str, got: object) -> None:
    raise UpdateRefused(what, got=got, fix="this client's scores are left out: look into it")
