"""The tables of `journal.sqlite`, and how it is created, opened and checked."""

import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from archipelago.core.errors import JournalError
from archipelago.core.meter import COLUMNS
from archipelago.journal.files import flush_folder

__all__ = ["DATABASE", "HISTORY", "VERSION", "build", "connect", "pack"]

DATABASE: Final = "journal.sqlite"
VERSION: Final = 1
"""Raised with every change of the tables; an older program refuses a newer journal."""

HISTORY: Final = ("commits", "commit_blobs", "pins", "meter", "outcomes", "curves", "events")
"""Tables whose rows carry the number of their commit and vanish when it is rolled back."""

_TYPES = {"phase": "TEXT", "kind": "TEXT", "note": "TEXT"}
_TYPES |= dict.fromkeys(("virtual_seconds", "seconds"), "REAL")
_METER = ", ".join(f"{name} {_TYPES.get(name, 'INTEGER')} NOT NULL" for name in COLUMNS)

# A light commit has no state; so has a full one that was superseded and collected.
# NaN is stored as NULL by SQLite: hence `value REAL` without NOT NULL.
_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE clients (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, rows INTEGER NOT NULL, trace INTEGER NOT NULL);
CREATE TABLE commits (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, state TEXT, wall REAL NOT NULL);
CREATE INDEX full_commits ON commits (number) WHERE state IS NOT NULL;
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
CREATE TABLE notes (kind TEXT NOT NULL, data TEXT NOT NULL, wall REAL NOT NULL);
"""


def pack(value: Any) -> str:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def build(directory: Path, meta: Mapping[str, Any]) -> None:
    """Create the database aside and rename it: it is there whole or not at all."""
    aside = directory / f".{DATABASE}.new"
    for stale in directory.glob(f".{DATABASE}.new*"):
        stale.unlink()
    connection = sqlite3.connect(aside, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        rows = [(key, pack(value)) for key, value in meta.items()]
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        connection.execute("COMMIT")
    finally:
        connection.close()
    aside.replace(directory / DATABASE)
    flush_folder(directory)


def connect(directory: Path, *, write: bool) -> sqlite3.Connection:
    """Open and check the database; a reader can change nothing.

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
    if not write and not os.access(directory, os.W_OK):
        mode = "ro&immutable=1"  # a reader of WAL needs to create -shm, unless nobody writes
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    # A writer's second thread takes turns with the first; see `Journal.later`.
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=30, check_same_thread=not write
    )
    try:
        _check(connection, path, thorough=write)
        if write:
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path, *, thorough: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise JournalError(
            f"written by a newer version: its journal is number {version}, this program "
            f"reads up to {VERSION}",
            where=str(path),
            fix="pip install --upgrade archipelago-nas",
        )
    if version < 1:
        raise JournalError(
            "not a journal of Archipelago",
            where=str(path),
            fix="give the directory of a run; `archipelago runs` lists them",
        )
    if thorough:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
