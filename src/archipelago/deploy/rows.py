"""Raw rows from a file, as a shipped model wants them; every misfit by name. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from archipelago.core.checks import one_of
from archipelago.core.errors import DataError
from archipelago.data.columns import plain_numbers
from archipelago.data.sources.ragged import LENGTHS, check_lengths
from archipelago.data.sources.readers import read_csv, read_npz, read_parquet
from archipelago.data.windows import Windows
from archipelago.deploy.manifest import Manifest

__all__ = ["Rows", "read_rows"]

_READERS = {
    ".csv": read_csv,
    ".gz": read_csv,
    ".npz": read_npz,
    ".parquet": read_parquet,
    ".tsv": read_csv,
}


_TEXT = (".csv", ".gz", ".tsv")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What the exported graph takes, and what became of the file.

    Attributes:
        x: `[rows, *shape]`: a table's features, or stored values.
        unused: columns of the file that the model does not need.
        windows: of a model of windows: how many rows of `x` each recording gave, int64
            `[recordings]`; None where a row is a row.
    """

    x: np.ndarray
    unused: tuple[str, ...] = ()
    windows: np.ndarray | None = None

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of `values` `[rows, ...]` over the windows of each recording."""
        if self.windows is None:
            return values
        first = np.cumsum(self.windows) - self.windows
        sums = np.add.reduceat(values.astype(np.float64), first, axis=0)
        many = self.windows.reshape(-1, *(1 for _ in values.shape[1:]))
        return (sums / many).astype(values.dtype)


def read_rows(manifest: Manifest, path: str | Path, *, channels: str = "auto") -> Rows:
    """Read a file and return what the exported graph takes.

    Args:
        path: CSV, TSV, gzipped CSV, Parquet (extra) or NPZ. An NPZ holds an array `x`, or, for a
            table, one array a column. For a model of windows, `x` holds recordings of any one
            length, or padded to one with an array `lengths` beside it; they are cut here as
            training cut its own.
        channels: of images and series in an NPZ: `first`, `last`, or `auto`, which takes the only
            one that fits.

    Raises:
        DataError: the file cannot be read, is empty, or does not fit: columns absent, values that
            do not read, arrays of another shape, recordings shorter than a window; all named.
    """
    one_of("channels", channels, ("auto", "first", "last"))
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="give a file of rows")
    reader = _READERS.get(path.suffix.casefold())
    if reader is None:
        raise DataError(
            "files of this kind are not read",
            got=path.name,
            fix="give .csv, .csv.gz, .tsv, .parquet or .npz",
        )
    columns = reader(path)
    if manifest.preparation.modality == "table":
        x, unused = _table(manifest, columns, path)
        return Rows(x=x, unused=unused)
    rows = _windows(manifest, columns, path, _arrays(manifest, columns, path, channels))
    _refuse_missing(rows, path)
    return rows


def _table(
    manifest: Manifest, columns: Mapping[str, np.ndarray], path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    if path.suffix.casefold() == ".npz":
        columns = _named(columns, path)
    unused = tuple(name for name in columns if name not in manifest.columns)
    absent = [name for name in manifest.columns if name not in columns]
    if absent:
        known = ", ".join(unused) or "none"
        raise DataError(
            "columns that the model needs are absent",
            got=absent,
            where=str(path),
            fix=f"rename or add them; columns of the file that the model does not use: {known}",
        )
    vocabularies = {c.name for c in manifest.preparation.columns if c.kind == "category"}
    table = {
        name: columns[name] if name in vocabularies else plain_numbers(columns[name])
        for name in manifest.columns
    }
    try:
        # The header is line 1.
        place = (lambda row: f"line {row + 2}") if path.suffix.casefold() in _TEXT else None
        return manifest.preparation.apply(table, place), unused
    except DataError as error:
        where = f"{path}, {error.where}" if error.where else str(path)
        raise DataError(error.what, got=error.got, where=where, fix=error.fix) from None


def _named(arrays: Mapping[str, np.ndarray], path: Path) -> Mapping[str, np.ndarray]:
    """Return an NPZ's columns: the axes of `x`, or arrays of one axis and one length."""
    if "x" in arrays and arrays["x"].ndim == 2:
        x = arrays["x"]
        names = arrays["feature_names"].tolist() if "feature_names" in arrays else ()
        if names and len(names) != x.shape[1]:
            raise DataError(
                "x has another number of columns than feature_names",
                got=(x.shape[1], len(names)),
                where=str(path),
            )
        titles = names or [f"x{i}" for i in range(x.shape[1])]
        return {str(title): x[:, i] for i, title in enumerate(titles)}
    columns = {name: array for name, array in arrays.items() if array.ndim == 1}
    if len({len(array) for array in columns.values()}) > 1:
        sizes = {name: len(array) for name, array in columns.items()}
        raise DataError("columns have different lengths", got=sizes, where=str(path))
    return columns


def _arrays(
    manifest: Manifest, arrays: Mapping[str, np.ndarray], path: Path, channels: str
) -> np.ndarray:
    modality, shape = manifest.preparation.modality, manifest.preparation.shape
    cut = manifest.preparation.windows
    wanted, turned = _named_shapes(shape, cut)
    if path.suffix.casefold() != ".npz" or "x" not in arrays:
        pictures = "a picture, a folder of pictures, or " if modality == "image" else ""
        raise DataError(
            f"this model takes {'images' if modality == 'image' else 'series'}",
            got=path.name,
            where=str(path),
            fix=f"give {pictures}an .npz with an array 'x' of rows of shape {wanted}",
        )
    x = arrays["x"]
    if x.dtype.kind not in "fiub":
        raise DataError("x must hold numbers", got=str(x.dtype), where=str(path))
    if x.ndim == len(shape) and shape[0] == 1:
        x = x[:, None]
    whole = x.ndim == len(shape) + 1
    first = whole and _takes(tuple(x.shape[1:]), shape, cut)
    last = whole and _takes((*x.shape[-1:], *x.shape[1:-1]), shape, cut)
    if channels == "auto" and first and last and shape[0] > 1:
        raise DataError(
            "the channels may come first or last: both fit",
            got=tuple(x.shape),
            where=str(path),
            fix="say channels='last' or channels='first'",
        )
    take_first = first if channels == "auto" else channels == "first"
    if not (first if take_first else last):
        raise DataError(
            "rows have another shape than the model takes",
            got=tuple(x.shape[1:]),
            where=f"{path}, array 'x'",
            fix=f"give rows of shape {wanted}, or {turned} with channels last",
        )
    return (x if take_first else np.moveaxis(x, -1, 1)).astype(np.float32)


def _takes(found: tuple[int, ...], shape: tuple[int, ...], cut: Windows | None) -> bool:
    """Whether rows of the shape `found` fit; recordings may have any number of steps."""
    return found == shape or (cut is not None and found[0] == shape[0])


def _named_shapes(shape: tuple[int, ...], cut: Windows | None) -> tuple[str, str]:
    """Return a row's shape, channels first and last; a recording may have more steps than that."""
    if cut is None:
        return str(shape), str((*shape[1:], shape[0]))
    channels, steps = shape
    return f"({channels}, {steps} or more)", f"({steps} or more, {channels})"


def _windows(
    manifest: Manifest, arrays: Mapping[str, np.ndarray], path: Path, x: np.ndarray
) -> Rows:
    """Cut recordings as training did, where the model is one of windows."""
    cut = manifest.preparation.windows
    if cut is None:
        return Rows(x=x)
    lengths = arrays.get(LENGTHS)
    if lengths is not None:
        check_lengths(lengths, len(x), x.shape[2], str(path))
    fix = "leave them out: the model was trained on whole windows only"
    cut.check(x, lengths, where=f"{path}, array 'x'", whose="the model's", fix=fix)
    x, counts = cut.cut(x, lengths)
    return Rows(x=x, windows=counts)


def _refuse_missing(rows: Rows, path: Path) -> None:
    counts = np.ones(len(rows.x), np.int64) if rows.windows is None else rows.windows
    wrong = ~np.isfinite(rows.x).reshape(len(rows.x), -1).all(1)
    if wrong.any():
        hit = np.unique(np.repeat(np.arange(len(counts)), counts)[wrong])
        raise DataError(
            "values are missing or infinite",
            got=f"{len(hit)} of {len(counts)} rows, the first is row {hit[0]}",
            where=f"{path}, array 'x'",
            fix="fill them in, or leave the rows out",
        )
