"""Whether an ONNX file holds all of its network. Reads protobuf itself: no onnx where models run.

A tensor of an ONNX file may name another file, by any path, as the place of its numbers:
onnxruntime would read it. What `export` writes never does.
"""

from collections.abc import Iterator

__all__ = ["refuse_external"]

# Field numbers of onnx.proto: where in each message tensors, or messages with tensors, lie.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL, _LOCATION = 13, 14
_DEEPEST = 100
"""Levels of messages; protobuf itself reads as many."""


def refuse_external(data: bytes) -> None:
    """Raise unless every tensor of the model lies in the file itself.

    Args:
        data: of an ONNX file.

    Raises:
        ValueError: a tensor lies elsewhere, or the bytes are no protobuf.
    """
    _visit(memoryview(data), "model", 0)


def _visit(message: memoryview, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deep")
    for number, value in _fields(message):
        if kind == "tensor":
            if number == _EXTERNAL or (number == _LOCATION and value != 0):
                raise ValueError("it keeps numbers of its network in other files")
        elif inner := _INSIDE[kind].get(number):
            if not isinstance(value, memoryview):
                raise ValueError("it is not ONNX")
            _visit(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field; a value is a number, or the bytes of a message."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        wire = key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if wire == 2:
            size, place = _varint(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("it is not ONNX")
        if place + size > end:
            raise ValueError("it is not a whole ONNX file")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("it is not a whole ONNX file")
