"""What turns a raw row into a network's input. NumPy only; travels as JSON with the model."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

from archipelago.core.errors import ArchipelagoError, ConfigError, DataError
from archipelago.core.small_files import parsed_json
from archipelago.core.typed_fields import built
from archipelago.data.columns import Kind, categories, is_missing, numbers
from archipelago.data.raw import Modality
from archipelago.data.spelling import fold
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
        vocabulary: categories that have a feature each, folded, or as written where a silo keeps
            spellings apart that fold alike; all others share `(other)`.
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
        words, where = np.unique(categories(values), return_inverse=True)
        place = {word: i for i, word in enumerate(self.vocabulary)}
        times = Counter(map(fold, self.vocabulary))
        other = len(self.vocabulary)

        def code(word: str) -> int:
            if not word:  # without a feature for missing, it counts as any other unseen category
                return other + 1 if self.indicator else other
            apart = times[fold(word)] > 1
            return place.get(word if apart else fold(word), place.get(word, other))

        codes = np.array([code(word) for word in words.tolist()], np.int64)
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
            data = parsed_json(text)
            version = data.pop("version")
            if type(version) is not int:
                raise ValueError("version: must be a whole number")
            if version > VERSION:
                raise DataError(
                    "this preparation was written by a newer version",
                    got=version,
                    fix="install the same or a newer archipelago-nas",
                )
            made = built(cls, data)
            _refuse_broken(made)
            return made
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ArchipelagoError) and not isinstance(error, ConfigError):
                raise
            got = error.what if isinstance(error, ArchipelagoError) else str(error)
            raise DataError("a preparation cannot be read", got=got[:200]) from None

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


_AXES = {"table": 1, "series": 2, "image": 3}


def _refuse_broken(made: Preparation) -> None:
    """Refuse what is of the right types and still would turn rows into nonsense.

    Raises:
        ValueError: names the field.
    """
    if len(made.shape) != _AXES[made.modality] or not all(0 < n < 2**31 for n in made.shape):
        raise ValueError(f"shape: {made.shape} is none of a {made.modality}'s rows")
    for name, values in (("multiply", made.multiply), ("add", made.add)):
        if values and (made.modality == "table" or len(values) not in (1, made.shape[0])):
            raise ValueError(f"{name}: has {len(values)} values, the rows {made.shape[0]} channels")
    # The graph computes in float32: neither a product nor a quotient may be nothing or infinite.
    if not all(1e-37 < value < 1e37 for value in made.multiply):
        raise ValueError("multiply: must be above zero")
    if made.columns and made.modality != "table":
        raise ValueError("columns: only tables have them")
    names = [column.name for column in made.columns]
    if len(set(names)) != len(names):
        raise ValueError("columns: a name is there twice")
    for column in made.columns:
        _refuse_broken_column(column)


def _refuse_broken_column(column: Column) -> None:
    where = f"column {column.name[:80]!r}"
    if not column.scale > 0:
        raise ValueError(f"{where}, scale: must be above zero")
    if column.order not in ("", "dmy", "mdy"):
        raise ValueError(f"{where}, order: must be dmy or mdy")
    if len(column.knots) == 1 or any(b <= a for a, b in pairwise(column.knots)):
        raise ValueError(f"{where}, knots: must rise")
    if len(set(column.vocabulary)) != len(column.vocabulary):
        raise ValueError(f"{where}, vocabulary: a category is there twice")
