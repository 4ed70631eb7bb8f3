"""The server's reading of an answer: of the form that was asked for, finite, within the rows told.

A malformed answer is refused with its reason; what is done then is the caller's: the silo is left
out of that question.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import numpy as np

from archipelago.data.answers import HISTOGRAM

__all__ = ["Unread", "read"]

_LONGEST = 10_000
"""Characters of a name that an answer may hold."""
_EVIDENCE = (
    *("present", "number", "whole", "boolean", "dmy", "mdy"),
    *("year_last", "comma", "either", "point", "distinct"),
)


class Unread(Exception):
    """An answer is not of the form of its question; the text says what is wrong, and no value."""


def read(said: Any, request: Mapping[str, Any], rows: int, columns: frozenset[str] | None) -> None:
    """Check an answer.

    Args:
        said: what came.
        request: what was asked.
        rows: train rows that the silo declared when it registered.
        columns: names that every silo's table has; None where the rows are no table.

    Raises:
        Unread: a field is absent, of another type, not finite, or counts more than `rows`.
    """
    known: dict[str, Callable[..., None]] = {
        "label": _label,
        "schema": _schema,
        "columns": _columns,
        "histograms": _histograms,
        "quality": _quality,
    }
    known[request["ask"]](_mapping(said, "the answer"), request, rows, columns)


def _label(said: Mapping[str, Any], request: Mapping[str, Any], rows: int, _: Any) -> None:
    _evidence(said, rows)
    _count(said.get("codes", 0), rows)
    joined = _mapping(said.get("joined"), "joined")
    _same(joined, request["separators"], "separators")
    for count in joined.values():
        _count(count, rows)


def _schema(
    said: Mapping[str, Any], request: Mapping[str, Any], rows: int, columns: frozenset[str] | None
) -> None:
    del request
    _equal(said.get("rows"), rows, "rows")
    if "labels" in said:
        for name, count in _mapping(said["labels"], "labels").items():
            _name(name)
            _count(count, rows)
        _count(said.get("unnamed", 0), rows)
    if "target" in said:
        _moments(said["target"], rows)
    if "labels" not in said and "target" not in said:
        raise Unread("it names neither labels nor a target")
    if columns is not None:
        told = _mapping(said.get("columns"), "columns")
        _same(told, columns, "columns")
        for seen in told.values():
            _evidence(_mapping(seen, "a column"), rows)
            _boolean(seen.get("named"), "named")
        return
    channels = said.get("channels")
    if not isinstance(channels, list) or not channels:
        raise Unread("its channels are no list")
    for channel in channels:
        _moments(channel, None)


def _columns(said: Mapping[str, Any], request: Mapping[str, Any], rows: int, _: Any) -> None:
    _same(said, request["columns"], "columns")
    for name, spec in request["columns"].items():
        if spec["kind"] != "category":
            _moments(said[name], rows)
            continue
        told = _mapping(said[name], "a category")
        _count(told.get("missing"), rows)
        _count(told.get("other"), rows)
        total = 0
        for word, count in _mapping(told.get("named"), "named").items():
            _name(word)
            total += _count(count, rows)
        _count(total, rows)


def _histograms(said: Mapping[str, Any], request: Mapping[str, Any], rows: int, _: Any) -> None:
    _same(said, request["columns"], "columns")
    for told in said.values():
        if not isinstance(told, list):
            raise Unread("a histogram is no list")
        if told and isinstance(told[0], list):
            if any(not isinstance(part, list) or len(part) != 2 for part in told):
                raise Unread("a merged bin is no pair")
            ends = [_count(end, HISTOGRAM) for end, _ in told]
            if sorted(set(ends)) != ends or ends[0] < 1 or ends[-1] != HISTOGRAM:
                raise Unread("merged bins do not cover the range")
            counts = [count for _, count in told]
        elif told and len(told) != HISTOGRAM:
            raise Unread(f"a histogram has {len(told)} bins, not {HISTOGRAM}")
        else:
            counts = told
        _count(sum(_count(count, rows) for count in counts), rows)


def _quality(said: Mapping[str, Any], request: Mapping[str, Any], rows: int, columns: Any) -> None:
    for name in ("duplicates", "conflicts"):
        _count(said.get(name), rows)
    _share(said.get("base"))
    for name, known in (
        ("purity", columns or ()),
        ("apart", request["columns"]),
        ("correlation", request["columns"]),
    ):
        for column, value in _mapping(said.get(name), name).items():
            if column not in known:
                raise Unread(f"{name} is told of a column that nobody asked for")
            _share(value)


def _evidence(seen: Mapping[str, Any], rows: int) -> None:
    _equal(seen.get("rows"), rows, "rows of a column")
    present = _count(seen.get("present"), rows)
    for name in _EVIDENCE:
        _count(seen.get(name), present)
    for name in ("infinite", "withheld"):
        _count(seen.get(name, 0), rows)


def _moments(told: Any, rows: int | None) -> None:
    if not isinstance(told, list) or len(told) != 3:
        raise Unread("moments are no three numbers")
    count, mean, squares = map(_number, told)
    if count < 0 or squares < 0 or count != int(count) or (rows is not None and count > rows):
        raise Unread("moments of more rows than there are, or of a negative number")
    # What is squared when silos are merged must stay finite.
    if max(abs(mean), squares**0.5) > np.finfo(np.float64).max ** 0.25:
        raise Unread("moments are too large to be merged")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unread(f"{what} is no mapping")
    return value


def _same(told: Mapping[str, Any], asked: Any, what: str) -> None:
    if set(told) != set(asked):
        raise Unread(f"its {what} are not those that were asked for")


def _equal(value: Any, wanted: int, what: str) -> None:
    if _count(value, None) != wanted:
        raise Unread(f"{what} are not those that it declared")


def _count(value: Any, most: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Unread("a count is no whole number")
    if most is not None and value > most:
        raise Unread("a count is larger than what it counts")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unread("a number is none")
    try:
        number = float(value)
    except OverflowError:
        raise Unread("a number is too large") from None
    if not isfinite(number):
        raise Unread("a number is not finite")
    return number


def _share(value: Any) -> None:
    if not 0 <= _number(value) <= 1 + 1e-9:
        raise Unread("a share lies outside 0 and 1")


def _boolean(value: Any, what: str) -> None:
    if not isinstance(value, bool):
        raise Unread(f"{what} is neither true nor false")


def _name(value: Any) -> None:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise Unread("a name is no text, or longer than any name")
