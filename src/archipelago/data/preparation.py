"""What turns a raw row into a network's input. NumPy only; travels as JSON with the model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.columns import Kind, is_missing, numbers, texts
from archipelago.data.raw import Modality
from archipelago.data.windows import Windows

__all__ = ["OTHER", "Column", "Preparation"]

VERSION = 2
"""2 adds windows. A preparation without them is written as 1, which older versions read."""
OTHER = "(other)"
MISSING = "(missing)"
_BOUND = 10.0
"""Scaled values are clipped to this many standard units: no wild field can blow up a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one column becomes features.

    Attributes:
        name: as in the header.
        kind: number, boolean, date or category.
        order: of dates that end in the year.
        fill: stands for a missing number.
        shift: subtracted.
        scale: divided by.
        knots: quantiles at even ranks; given, a value becomes its rank scaled to unit variance.
        indicator: whether a feature says that the value was missing.
        vocabulary: categories that have a feature each; all others share `(other)`.
        dropped: why the column is not used; empty where it is.
    """

    name: str
    kind: Kind
    order: str = ""
    fill: float = 0.0
    shift: float = 0.0
    scale: float = 1.0
    knots: tuple[float, ...] = ()
    indicator: bool = False
    vocabulary: tuple[str, ...] = ()
    dropped: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it becomes."""
        if self.dropped:
            return ()
        last = (f"{self.name}={MISSING}",) if self.indicator else ()
        if self.kind == "category":
            return (*(f"{self.name}={v}" for v in (*self.vocabulary, OTHER)), *last)
        return (self.name, *last)

    def apply(self, values: np.ndarray, place: Callable[[int], str] | None = None) -> np.ndarray:
        """Return float32 `[rows, len(features)]`; `place` says where a row stands, for messages."""
        if self.dropped:
            return np.zeros((len(values), 0), np.float32)
        if self.kind == "category":
            return self._one_hot(values)
        value = numbers(values, self.kind, column=self.name, order=self.order, place=place)
        absent = np.isnan(value)
        value = np.where(absent, self.fill, value)
        if self.knots:
            ranks = np.linspace(-1.0, 1.0, len(self.knots)) * 3**0.5
            scaled = np.interp(value, self.knots, ranks)
        else:
            scaled = np.clip((value - self.shift) / self.scale, -_BOUND, _BOUND)
        parts = (scaled, absent) if self.indicator else (scaled,)
        return np.stack(parts, axis=1).astype(np.float32)

    def _one_hot(self, values: np.ndarray) -> np.ndarray:
        words, where = np.unique(texts(values), return_inverse=True)
        place = {word: i for i, word in enumerate(self.vocabulary)}
        other = len(self.vocabulary)
        # without a feature for missing, a missing category counts as any other unseen one
        place[""] = other + 1 if self.indicator else other
        codes = np.array([place.get(word, other) for word in words.tolist()], np.int64)
        return np.eye(len(self.features), dtype=np.float32)[codes[where]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Everything learned from train rows that an input needs, agreed between all clients.

    Attributes:
        modality: image, series or table.
        shape: of a network's input, without the batch.
        columns: of a table, in the order of its features.
        multiply: of images and series, one a channel: input = stored * multiply + add.
        add: see `multiply`.
        notes: what a reader should know: dropped columns and why.
        windows: of series: how recordings are cut into rows; None: they are rows.
    """

    modality: Modality
    shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()
    multiply: tuple[float, ...] = ()
    add: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    windows: Windows | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of a table's features."""
        return tuple(name for column in self.columns for name in column.features)

    def apply(
        self,
        x: np.ndarray | Mapping[str, np.ndarray],
        place: Callable[[int], str] | None = None,
    ) -> np.ndarray:
        """Return the network's input, float32 `[rows, *shape]`.

        Args:
            x: columns by name (text or numbers), or stored values `[rows, *shape]`.
            place: where a row stands, for messages.

        Raises:
            DataError: a column is absent or holds what cannot be read; it is named.
        """
        if isinstance(x, Mapping):
            self._fits(x)
            used = [column for column in self.columns if not column.dropped]
            return np.concatenate([c.apply(np.asarray(x[c.name]), place) for c in used], axis=1)
        if tuple(x.shape[1:]) != self.shape:
            raise DataError("rows have another shape", got=x.shape[1:], fix=f"give {self.shape}")
        channels = (-1, *(1 for _ in x.shape[2:]))
        multiply, add = (np.array(v, np.float32).reshape(channels) for v in self._affine())
        return x.astype(np.float32) * multiply + add

    def missing(self, x: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Count missing values by column."""
        return {c.name: int(is_missing(np.asarray(x[c.name])).sum()) for c in self.columns}

    def to_json(self) -> str:
        """Return JSON text; `from_json` is its inverse."""
        data = asdict(self)
        if self.windows is None:
            del data["windows"]
        return json.dumps({"version": VERSION if self.windows else 1, **data})

    @classmethod
    def from_json(cls, text: str) -> "Preparation":
        """Rebuild what `to_json` wrote.

        Raises:
            DataError: not a preparation, or written by a newer version.
        """
        try:
            data = json.loads(text)
            version = data.pop("version")
            if version > VERSION:
                raise DataError(
                    "this preparation was written by a newer version",
                    got=version,
                    fix="install the same or a newer archipelago-nas",
                )
            columns = tuple(Column(**_tuples(column)) for column in data.pop("columns"))
            windows = Windows(**cut) if (cut := data.pop("windows", None)) else None
            return cls(columns=columns, windows=windows, **_tuples(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError("a preparation cannot be read", got=str(error)[:80]) from None

    def _affine(self) -> tuple[Sequence[float], Sequence[float]]:
        return self.multiply or (1.0,), self.add or (0.0,)

    def _fits(self, x: Mapping[str, np.ndarray]) -> None:
        absent = [c.name for c in self.columns if not c.dropped and c.name not in x]
        if absent:
            raise DataError(
                "columns that the model needs are absent",
                got=absent,
                fix=f"the columns are {', '.join(c.name for c in self.columns if not c.dropped)}",
            )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
