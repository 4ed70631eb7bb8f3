"""Amounts as people type them."""

import re

from archipelago.core.errors import ConfigError

__all__ = ["bound"]

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)B?")
_FACTOR = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def bound(where: str, text: str) -> float | None:
    """Read a limit; None where nothing was typed.

    Example:
        >>> bound("--max-macs", "2M"), bound("--max-macs", "")
        (2000000.0, None)
    """
    if not text:
        return None
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        fix = "write a number, or one with k, M or G, e.g. 250k"
        raise ConfigError("cannot be read as an amount", got=text, where=where, fix=fix)
    return float(match.group(1)) * _FACTOR[match.group(2).lower()]
