"""Your own tables and arrays: one file a silo, or one file with a column of owners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Literal

import numpy as np

from archipelago.core.checks import one_of
from archipelago.core.errors import ConfigError, DataError
from archipelago.data.columns import plain_numbers
from archipelago.data.label_map import check_map
from archipelago.data.raw import LabelMap, Raw
from archipelago.data.sources.arrays import raw_of_arrays
from archipelago.data.sources.ragged import filled_up
from archipelago.data.sources.readers import read_csv, read_npz, read_parquet
from archipelago.data.spelling import spellings

__all__ = ["Files", "expand", "raw_of_columns"]

_READERS = {".csv": read_csv, ".tsv": read_csv, ".gz": read_csv, ".parquet": read_parquet}


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """CSV (also .gz), Parquet (extra) or NPZ files.

    An NPZ holds `x` and the label, one row a recording, picture or row of a table. Series may
    differ in length: between silos as they are, within one padded to its longest and with an array
    `lengths` of the steps that were recorded. `preprocess.window` then cuts all to one length.

    Attributes:
        paths: files or patterns such as `silos/*.csv`; several files are a silo each.
        label: the column (in an NPZ: the array) to predict.
        client: the column or array that says whose row it is, when one file holds all silos.
        label_map: what labels are called that silos write differently: the class of each
            spelling, `{ "yes" = "1" }`, or for the rows of one silo `{ south = { "2" = "1" } }`.
        drop: columns that are not used.
        categorical: numeric columns that are codes, to be read as categories.
        modality: of NPZ arrays; `auto` guesses from axes and type.
        channels: whether the channel axis of NPZ arrays is `last` or `first`.
    """

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = ()
    label: str = "label"
    client: str = ""
    label_map: LabelMap | None = None
    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    modality: str = "auto"
    channels: str = "last"

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("names no file", where="data.paths", fix="e.g. paths = ['a.csv']")
        one_of("data.modality", self.modality, ("auto", "image", "series", "table"))
        one_of("data.channels", self.channels, ("first", "last"))
        check_map(self.label_map)

    def load(self) -> Raw:
        """Read all files.

        Raises:
            DataError: a file is missing, empty or unreadable, lacks the label, or its columns
                differ from the other silos'; the file and the column are named.
        """
        paths = expand(self.paths)
        endings = {_ending(path) for path in paths}
        if endings == {".npz"}:
            return self._arrays(paths)
        tables = [_reader(path)(path) for path in paths]
        silos = _names(paths)
        for table, silo in zip(tables, silos, strict=True):
            for column in (self.label, *((self.client,) if self.client else ())):
                _present(column, table, silo)
        _same_columns(tables, silos)
        names = (self.label, self.client, *self.categorical)
        joined = {
            n: _as_written([t[n] for t in tables])
            if n in names
            else _joined([t[n] for t in tables], n, silos)
            for n in tables[0]
        }
        names = [path.name for path in paths]
        sizes = [len(next(iter(table.values()))) for table in tables]
        owner = np.repeat(np.array(silos), sizes) if len(silos) > 1 else None
        return raw_of_columns(
            joined,
            name=silos[0] if len(silos) == 1 else f"{len(silos)} files",
            label=self.label,
            client=self.client,
            owner=owner,
            drop=self.drop,
            categorical=self.categorical,
            label_map=self.label_map,
            starts={
                path.name if len(set(names)) == len(paths) else str(path): start
                for path, start in zip(paths, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True)
                if _ending(path) != ".parquet"
            },
        )

    def _arrays(self, paths: Sequence[Path]) -> Raw:
        silos = _names(paths)
        loaded = [read_npz(path) for path in paths]
        label = self.label if all(self.label in arrays for arrays in loaded) else "y"
        for arrays, silo in zip(loaded, silos, strict=True):
            _present("x", arrays, silo)
            _present(label, arrays, silo)
            _aligned(arrays, (label, self.client), silo)
        axis = self._steps(loaded[0]["x"])
        alike = len({arrays["x"].ndim for arrays in loaded}) == 1
        lengths = filled_up(loaded, axis, silos) if axis and alike else None
        for arrays, silo in zip(loaded, silos, strict=True):
            if arrays["x"].shape[1:] != loaded[0]["x"].shape[1:]:
                raise DataError(
                    "rows have another shape than at the other silos",
                    got=f"{arrays['x'].shape[1:]}, at {silos[0]!r} {loaded[0]['x'].shape[1:]}",
                    where=f"silo {silo!r}, array 'x'",
                    fix=self._alike(axis),
                )
            if arrays["x"].dtype != loaded[0]["x"].dtype:
                raise DataError(
                    "values have another type than at the other silos",
                    got=f"{arrays['x'].dtype}, at {silos[0]!r} {loaded[0]['x'].dtype}",
                    where=f"silo {silo!r}, array 'x'",
                    fix=f"save it with x.astype({str(loaded[0]['x'].dtype)!r})",
                )
        owner = None
        if self.client:
            for arrays, silo in zip(loaded, silos, strict=True):
                _present(self.client, arrays, silo)
            owner = _as_written([arrays[self.client] for arrays in loaded])
        elif len(silos) > 1:
            owner = np.repeat(np.array(silos), [len(arrays["x"]) for arrays in loaded])
        first = loaded[0]
        return raw_of_arrays(
            np.concatenate([arrays["x"] for arrays in loaded]),
            _as_written([arrays[label] for arrays in loaded]),
            clients=owner,
            modality=self.modality,
            channels=self.channels,
            lengths=lengths,
            name=silos[0] if len(silos) == 1 else f"{len(silos)} files",
            columns=first["feature_names"].tolist() if "feature_names" in first else (),
            label_map=self.label_map,
        )

    def _alike(self, axis: int | None) -> str:
        """Return what makes shapes equal; of series, which may differ in length, with its axis."""
        fix = "bring all silos to one shape, or leave this one out"
        if axis is None:
            return fix
        order = "[rows, channels, steps]" if axis == 2 else "[rows, steps, channels]"
        return f"{fix}; series may differ in steps only, read as {order}: see data.channels"

    def _steps(self, x: np.ndarray) -> int | None:
        """Return the axis of the steps where an NPZ's array holds series."""
        guessed = self.modality == "auto" and x.ndim == 3 and x.dtype != np.uint8
        if x.ndim not in (2, 3) or not (guessed or self.modality == "series"):
            return None
        return 2 if self.channels == "first" and x.ndim == 3 else 1


def raw_of_columns(
    table: dict[str, np.ndarray],
    *,
    name: str,
    label: str,
    client: str = "",
    owner: np.ndarray | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    label_map: LabelMap | None = None,
    starts: Mapping[str, int] | None = None,
) -> Raw:
    """Part a table's columns into features, label and owner; `starts` as in `Raw`."""
    for column in (*drop, *categorical):
        _present(column, table, name)
    if client:
        owner = spellings(table[client])
        if (owner == "").any():
            raise DataError(
                "some rows have no owner",
                got=f"{int((owner == '').sum())} rows",
                where=f"{name}, column {client!r}",
                fix="fill in the column, or remove these rows",
            )
    columns = {
        title: values if title in categorical else plain_numbers(values)
        for title, values in table.items()
        if title not in (label, client, *drop)
    }
    natural, names = None, ()
    if owner is not None:
        known, natural = np.unique(owner, return_inverse=True)
        names = tuple(known.tolist())
    if not columns:
        raise DataError(
            "there is no column beside the label", where=name, fix="add the columns to predict from"
        )
    return Raw(
        name=name,
        modality="table",
        x=columns,
        y=table[label],
        natural=natural,
        names=names,
        categorical=frozenset(categorical),
        label=label,
        label_map=label_map or {},
        starts=starts or {},
    )


def expand(paths: Sequence[str]) -> list[Path]:
    """Return the files that paths and patterns name, in order."""
    out: list[Path] = []
    for path in paths:
        found = sorted(glob(path)) if any(c in path for c in "*?[") else [path]
        if not found:
            raise DataError(
                "no file fits this pattern",
                got=path,
                where="data.paths",
                fix="paths begin at the run file; name files that are there",
            )
        out.extend(Path(item) for item in found)
    for path in out:
        if not path.exists():
            beside = path.parent.iterdir() if path.parent.is_dir() else ()
            close = get_close_matches(path.name, [item.name for item in beside], n=1)
            raise DataError(
                "no such file",
                got=str(path),
                where="data.paths",
                fix=f"did you mean {close[0]!r}?" if close else "check the path",
            )
    return out


def _ending(path: Path) -> str:
    return path.suffix.casefold()


def _reader(path: Path):
    reader = _READERS.get(_ending(path))
    if reader is None:
        raise DataError(
            "files of this kind are not read, or not beside the others",
            got=path.name,
            where="data.paths",
            fix="give .csv, .csv.gz, .tsv, .parquet, or only .npz files",
        )
    return reader


def _names(paths: Sequence[Path]) -> list[str]:
    stems = [path.name.split(".")[0] for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _aligned(arrays: Mapping[str, np.ndarray], names: Sequence[str], silo: str) -> None:
    """Refuse one silo's arrays that do not have a value for each row: in the sum it would pass."""
    rows = len(arrays["x"]) if arrays["x"].ndim else 0
    for name in names:
        if name in arrays and arrays[name].shape != (rows,):
            raise DataError(
                "there must be one value for each row of x",
                got=f"shape {arrays[name].shape}, x {arrays['x'].shape}",
                where=f"silo {silo!r}, array {name!r}",
                fix="save one axis with as many values as x has rows",
            )


def _present(column: str, table: dict[str, np.ndarray], silo: str) -> None:
    if column not in table:
        raise DataError(
            "there is no such column",
            got=column,
            where=f"silo {silo!r}",
            fix=_named_alike(column, table),
        )


def _named_alike(column: str, table: Mapping[str, np.ndarray]) -> str:
    """Return advice that names no column but one that is spelt like `column`.

    A file without a header has a row in its first line: a list of "columns" would print it.
    """
    close = get_close_matches(column, list(table), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"its first line must name the columns: it has {len(table)} fields, none of this name"


def _same_columns(tables: Sequence[dict[str, np.ndarray]], silos: Sequence[str]) -> None:
    # the silos are compared with the most common header, so that the odd one is named
    headers = [frozenset(table) for table in tables]
    usual = max(headers, key=headers.count)
    # Each has the label, which the run file names: their first lines are headers, and no rows.
    for header, silo in zip(headers, silos, strict=True):
        if header != usual:
            absent, extra = sorted(usual - header), sorted(header - usual)
            raise DataError(
                "the columns differ from the other silos'",
                got=f"absent: {', '.join(absent) or 'none'}; extra: {', '.join(extra) or 'none'}",
                where=f"silo {silo!r}",
                fix="rename or add these columns, or leave this silo out",
            )


def _joined(parts: Sequence[np.ndarray], name: str, silos: Sequence[str]) -> np.ndarray:
    kinds = {part.dtype.kind for part in parts}
    if "U" in kinds and len(kinds) > 1:
        odd = next(s for p, s in zip(parts, silos, strict=True) if p.dtype.kind == "U")
        raise DataError(
            "a column holds text at one silo and numbers at another",
            where=f"silo {odd!r}, column {name!r}",
            fix="write it in one way everywhere, or drop it",
        )
    return np.concatenate(parts)


def _as_written(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join names, which one silo may keep as numbers and another as text, without losing any.

    Joined as they are, large numbers of two types would become floats, and run into each other.
    """
    if len({part.dtype.kind for part in parts}) > 1:
        parts = [spellings(part) for part in parts]
    return np.concatenate(parts)
