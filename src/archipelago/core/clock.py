"""Where wall-clock time went. Volatile: no result depends on it."""

import time
from collections.abc import Iterator
from typing import Any

__all__ = ["Clock"]


class _Span:
    # Entered twice for each client of a round: a generator would cost three times as much.
    __slots__ = ("_began", "_clock", "_name")

    def __init__(self, clock: "Clock", name: str) -> None:
        self._clock, self._name, self._began = clock, name, 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock.add(self._name, time.perf_counter() - self._began)


class Clock:
    """Seconds by name, and how busy each worker was. Changed in place.

    Attributes:
        seconds: of the coordinator: `select`, `frame`, `wait`, `check`, `combine`, `journal`,
            `strategy` (asking and telling).
        busy: of each worker, inside tasks, by what they were: `train`, `evaluate`, `probe`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.busy: dict[int, dict[str, float]] = {}
        self._began = time.monotonic()

    def of(self, name: str) -> "_Span":
        """Count the time inside this context under `name`."""
        return _Span(self, name)

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` under `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def waiting(self, results: Iterator[Any], work: str) -> Iterator[Any]:
        """Yield `results`, counting the time until each one comes, and its worker's `work`."""
        while True:
            with self.of("wait"):
                result = next(results, None)
            if result is None:
                return
            busy = self.busy.setdefault(result.worker, {})
            busy[work] = busy.get(work, 0.0) + result.seconds
            yield result

    def profile(self) -> dict[str, object]:
        """Return it all as JSON data; `idle` is what of the whole a worker was not in a task."""
        whole = time.monotonic() - self._began
        return {
            "whole": whole,
            "coordinator": dict(sorted(self.seconds.items())),
            "workers": {
                str(worker): {**busy, "idle": max(0.0, whole - sum(busy.values()))}
                for worker, busy in sorted(self.busy.items())
            },
        }
