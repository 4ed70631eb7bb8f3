"""Small text files that somebody else may have written: no device, no pipe, no end of memory."""

import json
import os
import stat
from math import isfinite
from pathlib import Path
from typing import Any

__all__ = ["parsed_json", "read_small"]


def read_small(path: Path, largest: int) -> bytes:
    """Return the bytes of an ordinary file.

    Args:
        path: is opened without waiting: a pipe that nobody writes to would wait for ever.
        largest: bytes allowed.

    Raises:
        ValueError: it is no ordinary file, or larger; the message says which.
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise ValueError("is a directory, not a file")
        if not stat.S_ISREG(mode):
            raise ValueError("is a pipe or a device, not a file")
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"is longer than {largest:,} bytes")
    return data


def parsed_json(text: str | bytes) -> Any:
    """Return what JSON text of unknown origin says.

    Raises:
        ValueError: it is not JSON, names a key twice, holds NaN, an infinity or a number that
            becomes one, or is nested deeper than Python reads.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:40]} is not finite")
    return value
