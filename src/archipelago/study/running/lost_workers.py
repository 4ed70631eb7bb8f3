"""An engine whose lost workers are noted in the journal. Notes are no part of a run's identity."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from archipelago.engine.base import Buffer, Engine, Result
from archipelago.journal.journal import Journal

__all__ = ["LOST", "RecordsLostWorkers"]

LOST = "worker lost"
"""Kind of the note: its data hold `reason`, `attempts`, and `gave_up` where the task failed."""


@dataclass(frozen=True, slots=True)
class RecordsLostWorkers:
    """The engine it is given, and a note for each task that took more than one attempt."""

    engine: Engine
    journal: Journal

    def open(self, context: Any) -> None:
        """Make workers ready."""
        self.engine.open(context)

    def share(self, pieces: Sequence[Buffer]) -> Any:
        """Put bytes where every worker can view them."""
        return self.engine.share(pieces)

    def map(self, tasks: Sequence[Any]) -> Iterator[Result]:
        """Yield the engine's results, in task order."""
        for result in self.engine.map(tasks):
            if result.lost or result.attempts > 1:
                about = {"reason": result.lost, "attempts": result.attempts}
                self.journal.note(LOST, {**about, "gave_up": result.data is None})
            yield result

    def close(self) -> None:
        """Let the workers go."""
        self.engine.close()
