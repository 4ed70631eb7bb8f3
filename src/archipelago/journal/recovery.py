"""A journal is opened whole, or refused with the way back: every row is read and compared first."""

import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from archipelago.core.errors import JournalError
from archipelago.core.meter import COLUMNS
from archipelago.journal.files import UNREADABLE, damage, database_error
from archipelago.journal.schema import DATABASE, VERSION, blank, connect, place, version
from archipelago.journal.seals import Checked, checked, put_seal, seal_all, seal_of

__all__ = ["opened", "put_in_place", "salvaged"]

_KEPT = f"{DATABASE}.damaged"
_DAMAGED = (*UNREADABLE, TypeError, ValueError, OverflowError)
"""What reading damaged rows may raise: their numbers may have become text, bytes or nothing."""
_ALONE = ("meta", "clients")
_HISTORY = {
    "commit_blobs": ("number", "name", "digest"),
    "pins": ("number", "name", "digest"),
    "meter": ("number", *COLUMNS),
    "outcomes": ("number", "proposal", "status", "score", "record"),
    "curves": ("number", "branch", "round", "metric", "value", "phase"),
    "events": ("number", "kind", "data", "wall"),
}
_ORDER = {"commit_blobs": "number, name", "pins": "number, name"}


def opened(directory: Path, *, write: bool) -> sqlite3.Connection:
    """Return a journal in which every seal is right.

    One of an older version is brought up to date: in place for a writer, who holds the lock, in
    memory for a reader.

    Raises:
        JournalError: it is damaged, or of a newer version; sqlite3.Error: it cannot be opened.
    """
    connection = connect(directory, write=write)
    try:
        connection.execute("BEGIN")  # one moment of a journal that may be growing
        try:
            fault = _fault(connection)
        except (TypeError, ValueError, OverflowError) as error:
            fault = f"a value is not what was written: {error}"
        if fault:
            raise damage(directory, directory / DATABASE, fault, back=_back(directory))
        if version(connection) < VERSION:
            current = _modern(connection)
            if not write:
                connection.close()
                return current
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            with closing(current):
                put_in_place(directory, current, keep=False)
            return connect(directory, write=True)
        connection.execute("COMMIT")
    except UNREADABLE as error:
        connection.close()
        refusal = database_error(error, directory, directory / DATABASE)
        if refusal is None:
            back = _back(directory)
            refusal = damage(directory, directory / DATABASE, str(error), back=back)
        raise refusal from error
    except BaseException:
        connection.close()
        raise
    return connection


def salvaged(directory: Path) -> tuple[sqlite3.Connection, int] | None:
    """Return, in memory, a damaged journal up to its last whole full commit, and its number.

    It is read with its log and without: what of a log can still be read may be older than the file.
    """
    best: tuple[sqlite3.Connection, int] | None = None
    for ignore_log in (False, True):
        with (
            suppress(*_DAMAGED, JournalError),
            closing(connect(directory, write=False, ignore_log=ignore_log)) as old,
        ):
            old.execute("BEGIN")
            found = checked(old)
            number = max(found.states, default=0)
            if version(old) == VERSION and number > (best[1] if best else 0):
                best = _whole(old, found, number), number
    return best


def put_in_place(directory: Path, connection: sqlite3.Connection, *, keep: bool) -> None:
    """Replace the database, of which the caller holds the lock; `keep` the old one beside it."""
    for suffix in ("", "-wal"):
        path, kept = directory / f"{DATABASE}{suffix}", directory / f"{_KEPT}{suffix}"
        if keep and path.exists():
            kept.unlink(missing_ok=True)
            os.link(path, kept)
    for suffix in ("-wal", "-shm"):  # of the old database: no part of the new one
        (directory / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    place(directory, connection)


def _back(directory: Path) -> int:
    """Return the full commit that can be gone back to; 0 without one."""
    found = salvaged(directory)
    if found is None:
        return 0
    found[0].close()
    return found[1]


def _fault(connection: sqlite3.Connection) -> str:
    """Say in a few words what is not as it was written; nothing where all is."""
    structure = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if structure != "ok":
        return structure
    if version(connection) < VERSION:
        return ""
    with closing(blank()) as expected:
        query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        if connection.execute(query).fetchall() != expected.execute(query).fetchall():
            return "its tables are not those of this version"
    fault = checked(connection).fault
    return f"{fault} is not as it was written" if fault else ""


def _rows(old: sqlite3.Connection, table: str, upto: float) -> Iterator[Sequence[Any]]:
    """Yield rows up to a commit, in their order; what comes after may be damaged."""
    columns = ", ".join(_HISTORY[table])
    query = f"SELECT {columns} FROM {table} ORDER BY {_ORDER.get(table, 'rowid')}"  # noqa: S608
    return _until(old.execute(query), upto)


def _until(rows: Iterator[Any], upto: float) -> Iterator[Any]:
    with suppress(*UNREADABLE):  # whether rows are missing, their seals tell
        yield from takewhile(lambda row: type(row[0]) is int and row[0] <= upto, rows)


def _filled(old: sqlite3.Connection, upto: float) -> sqlite3.Connection:
    """Return a new journal with what is common to all versions."""
    new = blank()
    for table in _ALONE:
        rows = old.execute(f"SELECT * FROM {table}")  # noqa: S608
        marks = ", ".join("?" * len(rows.description))
        new.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608
    for table, columns in _HISTORY.items():
        marks = ", ".join("?" * len(columns))
        new.executemany(f"INSERT INTO {table} VALUES ({marks})", _rows(old, table, upto))  # noqa: S608
    return new


def _whole(old: sqlite3.Connection, found: Checked, number: int) -> sqlite3.Connection:
    """Return a new journal that ends with a commit, from a damaged one."""
    new = _filled(old, number)
    query = 'SELECT number, kind, "full", wall, seal FROM commits ORDER BY number'
    rows = _until(old.execute(query), number)
    new.executemany("INSERT INTO commits VALUES (?, ?, ?, ?, ?)", rows)
    query = "SELECT number, state, seal FROM states WHERE number = ?"
    for one in found.states:
        new.execute("INSERT INTO states VALUES (?, ?, ?)", old.execute(query, (one,)).fetchone())
    new.execute("DELETE FROM commit_blobs WHERE number NOT IN (SELECT number FROM states)")
    query = f"SELECT kind, data, wall, seal FROM notes ORDER BY rowid LIMIT {found.notes}"  # noqa: S608
    new.executemany("INSERT INTO notes VALUES (?, ?, ?, ?)", old.execute(query))
    for name in _ALONE:
        put_seal(new, name, seal_of(old, name) or b"")
    query = "SELECT coalesce((SELECT seal FROM notes ORDER BY rowid DESC LIMIT 1), x'')"
    put_seal(new, "notes", new.execute(query).fetchone()[0])
    if fault := checked(new).fault:
        raise sqlite3.DatabaseError(f"{fault} was not copied")
    return new


def _modern(old: sqlite3.Connection) -> sqlite3.Connection:
    """Return a journal of version 1, which had no seals and kept states as text, as it is now.

    That it superseded and collected a state shows in nothing: only what has a state is full.
    """
    new = _filled(old, float("inf"))
    query = "SELECT number, kind, state IS NOT NULL, wall, x'' FROM commits ORDER BY number"
    new.executemany("INSERT INTO commits VALUES (?, ?, ?, ?, ?)", old.execute(query))
    query = "SELECT number, state FROM commits WHERE state IS NOT NULL ORDER BY number"
    states = ((n, zlib.compress(text.encode()), b"") for n, text in old.execute(query))
    new.executemany("INSERT INTO states VALUES (?, ?, ?)", states)
    query = "SELECT kind, data, wall, x'' FROM notes ORDER BY rowid"
    new.executemany("INSERT INTO notes VALUES (?, ?, ?, ?)", old.execute(query))
    seal_all(new)
    return new
