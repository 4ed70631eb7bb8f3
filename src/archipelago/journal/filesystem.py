"""Whether a directory's file system can hold a journal: tried, not guessed."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from archipelago.core.atomic import scratch
from archipelago.core.errors import JournalError
from archipelago.journal.files import flush_folder, write_atomic
from archipelago.journal.lock import Lock

__all__ = ["Finding", "tried_filesystem"]

_ROOM = 400 * 2**20
"""Bytes: what sixteen branches of 6 MB may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing tried.

    Attributes:
        name: what a journal needs.
        good: whether it worked here.
        detail: what was seen, or how to mend it.
    """

    name: str
    good: bool
    detail: str


def tried_filesystem(directory: str | Path) -> list[Finding]:
    """Try in `directory` what a journal relies on; leave nothing behind."""
    try:
        with scratch(directory) as place:
            return [
                _try("lock (flock)", _locks, place),
                _try("write-ahead log (SQLite)", _logs, place),
                _try("flush (fsync)", _flushes, place),
                _try("atomic rename", _renames, place),
                _room(place),
            ]
    except OSError as error:
        reason = f"{directory}: {error.strerror}"
        return [Finding(name="writable directory", good=False, detail=reason)]


def _try(name: str, check: Callable[[Path], str | None], place: Path) -> Finding:
    try:
        fault = check(place)
    except (OSError, sqlite3.Error, JournalError) as error:
        fault = str(error).splitlines()[0]
    advice = "put the run on a local disk (not a network or FUSE mount)"
    return Finding(name=name, good=fault is None, detail=f"{fault}; {advice}" if fault else "works")


def _locks(place: Path) -> str | None:
    lock = Lock(place / "lock")
    try:
        Lock(place / "lock").release()
    except JournalError:
        return None
    finally:
        lock.release()
    return "two writers got the same lock"


def _logs(place: Path) -> str | None:
    connection = sqlite3.connect(place / "try.sqlite", isolation_level=None)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    finally:
        connection.close()
    return None if mode == "wal" else f"SQLite fell back to the mode {mode!r}"


def _flushes(place: Path) -> str | None:
    write_atomic(place / "flushed", [b"x"])
    flush_folder(place)
    return None


def _renames(place: Path) -> str | None:
    for target in ("old", "new"):
        (place / target).mkdir()
        (place / "atomic_file").symlink_to(target)
        (place / "atomic_file").replace(place / "link")
    return None if os.readlink(place / "link") == "new" else "a link was not replaced"


def _room(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    return Finding(name="free space", good=free >= _ROOM, detail=f"{free / 2**20:,.0f} MiB free")
