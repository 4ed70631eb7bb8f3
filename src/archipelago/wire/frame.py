"""One message: a magic, a version, a JSON header and raw little-endian arrays.

Layout of a frame, in bytes::

    0   4  magic "ARCH"
    4   2  version
    6   2  reserved, zero
    8   4  length of the header, padded so that arrays start at a multiple of 64
    12  …  header: UTF-8 JSON {"kind", "fields", "arrays": [[dtype, shape], …]}, then spaces
    …   …  the arrays, each padded to a multiple of 64

Nothing in it can name a class or run code. A receiver states the largest frame that it accepts and
checks every length before it looks at a byte behind it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from struct import Struct
from typing import Any

import numpy as np

from archipelago.core.buffers import Part, length
from archipelago.core.errors import UpdateRefused

__all__ = ["LIMIT", "Frame", "bundle", "pack", "packed", "unbundle", "unpack"]

MAGIC = b"ARCH"
VERSION = 1
LIMIT = 1 << 30
"""Largest frame accepted by default, bytes."""

_ALIGN = 64
_HEAD = Struct("<4sHHI")
_DTYPES = {"f4": 4, "f2": 2, "i1": 1, "u1": 1, "i4": 4, "i8": 8, "f8": 8}


@dataclass(frozen=True, slots=True)
class Frame:
    """A received message.

    Attributes:
        kind: what it is, e.g. "update".
        fields: plain JSON values.
        arrays: views into the received bytes; copy what must outlive them.
    """

    kind: str
    fields: Mapping[str, Any]
    arrays: tuple[np.ndarray, ...]


def pack(
    kind: str, fields: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()
) -> list[bytes | memoryview]:
    """Return the frame as a list of pieces, so that nobody copies the arrays to send them.

    Args:
        kind: what the message is.
        fields: JSON values; NaN is allowed and arrives as NaN.
        arrays: C-contiguous arrays of float, int or byte types.
    """
    header = _described(kind, fields, arrays)
    padded = _padded(_HEAD.size + len(header))
    pieces: list[bytes | memoryview] = [
        _HEAD.pack(MAGIC, VERSION, 0, padded - _HEAD.size)
        + header
        + b" " * (padded - _HEAD.size - len(header))
    ]
    for array in arrays:
        raw = np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")
        pieces.append(raw)
        if gap := _padded(raw.nbytes) - raw.nbytes:
            pieces.append(b"\0" * gap)
    return pieces


def packed(
    kind: str,
    fields: Mapping[str, Any],
    numbers: Sequence[Sequence[float]],
    arrays: Sequence[np.ndarray] = (),
) -> list[int]:
    """Return how many bytes `pack` would give for several messages that differ in numbers only.

    Args:
        kind: what the messages are.
        fields: of the first.
        numbers: each message's, those that differ.
        arrays: each one's, or others of their shapes.
    """
    digits = [sum([len(_text(number)) for number in several]) for several in numbers]
    header = _HEAD.size + len(_described(kind, fields, arrays)) - digits[0]
    body = sum(_padded(array.nbytes) for array in arrays)
    return [_padded(header + count) + body for count in digits]


def unpack(data: bytes | bytearray | memoryview, *, limit: int = LIMIT) -> Frame:
    """Read a frame without copying its arrays.

    Raises:
        UpdateRefused: longer than `limit`, cut short, of another version, or malformed.
    """
    view = memoryview(data).cast("B")
    if view.nbytes > limit:
        raise UpdateRefused(
            "a frame is larger than this receiver accepts",
            got=f"{view.nbytes} bytes, limit {limit}",
            fix="raise the limit only if the model is that large",
        )
    if view.nbytes < _HEAD.size:
        raise UpdateRefused("a frame is cut short", got=f"{view.nbytes} bytes")
    magic, version, _, head = _HEAD.unpack(view[: _HEAD.size])
    if magic != MAGIC:
        raise UpdateRefused("not an Archipelago frame", got=bytes(magic))
    if version != VERSION:
        raise UpdateRefused(
            "a frame of another version",
            got=version,
            fix=f"both sides must speak version {VERSION}: install the same release",
        )
    start = _HEAD.size + head
    if start > view.nbytes:
        raise UpdateRefused("a frame is cut short", got=f"{view.nbytes} of {start} bytes")
    kind, fields, described = _header(bytes(view[_HEAD.size : start]))
    arrays: list[np.ndarray] = []
    for dtype, shape in described:
        size = prod(shape) * _DTYPES[dtype]
        if start + size > view.nbytes:
            raise UpdateRefused(
                "a frame is cut short", got=f"{view.nbytes} of {start + size} bytes"
            )
        array = np.frombuffer(view[start : start + size], dtype=f"<{dtype}").reshape(shape)
        arrays.append(array)
        start += _padded(size)
    if start != view.nbytes:
        raise UpdateRefused("bytes behind the end of a frame", got=view.nbytes - start)
    return Frame(kind, fields, tuple(arrays))


def bundle(replies: Sequence[Sequence[Part] | str]) -> list[Part]:
    """Return several messages as the pieces of one buffer; a text says why there is none."""
    bodies = [[reply.encode()] if isinstance(reply, str) else reply for reply in replies]
    sizes = [
        -length(body) if isinstance(reply, str) else length(body)
        for reply, body in zip(replies, bodies, strict=True)
    ]
    table = np.array([len(sizes), *sizes], "<i8").tobytes()
    pieces: list[Part] = []
    for size, body in zip([len(table), *sizes], [[table], *bodies], strict=True):
        pieces.extend(body)
        if gap := _padded(abs(size)) - abs(size):
            pieces.append(b"\0" * gap)
    return pieces


def unbundle(data: memoryview) -> list[memoryview | str]:
    """Return the messages of a `bundle` as views, or why there is none.

    Raises:
        UpdateRefused: the buffer does not hold what its table says.
    """
    view = memoryview(data).cast("B")
    count = int.from_bytes(view[:8], "little")
    start = _padded(8 + 8 * count)
    if view.nbytes < start:
        raise UpdateRefused("a bundle is cut short", got=f"{view.nbytes} bytes")
    sizes: list[int] = np.frombuffer(view[8 : 8 + 8 * count], "<i8").tolist()
    if start + sum(_padded(abs(size)) for size in sizes) != view.nbytes:
        raise UpdateRefused("a bundle does not hold what its table says", got=sizes[:8])
    out: list[memoryview | str] = []
    for size in sizes:
        part = view[start : start + abs(size)]
        out.append(part if size >= 0 else bytes(part).decode(errors="replace"))
        start += _padded(abs(size))
    return out


def _described(kind: str, fields: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> bytes:
    described = [[_name(array), list(array.shape)] for array in arrays]
    return json.dumps({"kind": kind, "fields": fields, "arrays": described}).encode()


def _header(raw: bytes) -> tuple[str, dict[str, Any], list[tuple[str, tuple[int, ...]]]]:
    try:
        header = json.loads(raw)
        kind, fields = header["kind"], header["fields"]
        described = [(str(dtype), tuple(shape)) for dtype, shape in header["arrays"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UpdateRefused("a frame's header cannot be read", got=str(error)[:80]) from None
    sizes = [size for _, shape in described for size in shape]
    whole = all(isinstance(size, int) and 0 <= size < 1 << 40 for size in sizes)
    if not (isinstance(kind, str) and isinstance(fields, dict) and whole):
        raise UpdateRefused("a frame's header has values of the wrong type", got=raw[:80])
    for dtype, _ in described:
        if dtype not in _DTYPES:
            raise UpdateRefused("a frame holds an array of a type not allowed", got=dtype)
    return kind, fields, described


def _text(number: float) -> str:
    return repr(number) if isfinite(number) else json.dumps(number)


def _name(array: np.ndarray) -> str:
    name = array.dtype.str.lstrip("<|=")
    if name not in _DTYPES:
        raise UpdateRefused("an array of this type cannot be framed", got=array.dtype)
    return name


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
