"""One-line validators for `__post_init__`, so that every message has the same shape."""

from collections.abc import Collection
from math import isfinite

from archipelago.core.display import printable
from archipelago.core.errors import ConfigError, did_you_mean

__all__ = ["at_least", "between", "file_name", "one_of"]

_NAME = 200
"""Bytes of a name in a file system that takes 255, with room for a prefix and an ending."""


def between(
    where: str,
    value: float,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
    fix: str | None = None,
) -> None:
    """Raise `ConfigError` unless `low <= value <= high` (strictly, where `open_*` is set)."""
    above = low < value if open_low else low <= value
    below = value < high if open_high else value <= high
    if not (above and below):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise ConfigError(f"must lie in {interval}", got=value, where=where, fix=fix)


def at_least(
    where: str, value: float, low: float, *, high: float = 1e15, fix: str | None = None
) -> None:
    """Raise `ConfigError` unless `value` is finite, `>= low`, and no larger than makes sense.

    Args:
        high: what is more is a slip: a loop, or an array, without end.
    """
    # An integer is finite, and may be too large for `isfinite`.
    if not ((isinstance(value, int) or isfinite(value)) and value >= low):
        raise ConfigError(f"must be at least {low:g}", got=value, where=where, fix=fix)
    if value > high:
        raise ConfigError(f"must be at most {high:g}", got=value, where=where)


def one_of(where: str, value: str, known: Collection[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `known`, naming the closest."""
    if value not in known:
        raise ConfigError("no such choice", got=value, where=where, fix=did_you_mean(value, known))


def file_name(where: str, value: str) -> None:
    """Raise `ConfigError` unless `value` names one entry of a directory, and can be printed."""
    if not value.strip():
        raise ConfigError("must not be empty", where=where, fix="a run needs a heading")
    if value in (".", "..") or "/" in value or "\\" in value:
        what, fix = "must be a name, not a path", "leave out / and \\; --out takes a directory"
    elif printable(value) != value or "\n" in value:
        what, fix = (
            "must be text that can be printed",
            "leave out line breaks and control characters",
        )
    elif len(value.encode("utf-8", "replace")) > _NAME:
        what, fix = f"must be at most {_NAME} bytes in UTF-8", "take a shorter one"
    else:
        return
    raise ConfigError(what, got=value, where=where, fix=fix)
