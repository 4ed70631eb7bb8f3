"""Whether a study can answer its own question, before it begins; and what a test score covers."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.coverage import Cover, named
from archipelago.data.presence import Presence
from archipelago.study.analysing.verdict import Tested

__all__ = ["covered", "cover_of", "scorable", "sites", "why"]

_COMPARE = frozenset({"balanced_accuracy", "macro_f1", "auroc", "average_precision"})
"""Metrics in which a class of few rows counts as much as any other."""


def scorable(task: Any, presence: Presence) -> tuple[str, ...]:
    """Return what to know of the scores before anything is trained, a sentence each.

    Raises:
        DataError: the metric has no value on everybody's validation rows together, by which
            candidates are chosen, or on the test rows, on which the winner is judged.
    """
    covers = {split: task.cover(presence.truth(task, split)) for split in ("validation", "test")}
    lost = [cover.undefined(split) for split, cover in covers.items() if not cover.defined]
    if lost:
        splits = [split for split, cover in covers.items() if not cover.defined]
        raise DataError(
            "the metric has no value on the rows that it is meant for: nothing could be chosen by "
            "it, or judged",
            got="; ".join(lost),
            where="task.metric",
            fix=_fix(task, splits),
        )
    told: list[str] = []
    for split, cover in covers.items():
        told += _told(task, presence, split, cover)
    return tuple(told)


def _fix(task: Any, splits: list[str]) -> str:
    shares = " and ".join(f"split.{split}" for split in splits)
    if not getattr(task, "classes", ()):
        return f"choose task.metric = 'rmse' or 'mae', another seed, or a larger {shares}"
    return (
        f"give the silos' rows of every class a larger {shares} or another seed, bring rows of the "
        "class, or choose task.metric = 'log_loss' or 'accuracy'"
    )


def _told(task: Any, presence: Presence, split: str, cover: Cover) -> Iterator[str]:
    if partly := cover.partly(split):
        yield partly
    if cover.varies is None:
        yield (
            f"{task.metric} may turn out undefined: at each silo all {split} rows have the same "
            "target, and only their sum will tell whether silos differ"
        )
    few = presence.few(task, split) if task.metric in _COMPARE else ()
    if few:
        yield (
            f"fewer than {presence.floor} {split} rows of {named(few)} in all, and "
            f"{task.metric} counts each class alike"
        )
    lone, holding = presence.lone(task, split), presence.holding(split)
    if split == "test" and lone and holding > 1:  # candidates are scored on all silos together
        yield (
            f"{task.metric} has no value at {len(lone)} of {holding} silos alone, whose test rows "
            f"hold too few classes or values: {named(lone)}"
        )


def cover_of(task: Any, tested: Tested) -> Cover:
    """Return what the metric says something of, on all tested rows."""
    vectors = list(tested.vectors.values())
    total = np.sum(vectors, axis=0) if vectors else np.zeros(task.length)
    return task.cover(task.truth(total))


def why(task: Any, tested: Tested) -> str:
    """Return why the test score is undefined; empty where it is not."""
    cover = cover_of(task, tested)
    return "" if cover.defined else cover.undefined("test")


def covered(task: Any, tested: Tested) -> str:
    """Return which classes the test score covers, where these are not all; else nothing."""
    return cover_of(task, tested).partly("test")


def sites(task: Any, tested: Tested) -> str:
    """Return at how many of several sites the metric has no value, and why; else nothing."""
    found = [task.cover(task.truth(vector)) for vector in tested.vectors.values()]
    lost = [cover for cover in found if cover.rows and not cover.defined]
    if not lost or len(found) < 2:
        return ""
    return (
        f"{task.metric} has no value at {len(lost)} of {len(found)} sites, whose test rows "
        f"{lost[0].short}: they count in all rows together, and in no spread"
    )
