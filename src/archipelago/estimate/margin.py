"""When a candidate is behind beyond doubt: paired differences, their drift, and their risk."""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

import numpy as np

__all__ = ["behind", "bound", "drift_of"]


def behind(
    best: Mapping[int, np.ndarray], other: Mapping[int, np.ndarray], drift: float = 0.0
) -> float:
    """Return by how many standard errors `other` has the higher loss, paired by client.

    The standard error is that of the mean over clients, and `drift` beside it.

    Args:
        best: statistics by client; the first two of every task are rows and summed loss.
        other: the same of the other candidate.
        drift: what a short score is off by, as `drift_of` measures it; in units of the loss.
    """
    shared = sorted(best.keys() & other.keys())
    if len(shared) < 2:
        return 0.0
    n = np.array([best[client][0] for client in shared])
    gaps = np.array([(other[c][1] - best[c][1]) / best[c][0] for c in shared])
    weight = n / n.sum()
    mean = float(weight @ gaps)
    variance = float(weight**2 @ (gaps - mean) ** 2) * len(shared) / (len(shared) - 1)
    variance += drift**2
    return mean / sqrt(variance) if variance > 0 else (float("inf") if mean > 0 else 0.0)


def bound(z: float, rivals: int, droppings: int, validators: int) -> float:
    """Return a bound on the probability that the best of a race is dropped.

    The union over rivals and droppings of Student's one-sided tail beyond `z`, with a degree of
    freedom less than there are validators. With a single validator nobody is dropped.

    Example:
        >>> round(bound(2.0, 3, 1, 8), 3)
        0.128
    """
    if validators < 2 or rivals < 1:
        return 0.0
    from scipy.special import stdtr  # here: every run imports this module, few ask

    return min(1.0, rivals * droppings * float(stdtr(validators - 1, -z)))


def drift_of(races: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Return how far short losses lead astray: the drift that a margin should count.

    The root mean square of the differences that pointed the wrong way, over all pairs of a race
    of which the one with the lower full loss has the higher short one. Differences that point the
    right way mislead nobody, however much longer training would shrink them. 0 where no pair is
    reversed.

    Args:
        races: each a race's short and full losses, in the same order of candidates.

    Example:
        >>> drift_of([([0.5, 0.6, 0.9], [0.42, 0.4, 0.5])])  # only the first pair is reversed
        0.1
    """
    wrong: list[float] = []
    for short, full in races:
        early, late = np.asarray(short, float), np.asarray(full, float)
        gaps = early[:, None] - early[None, :]
        wrong += gaps[(late[:, None] < late[None, :]) & (gaps > 0)].tolist()
    return round(float(np.sqrt(np.mean(np.square(wrong)))), 12) if wrong else 0.0
