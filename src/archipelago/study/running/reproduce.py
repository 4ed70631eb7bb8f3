"""Runs a finished run again, from its journal's own run file, and says whether the bits agree."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from archipelago.config.load import loads
from archipelago.core.atomic import scratch
from archipelago.core.errors import JournalError
from archipelago.journal.journal import Journal
from archipelago.journal.runs import FINISHED
from archipelago.study.running.rows import prepared_again
from archipelago.study.running.search import Event, search

__all__ = ["Verdict", "differences", "reproduce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a repetition gave the same bits.

    Attributes:
        same: every outcome, score, byte count and weight agrees.
        counts: how many of each were compared.
        differences: the first difference of each kind; empty where `same`.
    """

    same: bool
    counts: dict[str, int]
    differences: tuple[str, ...]


def reproduce(directory: str | Path, out: str | Path | None = None) -> Iterator[Event | Verdict]:
    """Run again, yielding the events of the repetition, and the verdict last.

    Args:
        directory: of a finished run.
        out: where the repetition is kept; None: nowhere.

    Raises:
        JournalError: the run is not finished, or its data changed since.
    """
    directory = Path(directory)
    with Journal.open(directory, write=False) as journal:
        last = journal.last(full=True)
        if last is None or last.kind != FINISHED:
            raise JournalError(
                "only a finished run can be compared with its repetition",
                where=str(directory),
                fix=f"archipelago resume {directory}",
            )
        run = loads(journal.meta["run"], source=str(directory / "run.toml"))
        fingerprint = last.state["fingerprint"]
    with prepared_again(run, fingerprint, directory):
        pass
    with scratch() as folder:
        place = Path(out) if out is not None else folder / "again"
        yield from search(run, place).events()
        yield differences(directory, place)


def differences(a: str | Path, b: str | Path) -> Verdict:
    """Compare everything of two runs that chance or the clock may not move."""
    found: list[str] = []
    counts: dict[str, int] = {}
    with Journal.open(a, write=False) as one, Journal.open(b, write=False) as two:
        for (what, left), (_, right) in zip(_rows(one), _rows(two), strict=True):
            counts[what] = 0
            for mine, theirs in zip_longest(left, right):
                counts[what] += 1
                if mine != theirs:
                    text = f"{what} {counts[what] - 1}: {mine!r} before, {theirs!r} again"
                    found.append(text if len(text) <= 400 else text[:399] + "…")
                    break
    return Verdict(same=not found, counts=counts, differences=tuple(found))


def _rows(journal: Journal) -> Iterator[tuple[str, Iterable[Any]]]:
    last = journal.last(full=True)
    state = (last.state or {}) if last else {}
    yield "outcome", (outcome.to_json() for outcome in journal.outcomes())
    yield "curve point", sorted(map(tuple, journal.curves()), key=repr)
    yield "meter row", (replace(row, seconds=0.0) for row in journal.meter())
    yield "tensor", sorted(journal.pins().items())
    yield "test", sorted((state.get("tested") or {}).items())
