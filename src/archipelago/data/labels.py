"""From a label column to targets: one spelling a class, agreed between silos."""

from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.columns import MISSING, numbers
from archipelago.data.raw import Raw
from archipelago.data.statistics import Answers, agree_labels, merged
from archipelago.data.tasks import Classification, MultiLabel, Regression

__all__ = ["canonical_labels", "codes_of", "labels_of", "target_of", "targets_of"]


def canonical_labels(raw: Raw) -> np.ndarray:
    """Return labels as text `[rows]`: 1, 1.0, "1" and " 1 " are one class.

    Raises:
        DataError: a label is missing; the owners of such rows are named.
    """
    y = raw.y
    distinct, inverse = np.unique(y, return_inverse=True)
    words = [_label(value) for value in distinct.tolist()]
    lost = np.array([word is None for word in words])[inverse]
    if lost.any():
        raise DataError(
            "labels are missing (empty or NaN)",
            got=_lost(raw, lost),
            where=f"{raw.name}, {raw.target}",
            fix="label these rows or remove them",
        )
    return np.array(words, dtype=np.str_)[inverse]


def labels_of(raw: Raw, task: Classification | MultiLabel) -> np.ndarray:
    """Return the label of each row as text, `[rows]`."""
    if isinstance(task, MultiLabel):
        if raw.y.dtype.kind != "U":
            raise DataError(
                "multi-label rows need text labels",
                got=str(raw.y.dtype),
                where=f"{raw.name}, {raw.target}",
                fix=f"join names with {task.separator!r}, as in 'a{task.separator}b'",
            )
        return raw.y
    labels = canonical_labels(raw)
    kinds = len(np.unique(labels))
    if kinds > 20 and kinds > raw.rows // 2:
        raise DataError(
            "nearly every row has its own label",
            got=f"{kinds} labels in {raw.rows} rows",
            where=f"{raw.name}, {raw.target}",
            fix="choose another label column, or task.kind = 'regression' for numbers",
        )
    return labels


def target_of(raw: Raw) -> np.ndarray:
    """Return the number that a regression predicts, float64 `[rows]`."""
    target = numbers(raw.y, "number", column=raw.label or "label")
    lost = np.isnan(target)
    if lost.any():
        raise DataError(
            "targets are missing (empty or NaN)",
            got=_lost(raw, lost),
            where=f"{raw.name}, {raw.target}",
            fix="fill in these rows or remove them",
        )
    return target


def targets_of(task: Regression, answers: Answers, where: str = "label") -> Regression:
    """Fill in a regression's units from all clients' moments; `where` is for messages."""
    _, mean, deviation = merged([said["target"] for _, said in answers])
    if deviation == 0:
        raise DataError(
            "the target is constant: there is nothing to learn",
            got=mean,
            where=where,
            fix="check the label column",
        )
    return replace(task, mean=mean, scale=deviation)


def codes_of(
    task: Classification | MultiLabel,
    answers: Answers,
    labels: np.ndarray,
    known: Sequence[str],
    where: str = "label",
) -> tuple[Classification | MultiLabel, np.ndarray]:
    """Agree on classes and encode labels.

    Args:
        known: class names in a preferred order.
        where: the label, for messages.

    Returns:
        the task filled in, and int64 `[rows]` (-1 where no client trains on the class), or float32
        `[rows, labels]` of 0 and 1 for several labels a row.
    """
    several = isinstance(task, MultiLabel)
    least = 1 if several else 2
    classes, counts = agree_labels(answers, task.classes or known, least=least, where=where)
    place = {name.casefold(): i for i, name in enumerate(classes)}
    words, inverse = np.unique(labels, return_inverse=True)
    if not several:
        codes = np.array([place.get(word.casefold(), -1) for word in words.tolist()], np.int64)
        return task.filled(classes, counts), codes[inverse]
    table = np.zeros((len(words), len(classes)), np.float32)
    for row, word in enumerate(words.tolist()):
        for label in word.split(task.separator):
            if (key := label.strip().casefold()) in place:
                table[row, place[key]] = 1
    return task.filled(classes, counts), table[inverse]


def _lost(raw: Raw, lost: np.ndarray) -> str:
    """Return how many rows miss their label, and whose they are."""
    said = f"{int(lost.sum())} of {raw.rows} rows, the first is {raw.place(int(lost.argmax()))}"
    if raw.natural is None:
        return said
    counts = np.bincount(raw.natural[lost], minlength=len(raw.names))
    whose = [f"{n} of {name!r}" for name, n in zip(raw.names, counts.tolist(), strict=True) if n]
    return f"{said}: {', '.join(whose[:5])}{' ...' if len(whose) > 5 else ''}"


def _label(value: Any) -> str | None:
    if isinstance(value, float):
        if isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    if text.casefold() in MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text
