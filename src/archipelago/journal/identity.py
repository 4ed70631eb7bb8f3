"""Whether two runs are the same run: a hash over everything that chance or the clock may not move.

Left out: wall-clock columns, JSON keys named in `VOLATILE`, notes (a resumption, a stop), the run's
`[engine]`, and the state of every full commit but the last, because how often tensors are written
depends on speed.
"""

import json
import sqlite3
import tomllib
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from archipelago.core.meter import COLUMNS
from archipelago.core.meter import VOLATILE as METER_VOLATILE

__all__ = ["VOLATILE", "identity", "lasting"]

VOLATILE = METER_VOLATILE | {"wall", "created", "directory"}
"""Columns, and keys at any depth of metadata, states, outcomes and events, that may differ."""

_METER = ", ".join(name for name in COLUMNS if name not in VOLATILE)
_ROWS = (
    "SELECT id, name, rows, trace FROM clients ORDER BY id",
    "SELECT number, kind FROM commits ORDER BY number",
    f"SELECT number, {_METER} FROM meter ORDER BY number, rowid",  # noqa: S608
    "SELECT number, branch, round, metric, value, phase FROM curves ORDER BY number, rowid",
    "SELECT number, name, digest FROM pins ORDER BY number, name",
    "SELECT name, digest FROM commit_blobs WHERE number = "
    "(SELECT max(number) FROM states) ORDER BY name",
)
_RECORDS = (
    "SELECT key, value FROM meta WHERE key NOT IN ('created', 'directory', 'run') ORDER BY key",
    "SELECT number, record FROM outcomes ORDER BY number, rowid",
    "SELECT number || kind, data FROM events ORDER BY number, rowid",
)
_STATE = "SELECT number, state FROM states ORDER BY number DESC LIMIT 1"


def identity(connection: sqlite3.Connection) -> str:
    """Return the hash of the run's rows: equal for a resumed and an uninterrupted run."""
    name = blake2b(digest_size=20)

    def add(query: str, rows: Iterable[Any]) -> None:
        name.update(query.encode())
        for row in rows:
            name.update(repr(row).encode())

    for query in _ROWS:
        add(query, connection.execute(query))
    for query in _RECORDS:
        add(query, ((key, _stable(text)) for key, text in connection.execute(query)))
    states = connection.execute(_STATE)
    add(_STATE, ((number, _stable(zlib.decompress(state))) for number, state in states))
    query = "SELECT value FROM meta WHERE key = 'run'"
    add(query, (lasting(json.loads(text)) for (text,) in connection.execute(query)))
    return name.hexdigest()


def lasting(run: str) -> str:
    """Return what of a run's text, TOML, two runs that are the same have in common.

    Where it is computed is no part of it: `[engine]` is left out.
    """
    tables = tomllib.loads(run)
    tables.pop("engine", None)
    return json.dumps(tables, sort_keys=True)


def _stable(text: str | bytes) -> str:
    return json.dumps(_without(json.loads(text)), sort_keys=True)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [_without(item) for item in value]
    return value
