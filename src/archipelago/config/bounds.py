"""How long and how deep a run file may be: checked before it is parsed, and before it is believed.

The standard library's parser takes a time that is quadratic in the steps of a dotted key, ends in
a `RecursionError` on deep nesting, and in a bare `ValueError` on a number of many digits.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from archipelago.config.faults import sentence
from archipelago.core.errors import ConfigError

__all__ = ["DEEPEST", "parse_toml", "refused"]

DEEPEST = 20
"""Steps of a key, and levels of brackets; the deepest setting of a preset has three."""
_WORD = 500
"""Characters of a bare word: a number, or a key without quotes."""
_WORDS = 50_000
"""Names and values of a file."""
_ITEMS = 10_000
"""Values of one list, and keys of one table."""
_TEXT = 20_000
"""Characters of one value or key."""
_WIDEST = 2**63 - 1
"""TOML's integers are signed numbers of 64 bits; Python would read longer ones."""

# Each alternative begins with its own character: one pass, no way back.
_TOKEN = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:"{3,5}|\Z)'
    r"|'''(?:[^']|'(?!''))*+(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+"
    r"|[\w+-]++"
    r"|[][{}.\n]",
    re.DOTALL,
)


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a run file.

    Raises:
        tomllib.TOMLDecodeError: it is not TOML.
        ConfigError: it is nested too deep or a word of it is too long; `where` is the line.
    """
    _shallow(text)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError("is nested too deep") from None


def refused(tables: Mapping[str, Any]) -> list[str]:
    """Return what no setting can be, with its place: beyond 64 bits, or far too long."""
    return list(_refused(tables, ""))


def _refused(value: Any, where: str) -> Iterator[str]:
    match value:
        case bool():
            return
        case int() if not -_WIDEST - 1 <= value <= _WIDEST:
            what, fix = "must be a number of at most 64 bits", "take a smaller number"
            yield sentence(what, got=value, where=where, fix=fix)
        case str() if len(value) > _TEXT:
            what, fix = f"must be at most {_TEXT:,} characters", "write it shorter"
            yield sentence(what, got=value, where=where, fix=fix)
        case Mapping() | list() if len(value) > _ITEMS:
            what, fix = f"must hold at most {_ITEMS:,} values", "rows belong into files of [data]"
            yield sentence(what, got=f"{len(value):,}", where=where or None, fix=fix)
        case Mapping():
            for name, inner in value.items():
                place = f"{where}.{name}" if where else name
                if len(name) > _WORD:
                    fix = "write it shorter"
                    what = f"a name must be at most {_WORD} characters"
                    yield sentence(what, got=name, where=where or None, fix=fix)
                else:
                    yield from _refused(inner, place)
        case list():
            for inner in value:
                yield from _refused(inner, where)
        case _:
            return


def _shallow(text: str) -> None:
    words, brackets, steps, line, end, dotted = 0, 0, 0, 1, 0, False
    for match in _TOKEN.finditer(text):
        token = match.group()
        first = token[0]
        words += first not in ".[]{}\n#"
        if words > _WORDS:
            fix = "rows belong into files of [data]"
            raise ConfigError(f"holds more than {_WORDS:,} names and values", fix=fix)
        # Only names with nothing but dots and blanks between them are one key.
        if text[end : match.start()].strip(" \t") or (first not in ".[{" and not dotted):
            steps = 0
        end, dotted = match.end(), first == "."
        if dotted:
            steps += 1
        elif first in "[{":
            brackets += 1
        elif first in "]}":
            brackets = max(0, brackets - 1)
        elif first != "#" and len(token) > _WORD and first not in "\"'":
            what = f"a name or a number of {len(token):,} characters"
            raise ConfigError(what, where=f"line {line}", fix="write a shorter one")
        line += token.count("\n")
        if brackets > DEEPEST or steps > DEEPEST:
            raise _line("it is nested too deep", line)


def _line(what: str, line: int) -> ConfigError:
    return ConfigError(what, where=f"line {line}", fix="a setting has at most three names")
