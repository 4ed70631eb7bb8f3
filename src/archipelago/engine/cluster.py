"""Ray's actors as workers: more machines than one. Bytes move through its object store."""

import os
import pickle
import socket
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import numpy as np
import torch

from archipelago.core.buffers import join
from archipelago.core.checks import at_least, between
from archipelago.core.errors import ConfigError, MachineFailed, MissingExtra, TaskFailed
from archipelago.core.failure import Kind, kind_of, words_of
from archipelago.core.memory import keep
from archipelago.engine.base import RETRIES, Buffer, Result, given_up, overdue

__all__ = ["Cluster"]

SLOTS = 2
"""Tasks that a worker holds: one runs, one waits, so that it never idles between two."""
STARTING = 60.0
"""Seconds that a new worker may take until it answers: an import of torch from a slow disk."""
ANSWER = 5.0
"""Seconds within which a cluster's address must answer."""
KEPT = 64
"""Shared buffers that a worker keeps open; older ones are fetched again when they are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Workers of a Ray cluster, one core each; warm for the whole run.

    Every machine needs the same Python, this package, and the run's directory under the same path
    (a shared file system). A cluster is one trust domain: whoever reaches its ports runs code.

    Attributes:
        address: of the cluster's head, `host:6379`, or `auto`; empty starts one on this machine.
        workers: how many; 0 takes one a core of the whole cluster.
        deadline: seconds that one task may take before its worker is killed.
        retries: how often a task whose worker or machine gave out is started again, elsewhere;
            then the run stops, and `resume` goes on.
        device: where clients train: `cpu`, or `cuda` where each machine's torch sees one.

    References:
        Moritz et al. 2018, arXiv:1712.05889 (Ray).
    """

    kind: Literal["cluster"] = "cluster"
    address: str = ""
    workers: int = 0
    deadline: float = 600.0
    retries: int = RETRIES
    device: str = "cpu"

    def __post_init__(self) -> None:
        at_least("engine.workers", self.workers, 0, fix="0 takes one a core")
        between("engine.deadline", self.deadline, 0, 1e9, open_low=True)
        at_least("engine.retries", self.retries, 0)
        if "://" in self.address:
            raise ConfigError(
                "a client's address cannot share memory with the cluster",
                got=self.address,
                where="engine.address",
                fix="run on a machine of the cluster and give host:6379, or auto",
            )

    def start(self) -> "_Actors":
        """Return an engine; `open` it before use.

        Raises:
            MissingExtra: Ray is not installed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that we ran
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "cluster", "the engine 'cluster'") from None
        cores = len(os.sched_getaffinity(0))
        if not self.address and self.workers > cores:
            warnings.warn(
                f"{self.workers} workers share {cores} cores: each task takes longer",
                stacklevel=2,
            )
        return _Actors(self, ray)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Shared bytes as a worker sees them."""

    number: int
    size: int
    ref: Any


@dataclass(slots=True)
class _Piece:
    """A handle as the coordinator holds it. Pickles as what a worker needs."""

    number: int
    size: int
    ref: Any
    alive: set[int]

    def release(self) -> None:
        """Let the object store forget the bytes."""
        self.ref = None
        self.alive.discard(self.number)

    def __reduce__(self) -> Any:
        return _Stored, (self.number, self.size, self.ref)


class _Memory:
    def __init__(self) -> None:
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()

    def view(self, handle: _Stored) -> memoryview:
        import ray

        found: Any = self._open.pop(handle.number, None)
        if found is None:
            found = ray.get(handle.ref)  # mapped, not copied, where the object is on this machine
        self._open[handle.number] = found
        while len(self._open) > KEPT:
            self._open.popitem(last=False)
        return memoryview(found)[: handle.size]

    def forget(self, alive: int) -> None:
        for number in [n for n in self._open if n < alive]:
            del self._open[number]


class _Actor:
    """The inside of a worker. One thread: calls are served in the order in which they came."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        keep()
        self._context: Any = None
        self._memory = _Memory()

    def enter(self, context: bytes) -> int:
        """Become ready for a context; return the process id."""
        self._memory = _Memory()
        self._context = pickle.loads(context).enter()  # noqa: S301 - from our own coordinator
        return os.getpid()

    def run(
        self, alive: int, task: Any
    ) -> tuple[str | None, Kind | None, float, np.ndarray | None]:
        """Run one task; a failed one is a value with a reason and a kind."""
        self._memory.forget(alive)
        began = time.perf_counter()
        try:
            data = np.frombuffer(join(task(self._context, self._memory)), np.uint8)
        except Exception as error:  # a failed task is a value with a reason
            return words_of(error), kind_of(error), time.perf_counter() - began, None
        return None, None, time.perf_counter() - began, data


@dataclass(slots=True, eq=False)
class _Worker:
    """One actor as the coordinator sees it.

    Attributes:
        number: never used twice.
        actor: Ray's handle.
        entering: reply of `enter`; None once it has come.
        since: when its first call was given to it.
        holds: index and reply of each task given to it, in order; no index where nobody waits.
    """

    number: int
    actor: Any
    entering: Any
    since: float
    holds: deque[tuple[int | None, Any]] = field(default_factory=deque)

    @property
    def first(self) -> Any:
        """The reply that must come next."""
        return self.entering if self.entering is not None else self.holds[0][1]

    @property
    def busy(self) -> bool:
        """Whether a reply is due."""
        return self.entering is not None or bool(self.holds)


@dataclass(slots=True)
class _Batch:
    """One `map` under way.

    Attributes:
        tasks: all of them.
        waiting: indices not given to a worker.
        attempts: starts of each.
        early: results that have come before their turn.
        lost: why a worker was lost, by the index of its task.
    """

    tasks: Sequence[Any]
    waiting: deque[int]
    attempts: list[int]
    early: dict[int, Result] = field(default_factory=dict[int, Result])
    lost: dict[int, str] = field(default_factory=dict[int, str])


class _Actors:
    def __init__(self, options: Cluster, ray: Any) -> None:
        self._options, self._ray = options, ray
        self._workers: list[_Worker] = []
        self._wanted = 0
        self._ours = False
        self._context = b""
        self._numbers, self._names = count(), count()
        self._alive: set[int] = set()

    def open(self, context: Any) -> None:
        """Join or start the cluster and make its workers ready; warm ones change their context."""
        self._connect()
        self._context = pickle.dumps(context)
        for worker in self._workers:
            if worker.holds:
                self._replace(worker)
            else:
                self._enter(worker)
        while len(self._workers) < self._wanted:
            self._workers.append(self._hire())
        ends = time.monotonic() + STARTING
        while (new := [w for w in self._workers if w.entering is not None]) and (
            time.monotonic() < ends
        ):
            ready, _ = self._ray.wait([w.entering for w in new], timeout=1.0)
            for worker in [w for w in new if w.entering in ready]:
                self._entered(worker)
        up = self._wanted - len(new)
        if not up:
            raise self._nobody()
        if new:
            warnings.warn(f"{up} of {self._wanted} workers are ready; the run begins", stacklevel=2)

    def share(self, pieces: Sequence[Buffer]) -> _Piece:
        """Put the pieces once into the object store; each machine fetches them once."""
        data = np.frombuffer(join(pieces), np.uint8)
        try:
            ref = self._ray.put(data)
        except self._ray.exceptions.ObjectStoreFullError as error:
            raise MachineFailed(
                "no shared memory left in the cluster",
                got=f"{data.nbytes} bytes",
                fix="free memory",
            ) from error
        number = next(self._numbers)
        self._alive.add(number)
        return _Piece(number, data.nbytes, ref, self._alive)

    def map(self, tasks: Sequence[Any]) -> Iterator[Result]:
        """Yield results in task order; early arrivals wait in a window of a few a worker."""
        if not self._workers:
            raise TaskFailed("the engine is not open", fix="call open(context) first")
        batch = _Batch(tasks, deque(range(len(tasks))), [0] * len(tasks))
        window = 4 * SLOTS * self._wanted
        head = 0
        try:
            while head < len(tasks):
                self._feed(batch, head + window)
                self._collect(batch)
                while head in batch.early:
                    self._feed(batch, head + window)
                    yield batch.early.pop(head)
                    head += 1
        finally:
            for worker in self._workers:  # the caller stopped early: these reply to nobody
                worker.holds = deque((None, reply) for _, reply in worker.holds)

    def close(self) -> None:
        """Let the workers go, and the cluster if it was started here."""
        for worker in self._workers:
            self._ray.kill(worker.actor, no_restart=True)
        self._workers = []
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def _connect(self) -> None:
        options, ray = self._options, self._ray
        if not self._workers:
            self._knock()
        if not ray.is_initialized():
            local = {} if options.address else {"num_cpus": options.workers or None}
            try:
                ray.init(
                    address=options.address or "local",
                    include_dashboard=None if options.address else False,
                    log_to_driver=False,
                    logging_level="ERROR",
                    **local,
                )
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise self._no_cluster(error) from error
            self._ours = True
        cores = int(ray.cluster_resources().get("CPU", 0))
        if options.workers > cores:
            raise ConfigError(
                "more workers than the cluster has cores",
                got=(options.workers, cores),
                where="engine.workers",
                fix=f"ask for at most {cores}, or 0 for all",
            )
        self._wanted = options.workers or cores

    def _knock(self) -> None:
        """Look whether anybody answers at the address: Ray would go on trying for minutes."""
        host, _, port = self._options.address.rpartition(":")
        if not port.isdigit():
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
        except (OSError, OverflowError) as error:
            raise self._no_cluster(error) from error

    def _no_cluster(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"no cluster to run on: {str(error).splitlines()[0]}",
            got=self._options.address,
            where="engine.address",
            fix="start one with `ray start --head`, or leave address out to use this machine",
        )

    def _hire(self) -> _Worker:
        # Restarts and retries are ours: Ray would run a task again without telling.
        make = self._ray.remote(
            num_cpus=1, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )
        worker = _Worker(next(self._names), make(_Actor).remote(), None, 0.0)
        self._enter(worker)
        return worker

    def _enter(self, worker: _Worker) -> None:
        worker.entering = worker.actor.enter.remote(self._context)
        worker.since = time.monotonic()

    def _entered(self, worker: _Worker) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(worker.entering)
        except errors.RayTaskError as error:
            raise TaskFailed("a worker cannot be made ready", got=str(error.cause)) from error
        except errors.RayError:
            self._replace(worker)
            return
        worker.entering = None

    def _replace(self, worker: _Worker) -> None:
        self._ray.kill(worker.actor, no_restart=True)
        self._workers[self._workers.index(worker)] = self._hire()

    def _feed(self, batch: _Batch, limit: int) -> None:
        alive = min(self._alive, default=0)
        for depth in range(SLOTS):
            for worker in self._workers:
                if worker.entering is not None or len(worker.holds) != depth:
                    continue
                if not batch.waiting or batch.waiting[0] >= limit:
                    return
                index = batch.waiting.popleft()
                batch.attempts[index] += 1
                if not worker.holds:
                    worker.since = time.monotonic()
                reply = worker.actor.run.remote(alive, batch.tasks[index])
                worker.holds.append((index, reply))

    def _collect(self, batch: _Batch) -> None:
        busy = [worker for worker in self._workers if worker.busy]
        by = {worker.first: worker for worker in busy}
        due = min(self._due(worker) for worker in busy)
        ready, _ = self._ray.wait(list(by), timeout=max(0.0, due - time.monotonic()))
        for reply in ready:
            worker = by[reply]
            if worker.entering is not None:
                self._entered(worker)
            else:
                self._arrived(worker, batch)
        for worker in busy:
            if worker in self._workers and worker.busy and self._due(worker) <= time.monotonic():
                self._overdue(worker, batch)

    def _due(self, worker: _Worker) -> float:
        starting = worker.entering is not None
        return worker.since + (STARTING if starting else self._options.deadline)

    def _arrived(self, worker: _Worker, batch: _Batch) -> None:
        index, reply = worker.holds.popleft()
        try:
            error, kind, seconds, data = self._ray.get(reply)
        except self._ray.exceptions.RayTaskError as failed:  # before or behind the task
            error, seconds, data = f"the worker could not read it: {failed.cause}", 0.0, None
            full = isinstance(failed.cause, self._ray.exceptions.ObjectStoreFullError)
            kind = "machine" if full else kind_of(failed.cause)
        except self._ray.exceptions.RayError as lost:
            self._lost(worker, index, _reason(lost), "worker", batch)
            return
        if kind == "machine":  # what it could not get, a fresh worker may
            self._lost(worker, index, error or "", kind, batch)
            return
        worker.since = time.monotonic()
        if index is None:
            return
        batch.early[index] = Result(
            index=index,
            data=None if data is None else memoryview(data),
            error=error,
            kind=kind,
            seconds=seconds,
            worker=worker.number,
            attempts=batch.attempts[index],
            lost=batch.lost.pop(index, ""),
        )

    def _lost(
        self, worker: _Worker, index: int | None, reason: str, kind: Kind, batch: _Batch
    ) -> None:
        # A killed actor fails its own task and the queued one: the latter was never started.
        self._take_back(worker, batch)
        self._replace(worker)
        if index is None:
            return
        if batch.attempts[index] > self._options.retries:
            batch.early[index] = Result(
                index=index,
                data=None,
                error=given_up(kind, batch.attempts[index], reason),
                kind=kind,
                worker=worker.number,
                attempts=batch.attempts[index],
                lost=reason,
            )
        else:
            batch.lost[index] = reason
            warnings.warn(f"a worker was lost ({reason}); its task runs again", stacklevel=2)
            batch.waiting.appendleft(index)

    def _overdue(self, worker: _Worker, batch: _Batch) -> None:
        if worker.entering is not None:
            self._late(worker)
            return
        index, _ = worker.holds.popleft()
        self._take_back(worker, batch)
        self._replace(worker)
        if index is None:
            return
        batch.early[index] = Result(
            index=index,
            data=None,
            error=overdue(self._options.deadline),
            kind="deadline",
            seconds=self._options.deadline,
            worker=worker.number,
            attempts=batch.attempts[index],
        )

    def _late(self, worker: _Worker) -> None:
        # Its machine may have left for good: go on with those that are there, and keep waiting.
        if all(other.entering is not None for other in self._workers):
            raise self._nobody()
        worker.since = time.monotonic()

    def _take_back(self, worker: _Worker, batch: _Batch) -> None:
        while worker.holds:
            index, _ = worker.holds.pop()
            if index is not None:
                batch.attempts[index] -= 1
                batch.waiting.appendleft(index)

    def _nobody(self) -> TaskFailed:
        return TaskFailed(
            "no worker of the cluster became ready",
            got=f"{self._wanted} wanted, {STARTING:g} s waited",
            where="engine",
            fix="`ray status` shows what the cluster has left; `archipelago resume DIR` goes on",
        )


def _reason(lost: Exception) -> str:
    name = type(lost).__name__
    known = {
        "ActorDiedError": "its process or machine died",
        "ActorUnavailableError": "its machine does not answer",
        "OutOfMemoryError": "its machine ran out of memory",
        "ObjectLostError": "its machine was lost with the reply",
        "NodeDiedError": "its machine died",
    }
    return known.get(name, name)
