"""The server's half of the statistics round: ask, meter, merge, agree.

Every request and every answer is one frame; its bytes are a meter row. Answers are merged in the
order of client numbers, so the agreement is the same on every machine.

References:
    Chan, Golub & LeVeque 1983, The American Statistician 37(3): merging of means and squares.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from time import perf_counter
from typing import Any

import numpy as np

from archipelago.core.buffers import join, length
from archipelago.core.errors import ArchipelagoError, DataError, UpdateRefused
from archipelago.core.meter import MeterRow
from archipelago.data.answer_checks import Unread, read
from archipelago.data.answers import HISTOGRAM, LocalRows, answer
from archipelago.data.columns import Kind
from archipelago.data.preparation import Column
from archipelago.data.preprocess import Preprocess
from archipelago.data.releases import Withheld
from archipelago.data.spelling import fold
from archipelago.wire.frame import pack, unpack

__all__ = [
    "WILD",
    "Agreed",
    "Answers",
    "Clients",
    "agree_columns",
    "merged",
    "refuse_unnamed",
    "wild",
]

Answers = Sequence[tuple[str, Mapping[str, Any]]]
"""Each client's name and what it said."""

_ANSWER_LIMIT = 1 << 24
_ID_SHARE = 0.5
"""A text column with more distinct values than this share of the largest silo's rows is an id."""
_LISTED = 5
WILD = 8.0
"""How many times the middle silo's deviation a silo has that holds values far out."""
_MIDDLE = 0.4
"""Share of the rows beyond an outer knot from which on ranks are too coarse to scale by."""
_SILENT = "no silo has enough values of it, or all but a few are the same"
_MOSTLY = 0.5
"""A column of which more than this share, but not all, reads as numbers is a fault, not text."""


@dataclass(slots=True)
class Clients:
    """Asks every client and keeps what was said and what it cost. Appends to its lists in place.

    Attributes:
        rows_of: a client's half.
        clients: who is asked.
        meter: a row for each answer; its note is the question.
        rounds: questions asked so far.
        withheld: what silos did not tell, and whose answer could not be read.
    """

    rows_of: Callable[[int], LocalRows]
    clients: Sequence[int]
    meter: list[MeterRow] = field(default_factory=list)
    rounds: int = 0
    withheld: list[Withheld] = field(default_factory=list)

    def ask(self, request: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Return each client's name and answer, in the order of `clients`.

        A client whose answer is not of the form of the question is left out of it, and noted.

        Raises:
            DataError: a client cannot read its own rows, or nobody's answer could be read.
        """
        down = pack("statistics-request", request)
        down_bytes, told = length(down), unpack(join(down)).fields
        answers = []
        for client in self.clients:
            started = perf_counter()
            rows = self.rows_of(client)
            try:
                up = join(pack("statistics-answer", answer(rows, told)))
            except DataError as error:
                raise DataError(
                    error.what,
                    got=error.got,
                    where=f"silo {rows.name!r}, {error.where}",
                    fix=error.fix,
                ) from None
            table = frozenset(rows.x) if isinstance(rows.x, Mapping) else None
            try:
                said = _fields(up)
                read(said, told, rows.rows, table)
            except (Unread, ArchipelagoError) as error:
                about = f"{request['ask']}: {getattr(error, 'what', error)}"
                self.withheld.append(Withheld(silo=rows.name, what="answer", detail=about))
            else:
                answers.append((rows.name, said))
            self.meter.append(
                MeterRow(
                    phase="statistics",
                    round=self.rounds,
                    branch=-1,
                    client=client,
                    kind="statistics",
                    examples=rows.rows,
                    bytes_down=down_bytes,
                    bytes_up=len(up),
                    seconds=perf_counter() - started,
                    note=request["ask"],
                )
            )
        self.rounds += 1
        if self.clients and not answers:
            raise DataError(
                "nobody's answer could be read",
                got=self.withheld[-1].detail,
                where=f"silo {self.withheld[-1].silo!r}",
                fix="let all silos run the same version of archipelago-nas",
            )
        return answers


def _fields(up: bytes) -> dict[str, Any]:
    """Return what a silo's frame says."""
    frame = unpack(up, limit=_ANSWER_LIMIT)
    if frame.kind != "statistics-answer" or frame.arrays:
        raise UpdateRefused("a reply of the wrong kind", got=repr(frame.kind)[:80])
    return dict(frame.fields)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agreed:
    """What clients agreed on for the columns of their tables.

    Attributes:
        columns: in the order of the header.
        notes: on those that are not used.
        answers: the moments and categories by which they agreed.
    """

    columns: tuple[Column, ...]
    notes: tuple[str, ...]
    answers: Answers


def merged(parts: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Merge counts, means and squared deviations; returns count, mean, standard deviation."""
    count = mean = squares = 0.0
    for n, m, s in parts:
        if n == 0:
            continue
        delta, total = m - mean, count + n
        mean += delta * n / total
        squares += s + delta * delta * count * n / total
        count = total
    return count, mean, (squares / count) ** 0.5 if count else 0.0


def wild(parts: Sequence[Sequence[float]]) -> frozenset[int]:
    """Return the places of silos that vary `WILD` times as much as the middle one.

    Values far out do that. How many times it is would tell such a value, where a silo has one.

    Args:
        parts: count, mean and sum of squared deviations of each silo.
    """
    own = {place: (s / n) ** 0.5 for place, (n, _, s) in enumerate(parts) if n and s > 0}
    if len(own) < 2:
        return frozenset()
    middle = sorted(own.values())[(len(own) - 1) // 2]
    return frozenset(place for place, sd in own.items() if sd > WILD * middle)


def refuse_unnamed(answers: Answers, where: str, floor: int) -> None:
    """Refuse a label of which silos may name fewer than two classes, while they hold others."""
    named = {fold(label) for _, said in answers for label in said["labels"]}
    if len(named) < 2 and any(said.get("unnamed") for _, said in answers):
        raise DataError(
            f"fewer than two classes have {floor} train rows at a silo: no other may be named",
            got=f"{len(named)} classes that may be named",
            where=where,
            fix="list every class in the run file (task.classes): what is declared needs no rows",
        )


def agree_columns(clients: Clients, schemas: Answers, preprocess: Preprocess) -> Agreed:
    """Agree on the kind of each column, then on its scale or vocabulary.

    Raises:
        DataError: silos disagree on a column, or it cannot be read; silo and column are named.
    """
    specs = {
        name: _agreed_kind(name, [(silo, said["columns"][name]) for silo, said in schemas])
        for name in schemas[0][1]["columns"]
    }
    used = {name: spec for name, spec in specs.items() if not spec["dropped"]}
    if not used:
        raise DataError(
            "no column is left to learn from",
            got={name: spec["dropped"] for name, spec in specs.items()},
            where="columns",
            fix="add columns that vary and are not ids, or list them under categorical",
        )
    told = {name: {"kind": s["kind"], "order": s["order"]} for name, s in used.items()}
    request = {"ask": "columns", "columns": told, "floor": preprocess.floor}
    answers = clients.ask(request)
    columns = {
        name: (
            _vocabulary(name, [said[name] for _, said in answers], preprocess)
            if spec["kind"] == "category"
            else _scaled(name, spec, [said[name] for _, said in answers], preprocess)
        )
        for name, spec in used.items()
    }
    clients.withheld += _untold(answers, schemas, columns)
    columns, silent = _without_silent(columns)
    if preprocess.scaling in ("robust", "quantile"):
        columns |= _ranked(clients, columns, answers, preprocess.scaling)
    dropped = silent | {
        name: Column(name=name, kind=s["kind"], dropped=s["dropped"])
        for name, s in specs.items()
        if s["dropped"]
    }
    notes = tuple(f"column {name!r} is not used: {c.dropped}" for name, c in dropped.items())
    return Agreed(
        columns=tuple(columns.get(name) or dropped[name] for name in specs),
        notes=notes,
        answers=answers,
    )


def _untold(answers: Answers, schemas: Answers, columns: Mapping[str, Column]) -> list[Withheld]:
    """Return which silos told no moments of which columns though they have rows of them."""
    present = {
        silo: {n for n, seen in said["columns"].items() if seen["present"] or seen.get("withheld")}
        for silo, said in schemas
    }
    numeric = [name for name, column in columns.items() if column.kind != "category"]
    out: list[Withheld] = []
    for silo, said in answers:
        untold = [n for n in numeric if said[n][0] == 0 and n in present.get(silo, ())]
        if untold:
            more = " ..." if len(untold) > _LISTED else ""
            about = ", ".join(untold[:_LISTED]) + more
            out.append(Withheld(silo=silo, what="moments", detail=about))
    return out


def _without_silent(columns: dict[str, Column]) -> tuple[dict[str, Column], dict[str, Column]]:
    """Part the columns of which some silo told moments, or which need none, from the others.

    A truth value needs none: it stays 0 and 1.

    Raises:
        DataError: none is left.
    """
    silent = {
        name: replace(column, fill=0.0, dropped=_SILENT)
        for name, column in columns.items()
        if column.kind in ("number", "date") and isnan(column.fill)
    }
    told = {
        name: replace(column, fill=0.0) if isnan(column.fill) else column
        for name, column in columns.items()
        if name not in silent
    }
    if not told:
        raise DataError(
            "no column is left to learn from",
            got=dict.fromkeys(silent, _SILENT),
            where="columns",
            fix="join silos, or lower preprocess.floor if their owners agree",
        )
    return told, silent


def _agreed_kind(name: str, said: Sequence[tuple[str, Mapping[str, int]]]) -> dict[str, Any]:
    full = [(silo, seen) for silo, seen in said if seen["present"]]
    missing = any(seen["present"] < seen["rows"] and not seen.get("withheld") for _, seen in said)
    spec: dict[str, Any] = {"kind": "category", "order": "", "dropped": "", "missing": missing}
    where = f"column {name!r}"
    if not full:
        return {**spec, "dropped": "it is empty at every silo"}
    if any(seen["named"] for _, seen in full):
        return spec

    def share(what: str) -> list[float]:
        return [seen[what] / seen["present"] for _, seen in full]

    if min(share("number")) == 1:
        _refuse_unclear_commas(where, full)
        return {**spec, "kind": "number"}
    if min(share("boolean")) == 1:
        return {**spec, "kind": "boolean"}
    dmy, mdy = min(share("dmy")) == 1, min(share("mdy")) == 1
    if dmy and mdy and any(seen["year_last"] for _, seen in full):
        raise DataError(
            "dates could be day first or month first",
            where=where,
            fix="write them as YEAR-MONTH-DAY, e.g. 2024-03-31",
        )
    if dmy or mdy:
        return {**spec, "kind": "date", "order": "dmy" if dmy else "mdy"}
    # Only silos that each read in one order alone contradict each other: a slip reads in none.
    orders = {(seen["dmy"] == seen["present"], seen["mdy"] == seen["present"]) for _, seen in full}
    if {(True, False), (False, True)} <= orders:
        raise DataError(
            "dates are day first at one silo and month first at another",
            where=where,
            fix="write them as YEAR-MONTH-DAY, e.g. 2024-03-31",
        )
    _refuse_mixture(where, full)
    largest = max((seen for _, seen in full), key=lambda seen: seen["present"])
    if largest["distinct"] > max(20, _ID_SHARE * largest["present"]):
        return {**spec, "dropped": "nearly every row has its own text, as in an id or a comment"}
    return spec


def _refuse_unclear_commas(where: str, full: Sequence[tuple[str, Mapping[str, int]]]) -> None:
    """Refuse 1,234 in every row of one silo where another one writes 1.234."""
    points = [silo for silo, seen in full if seen["point"] > _MOSTLY * seen["present"]]
    for silo, seen in full:
        if points and seen["either"] == seen["present"]:
            raise DataError(
                "commas may be decimal commas here: every value has one, before three digits",
                got=f"decimal points at {', '.join(points[:5])}",
                where=f"silo {silo!r}, {where}",
                fix="write 1.234 if it is a fraction, 1234 if it is thousands",
            )


def _refuse_mixture(where: str, full: Sequence[tuple[str, Mapping[str, int]]]) -> None:
    for silo, seen in full:
        if seen["comma"] > _MOSTLY * seen["present"]:
            raise DataError(
                "numbers are written with a decimal comma",
                where=f"silo {silo!r}, {where}",
                fix="write 3.14, not 3,14",
            )
    for what in ("number", "dmy"):
        plural = "numbers" if what == "number" else "dates"
        read = [silo for silo, seen in full if seen[what] == seen["present"]]
        rest = [silo for silo, seen in full if seen[what] < seen["present"]]
        if read and rest:
            odd, usual = (rest, read) if len(rest) <= len(read) else (read, rest)
            raise DataError(
                f"a column holds {plural} at some silos and text at others",
                got=f"{plural} at {', '.join(read[:5])}; text at {', '.join(rest[:5])}",
                where=f"silo {odd[0]!r}, {where}",
                fix=f"write it as {usual[0]!r} does, drop it, or list it under categorical",
            )
    for silo, seen in full:
        if _MOSTLY * seen["present"] < seen["number"] < seen["present"]:
            raise DataError(
                "numbers are mixed with text",
                got=f"{_some(seen['present'] - seen['number'])} of {seen['present']} values "
                "are text",
                where=f"silo {silo!r}, {where}",
                fix="leave unknown numbers empty, or list the column under categorical",
            )


def _some(count: int) -> str:
    """Return a count as silos tell it: 1 is any that is smaller than their floor."""
    return "a few" if count == 1 else str(count)


def _vocabulary(name: str, said: Sequence[Mapping[str, Any]], preprocess: Preprocess) -> Column:
    tally: Counter[str] = Counter()
    for part in said:
        tally.update(part["named"])
    frequent = [word for word, count in tally.items() if count >= preprocess.floor]
    kept = sorted(frequent, key=lambda word: (-tally[word], word))[: preprocess.categories]
    # Of spellings that a silo keeps apart all have a feature, or none: one alone would take the
    # others' rows.
    alike, whole = Counter(map(fold, kept)), Counter(map(fold, tally))
    kept = [word for word in kept if alike[fold(word)] == whole[fold(word)]]
    missing = any(part["missing"] for part in said)
    return Column(name=name, kind="category", vocabulary=tuple(sorted(kept)), indicator=missing)


def _scaled(
    name: str, spec: Mapping[str, Any], said: Sequence[Sequence[float]], preprocess: Preprocess
) -> Column:
    count, mean, deviation = merged(said)
    kind: Kind = spec["kind"]
    if not count:  # nobody may tell: see `_without_silent`
        return Column(
            name=name, kind=kind, order=spec["order"], fill=nan, indicator=spec["missing"]
        )
    column = Column(name=name, kind=kind, order=spec["order"], fill=mean, indicator=spec["missing"])
    if preprocess.scaling == "none":
        return column
    return Column(
        name=name,
        kind=kind,
        order=spec["order"],
        fill=mean,
        indicator=spec["missing"],
        shift=mean,
        scale=deviation if deviation > 0 else 1.0,
    )


def _gridded(column: Column, said: Sequence[Sequence[float]]) -> Column:
    """Scale a column by the silos that hold no values far out, where some do.

    A single such value moves mean and deviation until all other rows lie in one bin.
    """
    far = wild(said)
    if not far:
        return column
    _, mean, deviation = merged([part for place, part in enumerate(said) if place not in far])
    return replace(column, shift=mean, scale=deviation if deviation > 0 else 1.0)


def _ranked(
    clients: Clients, columns: Mapping[str, Column], moments: Answers, scaling: str
) -> dict[str, Column]:
    """Ask for histograms, and scale by their quantiles; a told bin's rows lie beyond each."""
    wide = {
        name: _gridded(c, [said[name] for _, said in moments])
        for name, c in columns.items()
        if c.kind in ("number", "date")
    }
    if not wide:
        return {}
    told = {
        name: {"kind": c.kind, "order": c.order, "shift": c.shift, "scale": c.scale}
        for name, c in wide.items()
    }
    answers = clients.ask({"ask": "histograms", "columns": told})
    out: dict[str, Column] = {}
    for name, column in wide.items():
        parts = [said[name] for _, said in answers if said[name]]
        merged_ones = any(isinstance(part[0], list) for part in parts)
        counts = np.sum([_spread(part) for part in parts], axis=0) if parts else np.zeros(1)
        # Fewer rows than the floor beyond an outer knot, and the knot would be one row's value.
        rims = _rims(parts, counts) if merged_ones else (0.0, 1.0)
        if not counts.sum():
            continue  # nobody may tell: mean and deviation scale it
        low, middle, high = (_quantile(counts, q, column) for q in (0.25, 0.5, 0.75))
        spread = (high - low) / 2
        coarse = rims[0] > _MIDDLE or rims[1] < 1 - _MIDDLE  # too few bins for ranks
        ranks = [] if coarse or scaling != "quantile" else np.linspace(*rims, 65)
        knots = [_quantile(counts, q, column) for q in ranks]
        out[name] = Column(
            name=name,
            kind=column.kind,
            order=column.order,
            indicator=column.indicator,
            fill=middle,
            shift=middle,
            scale=spread if spread > 0 else column.scale,
            knots=tuple(_rising(knots)) if knots else (),
        )
    return out


def _rims(parts: Sequence[Sequence[Any]], counts: np.ndarray) -> tuple[float, float]:
    """Return the ranks of the outermost edges beyond which some silo has told a bin of its own.

    Farther out only the shape that `_spread` assumes is known.
    """
    inner = [end for part in parts for end, _ in part[:-1]]
    if not inner:
        return 1.0, 0.0
    below = np.cumsum(counts) / counts.sum()
    return float(below[min(inner) - 1]), float(below[max(inner) - 1])


def _spread(part: Sequence[Any]) -> np.ndarray:
    """Return a histogram's counts; those of merged bins are spread over their bins.

    They are spread as the logistic distribution of mean 0 and deviation 1 in scaled units, which
    is what is known of a column when nothing else is: evenly they would make long tails.
    """
    if not isinstance(part[0], list):
        return np.asarray(part)
    side = 2 * np.arange(HISTOGRAM + 1) / HISTOGRAM - 1
    with np.errstate(divide="ignore"):
        z = side / (1 - np.abs(side))
    below = 1 / (1 + np.exp(-np.clip(z * np.pi / 3**0.5, -30, 30)))
    mass = np.diff(below) + 1e-12
    out, low = np.zeros(HISTOGRAM), 0
    for high, count in part:
        out[low:high] = count * mass[low:high] / mass[low:high].sum()
        low = high
    return out


def _quantile(counts: np.ndarray, q: float, column: Column) -> float:
    """Return the q-quantile of a histogram over the bins of `answers.bins`, linear within a bin."""
    cumulative = np.cumsum(counts)
    target = q * cumulative[-1]
    place = min(int(np.searchsorted(cumulative, target)), HISTOGRAM - 1)
    before = cumulative[place] - counts[place]
    within = (target - before) / counts[place] if counts[place] else 0.5
    unit = min(max((place + within) / HISTOGRAM, 0.5 / HISTOGRAM), 1 - 0.5 / HISTOGRAM)
    side = 2 * unit - 1
    return float(column.shift + column.scale * side / (1 - abs(side)))


def _rising(knots: Sequence[float]) -> list[float]:
    """Return strictly rising knots, as interpolation needs."""
    out = [knots[0]]
    for knot in knots[1:]:
        step = max(abs(out[-1]), 1.0) * 1e-9
        out.append(max(knot, out[-1] + step))
    return out
