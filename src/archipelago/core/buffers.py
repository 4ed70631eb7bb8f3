"""Pieces of a message, moved without being joined until they must be."""

from collections.abc import Sequence

import numpy as np

__all__ = ["Part", "as_bytes", "join", "joined", "length"]

Part = bytes | memoryview | np.ndarray


def as_bytes(piece: Part) -> memoryview:
    """Return the piece as bytes, without copying."""
    return piece.data.cast("B") if isinstance(piece, np.ndarray) else memoryview(piece).cast("B")


def length(pieces: Sequence[Part]) -> int:
    """Return the bytes that would travel."""
    return sum(as_bytes(piece).nbytes for piece in pieces)


def join(pieces: Sequence[Part]) -> bytes:
    """Return the pieces in one."""
    return b"".join(as_bytes(piece) for piece in pieces)


def joined(pieces: Sequence[Part]) -> memoryview:
    """Return the pieces in one writable buffer, copied once."""
    out = np.empty(length(pieces), np.uint8).data
    place = 0
    for piece in pieces:
        raw = as_bytes(piece)
        out[place : place + raw.nbytes] = raw
        place += raw.nbytes
    return out
