"""What a source hands over: rows as their owners keep them, nothing learned yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from archipelago.core.errors import DataError

__all__ = ["LabelMap", "Modality", "Raw", "modality_of"]

Modality = Literal["image", "series", "table"]
LabelMap = Mapping[str, str | Mapping[str, str]]
"""The class of a spelling; under a silo's name the same for its rows alone, and before the rest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raw:
    """All rows of a simulation, or of the silos on this machine.

    Attributes:
        name: of the data set, for messages.
        modality: decides which networks fit.
        x: image `[rows, channels, height, width]`, series `[rows, channels, steps]` (uint8, int16
            or float32); for a table the columns by name, each `[rows]`, text or float64 with NaN.
        y: labels `[rows]`: text, integers, booleans or floats.
        natural: whose row it is, an index into `names`; None where nobody owns rows.
        names: of the natural clients.
        scale: what one unit of the stored integers means, one value or one a channel.
        classes: class names in a preferred order; empty: sorted.
        groups: rows with the same number never part in a split (overlapping windows); None: each
            row is alone.
        official: rows of the published test split; None where there is none.
        categorical: numeric columns to be read as categories.
        label: name of the column that `y` was; empty where it had none.
        lengths: of series that differ in length: steps of each row that were recorded, int64
            `[rows]`; the rest of the row is padding. None: every row is whole.
        label_map: what an owner says of spellings: the class of each.
        declared: class names that an owner declared, as folders do: schema, no row's value.
        starts: number of the first row of each text file, by the file's name, in order.
    """

    name: str
    modality: Modality
    x: np.ndarray | Mapping[str, np.ndarray]
    y: np.ndarray
    natural: np.ndarray | None = None
    names: tuple[str, ...] = ()
    scale: np.ndarray = field(default_factory=lambda: np.ones(1))
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    official: np.ndarray | None = None
    categorical: frozenset[str] = frozenset()
    label: str = ""
    lengths: np.ndarray | None = None
    label_map: LabelMap = field(default_factory=dict[str, Any])
    declared: tuple[str, ...] = ()
    starts: Mapping[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        if not np.ndim(self.y) or not (isinstance(self.x, Mapping) or np.ndim(self.x)):
            raise DataError(
                "x and y must hold rows, and one is a single value",
                where=self.name,
                fix="give arrays whose first axis is the rows",
            )
        if self.rows == 0:
            raise DataError("no rows", where=self.name, fix="check the path and the file")
        lengths = {
            "y": len(self.y),
            **{
                name: len(value)
                for name in ("natural", "groups", "official", "lengths")
                if (value := getattr(self, name)) is not None
            },
        }
        for what, length in lengths.items():
            if length != self.rows:
                raise DataError(
                    f"x and {what} have different numbers of rows",
                    got=(self.rows, length),
                    where=self.name,
                    fix="give one for each row",
                )
        if np.ndim(self.y) != 1:
            raise DataError(
                "there must be one label for each row",
                got=f"y of shape {np.shape(self.y)}",
                where=self.name,
                fix="give y one axis; several labels of a row are joined in one text, as in 'a;b'",
            )
        for column, values in self.x.items() if isinstance(self.x, Mapping) else ():
            if values.shape != (self.rows,):
                raise DataError(
                    "a column must have one value for each row",
                    got=f"shape {values.shape}, the first column has {self.rows} rows",
                    where=f"{self.name}, column {column!r}",
                    fix="give columns of one axis and one length",
                )
        if 0 in self.shape:
            raise DataError(
                "rows hold no value", got=self.shape, where=self.name, fix="check how x was made"
            )
        arrays = self.x.values() if isinstance(self.x, Mapping) else (self.x,)
        for array in (*arrays, self.y):
            if array.dtype.hasobject:
                raise DataError(
                    "object-typed arrays are not read: they can run code when unpickled",
                    got=array.dtype,
                    where=self.name,
                    fix="save numbers or fixed-width text, e.g. x.astype('float32')",
                )

    @property
    def target(self) -> str:
        """What messages call the label."""
        return f"label column {self.label!r}" if self.label else "label"

    def place(self, row: int) -> str:
        """Return where a row stands: the line of its file (the header is line 1), or its number."""
        file = max(
            (name for name, start in self.starts.items() if start <= row),
            key=lambda name: self.starts[name],
            default=None,
        )
        return f"row {row}" if file is None else f"line {row - self.starts[file] + 2} of {file}"

    @property
    def rows(self) -> int:
        """Number of rows."""
        if isinstance(self.x, Mapping):
            return len(next(iter(self.x.values()))) if self.x else 0
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row; of a table its number of columns."""
        return (len(self.x),) if isinstance(self.x, Mapping) else self.x.shape[1:]


def modality_of(x: np.ndarray, where: str) -> Modality:
    """Guess what an array holds: 2 axes are a table, 4 images, 3 grey images (uint8) or series."""
    if x.ndim == 2:
        return "table"
    if x.ndim == 4 or (x.ndim == 3 and x.dtype == np.uint8):
        return "image"
    if x.ndim == 3:
        return "series"
    raise DataError(
        "x must have 2 axes (table), 3 (series, grey images) or 4 (images)",
        got=x.shape,
        where=where,
        fix="reshape it, e.g. x.reshape(len(x), -1) for a table",
    )
