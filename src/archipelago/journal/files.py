"""Files that are either old or new, never half: write aside, flush, rename, flush the folder."""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from archipelago.core.aside import aside
from archipelago.core.errors import JournalError

__all__ = ["Buffer", "flush_folder", "guarded", "write_aside", "write_atomic"]

Buffer = bytes | bytearray | memoryview

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAKE_ROOM = "make room on this disk (or raise the quota), then `archipelago resume {}`"


@contextmanager
def guarded(directory: Path, where: Path) -> Iterator[None]:
    """Turn what the disk or SQLite raises into a `JournalError` that names `where`."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError):
        raise  # the caller's mistake (a closed journal, a NaN cost), not the disk's
    except sqlite3.Error as error:
        raise _database_error(error, directory, where) from error
    except OSError as error:
        if error.errno in _FULL:
            raise JournalError(
                "the disk is full; nothing committed so far is lost",
                where=str(where),
                fix=_MAKE_ROOM.format(directory),
            ) from error
        raise JournalError(
            f"cannot be read or written ({error.strerror or error})",
            where=str(where),
            fix="check that it exists and that you may write there; `archipelago doctor` tests it",
        ) from error


def _database_error(error: sqlite3.Error, directory: Path, where: Path) -> JournalError:
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        what, fix = "the disk is full; nothing committed so far is lost", _MAKE_ROOM
    elif code is not None and code & 0xFF == sqlite3.SQLITE_IOERR:
        what = f"the disk refused a read or write ({error}); nothing committed so far is lost"
        fix = "check the disk and its free space, then `archipelago resume {}`"
    elif code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what, fix = "another program is writing the journal", "close it, then try again"
    elif code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        what, fix = f"the journal cannot be opened ({error})", "check the rights of {}"
    else:
        what = f"the journal is damaged ({error})"
        fix = "restore {} from a copy, or start the run again in a new directory"
    return JournalError(what, where=str(where), fix=fix.format(directory))


def flush_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_aside(path: Path, buffers: Iterable[Buffer]) -> None:
    """Write and flush `path`; remove it again where that fails."""
    try:
        with path.open("wb") as file:
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, buffers: Iterable[Buffer], *, mode: int = 0o666) -> None:
    """Replace `path` in one rename; `mode` is of a file that is made, less the umask."""
    with aside(path, mode=mode) as made:
        for buffer in buffers:
            made.file.write(buffer)
    flush_folder(path.parent)
