"""One worker a core, one torch thread each; tensors move through unnamed shared memory."""

import mmap
import multiprocessing
import os
import pickle
import signal
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from archipelago.core.buffers import as_bytes, length
from archipelago.core.checks import at_least, between
from archipelago.core.errors import MachineFailed, TaskFailed
from archipelago.core.failure import Kind
from archipelago.engine.base import RETRIES, Buffer, Result, check_device, given_up, overdue
from archipelago.engine.warm import warm
from archipelago.engine.worker import DEPTH, Answer, Shared, work

__all__ = ["Processes"]

SLOTS = DEPTH + 1
"""Places for replies a worker: while one is read, a task runs and another waits."""

STARTING = 60.0
"""Seconds that a new worker may take until it says that it is ready: no task pays for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Worker processes from a fork server, warm for the whole run.

    Attributes:
        workers: how many; 0 takes one a core.
        deadline: seconds that one task may take before its worker is killed.
        retries: how often a task whose worker or memory gave out is started again, on a fresh one;
            then the run stops, and `resume` goes on.
        device: where clients train: `cpu`, or `cuda` where torch sees one.
    """

    kind: Literal["processes"] = "processes"
    workers: int = 0
    deadline: float = 600.0
    retries: int = RETRIES
    device: str = "cpu"

    def __post_init__(self) -> None:
        at_least("engine.workers", self.workers, 0, high=10_000, fix="0 takes one a core")
        between("engine.deadline", self.deadline, 0, 1e9, open_low=True)
        at_least("engine.retries", self.retries, 0, high=1000)

    def start(self) -> "_Pool":
        """Return an engine; `open` it before use. What its workers need is imported meanwhile.

        They see the environment variables of the first `start`.

        Raises:
            ConfigError: torch sees no such device here.
        """
        check_device(self.device)
        warm()
        cores = len(os.sched_getaffinity(0))
        if self.workers > cores:
            warnings.warn(
                f"{self.workers} workers share {cores} cores: each task takes longer",
                stacklevel=2,
            )
        return _Pool(self.workers or cores, self.deadline, self.retries)


@dataclass(slots=True)
class _Piece:
    """A handle as the coordinator holds it. Pickles as what a worker needs."""

    number: int
    fd: int
    size: int
    alive: set[int]

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.alive.discard(self.number)

    def __reduce__(self) -> Any:
        return Shared, (self.number, f"/proc/{os.getpid()}/fd/{self.fd}", self.size)


@dataclass(slots=True)
class _Slot:
    """The coordinator's side of a worker's `Slot`."""

    fd: int
    mapped: mmap.mmap | None = None

    def view(self, size: int) -> memoryview:
        """Return the reply where it lies. A view outlives the file and the worker."""
        if self.mapped is None or len(self.mapped) < size:
            self.mapped = mmap.mmap(self.fd, 0)
        return memoryview(self.mapped)[:size]


@dataclass(slots=True)
class _Worker:
    """A worker, what it holds (task and slot, in order), and replies in its slots (the same)."""

    number: int
    process: Any
    calls: Connection
    slots: list[_Slot]
    life: Connection
    free: list[int] = field(default_factory=lambda: list(range(SLOTS)))
    holds: deque[tuple[int, int]] = field(default_factory=deque)
    unread: dict[int, int] = field(default_factory=dict)
    since: float = 0.0
    born: bool = False
    ready: bool = False

    def read(self, index: int) -> None:
        """Give the slot of a reply back, if it lies in one."""
        if index in self.unread:
            self.free.append(self.unread.pop(index))


class _Pool:
    def __init__(self, workers: int, deadline: float, retries: int) -> None:
        self._wanted, self._deadline, self._retries = workers, deadline, retries
        self._workers: list[_Worker] = []
        self._context = b""
        self._numbers = count()
        self._alive: set[int] = set()
        self._names = count()
        self._lost: dict[int, str] = {}  # of the tasks under way: why a worker was lost
        self._stillborn = 0  # workers in a row that ended before they were ready
        self._spawn = multiprocessing.get_context("forkserver")

    def open(self, context: Any) -> None:
        """Make the workers ready: start them, or give those that are warm the new context."""
        packed = pickle.dumps(context)
        if self._workers and packed == self._context:
            return
        self._context = packed
        if not self._workers:
            while len(self._workers) < self._wanted:
                self._workers.append(self._hire())
            return
        for worker in list(self._workers):
            try:
                worker.calls.send_bytes(pickle.dumps(("enter", packed)))
                worker.ready = False
            except OSError:  # it died between two stages
                self._replace(worker)

    def share(self, pieces: Sequence[Buffer]) -> _Piece:
        """Copy the pieces once into an unnamed file that every worker can map."""
        size = length(pieces)
        number = next(self._numbers)
        fd = -1
        try:
            fd = os.memfd_create(f"archipelago-{number}")
            for piece in pieces:  # written, not mapped: a page is then touched once
                rest = as_bytes(piece)
                while rest:
                    rest = rest[os.write(fd, rest) :]
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise MachineFailed(
                "no shared memory left",
                got=f"{size} bytes: {error}",
                where="the server's model",
                fix="free memory, raise the container's limit, or lower engine.workers",
            ) from error
        self._alive.add(number)
        return _Piece(number, fd, size, self._alive)

    def map(self, tasks: Sequence[Any]) -> Iterator[Result]:
        """Yield results in task order; early arrivals wait in a window of a few a worker.

        A reply is a view of the memory that its worker wrote: the next one may overwrite it.
        """
        if not self._workers:
            raise TaskFailed("the engine is not open", fix="call open(context) first")
        window = 4 * DEPTH * len(self._workers)
        waiting = deque(range(len(tasks)))
        attempts = [0] * len(tasks)
        early: dict[int, Result] = {}
        self._lost = {}
        head = 0
        try:
            while head < len(tasks):
                self._feed(tasks, waiting, attempts, early, head + window)
                self._collect(waiting, attempts, early)
                while head in early:
                    self._feed(tasks, waiting, attempts, early, head + window)
                    yield early.pop(head)
                    for worker in self._workers:
                        worker.read(head)
                    head += 1
        finally:
            if head < len(tasks):  # the caller stopped early: what runs has nobody to reply to
                for worker in list(self._workers):
                    for index in list(worker.unread):
                        worker.read(index)
                    if worker.holds:
                        self._replace(worker)

    def close(self) -> None:
        """Let the workers end by themselves; kill those that do not."""
        for worker in self._workers:
            try:
                worker.calls.send_bytes(b"")
            except OSError:
                continue
        for worker in self._workers:
            worker.process.join(5)
            self._bury(worker)
        self._workers = []

    def _hire(self) -> _Worker:
        try:
            return self._hired()
        except OSError as error:
            up = len(self._workers)
            for worker in self._workers:  # whoever clears up behind them needs files too
                self._bury(worker)
            self._workers = []
            raise TaskFailed(
                "no further worker can be started",
                got=f"{up} of {self._wanted} run: {error}",
                where="engine.workers",
                fix="lower it, or raise the limit that is named (`ulimit -n`: a worker takes about "
                "seven open files)",
            ) from error

    def _hired(self) -> _Worker:
        ours, theirs = self._spawn.Pipe()
        life_theirs, life_ours = self._spawn.Pipe(duplex=False)
        slots = [_Slot(os.memfd_create("archipelago-reply")) for _ in range(SLOTS)]
        paths = tuple(f"/proc/{os.getpid()}/fd/{slot.fd}" for slot in slots)
        process = self._spawn.Process(
            target=work, args=(theirs, life_theirs, self._context, paths), daemon=True
        )
        process.start()
        theirs.close()
        life_theirs.close()
        return _Worker(next(self._names), process, ours, slots, life_ours)

    def _bury(self, worker: _Worker) -> None:
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
        worker.calls.close()
        worker.life.close()
        for slot in worker.slots:
            os.close(slot.fd)

    def _replace(self, worker: _Worker) -> None:
        place = self._workers.index(worker)
        self._bury(self._workers.pop(place))
        self._workers.insert(place, self._hire())

    def _feed(
        self,
        tasks: Sequence[Any],
        waiting: deque[int],
        attempts: list[int],
        early: dict[int, Result],
        limit: int,
    ) -> None:
        for depth in range(DEPTH):
            for worker in list(self._workers):
                if len(worker.holds) != depth or not waiting or waiting[0] >= limit:
                    continue
                index = waiting.popleft()
                alive = min(self._alive, default=0)
                attempts[index] += 1
                if not worker.holds:
                    worker.since = time.monotonic()
                slot = self._slot(worker, early)
                worker.holds.append((index, slot))
                try:
                    worker.calls.send_bytes(pickle.dumps(("do", alive, slot, tasks[index])))
                except OSError:
                    continue  # it died; `_collect` finds its sentinel and takes the task back

    def _slot(self, worker: _Worker, early: dict[int, Result]) -> int:
        """Return a free slot; without one, the reply that is read last moves out of its own."""
        if not worker.free:
            last = max(worker.unread)
            data = early[last].data
            early[last] = replace(early[last], data=None if data is None else _apart(data))
            worker.read(last)
        return worker.free.pop()

    def _collect(self, waiting: deque[int], attempts: list[int], early: dict[int, Result]) -> None:
        busy = [worker for worker in self._workers if worker.holds]
        by = {worker.calls: worker for worker in busy}
        due = min((self._due(worker) for worker in busy), default=0.0)
        ready = wait(list(by), timeout=max(0.0, due - time.monotonic()))
        for calls in ready:
            worker = by[calls]  # pyright: ignore[reportArgumentType]
            try:
                answer = worker.calls.recv()
            except (EOFError, OSError):
                self._died(worker, waiting, attempts, early)
                continue
            if answer is None:
                worker.born = worker.ready = True
                worker.since, self._stillborn = time.monotonic(), 0
            else:
                self._arrived(worker, answer, waiting, attempts, early)
        now = time.monotonic()
        for worker in busy:
            if worker in self._workers and worker.holds and self._due(worker) <= now:
                self._overdue(worker, waiting, attempts, early)

    def _due(self, worker: _Worker) -> float:
        return worker.since + self._deadline + (0.0 if worker.ready else STARTING)

    def _arrived(
        self,
        worker: _Worker,
        answer: Answer,
        waiting: deque[int],
        attempts: list[int],
        early: dict[int, Result],
    ) -> None:
        size, error, kind, seconds = answer
        index, slot = worker.holds.popleft()
        if kind == "machine":  # what it could not get, a fresh worker may
            self._again(worker, index, error or "", kind, waiting, attempts, early)
            return
        worker.unread[index] = slot
        worker.since = time.monotonic()
        early[index] = Result(
            index=index,
            data=worker.slots[slot].view(size) if error is None else None,
            error=error,
            kind=kind,
            seconds=seconds,
            worker=worker.number,
            attempts=attempts[index],
            lost=self._lost.pop(index, ""),
        )

    def _died(
        self,
        worker: _Worker,
        waiting: deque[int],
        attempts: list[int],
        early: dict[int, Result],
    ) -> None:
        worker.process.join(5)
        index, _ = worker.holds.popleft()
        reason, killed = _reason(code := worker.process.exitcode), code is not None and code < 0
        self._stillborn += not worker.born
        attempts[index] -= not worker.born  # it never had the task
        self._again(worker, index, reason, "worker", waiting, attempts, early)
        if self._stillborn > self._wanted:
            raise (MachineFailed if killed else TaskFailed)(
                "workers end before they are ready",
                got=reason,
                where="engine",
                fix='in a script, start the work under `if __name__ == "__main__":`; if they were '
                "killed, free memory or lower engine.workers; engine.kind = 'serial' needs none",
            )

    def _again(  # noqa: PLR0917 - the state of one `map`
        self,
        worker: _Worker,
        index: int,
        reason: str,
        kind: Kind,
        waiting: deque[int],
        attempts: list[int],
        early: dict[int, Result],
    ) -> None:
        """Start a task again on a fresh worker, or give it up."""
        self._lost[index] = reason
        self._take_back(worker, waiting, attempts)
        if attempts[index] > self._retries:
            early[index] = Result(
                index=index,
                data=None,
                error=given_up(kind, attempts[index], reason),
                kind=kind,
                worker=worker.number,
                attempts=attempts[index],
                lost=reason,
            )
        else:
            warnings.warn(f"a worker was lost ({reason}); its task runs again", stacklevel=2)
            waiting.appendleft(index)
        self._replace(worker)

    def _overdue(
        self,
        worker: _Worker,
        waiting: deque[int],
        attempts: list[int],
        early: dict[int, Result],
    ) -> None:
        index, _ = worker.holds.popleft()
        self._take_back(worker, waiting, attempts)
        early[index] = Result(
            index=index,
            data=None,
            error=overdue(self._deadline),
            kind="deadline",
            seconds=self._deadline,
            worker=worker.number,
            attempts=attempts[index],
        )
        self._replace(worker)

    def _take_back(self, worker: _Worker, waiting: deque[int], attempts: list[int]) -> None:
        while worker.holds:
            index, _ = worker.holds.pop()
            attempts[index] -= 1
            waiting.appendleft(index)


def _apart(data: memoryview) -> memoryview:
    """Return a copy in pages of its own, which a heap would keep when a pile of them is gone."""
    pages = mmap.mmap(-1, max(data.nbytes, 1))
    pages[: data.nbytes] = data
    return memoryview(pages)[: data.nbytes]


def _reason(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    if code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return f"{name}, out of memory perhaps" if -code == signal.SIGKILL else name
