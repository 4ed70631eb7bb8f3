"""Work in a second thread, one piece at a time: a disk that is flushed keeps nobody waiting."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event, get_ident

__all__ = ["Background"]

PAUSE = 0.002
"""Seconds before a piece begins, unless somebody waits for it.

The caller sends a round out first. Two threads of one interpreter hinder each other: beside a
commit, a third of the time in which a hundred small clients are sent out (`frame` and `select` of a
profile) is spent waiting for it.
"""


class Background:
    """One thread, started when it is first needed. For one caller."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "journal")
        self._pending: Future[None] | None = None
        self._wanted = Event()
        self._thread: int | None = None  # the second thread's, while it works

    def do(self, work: Callable[[], object]) -> None:
        """Begin `work` once what is under way has ended."""
        self.wait()
        self._wanted.clear()
        self._pending = self._pool.submit(self._do, work)

    def wait(self) -> None:
        """Return when nothing is under way; raise what it raised. The work itself never waits."""
        if self._pending is None or get_ident() == self._thread:
            return
        self._wanted.set()
        wait([self._pending])  # where this is interrupted it stays pending, with its error
        pending, self._pending = self._pending, None
        pending.result()

    def close(self) -> None:
        """Wait for the last time."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _do(self, work: Callable[[], object]) -> None:
        self._wanted.wait(PAUSE)
        self._thread = get_ident()
        try:
            work()
        finally:
            self._thread = None
