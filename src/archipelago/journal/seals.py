"""Digests over everything that a journal says: a flipped bit is found before it is believed.

Every commit's seal covers its rows in every table and the seal before it, so that rows changed,
lost, added or in another order are found. A state has a seal of its own, since it is deleted when
it is superseded. Metadata and clients have one each; every note has one that covers the note
before it. All are checked whenever a journal is opened, in one pass over its rows.
"""

import marshal
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from archipelago.journal.files import UNREADABLE

__all__ = [
    "SEALED",
    "Checked",
    "checked",
    "digest",
    "put_seal",
    "seal_all",
    "seal_clients",
    "seal_of",
    "state_seal",
]

_BYTES = 16
_CHUNK = 1000
_BROKEN: Final = (-1,)
"""Stands for the rows that can no longer be read: no commit has this number."""

SEALED: Final = {
    "pins": "SELECT number, name, digest FROM pins ORDER BY number, name",
    "meter": "SELECT * FROM meter ORDER BY rowid",
    "outcomes": "SELECT * FROM outcomes ORDER BY rowid",
    "curves": "SELECT * FROM curves ORDER BY rowid",
    "events": "SELECT * FROM events ORDER BY rowid",
}
"""Tables under a commit's seal, beside its own row, and their order."""

_META = "SELECT key, value FROM meta ORDER BY key"
_CLIENTS = "SELECT id, name, rows, trace FROM clients ORDER BY id"
_NOTES = "SELECT kind, data, wall, seal FROM notes ORDER BY rowid"
_COMMITS = 'SELECT number, kind, "full", wall, seal FROM commits ORDER BY number'
_STATES = "SELECT number, state, seal FROM states ORDER BY number"
_NAMED = "SELECT number, name, digest FROM commit_blobs ORDER BY number, name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What of a journal is as it was written.

    Attributes:
        fault: what is not, in a few words; empty where all is.
        commits: how many commits from the first are whole; None where metadata or clients are not.
        states: the full commits among them that can be gone on from.
        notes: how many notes from the first are whole.
    """

    fault: str
    commits: int | None
    states: tuple[int, ...]
    notes: int


def digest(before: bytes, *rows: Sequence[Any]) -> bytes:
    """Return the seal of `rows`, as SQLite gives them, after the seal `before`.

    Version 2 of `marshal` writes equal values of SQLite's five types to equal bytes. They are
    hashed and never read back.
    """
    values: Any = rows
    return blake2b(marshal.dumps(values, 2), key=before, digest_size=_BYTES).digest()


def state_seal(number: int, state: bytes, named: Sequence[Any]) -> bytes:
    """Return the seal of a state and of the blobs that it names, `(number, name, digest)`."""
    return digest(b"", (number, state), named)


def checked(connection: sqlite3.Connection) -> Checked:
    """Compare every seal with what it covers; say how far a damaged journal can be believed."""
    fault = ""
    for name, query in (("meta", _META), ("clients", _CLIENTS)):
        if not _whole(connection, name, query):
            what = {"meta": "metadata", "clients": "table of clients"}[name]
            return Checked(fault=f"its {what}", commits=None, states=(), notes=0)
    good = 0
    full: list[int] = []
    for (number, _, had, _, seal), expected in _chain(connection):
        if number != good + 1 or seal != expected:
            fault = f"commit {good + 1}"
            break
        good = number
        if had:
            full.append(number)
    states = _whole_states(connection, full)
    # An older state than the last may be gone: whoever goes back has only one left.
    if not fault and full[-1:] != states[-1:]:
        fault = f"the state of commit {full[-1]}"
    if not fault and _stored(connection) != len(states):
        fault = "an earlier state"
    notes, all_notes = _whole_notes(connection)
    if not fault and not all_notes:
        fault = f"note {notes + 1}"
    return Checked(fault=fault, commits=good, states=tuple(states), notes=notes)


def seal_all(connection: sqlite3.Connection) -> None:
    """Write every seal of a journal that was filled without them."""
    for name, query in (("meta", _META), ("clients", _CLIENTS)):
        put_seal(connection, name, _sum(connection.execute(query)))
    seals = [(expected, row[0]) for row, expected in _chain(connection, resealed=True)]
    connection.executemany("UPDATE commits SET seal = ? WHERE number = ?", seals)
    named = _Groups(connection.execute(_NAMED))
    for number, state, _ in connection.execute(_STATES).fetchall():
        seal = state_seal(number, state, named.take(number))
        connection.execute("UPDATE states SET seal = ? WHERE number = ?", (seal, number))
    before = b""
    for place, *row in connection.execute(
        "SELECT rowid, kind, data, wall FROM notes ORDER BY rowid"
    ).fetchall():
        before = digest(before, row)
        connection.execute("UPDATE notes SET seal = ? WHERE rowid = ?", (before, place))
    put_seal(connection, "notes", before)


def seal_clients(connection: sqlite3.Connection) -> None:
    """Write the seal of the table of clients."""
    put_seal(connection, "clients", _sum(connection.execute(_CLIENTS)))


def put_seal(connection: sqlite3.Connection, name: str, seal: bytes) -> None:
    """Write the seal of a table that is no part of a commit."""
    connection.execute("INSERT OR REPLACE INTO seals VALUES (?, ?)", (name, seal))


def seal_of(connection: sqlite3.Connection, name: str) -> bytes | None:
    """Return the seal of a table that is no part of a commit."""
    row = connection.execute("SELECT seal FROM seals WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


class _Groups:
    """A table's rows, by commit, in one pass."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._groups = groupby(_readable(rows), itemgetter(0))
        self._ahead: tuple[int, list[Any]] | None = None
        self._advance()

    def take(self, number: int) -> list[Any]:
        """Return the rows of the commit that comes next; none where others do."""
        if self._ahead is None or self._ahead[0] != number:
            return []
        rows = self._ahead[1]
        self._advance()
        return rows

    @property
    def left(self) -> bool:
        """Whether there are rows that nobody took."""
        return self._ahead is not None

    def _advance(self) -> None:
        found = next(self._groups, None)
        self._ahead = None if found is None else (found[0], list(found[1]))


def _readable(rows: Iterable[Any]) -> Iterator[Any]:
    try:
        # `yield from` would close the cursor, too, of a connection that is closed by then.
        for row in rows:  # noqa: UP028
            yield row
    except UNREADABLE:
        yield _BROKEN


def _chain(
    connection: sqlite3.Connection, *, resealed: bool = False
) -> Iterator[tuple[Any, bytes]]:
    """Yield every commit's row and the seal it should have; one of no commit for rows left over."""
    tables = [_Groups(connection.execute(query)) for query in SEALED.values()]
    before = b""
    for row in _readable(connection.execute(_COMMITS)):
        if row is _BROKEN:
            yield (-1, "", 0, 0.0, b""), b""
            return
        expected = digest(before, row[:4], *(table.take(row[0]) for table in tables))
        yield row, expected
        before = expected if resealed else row[4]
    if any(table.left for table in tables):
        yield (-1, "", 0, 0.0, b""), b""


def _sum(rows: Any) -> bytes:
    name = blake2b(digest_size=_BYTES)
    while chunk := rows.fetchmany(_CHUNK):
        name.update(marshal.dumps(chunk, 2))
    return name.digest()


def _whole(connection: sqlite3.Connection, name: str, query: str) -> bool:
    try:
        return seal_of(connection, name) == _sum(connection.execute(query))
    except UNREADABLE:
        return False


def _stored(connection: sqlite3.Connection) -> int:
    try:
        return connection.execute("SELECT count(*) FROM states").fetchone()[0]
    except UNREADABLE:
        return -1


def _whole_states(connection: sqlite3.Connection, full: Sequence[int]) -> list[int]:
    """Return those of `full` whose state is as it was written, and its blobs' names."""
    found: list[int] = []
    for number in full:
        try:
            row = connection.execute(
                "SELECT state, seal FROM states WHERE number = ?", (number,)
            ).fetchone()
            named = connection.execute(
                "SELECT number, name, digest FROM commit_blobs WHERE number = ? ORDER BY name",
                (number,),
            ).fetchall()
        except UNREADABLE:
            continue
        if row and isinstance(row[0], bytes) and row[1] == state_seal(number, row[0], named):
            found.append(number)
    return found


def _whole_notes(connection: sqlite3.Connection) -> tuple[int, bool]:
    """Return how many notes from the first are whole, and whether all are."""
    before, count = b"", 0
    for row in _readable(connection.execute(_NOTES)):
        expected = b"" if row is _BROKEN else digest(before, list(row[:3]))
        if row is _BROKEN or row[3] != expected:
            return count, False
        before, count = expected, count + 1
    try:
        return count, seal_of(connection, "notes") == before
    except UNREADABLE:
        return count, False
