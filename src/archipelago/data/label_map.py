"""What an owner says of spellings: `label_map = { "yes" = "1", south = { "2" = "1" } }`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.data.raw import LabelMap, Raw
from archipelago.data.spelling import SLIP, fold, missing, spelled, spellings

__all__ = ["check_map", "read_map", "words_of"]

_WHERE = "data.label_map"


def check_map(mapping: LabelMap | None) -> None:
    """Refuse a map with an empty spelling or class.

    Raises:
        ConfigError: that names it.
    """
    for key, value in (mapping or {}).items():
        if isinstance(value, Mapping):
            check_map(value)
        elif missing(spelled(value)) and fold(spelled(value)) != fold(spelled(key)):
            raise ConfigError(
                "a class needs a name, and this one means that there is none",
                got=value,
                where=f"{_WHERE}.{key}",
                fix="write another name; rows without a label are left out of the file",
            )
        elif not spelled(key):
            raise ConfigError("maps an empty spelling", where=_WHERE, fix="label these rows")


def read_map(entries: Sequence[str]) -> dict[str, Any] | None:
    """Return the map that `OLD=NEW` and `SILO:OLD=NEW` spell; None without any.

    Raises:
        ConfigError: an entry cannot be read.
    """
    out: dict[str, Any] = {}
    for entry in entries:
        old, sign, new = (part.strip() for part in entry.partition("="))
        silo, colon, own = (part.strip() for part in old.partition(":"))
        table = out.setdefault(silo, {}) if colon else out
        if not (sign and new and (own if colon else old)) or isinstance(table, str):
            raise ConfigError(
                "cannot be read",
                got=entry,
                where="--label-map",
                fix="write --label-map yes=1, or --label-map north:2=1 for one silo",
            )
        table[own if colon else old] = new
    return out or None


def words_of(raw: Raw, *, separator: str = "", strict: bool = True) -> tuple[np.ndarray, frozenset]:
    """Return the label of each row as written, after the owner's map, and the classes it gives.

    Args:
        raw: the rows.
        separator: between labels in one field; empty: one label a row.
        strict: whether an entry of the map that fits no row is refused.

    Raises:
        ConfigError: the map names a silo or a label that is not there; it is named.
    """
    words = spellings(raw.y)
    if not raw.label_map:
        return words, frozenset()
    shared = {k: v for k, v in raw.label_map.items() if isinstance(v, str)}
    own = {k: v for k, v in raw.label_map.items() if not isinstance(v, str)}
    for silo in own:
        if silo not in raw.names:
            raise ConfigError(
                "names a silo that is not there",
                got=silo,
                where=_WHERE,
                fix=did_you_mean(silo, raw.names) if raw.names else "nobody owns these rows",
            )
    used: set[tuple[str, str]] = set()
    out = [*words.tolist()]
    owners = np.zeros(raw.rows, np.int64) if raw.natural is None else raw.natural
    for owner in np.unique(owners).tolist():
        silo = raw.names[owner] if raw.names else ""
        tables = [(silo, own.get(silo, {})), ("", shared)]
        rows = np.flatnonzero(owners == owner)
        distinct, where = np.unique(words[rows], return_inverse=True)
        renamed = [_renamed(word, tables, separator, used) for word in distinct.tolist()]
        for row, place in zip(rows.tolist(), where.tolist(), strict=True):
            out[row] = renamed[place]
    for silo, table in [*own.items(), ("", shared)]:
        for key in table if strict else ():
            if (silo, key) not in used:
                here = _shared(words if not silo else words[owners == raw.names.index(silo)])
                raise ConfigError(
                    "names a label that no row has",
                    got=key,
                    where=f"{_WHERE}.{silo}" if silo else _WHERE,
                    fix=did_you_mean(key, here) if 0 < len(here) <= _SHOWN else "leave it out",
                )
    given = [*shared.values(), *(name for table in own.values() for name in table.values())]
    return np.array(out, dtype=np.str_), frozenset(spelled(name) for name in given)


_SHOWN = 50
"""Labels of which the closest is proposed; of more, most may be single rows' texts."""


def _shared(words: np.ndarray) -> list[str]:
    """Return the labels that enough rows share to be printed: others are single rows' values."""
    distinct, counts = np.unique(words, return_counts=True)
    return distinct[counts >= SLIP].tolist()


def _renamed(field: str, tables: list, separator: str, used: set[tuple[str, str]]) -> str:
    """Return a field with each of its labels renamed once; adds entries that fit to `used`."""
    parts = field.split(separator) if separator else [field]
    out: list[str] = []
    for part in parts:
        word = spelled(part)
        for silo, table in tables:
            alike = [key for key in table if fold(spelled(key)) == fold(word)]
            exact = [key for key in alike if spelled(key) == word]
            if found := exact or (alike if len(alike) == 1 else []):
                used.add((silo, found[0]))
                word = spelled(table[found[0]])
                break
        out.append(word)
    return separator.join(out)
