"""The runs under a directory, one line each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from archipelago.core.errors import JournalError
from archipelago.journal.journal import Journal
from archipelago.journal.lock import holder
from archipelago.journal.schema import DATABASE

__all__ = ["FINISHED", "RunLine", "runs"]

FINISHED: Final = "finished"
"""Kind of the last commit of a run that is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """What a run came to so far.

    Attributes:
        directory: where it lies.
        name: from its metadata; the directory's own name without one.
        status: `unreadable` has a `reason`.
        best: highest score of the search, higher is better; None before the first outcome.
        metric: whose score that is, up to its sign; empty before the data were read.
        trials: outcomes of the search so far.
        bytes: down and up, all phases.
        client_seconds: virtual seconds, all phases.
        reason: first line of the error.
    """

    directory: Path
    name: str
    status: Literal["running", "stopped", "finished", "unreadable"]
    best: float | None = None
    metric: str = ""
    trials: int = 0
    bytes: int = 0
    client_seconds: float = 0.0
    reason: str = ""


def runs(directory: str | Path) -> list[RunLine]:
    """Return the runs in `directory` and directly under it, by path."""
    root = Path(directory)
    places = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    return [_line(place) for place in places if (place / DATABASE).is_file()]


def _line(place: Path) -> RunLine:
    try:
        with Journal.open(place, write=False) as journal:
            last = journal.last()
            finished = last is not None and last.kind == FINISHED
            idle = "finished" if finished else "stopped"
            best, trials = journal.standing()
            cost = journal.cost()
            facts = next((data for _, data, _ in journal.events("facts")), {})
            return RunLine(
                directory=place,
                name=str(journal.meta.get("name", place.name)),
                status=idle if holder(place / "lock") is None else "running",
                best=best,
                metric=str(facts.get("task", {}).get("metric", "")),
                trials=trials,
                bytes=int(cost["bytes_down"] + cost["bytes_up"]),
                client_seconds=cost["virtual_seconds"],
            )
    except JournalError as error:
        return RunLine(directory=place, name=place.name, status="unreadable", reason=error.what)
