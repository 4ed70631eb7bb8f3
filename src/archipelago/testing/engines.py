"""What holds of every engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from archipelago.engine.base import Result
from archipelago.engine.serial import Serial

__all__ = ["CONTRACTS"]


@dataclass(frozen=True, slots=True)
class _Context:
    base: int = 100

    def enter(self) -> int:
        return self.base


@dataclass(frozen=True, slots=True)
class _Add:
    """Adds what the worker holds, what was shared, and a number of its own."""

    value: int
    handle: Any
    weight: int = 1

    def __call__(self, context: int, memory: Any) -> Sequence[Any]:
        shared = np.frombuffer(memory.view(self.handle), np.int64)
        return [np.array([context + self.value + shared.sum()], np.int64)]


@dataclass(frozen=True, slots=True)
class _Fail:
    weight: int = 1

    def __call__(self, context: Any, memory: Any) -> Sequence[Any]:
        raise ValueError("three is not four")


@contextmanager
def _open(part: Any) -> Iterator[Any]:
    engine = part.start()
    try:
        engine.open(_Context())
        yield engine
    finally:
        engine.close()


def _numbers(part: Any) -> list[int]:
    with _open(part) as engine:
        handle = engine.share([np.arange(5, dtype=np.int64)])
        tasks = [_Add(value, handle) for value in range(20)]
        found = [int(np.frombuffer(r.data, np.int64)[0]) for r in engine.map(tasks) if r.data]
        handle.release()
    return found


def it_equals_the_serial_engine(part: Any) -> None:
    """Every task's result, once, in the order of the tasks, whatever the number of workers."""
    assert _numbers(part) == _numbers(Serial()) == [110 + value for value in range(20)]


def a_task_that_fails_is_a_value(part: Any) -> None:
    """It comes back with its reason, and the others are not disturbed."""
    with _open(part) as engine:
        handle = engine.share([np.zeros(1, np.int64)])
        results: list[Result] = []
        for result in engine.map([_Add(1, handle), _Fail(), _Add(2, handle)]):
            results.append(result)
            if result.data is not None:
                assert np.frombuffer(result.data, np.int64)[0] == 100 + (
                    1 if result.index == 0 else 2
                )
        handle.release()
    assert [result.index for result in results] == [0, 1, 2]
    assert results[1].data is None
    assert "three is not four" in str(results[1].error)


CONTRACTS = (it_equals_the_serial_engine, a_task_that_fails_is_a_value)
