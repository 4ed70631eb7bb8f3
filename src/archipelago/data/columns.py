"""How text becomes numbers, dates, truth values and categories: the same at every silo and later.

Numbers may carry thousand separators (1,234.5 · 1 234.5 · 1'234); dates may be ISO, day-first,
month-first (only where the data themselves settle which) or with English month names; truth values
are yes/no, true/false, y/n, t/f, 1/0; what categories ignore, `spelling` says.
"""

import re
from collections.abc import Callable
from datetime import datetime
from math import isfinite
from typing import Literal

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.spelling import MISSING, fold, missing, spellings

__all__ = [
    "Kind",
    "categories",
    "evidence",
    "form",
    "is_missing",
    "numbers",
    "plain_numbers",
    "texts",
]

Kind = Literal["number", "boolean", "date", "category"]

_INFINITE = frozenset(f"{sign}{word}" for sign in ("", "+", "-") for word in ("inf", "infinity"))
_TRUE = frozenset({"yes", "true", "y", "t", "1", "1.0"})
_FALSE = frozenset({"no", "false", "n", "f", "0", "0.0"})
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([, '\u00a0\u202f]\d{3})+(\.\d+)?")
_COMMA = re.compile(r"[+-]?\d+(\.\d{3})*,\d+")
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_POINT = re.compile(r"[+-]?\d*\.\d+")
_CLOCK = r"(?:[ t](\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?z?)?"
_YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})" + _CLOCK)
_YEAR_LAST = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})" + _CLOCK)
_NAMED = re.compile(r"(\d{1,2})[ -]([a-z]{3})[a-z]*[ ,-]+(\d{4})" + _CLOCK)
_NAMED_US = re.compile(r"([a-z]{3})[a-z]* (\d{1,2}),? (\d{4})" + _CLOCK)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_EPOCH = datetime(2000, 1, 1)


def is_missing(values: np.ndarray) -> np.ndarray:
    """Return which of `[rows]` are missing: NaN, an infinite value, or a word such as `n/a`."""
    if values.dtype.kind == "f":
        return ~np.isfinite(values)
    if values.dtype.kind != "U":
        return np.zeros(len(values), bool)
    return _by_distinct(values, lambda text: text in MISSING, bool)


def evidence(values: np.ndarray) -> dict[str, int]:
    """Count what one silo's column could be: counts only, no value.

    Returns:
        `present`, and of these how many read as `number`, `whole` number, `boolean`, `dmy` and
        `mdy` (dates, either order), `year_last` (dates whose order matters), `comma` (decimal
        comma), `either` (1,234: thousands or a decimal comma), `point` (decimal point, no comma);
        `distinct` counts different values; `infinite`, where there are any, the infinite values
        of a numeric column, which count as missing.
    """
    if values.dtype.kind != "U":
        kept = values[~is_missing(values)]
        binary = int(np.isin(kept, (0, 1)).sum())
        unbounded = int(np.isinf(values).sum())
        return {
            **({"infinite": unbounded} if unbounded else {}),
            "present": len(kept),
            "number": len(kept),
            "whole": int((kept == np.floor(kept)).sum()),
            "boolean": binary,
            "dmy": 0,
            "mdy": 0,
            "year_last": 0,
            "comma": 0,
            "either": 0,
            "point": 0,
            "distinct": len(np.unique(kept)),
        }
    distinct, counts = np.unique(values, return_counts=True)
    out = dict.fromkeys(("present", "number", "whole", "boolean", "dmy", "mdy"), 0)
    out |= {"year_last": 0, "comma": 0, "either": 0, "point": 0}
    seen: set[str] = set()
    infinite: dict[str, int] = {}
    for raw, count in zip(distinct.tolist(), counts.tolist(), strict=True):
        text = _tidy(raw)
        if text in MISSING:
            continue
        if text in _INFINITE:
            infinite[text] = infinite.get(text, 0) + count
            continue
        seen.add(text)
        out["present"] += count
        number = _number(text)
        out["number"] += count * (number is not None)
        out["whole"] += count * (number is not None and number.is_integer())
        out["boolean"] += count * (text in _TRUE or text in _FALSE)
        out["dmy"] += count * (_date(text, "dmy") is not None)
        out["mdy"] += count * (_date(text, "mdy") is not None)
        out["year_last"] += count * (_YEAR_LAST.fullmatch(text) is not None)
        out["comma"] += count * (_COMMA.fullmatch(text) is not None)
        out["either"] += count * (_EITHER.fullmatch(text) is not None)
        out["point"] += count * (_POINT.fullmatch(text) is not None)
    if infinite and out["present"] and out["number"] == out["present"]:
        out["infinite"] = sum(infinite.values())
    else:  # among words these are words
        out["present"] += sum(infinite.values())
        seen |= infinite.keys()
    return {**out, "distinct": len(seen)}


def form(text: str) -> str:
    """Return what a field looks like without saying what it is.

    Example:
        >>> form("0,412")
        '5 characters: digits, commas'
    """
    kinds = {
        "letters": any(c.isalpha() for c in text),
        "digits": any(c.isdigit() for c in text),
        "commas": "," in text,
        "points": "." in text,
        "blanks": any(c.isspace() for c in text),
        "other signs": any(not (c.isalnum() or c.isspace() or c in ",.") for c in text),
    }
    return f"{len(text)} characters: {', '.join(name for name, there in kinds.items() if there)}"


def numbers(
    values: np.ndarray,
    kind: Kind,
    *,
    column: str,
    order: str = "",
    place: Callable[[int], str] | None = None,
) -> np.ndarray:
    """Read a column as float64 `[rows]`, NaN where missing; dates in days since 2000-01-01.

    Args:
        kind: number, boolean or date.
        order: of dates that end in the year: "dmy" or "mdy".
        place: where a row stands, for messages.

    Raises:
        DataError: a value does not read as `kind`; the column, the row and the value's form are
            named, the value itself is not.
    """
    if values.dtype.kind != "U":
        out = values.astype(np.float64)
        return np.where(np.isfinite(out), out, np.nan)
    reader: Callable[[str], float | None] = {
        "number": _number,
        "boolean": _truth,
        "date": lambda text: _date(text, order),
    }[kind]

    def first(tidy: str) -> int:
        return next(i for i, text in enumerate(values.tolist()) if _tidy(text) == tidy)

    def read(text: str) -> float:
        if text in MISSING or (kind == "number" and text in _INFINITE):
            return float("nan")
        value = reader(text)
        if value is None:
            raise DataError(
                f"a value does not read as a {kind}",
                got=form(text),
                where=f"{place(first(text))}, column {column!r}" if place else f"column {column!r}",
                fix="write 3.14, not 3,14"
                if kind == "number" and _COMMA.fullmatch(text)
                else "write it as the other silos do, or leave the field empty if it is unknown",
            )
        return value

    return _by_distinct(values, read, np.float64)


def categories(values: np.ndarray) -> np.ndarray:
    """Read a column as categories: text `[rows]` as written, "" where missing; 1.0 as "1"."""
    distinct, where = np.unique(spellings(values), return_inverse=True)
    words = ["" if missing(text) else text for text in distinct.tolist()]
    return np.array(words, dtype=np.str_)[where]


def texts(values: np.ndarray) -> np.ndarray:
    """Read a column as categories, folded as `spelling.fold` does: text `[rows]`."""
    distinct, where = np.unique(categories(values), return_inverse=True)
    return np.array([fold(text) for text in distinct.tolist()], dtype=np.str_)[where]


def plain_numbers(values: np.ndarray) -> np.ndarray:
    """Return float64 where every field of text is a plain number or empty, else `values`.

    As a file is read: an input that is a number everywhere. `1_0` is a code, although Python
    reads it as 10.
    """
    if values.dtype.kind != "U":
        return values if values.dtype.kind == "f" else values.astype(np.float64)
    if (np.char.find(values, "_") >= 0).any():
        return values
    try:
        return np.where(values == "", "nan", values).astype(np.float64)
    except ValueError:
        return values


def _by_distinct(values: np.ndarray, read: Callable, dtype: type) -> np.ndarray:
    distinct, where = np.unique(values, return_inverse=True)
    return np.array([read(_tidy(text)) for text in distinct.tolist()], dtype=dtype)[where]


def _tidy(text: str) -> str:
    return " ".join(text.split()).casefold()


def _number(text: str) -> float | None:
    if _PLAIN.fullmatch(text):
        return float(text) if isfinite(float(text)) else None  # 1e999 is a slip, not a number
    if _GROUPED.fullmatch(text):
        return float(re.sub(r"[, '\u00a0\u202f]", "", text))
    return None


def _truth(text: str) -> float | None:
    return 1.0 if text in _TRUE else 0.0 if text in _FALSE else None


def _date(text: str, order: str) -> float | None:
    if match := _YEAR_FIRST.fullmatch(text):
        year, month, day, *clock = match.groups()
    elif match := _YEAR_LAST.fullmatch(text):
        a, b, year, *clock = match.groups()
        day, month = (b, a) if order == "mdy" else (a, b)
    elif match := _NAMED.fullmatch(text):
        day, month, year, *clock = match.groups()
    elif match := _NAMED_US.fullmatch(text):
        month, day, year, *clock = match.groups()
    else:
        return None
    if month.isalpha():
        if month not in _MONTHS:
            return None
        month = _MONTHS.index(month) + 1
    try:
        hours, minutes, seconds = (int(part or 0) for part in clock)
        moment = datetime(int(year), int(month), int(day), hours, minutes, seconds)
    except ValueError:
        return None
    return (moment - _EPOCH).total_seconds() / 86_400
