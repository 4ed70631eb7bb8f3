"""The clients of a run, a million of them, looked up by id without being held in memory."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Client", "Registry"]

_CHUNK = 500
"""Ids in one query; SQLite's least limit on parameters is 999."""


class Client(NamedTuple):
    """One registered client.

    Attributes:
        id: counts up from 0.
        name: what the data call it.
        rows: training rows.
        trace: which availability trace it follows; -1 for always available.
    """

    id: int
    name: str
    rows: int
    trace: int = -1


class Registry:
    """The table `clients` of a journal's database; `Journal.register` fills it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __len__(self) -> int:
        return self._connection.execute("SELECT count(*) FROM clients").fetchone()[0]

    def __iter__(self) -> Iterator[Client]:
        """Iterate by id."""
        rows = self._connection.execute("SELECT id, name, rows, trace FROM clients ORDER BY id")
        return map(Client._make, rows)

    @property
    def rows(self) -> int:
        """Training rows of all clients."""
        return self._connection.execute("SELECT coalesce(sum(rows), 0) FROM clients").fetchone()[0]

    def get(self, ids: Sequence[int]) -> list[Client]:
        """Return the clients in the order of `ids`; raise `KeyError` for an unknown one."""
        found: dict[int, Client] = {}
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT id, name, rows, trace FROM clients WHERE id IN ({marks})"  # noqa: S608
            found |= {row[0]: Client(*row) for row in self._connection.execute(query, chunk)}
        return [found[client] for client in ids]
