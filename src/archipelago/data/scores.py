"""Metrics from counts that add up over rows and clients: never a mean of means.

Where a metric needs scores rather than decisions (AUROC, average precision), scores are counted in
bins that every client shares, so the metric is *binned*: rows within a bin count as ties.
"""

import numpy as np

__all__ = ["BINS", "auroc", "average_precision", "bin_of", "counts_of", "of_confusion"]

BINS = 1024
"""Bins of a score histogram. On smooth scores the binned AUROC is within 1e-4 of the exact one."""


def bin_of(logit: np.ndarray) -> np.ndarray:
    """Return the bin of each score, `[rows]` int64 in `[0, BINS)`; order is kept.

    A log-odds z lies at 1/2 + z / 2(1 + |z|): fine around the decision, and still apart at
    probabilities that float32 would round to 1.
    """
    z = np.nan_to_num(logit, nan=0.0, posinf=1e30, neginf=-1e30)
    unit = 0.5 + 0.5 * z / (1.0 + np.abs(z))
    return np.clip((unit * BINS).astype(np.int64), 0, BINS - 1)


def counts_of(logit: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Count scores a bin: `[2, BINS]` float64, negatives first."""
    flat = bin_of(logit) + BINS * positive.astype(np.int64)
    return np.bincount(flat, minlength=2 * BINS).reshape(2, BINS).astype(np.float64)


def auroc(counts: np.ndarray) -> float:
    """Return P(score of a positive > score of a negative), ties half; NaN with one class only.

    Args:
        counts: `[2, BINS]` as `counts_of` makes them, summed over clients.
    """
    negative, positive = counts
    pairs = negative.sum() * positive.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / pairs)


def average_precision(counts: np.ndarray) -> float:
    """Return the step-wise area under precision and recall; NaN with one class only.

    Without a negative row every precision is 1, whatever the scores: that is no measurement.
    """
    negative, positive = counts[:, ::-1]
    total = positive.sum()
    if total == 0 or negative.sum() == 0:
        return float("nan")
    hits, seen = np.cumsum(positive), np.cumsum(positive + negative)
    return float((positive * hits / np.maximum(seen, 1)).sum() / total)


def of_confusion(confusion: np.ndarray) -> dict[str, float]:
    """Return accuracy, balanced accuracy and macro F1, each in [0, 1]; NaN where undefined.

    Args:
        confusion: `[classes, classes]` counts, true class by row.

    A class without a true row has no recall and is left out of balanced accuracy; macro F1 leaves
    out classes that are neither true nor predicted (scikit-learn's rules). Unlike there, both are
    undefined where fewer than two classes have true rows: they would say 1 of any network that
    always gives the same answer.
    """
    hit = np.diag(confusion)
    true, said = confusion.sum(1), confusion.sum(0)
    total = true.sum()
    if total == 0:
        nan = float("nan")
        return {"accuracy": nan, "balanced_accuracy": nan, "macro_f1": nan}
    accuracy = float(hit.sum() / total)
    if (true > 0).sum() < 2:
        return {"accuracy": accuracy} | dict.fromkeys(("balanced_accuracy", "macro_f1"), np.nan)
    recall = hit[true > 0] / true[true > 0]
    either = (true + said) > 0
    f1 = 2 * hit[either] / (true + said)[either]
    return {
        "accuracy": accuracy,
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
    }
