"""Plain data from a file to a dataclass, every field by its type: nothing is believed.

Runs where pydantic is not: beside a shipped model there are NumPy and onnxruntime only.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["built"]

T = TypeVar("T")


def built(cls: type[T], data: object, where: str = "") -> T:
    """Return a `cls` of the fields in `data`.

    Args:
        cls: a dataclass of text, booleans, numbers, literals, dataclasses, None and tuples of them.
        data: a mapping, as JSON gives it: lists stand for tuples, whole numbers for floats.
        where: names the place in errors.

    Raises:
        ValueError: not a mapping, a field is missing, unknown or of another type, or not finite.
    """
    if not isinstance(data, Mapping):
        raise _wrong(where, "a table")
    known = {field.name: field for field in fields(cls) if field.init}  # pyright: ignore
    if unknown := [name for name in data if name not in known]:
        raise ValueError(f"{_at(where, str(unknown[0])[:80])}: no such field")
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_at(where, name)}: is missing")
    hints = _hints(cls)
    return cls(**{name: _value(hints[name], v, _at(where, name)) for name, v in data.items()})


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _value(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        if value is None and type(None) in arguments:
            return None
        (hint,) = (one for one in arguments if one is not type(None))
        return _value(hint, value, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _wrong(where, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list")
        return tuple(_value(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if is_dataclass(hint):
        return built(hint, value, where)  # pyright: ignore
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float:
        if not number or abs(value) > 1e300 or not isfinite(value):  # pyright: ignore
            raise _wrong(where, "a finite number")
        return float(value)  # pyright: ignore
    if hint is int:
        if not number or not isinstance(value, int) or abs(value) >= 2**63:
            raise _wrong(where, "a whole number of 64 bits")
        return value
    if type(value) is not hint:
        raise _wrong(where, {str: "text", bool: "true or false"}[hint])
    return value


def _wrong(where: str, wanted: str) -> ValueError:
    return ValueError(f"{where or 'it'}: must be {wanted}")


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
