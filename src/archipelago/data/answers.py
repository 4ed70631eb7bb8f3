"""The client's half of the statistics round: what leaves a silo is computed here, and nowhere else.

Counts, means and squared deviations over the client's train rows; names that at least `floor` of
its rows share. Never a row, never a minimum or maximum (they are single rows' values); what is
about fewer rows than the floor is withheld, merged or blurred, as `releases.TABLE` says.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.columns import categories, evidence, numbers, texts
from archipelago.data.releases import (
    coarse,
    lopsided,
    merged_bins,
    named_labels,
    share,
    told,
    told_evidence,
)
from archipelago.data.spelling import apart, fold, kept, spelled, without_slips

__all__ = ["FEW", "HISTOGRAM", "LocalRows", "answer", "moments"]

HISTOGRAM = 512
"""Bins of a column's histogram; see `bins`."""
FEW = 20
"""Rows below which a column gives the label by chance."""
_CODE = re.compile(r"0[0-9]+")
"""A number with a zero before it is no quantity."""
_OFTEN = 5
"""Equal rows from which on they are no slip: in a table of few categories rows often agree."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalRows:
    """One client's train rows.

    Attributes:
        client: its number.
        name: its name, for messages.
        x: columns by name, or stored values `[rows, *shape]`.
        labels: as written `[rows]` (text), or None.
        target: numbers `[rows]` of a regression, or None.
        scale: what one unit of stored integers means, a value or one a channel.
        categorical: numeric columns to be read as categories.
        separator: between labels in one field; empty: one label a row.
        floor: fewest rows behind anything that leaves; 0 where the set is published.
        declared: class names that an owner declared: they are schema.
        units: which recording each row was cut from, `[rows]`; None: each row is its own.
        place: where one of the rows stands, for messages.
        exact: whether its owner lets exact counts of labels leave.
    """

    client: int
    name: str
    x: np.ndarray | Mapping[str, np.ndarray]
    labels: np.ndarray | None
    target: np.ndarray | None
    scale: np.ndarray
    categorical: frozenset[str] = frozenset()
    separator: str = ""
    floor: int = 0
    declared: tuple[str, ...] = ()
    units: np.ndarray | None = None
    place: Callable[[int], str] | None = None
    exact: bool = False

    @property
    def rows(self) -> int:
        """Number of train rows."""
        kept = self.labels if self.labels is not None else self.target
        return 0 if kept is None else len(kept)


def answer(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    """Compute what the server asks for: `label`, `schema`, `columns`, `histograms`, `quality`."""
    known = {
        "label": _label,
        "schema": _schema,
        "columns": _columns,
        "histograms": _histograms,
        "quality": quality_answer,
    }
    return known[request["ask"]](rows, request)


def _label(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    """Count what the label column could be, before anybody has named the task."""
    if rows.labels is None:
        raise AssertionError("the label column is asked for as it stands")
    joined = dict.fromkeys(request["separators"], 0)
    codes = 0
    if rows.labels.dtype.kind == "U":
        for mark in joined:
            joined[mark] = int((np.char.find(rows.labels, mark) >= 0).sum())
        codes = sum(n for word, n in _tally(rows.labels).items() if _CODE.fullmatch(word))
    count = len(rows.labels)
    return {
        **told_evidence(evidence(rows.labels), count, rows.floor),
        **({"codes": told(codes, count, rows.floor)} if codes else {}),
        "rows": count,
        "joined": {mark: told(n, count, rows.floor) for mark, n in joined.items()},
    }


def moments(values: np.ndarray) -> list[float]:
    """Return count, mean and sum of squared deviations of the values that are not NaN."""
    kept = values[~np.isnan(values)]
    if len(kept) == 0:
        return [0.0, 0.0, 0.0]
    mean = float(kept.mean())
    return [float(len(kept)), mean, float(((kept - mean) ** 2).sum())]


def told_moments(values: np.ndarray, floor: int) -> list[float]:
    """Return `moments` as they may leave; a count of 0 where they may not.

    The count is told as `releases.told` does: how many values are missing follows from it.
    """
    if floor < 2:
        return moments(values)
    if lopsided(values, floor):
        return [0.0, 0.0, 0.0]
    count, mean, squares = moments(values)
    shown = told(int(count), len(values), floor)
    return [float(shown), mean, squares * shown / count]


def bins(values: np.ndarray, shift: float, scale: float) -> np.ndarray:
    """Return each value's bin: even steps of 1/2 + z / 2(1 + |z|) of the scaled value z."""
    z = (values - shift) / scale
    unit = 0.5 + 0.5 * z / (1 + np.abs(z))
    return np.clip((unit * HISTOGRAM).astype(np.int64), 0, HISTOGRAM - 1)


def _schema(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    del request
    out: dict[str, Any] = {"rows": rows.rows}
    if rows.labels is not None:
        out |= _told_labels(rows)
    if rows.target is not None:
        out["target"] = told_moments(rows.target, rows.floor)
    if isinstance(rows.x, Mapping):
        out["columns"] = {
            name: {
                **told_evidence(evidence(values), len(values), rows.floor),
                "rows": len(values),
                "named": name in rows.categorical,
            }
            for name, values in rows.x.items()
        }
    else:
        axes = (0, *range(2, rows.x.ndim))
        count = rows.x.size // max(1, rows.x.shape[1])
        mean = rows.x.mean(axis=axes, dtype=np.float64)
        squares = rows.x.var(axis=axes, dtype=np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
            raise DataError(
                "values are missing or infinite",
                where="the array of inputs",
                fix="only tables may miss values: fill these in, or leave the rows out",
            )
        out["channels"] = [
            [count, m * s, v * count * s * s]
            for m, v, s in zip(
                mean.tolist(),
                squares.tolist(),
                np.broadcast_to(rows.scale, mean.shape).tolist(),
                strict=True,
            )
        ]
    return out


def _told_labels(rows: LocalRows) -> dict[str, Any]:
    """Return the classes that may be named, with counts, and how many rows have another one."""
    labels = rows.labels
    if labels is None:
        raise AssertionError("a regression has no classes")
    tally, people = _tally(labels, rows.separator), Counter[str]()
    if rows.floor > 1 and rows.units is not None:
        # Windows of one recording are one person's: a class has as many rows as recordings.
        each = np.unique(np.stack([rows.units, np.unique(labels, return_inverse=True)[1]]), axis=1)
        people = _tally(np.unique(labels)[each[1]], rows.separator)
    if rows.floor < 2:
        return {"labels": without_slips(tally)}
    named = named_labels(people or tally, rows.declared, rows.floor)
    counts = {name: sum(tally[spelling] for spelling in all_) for name, all_ in named.items()}
    shown = {n: c if rows.exact else max(1, coarse(c, rows.floor)) for n, c in counts.items()}
    others = sum(tally.values()) - sum(counts.values())
    return {"labels": shown, "unnamed": told(min(others, rows.rows), rows.rows, rows.floor)}


def _columns(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    x = _table(rows)
    for name, spec in request["columns"].items():
        if spec["kind"] != "category":
            values = _numbers(rows, x[name], name, spec)
            out[name] = told_moments(values, rows.floor)
            continue
        written = _tally(categories(x[name]))
        missing = written.pop("", 0)
        floor = max(request["floor"], rows.floor)
        # Folded, as everybody's are; where this silo keeps spellings apart, as they are written.
        separate = apart(written, floor)
        tally = Counter[str]()
        for word, count in written.items():
            tally[word if fold(word) in separate else fold(word)] += count
        named = {word: n for word, n in tally.items() if n >= floor}
        other = sum(tally.values()) - sum(named.values())
        out[name] = {
            "missing": told(missing, rows.rows, rows.floor),
            "named": {word: coarse(n, rows.floor) for word, n in named.items()},
            "other": told(other, rows.rows, rows.floor),
        }
    return out


def _tally(words: np.ndarray, separator: str = "") -> Counter[str]:
    """Count rows by spelling, in the order of the text; of joined labels by each of them."""
    tally: Counter[str] = Counter()
    distinct, counts = np.unique(words, return_counts=True)
    for word, count in zip(distinct.tolist(), counts.tolist(), strict=True):
        for part in map(spelled, word.split(separator)) if separator else (word,):
            if part or not separator:
                tally[part] += count
    return tally


def _numbers(rows: LocalRows, values: np.ndarray, name: str, spec: Mapping[str, Any]) -> np.ndarray:
    """Read a column of the client's; a message names the row, never the value."""
    return numbers(values, spec["kind"], column=name, order=spec["order"], place=rows.place)


def _histograms(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    x = _table(rows)
    for name, spec in request["columns"].items():
        values = _numbers(rows, x[name], name, spec)
        kept = bins(values[~np.isnan(values)], spec["shift"], spec["scale"])
        counts = np.bincount(kept, minlength=HISTOGRAM)
        out[name] = counts.tolist() if rows.floor < 2 else _told_bins(counts, values, rows.floor)
    return out


def _told_bins(counts: np.ndarray, values: np.ndarray, floor: int) -> list[list[int]]:
    """Return merged bins, whose rows sum to the count that the moments told."""
    if lopsided(values, floor):
        return []
    found = merged_bins(counts, floor)
    largest = max(found, key=lambda part: part[1])
    largest[1] += told(int(counts.sum()), len(values), floor) - int(counts.sum())
    return found


def quality_answer(rows: LocalRows, request: Mapping[str, Any]) -> dict[str, Any]:
    """Count what is wrong with the rows: counts and shares only.

    Returns:
        `duplicates` (rows equal to an earlier one), `conflicts` (rows equal to one of another
        label), `base` (share of the commonest label) and for each column how well it alone gives
        the label: in `purity` (share of rows that have the commonest label of their value), for
        numeric `columns` in `apart` (share of rows that thresholds put on their label's side), or
        for a numeric target in `correlation` (absolute).
    """
    x = _table(rows)
    codes = [_codes(column) for column in x.values()]
    rows_alike = np.unique(np.stack(codes, axis=1), axis=0, return_index=True, return_inverse=True)
    first, whole = rows_alike[1], rows_alike[2].reshape(-1)
    label = rows.target
    if rows.labels is not None:  # two spellings of one class are no contradiction
        under = kept(_tally(rows.labels))
        words, where = np.unique(rows.labels, return_inverse=True)
        label = np.array([under[word] for word in words.tolist()], dtype=np.str_)[where]
    kinds = np.unique(label, return_inverse=True)[1] if label is not None else whole * 0
    pairs = len(np.unique(whole * (kinds.max() + 1) + kinds))
    groups = len(np.unique(whole))
    common = _commonest(whole, kinds)
    count, floor = len(whole), rows.floor
    commonest = int(np.bincount(kinds).max())
    out: dict[str, Any] = {
        "duplicates": told(count - pairs, count, floor),
        "conflicts": told(int(count - common), count, floor) if pairs > groups else 0,
        "base": (count if count - commonest < floor else coarse(commonest, floor)) / count,
        "purity": {},
        "apart": {},
        "correlation": {},
    }
    if rows.target is not None:
        for name, spec in request["columns"].items():
            values = _numbers(rows, x[name], name, spec)
            few = floor > 1 and lopsided(values, floor)
            out["correlation"][name] = 0.0 if few else _correlation(values, rows.target)
    if rows.labels is not None:
        for name, code in zip(x, codes, strict=True):
            # A value that one row has says nothing, nor does one that a doubled row brings twice.
            differing = np.bincount(code[first], minlength=int(code.max()) + 1)
            shared = (differing[code] >= 2) | (np.bincount(code)[code] >= _OFTEN)
            if shared.sum() >= len(code) / 2:
                hits, of = _commonest(code[shared], kinds[shared]), int(shared.sum())
                if of >= floor:
                    out["purity"][name] = share(hits, of, floor)
        for name, spec in request["columns"].items():
            values = _numbers(rows, x[name], name, spec)
            there = ~np.isnan(values)
            if there.sum() >= max(FEW, len(values) / 2):
                hits, of = _apart(values[there], kinds[there]), int(there.sum())
                out["apart"][name] = share(hits, of, floor)
    return out


def _codes(column: np.ndarray) -> np.ndarray:
    """Return a number for each distinct value."""
    if column.dtype.kind == "U":
        return np.unique(texts(column), return_inverse=True)[1]
    return np.unique(column, return_inverse=True)[1]


def _commonest(value: np.ndarray, kinds: np.ndarray) -> int:
    """Count rows that have the commonest label among the rows of their value."""
    width = int(kinds.max()) + 1
    table, counts = np.unique(value * width + kinds, return_counts=True)
    best = np.zeros(int(value.max()) + 1, np.int64)
    np.maximum.at(best, table // width, counts)
    return int(best.sum())


def _apart(values: np.ndarray, kinds: np.ndarray) -> int:
    """Return the number of rows on their label's side of the best thresholds between labels.

    Labels are put in the order of their medians. Few rows of a label, or very many labels, say
    nothing: 0.
    """
    present, codes, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    if not 2 <= len(present) <= FEW or len(values) - counts.max() < FEW / 4:
        return 0
    middle = [np.median(values[codes == code]) for code in range(len(present))]
    place = np.argsort(np.argsort(middle, kind="stable"))[codes]
    order = np.argsort(values, kind="stable")
    ranked, sides = values[order], place[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    cuts: list[float] = []
    for left in range(len(present) - 1):
        above = sides > left
        wrong = np.cumsum(above) + (~above).sum() - np.cumsum(~above)
        cuts.append(float(ranked[last][np.argmin(wrong[last])]))
    said = np.searchsorted(np.sort(cuts), values, side="left")
    return int((said == place).sum())


def _correlation(values: np.ndarray, target: np.ndarray) -> float:
    """Return the absolute correlation over rows that have the value; 0 where it is undefined."""
    there = ~np.isnan(values)
    a, b = values[there], target[there]
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(abs(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())))


def _table(rows: LocalRows) -> Mapping[str, np.ndarray]:
    if isinstance(rows.x, Mapping):
        return rows.x
    raise AssertionError("only tables have columns")
