"""Memory that is free, given back to the system."""

import ctypes
from contextlib import suppress

__all__ = ["trim"]


def trim() -> None:
    """Give back what the C library keeps of freed memory; nothing where it cannot (not glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
