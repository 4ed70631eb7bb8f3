"""One writer a run: an advisory lock that the kernel drops when its holder dies, however."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from archipelago.core.errors import JournalError

__all__ = ["Lock", "holder"]

_ATTEMPTS = 5


class Lock:
    """Hold `path` until `release`, or until this process is gone.

    The file stays: removing a locked file would let two writers hold two files of one name.
    A forked child shares the lock, so workers must be started before it is taken.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take()
        except BlockingIOError as error:
            pid = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip()
            os.close(self._handle)
            raise JournalError(
                f"locked by live run pid {pid or 'unknown'}",
                where=str(path.parent),
                fix="wait until it has finished, or stop it with Ctrl-C",
            ) from error
        except OSError:
            os.close(self._handle)
            raise
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def _take(self) -> None:
        for _ in range(_ATTEMPTS):  # `holder` takes the lock for an instant
            with suppress(BlockingIOError):
                return fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.02)
        return fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let the next writer in. Twice is once."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # for a forked child that still holds it
            os.close(self._handle)
            self._handle = -1


def holder(path: Path) -> int | None:
    """Return the pid of the live holder of `path`; None when nobody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 32, 0).strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(handle)
    return None
