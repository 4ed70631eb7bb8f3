"""Arrays and tensors from Python: a notebook's way in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from archipelago.core.checks import one_of
from archipelago.core.errors import DataError
from archipelago.data.label_map import check_map
from archipelago.data.raw import LabelMap, Modality, Raw, modality_of
from archipelago.data.sources.ragged import trimmed
from archipelago.data.spelling import spellings

__all__ = ["Arrays", "raw_of_arrays"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrays:
    """NumPy arrays, CPU tensors, or a mapping of columns.

    Attributes:
        x: table `[rows, features]` or columns by name; series `[rows, steps, channels]`; images
            `[rows, height, width]` or `[rows, height, width, channels]`. Bytes (uint8) are pixels.
        y: labels or targets, `[rows]`.
        clients: whose row it is, `[rows]` of any names; None: nobody's.
        modality: `auto` guesses from the axes and the type.
        channels: whether the channel axis comes last or first.
        lengths: of series that differ in length, padded to the longest: steps of each that were
            recorded, `[rows]`; None: every row is whole.
        label_map: the class of each spelling of a label; under a client's name, for its rows.
        name: for messages.
    """

    kind: Literal["arrays"] = "arrays"
    x: Any = None
    y: Any = None
    clients: Any = None
    modality: str = "auto"
    channels: str = "last"
    lengths: Any = None
    label_map: LabelMap | None = None
    name: str = "arrays"

    def load(self) -> Raw:
        """Check and take the arrays as they are."""
        check_map(self.label_map)
        return raw_of_arrays(
            self.x,
            self.y,
            clients=None if self.clients is None else np.asarray(self.clients),
            modality=self.modality,
            channels=self.channels,
            lengths=None if self.lengths is None else np.asarray(self.lengths),
            name=self.name,
            label_map=self.label_map,
        )


def raw_of_arrays(
    x: Any,
    y: Any,
    *,
    clients: np.ndarray | None,
    modality: str = "auto",
    channels: str = "last",
    lengths: np.ndarray | None = None,
    name: str,
    columns: Sequence[str] = (),
    classes: Sequence[str] = (),
    label_map: LabelMap | None = None,
) -> Raw:
    """Bring arrays into the layout of `Raw`.

    Args:
        clients: names of the owners `[rows]`, or None.
        lengths: recorded steps of each padded series `[rows]`, or None.
        columns: names of a table's columns; default `x0`, `x1`, …
        label_map: as in `Raw`.
    """
    one_of("data.modality", modality, ("auto", "image", "series", "table"))
    one_of("data.channels", channels, ("first", "last"))
    natural, names = None, ()
    if clients is not None:
        if clients.dtype.hasobject and not all(type(who) in (str, int) for who in clients.tolist()):
            clients = _plain(clients, f"{name}, clients")
        known, natural = np.unique(clients, return_inverse=True)
        names = tuple(spellings(known).tolist())
        if len(set(names)) < len(names) or "" in names:
            names, natural = _by_name(names, natural, name)
    if isinstance(x, Mapping):
        values: Any = {str(n): _plain(np.asarray(c), f"{name}, column {n!r}") for n, c in x.items()}
        kind: Modality = "table"
    else:
        array = _plain(np.asarray(x), name)
        guessed = modality_of(array, name)
        kind = guessed if modality == "auto" else modality  # pyright: ignore[reportAssignmentType]
        values = _arranged(array, kind, channels, name)
        if kind == "table":
            titles = columns or [f"x{i}" for i in range(values.shape[1])]
            values = {str(t): values[:, i] for i, t in enumerate(titles)}
    if lengths is not None:
        values, lengths = trimmed(values, lengths, name)
    pixels = not isinstance(values, Mapping) and values.dtype == np.uint8
    return Raw(
        name=name,
        modality=kind,
        x=values,
        y=_plain(np.asarray(y), f"{name}, y"),
        natural=natural,
        names=names,
        scale=np.array([1 / 255 if pixels else 1.0]),
        classes=tuple(classes),
        label_map=label_map or {},
        lengths=lengths,
    )


def _by_name(
    names: Sequence[str], natural: np.ndarray, where: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Merge owners whose names differ in blanks only; refuse rows of nobody."""
    if "" in names:
        lost = int(np.isin(natural, [i for i, name in enumerate(names) if not name]).sum())
        raise DataError(
            "some rows have no owner",
            got=f"{lost} rows",
            where=f"{where}, clients",
            fix="name the owner of every row, or remove these rows",
        )
    known, place = np.unique(np.array(names), return_inverse=True)
    return tuple(known.tolist()), place[natural]


def _plain(array: np.ndarray, where: str) -> np.ndarray:
    """Return text as fixed-width text and numbers as float64, int or bytes; refuse objects."""
    if array.dtype.hasobject:
        try:
            listed = array.tolist()
            flat = all(isinstance(v, str) for v in listed)
        except TypeError:
            flat, listed = False, []
        if flat and listed:
            return np.array(listed, dtype=np.str_)
        raise DataError(
            "object-typed arrays are not read: they can hide anything",
            got=str(array.dtype),
            where=where,
            fix="give numbers or text of one type, e.g. x.astype('float32')",
        )
    if array.ndim == 0:
        raise DataError("an array with rows is needed", got=str(array.dtype), where=where)
    if array.dtype.kind in "fiubU":
        return array
    raise DataError(
        "only numbers, booleans and text are read",
        got=str(array.dtype),
        where=where,
        fix="convert the array, e.g. x.astype('float32')",
    )


def _arranged(array: np.ndarray, kind: Modality, channels: str, where: str) -> np.ndarray:
    axes = {"table": (2,), "series": (2, 3), "image": (3, 4)}[kind]
    if array.ndim not in axes:
        raise DataError(
            f"a {kind} has {' or '.join(map(str, axes))} axes",
            got=array.shape,
            where=where,
            fix="rows come first; set data.modality if the guess is wrong",
        )
    if array.dtype.kind == "U":
        if kind == "table":
            return array
        raise DataError(f"a {kind} holds numbers", got=str(array.dtype), where=where)
    if kind == "table":
        return array.astype(np.float64)
    if array.ndim == axes[0]:
        array = np.expand_dims(array, 1)
    elif channels == "last":
        array = np.moveaxis(array, -1, 1)
    kept = array if array.dtype in (np.uint8, np.int16) else array.astype(np.float32)
    return np.ascontiguousarray(kept)
