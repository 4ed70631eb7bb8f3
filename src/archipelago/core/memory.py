"""Memory that is free: given back to the system, or kept for what comes next."""

import ctypes
from contextlib import suppress

__all__ = ["keep", "trim"]

KEPT = 256 << 20
"""Bytes of freed memory that a process keeps at the end of its heap at most."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MOST = -1, -3, 32 << 20  # of malloc.h, and its largest


def keep() -> None:
    """Keep freed memory, see `KEPT`; nothing where it cannot (not glibc).

    Every step of training allocates the same buffers. By its own rule the C library gives large
    ones back after each, and the system clears every page of them before the next.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # Either of them switches the library's own rule off: the second alone would do harm.
        if library.mallopt(_MMAP_THRESHOLD, _MMAP_MOST):
            library.mallopt(_TRIM_THRESHOLD, KEPT)


def trim() -> None:
    """Give back what the C library keeps of freed memory; nothing where it cannot (not glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
