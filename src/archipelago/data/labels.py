"""From a label column to targets: one class a value, agreed between silos."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from archipelago.core.errors import ConfigError, DataError
from archipelago.data.classes import Lexicon, agree
from archipelago.data.columns import numbers
from archipelago.data.label_map import words_of
from archipelago.data.raw import Raw
from archipelago.data.releases import Withheld
from archipelago.data.spelling import fold, missing, spelled
from archipelago.data.statistics import Answers, merged
from archipelago.data.tasks import Classification, MultiLabel, Regression

__all__ = ["codes_of", "labels_of", "lexicon_of", "target_of", "targets_of", "untold_targets"]


def labels_of(raw: Raw, task: Classification | MultiLabel) -> np.ndarray:
    """Return the label of each row as written, after the owner's label map: text `[rows]`.

    A word such as `none` means that there is no label, unless somebody declared it as a class.

    Raises:
        DataError: a label is missing (the owners of such rows are named), or nearly every row has
            its own.
        ConfigError: the label map fits no row.
    """
    if isinstance(task, MultiLabel):
        if raw.y.dtype.kind != "U":
            raise DataError(
                "multi-label rows need text labels",
                got=str(raw.y.dtype),
                where=f"{raw.name}, {raw.target}",
                fix=f"join names with {task.separator!r}, as in 'a{task.separator}b'",
            )
        return words_of(raw, separator=task.separator)[0]
    labels, given = words_of(raw)
    distinct, where = np.unique(labels, return_inverse=True)
    known = {fold(name) for name in (*task.classes, *raw.classes, *given)} - {""}
    lost = np.array([missing(text) and fold(text) not in known for text in distinct.tolist()])
    if lost.any():
        words = sorted({text for text in distinct[lost].tolist() if text})
        listed = "list all in task.classes (`new`: --classes)"
        named = f"; if {words[0]!r} is a class, {listed}" if words else ""
        raise DataError(
            "labels are missing (empty or NaN)",
            got=_lost(raw, lost[where]),
            where=f"{raw.name}, {raw.target}",
            fix=f"label these rows or remove them{named}",
        )
    if len(distinct) > 20 and len(distinct) > raw.rows // 2:
        raise DataError(
            "nearly every row has its own label",
            got=f"{len(distinct)} labels in {raw.rows} rows",
            where=f"{raw.name}, {raw.target}",
            fix="choose another label column, or task.kind = 'regression' for numbers",
        )
    return labels


def target_of(raw: Raw) -> np.ndarray:
    """Return the number that a regression predicts, float64 `[rows]`."""
    if raw.label_map:
        raise ConfigError(
            "names classes, and a regression has none",
            got=dict(raw.label_map),
            where="data.label_map",
            fix="leave it out, or set task.kind = 'classification'",
        )
    target = numbers(raw.y, "number", column=raw.label or "label", place=raw.place)
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
    """Fill in a regression's units from all clients' moments; `where` is for messages.

    Raises:
        DataError: no client may tell its moments, or all targets are equal.
    """
    count, mean, deviation = merged([said["target"] for _, said in answers])
    if not count:
        raise DataError(
            "no silo may tell a mean of the target: too few values differ from the commonest one",
            where=where,
            fix="join silos, lower preprocess.floor if their owners agree, or predict whether it "
            "is the commonest value",
        )
    if deviation == 0:
        raise DataError(
            "the target is constant: there is nothing to learn",
            got=mean,
            where=where,
            fix="check the label column",
        )
    return replace(task, mean=mean, scale=deviation)


def untold_targets(answers: Answers, name: str) -> Iterator[Withheld]:
    """Yield the clients that told no moments of a regression's target, of this name."""
    for client, said in answers:
        if "target" in said and not said["target"][0]:
            yield Withheld(silo=client, what="moments", detail=name)


def lexicon_of(
    task: Classification | MultiLabel, answers: Answers, known: Sequence[str], where: str = "label"
) -> Lexicon:
    """Agree on classes.

    Args:
        known: class names in a preferred order.
        where: the label, for messages.
    """
    several = isinstance(task, MultiLabel)
    return agree(
        answers, task.classes, known, truths=not several, least=1 if several else 2, where=where
    )


def codes_of(
    task: Classification | MultiLabel, lexicon: Lexicon, labels: np.ndarray
) -> tuple[Classification | MultiLabel, np.ndarray]:
    """Encode labels.

    Returns:
        the task filled in, and int64 `[rows]` (-1 where no client trains on the class), or float32
        `[rows, labels]` of 0 and 1 for several labels a row.
    """
    filled = task.filled(lexicon.names, lexicon.counts)
    words, inverse = np.unique(labels, return_inverse=True)
    if not isinstance(task, MultiLabel):
        codes = np.array([lexicon.place(word) for word in words.tolist()], np.int64)
        return filled, codes[inverse]
    table = np.zeros((len(words), len(lexicon.names)), np.float32)
    for row, word in enumerate(words.tolist()):
        for label in word.split(task.separator):
            if (place := lexicon.place(spelled(label))) >= 0:
                table[row, place] = 1
    return filled, table[inverse]


def _lost(raw: Raw, lost: np.ndarray) -> str:
    """Return how many rows miss their label, and whose they are."""
    said = f"{int(lost.sum())} of {raw.rows} rows, the first is {raw.place(int(lost.argmax()))}"
    if raw.natural is None:
        return said
    counts = np.bincount(raw.natural[lost], minlength=len(raw.names))
    whose = [f"{n} of {name!r}" for name, n in zip(raw.names, counts.tolist(), strict=True) if n]
    return f"{said}: {', '.join(whose[:5])}{' ...' if len(whose) > 5 else ''}"
