"""Plain tables as TOML text. The standard library reads TOML and does not write it."""

import json
import re
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from archipelago.core.errors import ConfigError

__all__ = ["line", "write"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def write(tables: Mapping[str, Any]) -> str:
    """Return TOML that `tomllib` reads back as `tables`. Values that are None are left out.

    Example:
        >>> print(write({"seed": 0, "strategy": {"kind": "random"}}), end="")
        seed = 0
        <BLANKLINE>
        [strategy]
        kind = "random"
    """
    lines: list[str] = []
    _table(lines, (), tables)
    return "\n".join(lines).strip() + "\n"


def line(key: str, value: Any) -> str:
    """Return one setting on one line, a table inline.

    Example:
        >>> line("label_map", {"yes": "1"})
        'label_map = { yes = "1" }'
    """
    return f"{_key(key)} = {_value(value, key)}"


def _table(lines: list[str], path: tuple[str, ...], table: Mapping[str, Any]) -> None:
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping) and v is not None}
    inner = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    if path and (plain or not inner):
        lines += ["", f"[{'.'.join(_key(step) for step in path)}]"]
    for key, value in plain.items():
        lines.append(f"{_key(key)} = {_value(value, '.'.join((*path, key)))}")
    for key, value in inner.items():
        _table(lines, (*path, key), value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    # JSON escapes are TOML escapes, except that TOML forbids DEL and has no surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any, where: str) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return "nan" if isnan(value) else repr(float(value))
        case str():
            return _text(value)
        case Mapping():
            pairs = (f"{_key(k)} = {_value(v, f'{where}.{k}')}" for k, v in value.items())
            return "{ " + ", ".join(pairs) + " }" if value else "{}"
        case Sequence():
            return "[" + ", ".join(_value(item, where) for item in value) + "]"
        case _:
            raise ConfigError("has no spelling in TOML", got=value, where=where)
