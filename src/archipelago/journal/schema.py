"""The tables of `journal.sqlite`, and how it is created, opened and checked."""

import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from archipelago.core.errors import JournalError
from archipelago.core.meter import COLUMNS
from archipelago.journal.files import flush_folder, write_aside
from archipelago.journal.seals import seal_all

__all__ = [
    "DATABASE",
    "HISTORY",
    "VERSION",
    "blank",
    "build",
    "connect",
    "pack",
    "place",
    "version",
]

DATABASE: Final = "journal.sqlite"
VERSION: Final = 2
"""Raised with every change of the tables. An older program refuses a newer journal; journals of
version 1, which had no digests, are read."""

HISTORY: Final = (
    "commits",
    "states",
    "commit_blobs",
    "pins",
    "meter",
    "outcomes",
    "curves",
    "events",
)
"""Tables whose rows carry the number of their commit and vanish when it is rolled back."""

_TYPES = {"phase": "TEXT", "kind": "TEXT", "note": "TEXT"}
_TYPES |= dict.fromkeys(("virtual_seconds", "seconds"), "REAL")
_METER = ", ".join(f"{name} {_TYPES.get(name, 'INTEGER')} NOT NULL" for name in COLUMNS)

# `seal`: see `journal.seals`. A commit is `full` where it has, or had before it was collected, a
# state, which is compressed JSON. NaN is stored as NULL by SQLite: hence `value REAL` without NOT
# NULL. No index: a flipped bit in one would hide rows from some queries and not from others.
_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE seals (name TEXT PRIMARY KEY, seal BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE clients (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, rows INTEGER NOT NULL, trace INTEGER NOT NULL);
CREATE TABLE commits (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, "full" INTEGER NOT NULL, wall REAL NOT NULL,
    seal BLOB NOT NULL);
CREATE TABLE states (number INTEGER PRIMARY KEY, state BLOB NOT NULL, seal BLOB NOT NULL);
CREATE TABLE commit_blobs (
    number INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (number, name)) WITHOUT ROWID;
CREATE TABLE pins (
    number INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT,
    PRIMARY KEY (number, name)) WITHOUT ROWID;
CREATE TABLE meter (number INTEGER NOT NULL, {_METER});
CREATE TABLE outcomes (
    number INTEGER NOT NULL, proposal INTEGER NOT NULL, status TEXT NOT NULL, score REAL,
    record TEXT NOT NULL);
CREATE TABLE curves (
    number INTEGER NOT NULL, branch INTEGER NOT NULL, round INTEGER NOT NULL,
    metric TEXT NOT NULL, value REAL, phase TEXT NOT NULL);
CREATE TABLE events (
    number INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, wall REAL NOT NULL);
CREATE TABLE notes (
    kind TEXT NOT NULL, data TEXT NOT NULL, wall REAL NOT NULL, seal BLOB NOT NULL);
"""


def pack(value: Any) -> str:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def blank() -> sqlite3.Connection:
    """Return the tables, empty and in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(f"{_TABLES} PRAGMA user_version = {VERSION};")
    return connection


def build(directory: Path, meta: Mapping[str, Any]) -> None:
    """Create the database: it is there whole or not at all."""
    connection = blank()
    try:
        rows = [(key, pack(value)) for key, value in meta.items()]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        seal_all(connection)
        place(directory, connection)
    finally:
        connection.close()


def place(directory: Path, connection: sqlite3.Connection) -> None:
    """Write a database that is in memory to the directory, aside, and rename it.

    The log of an older database of this name must be gone: SQLite would replay it on this one.
    """
    temporary = directory / f".{DATABASE}.new"
    for stale in directory.glob(f".{DATABASE}.new*"):
        stale.unlink()
    write_aside(temporary, [connection.serialize()])
    temporary.replace(directory / DATABASE)
    flush_folder(directory)


def connect(directory: Path, *, write: bool, ignore_log: bool = False) -> sqlite3.Connection:
    """Open the database, unchecked but for being a journal of a version that is read.

    WAL with `synchronous = FULL`: a commit is on the disk before it is reported, because
    collection then deletes the tensors of older ones.
    """
    path = directory / DATABASE
    if not path.is_file():
        raise JournalError(
            f"not a run: there is no {DATABASE} in it",
            where=str(directory),
            fix="give the directory of a run; `archipelago runs` lists them",
        )
    mode = "rw" if write else "ro"
    if ignore_log or (not write and not os.access(directory, os.W_OK)):
        mode = "ro&immutable=1"  # a reader of WAL needs to create -shm, unless nobody writes
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    # A writer's second thread takes turns with the first; see `Journal.later`.
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=30, check_same_thread=not write
    )
    try:
        _check_version(connection, path)
        if write:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def version(connection: sqlite3.Connection) -> int:
    """Return the number of the journal's tables."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    found = version(connection)
    if found > VERSION:
        raise JournalError(
            f"written by a newer version, or damaged: its journal is number {found}, this program "
            f"reads up to {VERSION}",
            where=str(path),
            fix="pip install --upgrade archipelago-nas",
        )
    if found < 1:
        raise JournalError(
            "not a journal of Archipelago",
            where=str(path),
            fix="give the directory of a run; `archipelago runs` lists them",
        )
