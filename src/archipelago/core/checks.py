"""One-line validators for `__post_init__`, so that every message has the same shape."""

from collections.abc import Collection
from math import isfinite

from archipelago.core.errors import ConfigError, did_you_mean

__all__ = ["at_least", "between", "one_of"]


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


def at_least(where: str, value: float, low: float, *, fix: str | None = None) -> None:
    """Raise `ConfigError` unless `value` is finite and `value >= low`."""
    if not (isfinite(value) and value >= low):
        raise ConfigError(f"must be at least {low:g}", got=value, where=where, fix=fix)


def one_of(where: str, value: str, known: Collection[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `known`, naming the closest."""
    if value not in known:
        raise ConfigError("no such choice", got=value, where=where, fix=did_you_mean(value, known))
