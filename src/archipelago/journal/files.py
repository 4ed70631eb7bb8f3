"""Files that are either old or new, never half: write aside, flush, rename, flush the folder."""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from archipelago.core.atomic import atomic_file
from archipelago.core.errors import JournalError

__all__ = [
    "UNREADABLE",
    "Buffer",
    "damage",
    "database_error",
    "flush_folder",
    "guarded",
    "write_aside",
    "write_atomic",
]

Buffer = bytes | bytearray | memoryview

UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged database raises; the latter where SQLite's message quotes the damaged bytes."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAKE_ROOM = "make room on this disk (or raise the quota), then `archipelago resume {}`"


@contextmanager
def guarded(directory: Path, where: Path) -> Iterator[None]:
    """Turn what the disk or SQLite raises into a `JournalError` that names `where`."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError):
        raise  # the caller's mistake (a closed journal, a NaN cost), not the disk's
    except UNREADABLE as error:
        raise (
            database_error(error, directory, where)
            or damage(directory, where, str(error), back=None)
        ) from error
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


def database_error(error: Exception, directory: Path, where: Path) -> JournalError | None:
    """Return what SQLite met, with its remedy; None where that is a damaged file."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        what, fix = "the disk is full; nothing committed so far is lost", _MAKE_ROOM
    elif code in (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS):
        return None
    elif code is not None and code & 0xFF == sqlite3.SQLITE_IOERR:
        what = f"the disk refused a read or write ({error}); nothing committed so far is lost"
        fix = "check the disk and its free space, then `archipelago resume {}`"
    elif code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what, fix = "another program is writing the journal", "close it, then try again"
    elif code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        what, fix = f"the journal cannot be opened ({error})", "check the rights of {}"
    else:
        return None
    return JournalError(what, where=str(where), fix=fix.format(directory))


def damage(directory: Path, where: Path, what: str, *, back: int | None) -> JournalError:
    """Return the error of a journal that is not as it was written.

    Args:
        directory: of the run.
        where: its database.
        what: is not.
        back: the commit that can be gone back to; 0 for none, None where nobody has looked.
    """
    fix = f"restore {directory} from a copy, or start the run again in a new directory"
    if back:
        fix = f"go back to commit {back} with `archipelago resume {directory} --previous`"
    elif back is None:
        fix = f"`archipelago resume {directory}` says whether there is a commit to go back to"
    return JournalError(f"the journal is damaged ({what})", where=str(where), fix=fix)


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
    with atomic_file(path, mode=mode) as made:
        for buffer in buffers:
            made.file.write(buffer)
    flush_folder(path.parent)
