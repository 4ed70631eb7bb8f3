"""What an engine promises: each result once, in task order, equal to `Serial`'s."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from archipelago.core.buffers import Part
from archipelago.core.errors import ConfigError
from archipelago.core.failure import Kind

__all__ = [
    "Buffer",
    "Context",
    "Engine",
    "Handle",
    "Memory",
    "Result",
    "Task",
    "RETRIES",
    "check_device",
    "given_up",
    "one_thread",
    "overdue",
]

Buffer = Part

RETRIES = 2
"""How often a task is started again, on a fresh worker, whose worker or machine gave out: whoever
kills three workers in a row would kill a fourth."""


@runtime_checkable
class Context(Protocol):
    """A picklable frozen value, sent to each worker once."""

    def enter(self) -> Any:
        """Return what tasks get as `context`; called once in each worker."""
        ...


@runtime_checkable
class Handle(Protocol):
    """Shared bytes: cheap to send with a task."""

    size: int

    def release(self) -> None:
        """Give the memory back; no later task may view it."""
        ...


@runtime_checkable
class Memory(Protocol):
    """The worker's side of `Engine.share`."""

    def view(self, handle: Any) -> memoryview:
        """Return the shared bytes without copying them."""
        ...


@runtime_checkable
class Task(Protocol):
    """A frozen picklable value that runs in a worker."""

    def __call__(self, context: Any, memory: Any) -> Sequence[Any]:
        """Return the reply in pieces; the engine moves them as one buffer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a task.

    Attributes:
        index: its place in `map`'s argument.
        data: the reply; None when it failed. It may lie in shared memory that the next reply
            overwrites: copy what must outlive the next step of `map`.
        error: why it failed.
        kind: what failed; None where there is a reply.
        seconds: wall-clock in the worker.
        worker: which one.
        attempts: how often it was started.
        lost: how the last worker that was lost with it ended; empty where none was.
    """

    index: int
    data: memoryview | None
    error: str | None = None
    kind: Kind | None = None
    seconds: float = 0.0
    worker: int = 0
    attempts: int = 1
    lost: str = ""


@runtime_checkable
class Engine(Protocol):
    """Runs tasks."""

    def open(self, context: Any) -> None:
        """Make workers ready; closes what was open before."""
        ...

    def share(self, pieces: Sequence[Buffer]) -> Any:
        """Put bytes where every worker can view them; return their `Handle`."""
        ...

    def map(self, tasks: Sequence[Any]) -> Iterator[Result]:
        """Yield one result a task, in task order."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one torch thread: sums then have one order; restores the caller's setting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def overdue(deadline: float) -> str:
    """Return what became of a task that took longer, in seconds."""
    return (
        f"ran past the deadline of {deadline:g} s and was stopped; "
        "raise engine.deadline if its work takes longer"
    )


def given_up(kind: Kind, attempts: int, reason: str) -> str:
    """Return what became of a task whose worker or machine gave out each time it was started."""
    times = "once" if attempts == 1 else f"{attempts} times"
    return f"{reason}, {times}" if kind == "machine" else f"its worker was lost {times}: {reason}"


def check_device(name: str) -> None:
    """Refuse a device that torch does not know, or does not see here.

    Raises:
        ConfigError: says which there are.
    """
    seen = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        device = torch.device(name)
        fine = device.type == "cpu" or (
            device.type == "cuda" and (device.index or 0) < len(seen) - 1
        )
    except RuntimeError:
        fine = False
    if not fine:
        raise ConfigError(
            "torch sees no such device here",
            got=name,
            where="engine.device",
            fix=f"use one of {', '.join(seen)}",
        )
