"""One message: a magic, a version, a JSON header and raw little-endian arrays.

Layout of a frame, in bytes::

    0   4  magic "ARCH"
    4   2  version
    6   2  reserved, zero
    8   4  length of the header, padded so that arrays start at a multiple of 64
    12  …  header: UTF-8 JSON {"kind", "fields", "arrays": [[dtype, shape], …]}, then spaces
    …   …  the arrays, each padded to a multiple of 64

Nothing in it can name a class or run code. A receiver states the largest frame that it accepts and
checks every length before it looks at a byte behind it. A message has one spelling: a name twice in
an object, padding that is not zero, and a header longer than it need be are refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, prod
from struct import Struct
from typing import Any

import numpy as np

from archipelago.core.buffers import Part, length
from archipelago.core.errors import UpdateRefused

__all__ = ["LIMIT", "Frame", "bundle", "pack", "packed", "reading", "unbundle", "unpack"]

MAGIC = b"ARCH"
VERSION = 1
LIMIT = 1 << 30
"""Largest frame accepted by default, bytes."""

_ALIGN = 64
_HEAD = Struct("<4sHHI")
_RANK, _SIZE, _ARRAYS = 8, 1 << 40, 256
"""Dimensions of an array; scalars in it, a size of 0 counted as 1; arrays in a frame."""

_DIGIT = bytes(48 if chr(byte) in "0123456789" else 32 for byte in range(256))
_LONG = b"0" * 20
"""A run of digits is looked for among nothing but zeros and spaces: a pattern takes 20 times it."""

_PARTS = {"kind", "fields", "arrays"}
_DEEP = 64
"""Nesting of a header: what prints or stores a value goes down it once more."""

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


@contextmanager
def reading() -> Iterator[None]:
    """Refuse the message that is read inside, whatever it was that could not be read.

    What a message may ask for in memory is bounded before it is read: a `MemoryError` is this
    machine's own, and goes on.

    Raises:
        UpdateRefused: in place of every other exception.
    """
    try:
        yield
    except (UpdateRefused, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UpdateRefused("a message cannot be read", got=reason) from None


@reading()
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
    magic, version, reserved, head = _HEAD.unpack(view[: _HEAD.size])
    if magic != MAGIC:
        raise UpdateRefused("not an Archipelago frame", got=bytes(magic))
    if version != VERSION:
        raise UpdateRefused(
            "a frame of another version",
            got=version,
            fix=f"both sides must speak version {VERSION}: install the same release",
        )
    if reserved:
        raise UpdateRefused("a frame's reserved bytes are not zero", got=reserved)
    start = _HEAD.size + head
    if start > view.nbytes:
        raise UpdateRefused("a frame is cut short", got=f"{view.nbytes} of {start} bytes")
    if start % _ALIGN:
        raise UpdateRefused("a frame's arrays start at an odd place", got=start)
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
        _gap(view, start + size, start + _padded(size))
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


@reading()
def unbundle(data: memoryview) -> list[memoryview | str]:
    """Return the messages of a `bundle` as views, or why there is none.

    Raises:
        UpdateRefused: the buffer does not hold what its table says.
    """
    view = memoryview(data).cast("B")
    count = int.from_bytes(view[:8], "little")
    start = _padded(8 + 8 * count)
    if view.nbytes < max(start, 8):
        raise UpdateRefused("a bundle is cut short", got=f"{view.nbytes} bytes")
    sizes: list[int] = np.frombuffer(view[8 : 8 + 8 * count], "<i8").tolist()
    if start + sum(_padded(abs(size)) for size in sizes) != view.nbytes:
        raise UpdateRefused("a bundle does not hold what its table says", got=sizes[:8])
    out: list[memoryview | str] = []
    _gap(view, 8 + 8 * count, start)
    for size in sizes:
        part = view[start : start + abs(size)]
        _gap(view, start + abs(size), start + _padded(abs(size)))
        out.append(part if size >= 0 else bytes(part).decode(errors="replace"))
        start += _padded(abs(size))
    return out


def _described(kind: str, fields: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> bytes:
    described = [[_name(array), list(array.shape)] for array in arrays]
    return json.dumps({"kind": kind, "fields": fields, "arrays": described}).encode()


def _header(raw: bytes) -> tuple[str, dict[str, Any], list[tuple[str, tuple[int, ...]]]]:
    text = raw.rstrip(b" ")
    if len(raw) - len(text) >= _ALIGN:
        raise UpdateRefused("a frame's header is padded by more than it needs", got=len(raw))
    try:
        # A number of 4,300 digits is one that JSON reads and nothing else does.
        whole: Any = {"parse_int": _short} if _LONG in text.translate(_DIGIT) else {}
        header = json.loads(text.decode(), object_pairs_hook=_once, **whole)
    except (ValueError, RecursionError) as error:
        raise UpdateRefused("a frame's header cannot be read", got=str(error)[:80]) from None
    if not (text[:1] == b"{" and text[-1:] == b"}" and header.keys() == _PARTS):
        raise UpdateRefused("a frame's header must hold kind, fields and arrays", got=text[:80])
    kind, fields, arrays = header["kind"], header["fields"], header["arrays"]
    if not (isinstance(kind, str) and isinstance(fields, dict) and isinstance(arrays, list)):
        raise UpdateRefused("a frame's header has values of the wrong type", got=text[:80])
    if text.count(b"[") + text.count(b"{") > _DEEP:
        _shallow(fields)  # pyright: ignore[reportUnknownArgumentType]
    if len(arrays) > _ARRAYS:  # pyright: ignore[reportUnknownArgumentType]
        raise UpdateRefused("a frame holds too many arrays", got=len(arrays))  # pyright: ignore[reportUnknownArgumentType]
    return kind, fields, [_array(described) for described in arrays]  # pyright: ignore[reportUnknownVariableType]


def _array(described: Any) -> tuple[str, tuple[int, ...]]:
    """Return an array's type and shape. `true` is 1 to Python, and no size."""
    pair = described if isinstance(described, list) else []
    match pair:  # pyright: ignore[reportUnknownVariableType]
        case [str(dtype), list(shape)]:  # pyright: ignore[reportUnknownVariableType]
            pass
        case _:
            raise UpdateRefused("an array's description cannot be read", got=_brief(pair))
    if dtype not in _DTYPES:
        raise UpdateRefused("a frame holds an array of a type not allowed", got=dtype[:80])
    sizes: list[Any] = shape
    if not (len(sizes) <= _RANK and all(type(size) is int and size >= 0 for size in sizes)):
        raise UpdateRefused("an array's shape cannot be", got=_brief(sizes))
    if prod(max(size, 1) for size in sizes) > _SIZE:
        raise UpdateRefused("an array is larger than any model", got=_brief(sizes))
    return dtype, tuple(sizes)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def _short(digits: str) -> int:
    if len(digits.lstrip("-")) > 20:
        raise ValueError("a whole number has more than 20 digits")
    return int(digits)


def _shallow(fields: dict[str, Any]) -> None:
    """Refuse fields that nest too deeply: whoever prints them would run out of stack."""
    level: list[Any] = [fields]
    for _ in range(_DEEP):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)  # pyright: ignore[reportUnknownVariableType]
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise UpdateRefused("a frame's header nests too deeply", got=f"more than {_DEEP} levels")


def _gap(view: memoryview, start: int, end: int) -> None:
    if start < end and any(view[start:end]):
        raise UpdateRefused("bytes between the parts of a message are not zero", got=start)


def _brief(value: object) -> str:
    return repr(value)[:80]


def _text(number: float) -> str:
    return repr(number) if isfinite(number) else json.dumps(number)


def _name(array: np.ndarray) -> str:
    name = array.dtype.str.lstrip("<|=")
    if name not in _DTYPES:
        raise UpdateRefused("an array of this type cannot be framed", got=array.dtype)
    return name


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
