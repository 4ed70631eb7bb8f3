"""Small text files that somebody else may have written: no device, no pipe, no end of memory."""

import json
import os
import stat
from pathlib import Path
from typing import Any

__all__ = ["TooLong", "parsed_json", "read_small"]


class TooLong(ValueError):
    """A file has more bytes than a file of its kind."""


def read_small(path: Path, largest: int) -> bytes:
    """Return the bytes of an ordinary file.

    Args:
        path: is opened without waiting: a pipe that nobody writes to would wait for ever.
        largest: bytes allowed.

    Raises:
        TooLong: it is larger.
        ValueError: it is no ordinary file; the message says what it is.
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise ValueError("is a directory, not a file")
        if not stat.S_ISREG(mode):
            raise ValueError("is a pipe or a device, not a file")
        if os.fstat(handle).st_size > largest:
            raise TooLong(f"is longer than {largest:,} bytes")
        return file.read()


def parsed_json(text: str | bytes) -> Any:
    """Return what JSON text of unknown origin says.

    Raises:
        ValueError: it is not JSON, names a key twice, holds a number of thousands of digits, or is
            nested deeper than Python reads.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made
