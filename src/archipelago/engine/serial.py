"""One task after another, here: the reference that every other engine equals."""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from archipelago.core.buffers import join, joined
from archipelago.core.errors import TaskFailed
from archipelago.core.failure import kind_of, words_of
from archipelago.core.memory import trim
from archipelago.engine.base import RETRIES, Buffer, Result, check_device, given_up, one_thread

__all__ = ["Serial"]


@dataclass(slots=True)
class _Held:
    data: bytes
    size: int

    def release(self) -> None:
        self.data = b""


class _Here:
    def view(self, handle: _Held) -> memoryview:
        return memoryview(handle.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial:
    """Runs every task in this process, with one torch thread.

    Attributes:
        device: where clients train: `cpu`, or `cuda` where torch sees one.
    """

    kind: Literal["serial"] = "serial"
    device: str = "cpu"

    def start(self) -> "_Running":
        """Return an engine; `open` it before use.

        Raises:
            ConfigError: torch sees no such device here.
        """
        check_device(self.device)
        return _Running()


class _Running:
    def __init__(self) -> None:
        self._context: Any = None

    def open(self, context: Any) -> None:
        """Enter `context` here."""
        self._context = context.enter()

    def share(self, pieces: Sequence[Buffer]) -> _Held:
        """Keep the bytes."""
        data = join(pieces)
        return _Held(data, len(data))

    def map(self, tasks: Sequence[Any]) -> Iterator[Result]:
        """Run one task each time a result is asked for."""
        if self._context is None:
            raise TaskFailed("the engine is not open", fix="call open(context) first")
        for index, task in enumerate(tasks):
            yield self._run(index, task)

    def _run(self, index: int, task: Any) -> Result:
        result, lost, attempts = self._tried(index, task), "", 1
        while result.kind == "machine":
            lost = result.error or ""
            if attempts > RETRIES:
                result = replace(result, error=given_up("machine", attempts, lost))
                break
            gc.collect()  # no fresh worker here: what this one can give back it does
            trim()
            result, attempts = self._tried(index, task), attempts + 1
        return replace(result, attempts=attempts, lost=lost) if lost else result

    def _tried(self, index: int, task: Any) -> Result:
        began = time.perf_counter()
        try:
            with one_thread():
                data = joined(task(self._context, _Here()))
        except Exception as error:  # a failed task is a value with a reason
            return Result(
                index=index,
                data=None,
                error=words_of(error),
                kind=kind_of(error),
                seconds=time.perf_counter() - began,
            )
        return Result(index=index, data=data, seconds=time.perf_counter() - began)

    def close(self) -> None:
        """Forget the context."""
        self._context = None
