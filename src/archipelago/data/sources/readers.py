"""From a file's bytes to columns or arrays; every fault names the file, and the row if any."""

import csv
import gzip
import zipfile
import zlib
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np

from archipelago.core.errors import DataError, MissingExtra
from archipelago.core.small_files import read_small

__all__ = ["read_csv", "read_npz", "read_parquet"]

_LARGEST = 2**34
"""Bytes of a file, unpacked: a small archive may unpack to more than there is memory."""
_EXACT = 1 << 53
"""Whole numbers up to here are themselves as floats."""


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """Read a CSV (comma, semicolon or tab; UTF-8; may be gzipped) as text columns."""
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "the file is not UTF-8 text",
            got=f"byte {error.start}",
            where=str(path),
            fix="save it as UTF-8",
        ) from None
    except (OSError, EOFError, ValueError, zlib.error, MemoryError) as error:
        raise _unreadable(path, error) from None
    if not text.strip():
        raise DataError("the file is empty", where=str(path), fix="check where it came from")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        header, *rows = list(csv.reader(StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(
            "the file is not CSV",
            got=str(error).partition(":")[0],
            where=str(path),
            fix="export it as CSV again",
        ) from None
    names = [name.strip() for name in header]
    # Where the header is missing, the first line is a row: fields are told by their places only.
    bare = [place for place, name in enumerate(names, 1) if not name]
    first = {name: place for place, name in reversed(list(enumerate(names, 1)))}
    twice = [place for place, name in enumerate(names, 1) if name and first[name] < place]
    if twice or bare:
        raise DataError(
            "the header needs one name for each column",
            got="; ".join(
                f"{text} {', '.join(map(str, places[:5]))}{' ...' if len(places) > 5 else ''}"
                for text, places in (
                    ("no name in fields", bare),
                    ("an earlier field's name in fields", twice),
                )
                if places
            ),
            where=f"{path}, line 1",
            fix="name every column once in the first line",
        )
    rows = [row for row in rows if row]
    if not rows:
        raise DataError(
            "the file has a header and no rows", where=str(path), fix="add rows, or leave it out"
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise DataError(
                f"a row has {len(row)} fields, the header {len(names)}",
                where=f"{path}, row {number}",
                fix="quote fields that hold the delimiter",
            )
    columns = zip(*rows, strict=True)
    try:
        return {
            name: np.char.strip(np.array(column, dtype=np.str_))
            for name, column in zip(names, columns, strict=True)
        }
    except MemoryError:
        raise _unreadable(path, MemoryError("one field is so long that the column is")) from None


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an NPZ, never unpickling."""
    out: dict[str, np.ndarray] = {}
    name = ""
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise DataError(
            "the file cannot be read: it is not an NPZ archive",
            where=str(path),
            fix="write it with numpy.savez(path, x=..., y=...)",
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            size = sum(member.file_size for member in archive.zip.infolist())
            if size > _LARGEST:
                raise OverflowError(f"unpacked, it has {size:,} bytes")
            for name in archive.files:
                out[name] = archive[name]
    except ValueError as error:
        if "Object arrays" in str(error) or "allow_pickle" in str(error):
            raise DataError(
                "object-typed arrays are not read: they can run code when unpickled",
                got=name or None,
                where=str(path),
                fix="save numbers or fixed-width text, e.g. x.astype('float32')",
            ) from None
        raise _unreadable(path, error) from None
    except Exception as error:  # a damaged archive raises whatever its decompressor does
        raise _unreadable(path, error) from None
    if not out or any(len(array) == 0 for array in out.values() if array.ndim):
        raise DataError(
            "the file holds no rows",
            got=sorted(out),
            where=str(path),
            fix="add rows, or leave it out",
        )
    return out


def read_parquet(path: Path) -> dict[str, np.ndarray]:
    """Read a Parquet table; needs the extra `parquet`."""
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", "reading Parquet") from None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if table.num_rows == 0:
        raise DataError("the file holds no rows", where=str(path), fix="add rows, or leave it out")
    out: dict[str, np.ndarray] = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        kinds = {type(value) for value in values if value is not None}
        whole = [v for v in values if isinstance(v, int)]
        if len(whole) == len(values) and len(kinds) == 1:
            out[name] = np.array(values)  # exact, as a code may have more digits than a float
        elif kinds <= {int, float, bool} and all(abs(v) <= _EXACT for v in whole):
            out[name] = np.array([float("nan") if v is None else v for v in values], np.float64)
        elif any(issubclass(kind, (list, dict, bytes)) for kind in kinds):
            raise DataError(
                "a column holds lists, records or bytes",
                where=f"{path}, column {name!r}",
                fix="drop it, or write one plain value a row",
            )
        else:
            out[name] = np.array(["" if v is None else str(v) for v in values], dtype=np.str_)
    return out


def _bytes(path: Path) -> bytes:
    data = read_small(path, _LARGEST)
    if path.suffix.casefold() != ".gz":
        return data
    with gzip.open(BytesIO(data)) as file:
        # A small file may unpack to more than there is memory.
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError(f"unpacked, it is longer than {_LARGEST:,} bytes")
    return text


def _reason(error: Exception) -> str:
    """Return what is wrong with a file without its bytes, which some libraries quote."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("(")[0].partition("b'")[0].strip()[:200] or type(error).__name__


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        "the file cannot be read",
        got=_reason(error),
        where=str(path),
        fix="check that it is a whole file of its kind and that you may read it",
    )
