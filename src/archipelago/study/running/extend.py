"""A finished run that goes on: more trials, then final training and everything after it again.

The run becomes what it would have been, had it been asked for as many trials from the start: a new
journal takes over the search as it was committed, and the old run is kept whole inside the new one.
Test rows are then opened once more; the report says so.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from archipelago.config.load import dumps, loads
from archipelago.core.checks import at_least
from archipelago.core.errors import JournalError
from archipelago.journal.journal import Journal
from archipelago.journal.runs import FINISHED
from archipelago.study.analysing.gather import searched
from archipelago.study.running.rows import BEFORE, continuation, prepared_again
from archipelago.study.running.search import Study

__all__ = ["BEFORE", "extend"]

_KEPT = ("statistics", "search")
"""Phases that the new run takes over; the others are done again."""


def extend(directory: str | Path, trials: int) -> Study:
    """Return a study that goes on with a finished run for `trials` more candidates.

    Raises:
        JournalError: the run is not finished (`resume` goes on with it), or its data changed
            since; the run then stays as it was.
    """
    directory = Path(directory)
    at_least("--trials", trials, 1, fix="ask for more candidates, e.g. --trials +20")
    atomic_file = continuation(directory)
    if not directory.exists() and (atomic_file / "journal.sqlite").is_file():
        atomic_file.rename(directory)  # killed between the two renames below
        return _study(directory)
    shutil.rmtree(atomic_file, ignore_errors=True)
    with Journal.open(directory, write=True) as old:
        last = old.last(full=True)
        if last is None or last.kind != FINISHED or not (last.state or {}).get("searched"):
            raise JournalError(
                "this run has not come to its end",
                where=str(directory),
                fix=f"archipelago resume {directory}",
            )
        run = loads(old.meta["run"], source=str(directory / "run.toml"))
        with prepared_again(run, last.state["fingerprint"], directory):
            _taken_over(old, last.state, atomic_file, trials)
        directory.rename(atomic_file / BEFORE)
        atomic_file.rename(directory)
    return _study(directory)


def _study(directory: Path) -> Study:
    with Journal.open(directory, write=False) as journal:
        text = journal.meta["run"]
    return Study(loads(text, source=str(directory / "run.toml")), directory, resumed=True)


def _taken_over(old: Journal, state: Any, place: Path, trials: int) -> None:
    """Write a journal that stands at the end of the old one's search, with a larger budget."""
    run = loads(old.meta["run"], source=str(old.directory / "run.toml"))
    budget = replace(run.budget, trials=state["searched"]["trials"] + trials)
    run = replace(run, budget=budget)
    pins = {
        name: digest
        for name, digest in old.pins().items()
        if name.startswith(("front/", "leaf/search/")) or name == "champion/search"
    }
    own = {
        name.removeprefix("searched/"): digest
        for name, digest in old.pins().items()
        if name.startswith("searched/")
    }
    begun = {
        "fingerprint": state["fingerprint"],
        "stage": "search",
        "position": state["searched"],
        "ended": [],
        "champions": {},
        "searched": None,
        "tested": None,
    }
    earlier = [data for _, data, _ in old.events("continued")]
    tested = {
        "trials": state["searched"]["trials"],
        "metrics": state["tested"]["final"]["metrics"],
    }
    with Journal.create(place, meta={**old.meta, "run": dumps(run)}) as new:
        for digest in (*pins.values(), *own.values()):
            new.put(old.get(digest))
        new.register(old.registry)
        new.commit(
            "continued",
            begun,
            blobs=own,
            pins=pins,
            meter=[row for phase in _KEPT for row in old.meter(phase=phase)],
            outcomes=searched(old),
            curves=list(old.curves("search")),
            events=[*_of_search(old), *(("continued", data) for data in (*earlier, tested))],
        )


def _of_search(old: Journal) -> list[tuple[str, Any]]:
    """Return the facts, and what was recorded until the search ended."""
    ended = [wall for _, data, wall in old.events("ended") if data["phase"] == "search"]
    return [
        (kind, data)
        for kind, data, wall in old.events()
        if kind == "facts" or (kind in ("refused", "void") and ended and wall < ended[0])
    ]
