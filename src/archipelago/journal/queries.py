"""What a journal can be asked: costs by SQL sums, rows by iteration. Nothing here writes."""

import json
import sqlite3
from collections.abc import Iterator
from math import nan
from typing import Any, NamedTuple

from archipelago.core.meter import COLUMNS, MeterRow, totals
from archipelago.core.trial import Outcome

__all__ = [
    "Point",
    "PointLike",
    "cost",
    "cost_per",
    "curves",
    "events",
    "meter",
    "outcomes",
    "parallel_seconds",
    "standing",
]

SUMS = tuple(totals([]))
_SUMS = ", ".join(f"total({name})" for name in SUMS)


class Point(NamedTuple):
    """One value of a learning curve.

    Attributes:
        branch: proposal number.
        round: counts up from 0 within the phase.
        metric: its name.
        value: NaN where it is undefined.
        phase: as in `MeterRow`.
    """

    branch: int
    round: int
    metric: str
    value: float
    phase: str = "search"


PointLike = Point | tuple[int, int, str, float] | tuple[int, int, str, float, str]


def _where(filters: dict[str, Any]) -> tuple[str, list[Any]]:
    given = {name: value for name, value in filters.items() if value is not None}
    clause = " AND ".join(f"{name} = ?" for name in given)
    return (f" WHERE {clause}" if clause else ""), list(given.values())


def cost(connection: sqlite3.Connection, **filters: Any) -> dict[str, float]:
    """Return the sums of the meter's additive columns over the rows that match `filters`."""
    clause, values = _where(filters)
    row = connection.execute(f"SELECT {_SUMS} FROM meter{clause}", values).fetchone()  # noqa: S608
    return dict(zip(SUMS, row, strict=True))


def cost_per(
    connection: sqlite3.Connection, columns: str, **filters: Any
) -> Iterator[tuple[tuple[Any, ...], dict[str, float]]]:
    """Yield `(values of columns, sums)` for every group, in the order of `columns`."""
    clause, values = _where(filters)
    query = (
        f"SELECT {columns}, {_SUMS} FROM meter{clause} "  # noqa: S608
        f"GROUP BY {columns} ORDER BY {columns}"
    )
    for row in connection.execute(query, values):
        yield row[: -len(SUMS)], dict(zip(SUMS, row[-len(SUMS) :], strict=True))


def meter(connection: sqlite3.Connection, **filters: Any) -> Iterator[MeterRow]:
    """Yield the meter's rows in the order in which they were committed."""
    clause, values = _where(filters)
    query = f"SELECT {', '.join(COLUMNS)} FROM meter{clause} ORDER BY number, rowid"  # noqa: S608
    for row in connection.execute(query, values):
        yield MeterRow(**dict(zip(COLUMNS, row, strict=True)))


def parallel_seconds(connection: sqlite3.Connection, phase: str) -> float:
    """Return the virtual wall-clock of a phase whose clients all run beside each other.

    A commit is one round of all branches. In it every client does its own work in a row, training
    before scoring; the slowest client ends each.
    """
    query = (
        "SELECT total(slowest) FROM (SELECT max(spent) AS slowest FROM ("
        "SELECT number, kind = 'evaluate' AS scoring, total(virtual_seconds) AS spent FROM meter "
        "WHERE phase = ? GROUP BY number, scoring, client) GROUP BY number, scoring)"
    )
    return connection.execute(query, (phase,)).fetchone()[0]


def outcomes(connection: sqlite3.Connection) -> Iterator[Outcome]:
    """Yield the outcomes in the order in which they were committed."""
    for (record,) in connection.execute("SELECT record FROM outcomes ORDER BY number, rowid"):
        yield Outcome.from_json(json.loads(record))


def curves(connection: sqlite3.Connection, phase: str | None) -> Iterator[Point]:
    """Yield the points in the order in which they were committed."""
    clause, values = _where({"phase": phase})
    query = f"SELECT branch, round, metric, value, phase FROM curves{clause} ORDER BY number, rowid"  # noqa: S608
    for branch, turn, metric, value, name in connection.execute(query, values):
        yield Point(branch, turn, metric, nan if value is None else value, name)


def events(connection: sqlite3.Connection, kind: str | None) -> Iterator[tuple[str, Any, float]]:
    """Yield `(kind, data, unix time)` of committed events and of notes, oldest first."""
    clause, values = _where({"kind": kind})
    query = (
        f"SELECT kind, data, wall FROM (SELECT kind, data, wall, number, rowid AS place FROM events"  # noqa: S608
        f"{clause} UNION ALL SELECT kind, data, wall, -1, rowid FROM notes{clause}) "
        "ORDER BY wall, number, place"
    )
    for name, data, wall in connection.execute(query, values * 2):
        yield name, json.loads(data), wall


def standing(connection: sqlite3.Connection) -> tuple[float | None, int]:
    """Return the best score of an outcome that has one, and how many outcomes there are.

    Only the first stage counts, which is the search: final training and reference lines are scored
    after more rounds, and are nobody's trials.
    """
    query = (
        "SELECT max(score) FILTER (WHERE status NOT IN ('failed', 'undefined')), count(*) "
        "FROM outcomes WHERE number <= "
        "coalesce((SELECT min(number) FROM events WHERE kind = 'ended'), number)"
    )
    return connection.execute(query).fetchone()
