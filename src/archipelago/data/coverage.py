"""Which classes a score says something of, and whether it says anything at all.

A metric that is a ratio has no value where its denominator is empty. Whether it has follows from
the true labels alone, never from a network's answers: all candidates are scored, or none is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["UNDEFINED", "Cover", "Truth", "named", "of_classes", "of_labels"]

UNDEFINED = "is undefined: "
"""Between a metric and why it has no value; such reasons are told apart from others by it."""

_NAMED = 8
"""Classes that a sentence names; of more, their number follows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What some rows hold, as far as it decides which metrics they define.

    Attributes:
        rows: whether there is any.
        present: `[classes]` bool: whether some row has the class or label; empty of a regression.
        absent: `[classes]` bool: whether some row does not have it.
        varies: whether a regression's target takes two values; None where nobody can know.
    """

    rows: bool
    present: np.ndarray
    absent: np.ndarray
    varies: bool | None = True

    @classmethod
    def of_counts(cls, rows: float, counts: np.ndarray) -> "Truth":
        """Return it from the number of rows, and of rows of each class or label."""
        return cls(rows=rows > 0, present=counts > 0, absent=counts < rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """What a metric says something of, on some rows.

    Attributes:
        metric: which.
        classes: all of them, or all labels; empty of a regression.
        covered: of which the score speaks.
        missing: of which there is no row.
        everywhere: labels that every row has, where the metric needs rows without.
        least: how many must be covered for the metric to have a value.
        noun: what they are called, in the plural.
        rows: whether there is any row.
        varies: whether a target takes two values, where the metric needs that; None: not known.
    """

    metric: str
    classes: tuple[str, ...] = ()
    covered: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    everywhere: tuple[str, ...] = ()
    least: int = 0
    noun: str = "classes"
    rows: bool = True
    varies: bool | None = True

    @property
    def defined(self) -> bool:
        """Whether the metric has a value; true where nobody can know that it has none."""
        return self.rows and len(self.covered) >= self.least and self.varies is not False

    @property
    def short(self) -> str:
        """Why there is no value, as what `its rows` do: `have one label only`."""
        if not self.rows:
            return "are none"
        if not self.classes:
            return "have one target value only"
        if self.noun == "classes":
            return "have one label only"
        return "have no label that some have and some lack" if self.everywhere else "have no label"

    @property
    def counted(self) -> str:
        """How many are covered where these are not all: `3 of 4 classes`; else nothing."""
        if not self.defined or len(self.covered) == len(self.classes):
            return ""
        return f"{len(self.covered)} of {len(self.classes)} {self.noun}"

    def undefined(self, rows: str) -> str:
        """Return why there is no value: `auroc is undefined: no test row of 'ill'`.

        Args:
            rows: what the rows are called, e.g. `validation`.
        """
        if not self.rows:
            why = f"there is no {rows} row"
        elif self.varies is False:
            why = f"the target is the same in all {rows} rows"
        else:
            why = self._lack(rows)
        return f"{self.metric} {UNDEFINED}{why}"

    def partly(self, rows: str) -> str:
        """Return which classes the score covers where these are fewer than all; else nothing."""
        lack = self._lack(rows) if self.defined else ""
        if not lack:
            return ""
        over = f" over {self.counted}" if self.counted else ""
        # scikit-learn's rule: whoever answers what nobody has is wrong every time.
        zero = ", which counts as 0 where it is answered" if self.metric == "macro_f1" else ""
        return f"{self.metric}{over}: {lack}{zero}"

    def _lack(self, rows: str) -> str:
        parts = [f"no {rows} row of {named(self.missing)}"] if self.missing else []
        parts += [f"every {rows} row has {named(self.everywhere)}"] if self.everywhere else []
        return "; ".join(parts)


def named(words: Sequence[str]) -> str:
    """Return names in quotes; of very many, the first and how many more."""
    shown = ", ".join(repr(word) for word in words[:_NAMED])
    return shown if len(words) <= _NAMED else f"{shown} and {len(words) - _NAMED} more"


def of_classes(metric: str, truth: Truth, classes: Sequence[str], least: int) -> Cover:
    """Return what a metric covers where each row has one class.

    Args:
        metric: which.
        truth: of the rows.
        classes: names, in order.
        least: classes that need a row each for the metric to have a value.
    """
    return Cover(
        metric=metric,
        classes=tuple(classes),
        covered=_where(classes, truth.present),
        missing=_where(classes, ~truth.present),
        least=least,
        rows=truth.rows,
    )


def of_labels(metric: str, truth: Truth, labels: Sequence[str], *, both: bool, least: int) -> Cover:
    """Return what a metric covers where a row may have several labels, or none.

    Args:
        metric: which.
        truth: of the rows.
        labels: names, in order.
        both: whether a label needs rows with it and rows without it.
        least: labels that must be covered for the metric to have a value; 0: all are, by the rows
            without them too.
    """
    fine = truth.present & truth.absent if both else truth.present
    return Cover(
        metric=metric,
        classes=tuple(labels),
        covered=_where(labels, fine) if least else tuple(labels),
        missing=_where(labels, ~truth.present),
        everywhere=_where(labels, truth.present & ~truth.absent) if both else (),
        least=least,
        noun="labels",
        rows=truth.rows,
    )


def _where(names: Sequence[str], here: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, held in zip(names, here.tolist(), strict=True) if held)
