"""What may leave a silo, in one table, and the floors that its answers go through.

`TABLE` is what the code, the report, `archipelago released` and the documentation show. A floor is
a number of rows (`preprocess.floor`): no answer of a silo is about fewer. Of series that are cut
into windows it counts recordings. Sets that anybody can look up (`PUBLISHED = True`) need none.

Two silos and a sum of both: whoever knows one's share knows the other's. Floors are about rows, not
about silos; secure sums will be.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from archipelago.core.errors import DataError
from archipelago.data.spelling import fold, kept

__all__ = [
    "BY_QUESTION",
    "TABLE",
    "Release",
    "Withheld",
    "coarse",
    "lopsided",
    "merged_bins",
    "named_labels",
    "refuse_all_few",
    "share",
    "told",
    "told_evidence",
    "withheld_lines",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One kind of thing that leaves a silo.

    Attributes:
        name: of the kind.
        leaves: what is sent, and for what.
        floor: what at least so many rows must stand behind.
        below: what happens otherwise.
        summed: whether secure sums will exempt it from the floor of each silo: the sum over silos
            must then reach it.
    """

    name: str
    leaves: str
    floor: str
    below: str
    summed: bool


TABLE = (
    Release(
        name="silo",
        leaves="its name and its number of train rows: the weight of its updates",
        floor="train rows",
        below="left out of the study before anything is asked, and named",
        summed=False,
    ),
    Release(
        name="column counts",
        leaves="how many values are present, numbers, dates, truth values; how many differ",
        floor="values present; each count, and what it lacks of all",
        below="fewer values: told as empty; a smaller count is told as 1, all but a few as all "
        "but 1. Different values are counted exactly: that is no count of rows",
        summed=True,
    ),
    Release(
        name="moments",
        leaves="count, mean and squared deviations of a column, a channel or a numeric target",
        floor="values present; values that differ from the commonest one, unless all are equal",
        below="withheld: the silo is left out of this column's question, and that is said",
        summed=True,
    ),
    Release(
        name="histogram bins",
        leaves="counts of a numeric column for robust and quantile scaling",
        floor="rows of each bin; rows beyond each knot that is shipped",
        below="bins are merged, halves of halves, so that no edge follows a row; outer knots are "
        "left out",
        summed=True,
    ),
    Release(
        name="categories",
        leaves="names of a column's categories, with counts in steps of the floor",
        floor="rows of each name",
        below="merged into (other)",
        summed=False,
    ),
    Release(
        name="classes",
        leaves="names of classes that the rows hold",
        floor="train rows of each name; none for names declared by folders or `task.classes`",
        below="withheld; rows of a class that no silo may name are left out at their silo (of "
        "several labels a row, only that label), and that is said",
        summed=False,
    ),
    Release(
        name="label counts",
        leaves="train rows of each class, in steps of the floor; exact ones are off "
        "(`preprocess.label_counts`)",
        floor="rows of each count",
        below="told as 1 for a declared class, else withheld with its name",
        summed=True,
    ),
    Release(
        name="class presence",
        leaves="whether train, validation and test rows hold each agreed class, so that a score "
        "that has no value is known beforehand",
        floor="rows of a class in a split",
        below="told as none or few; never a count",
        summed=False,
    ),
    Release(
        name="verdict",
        leaves="doubled and contradicting rows; shares and correlations of columns with the label",
        floor="each count, and what a share lacks of all",
        below="told as 1, or as all but 1; a correlation is withheld as moments are",
        summed=False,
    ),
    Release(
        name="model updates",
        leaves="the change of the network's weights, and the mean training loss",
        floor="train rows",
        below="the silo is left out of the study",
        summed=True,
    ),
    Release(
        name="score vectors",
        leaves="sums over validation or test rows from which every metric is computed",
        floor="rows of the split, not of each cell",
        below="the silo is not asked to score, and that is said with its name",
        summed=True,
    ),
    Release(
        name="scores per site",
        leaves="the metric and the number of test rows of each site, in the report",
        floor="test rows",
        below="the site is left out of the list, and named",
        summed=False,
    ),
    Release(
        name="values in messages",
        leaves="silo, column, row number and form (letters, digits) of what cannot be read",
        floor="rows that share a value that is printed",
        below="no value is printed",
        summed=False,
    ),
)
"""Every kind of release, in the order in which a study meets them."""


BY_QUESTION = {
    "label": "column counts",
    "schema": "silo, column counts, classes, label counts, moments",
    "columns": "moments, categories",
    "histograms": "histogram bins",
    "quality": "verdict",
    "presence": "class presence",
}
"""Kinds of release that each question of the statistics round brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """Something that a silo does not tell, or is not asked.

    Attributes:
        silo: its name.
        what: `silo`, `moments`, `classes`, `labels`, `validation`, `test` or `answer`.
        detail: the columns, the question, or how many rows.
    """

    silo: str
    what: str
    detail: str = ""


_SAID = {
    "silo": "left out of the study, with fewer than {floor} train rows: {silos}",
    "moments": "no mean or deviation of some columns, where fewer than {floor} values are there or "
    "differ from the commonest one: {silos}",
    "classes": "rows left out of a class that no silo may name, with fewer than {floor} train rows "
    "at each silo: {silos}; list every class in the run file (task.classes) to keep them",
    "labels": "rows keep their other labels, and lose one that no silo may name, with fewer than "
    "{floor} train rows at each silo: {silos}; list every class in the run file (task.classes) to "
    "keep it",
    "validation": "not asked to validate, with fewer than {floor} rows to validate on: {silos}",
    "test": "not asked to test, with fewer than {floor} test rows: {silos}",
    "answer": "left out of a question, since its answer could not be read: {silos}",
}
_NAMED = 10
_WIDE, _WIDE_CUTS = 128, (4, 3, 5, 2, 6, 1, 7)
"""Bins from which on a range may be cut at an eighth, and in which order: no edge tells a row to
within 16 bins."""


def withheld_lines(found: Iterable[Withheld], floor: int) -> Iterator[str]:
    """Yield a sentence for each kind of thing that was withheld, with the silos' names."""
    kinds: dict[str, list[str]] = {}
    for one in found:
        name = f"{one.silo} ({one.detail})" if one.detail else one.silo
        kinds.setdefault(one.what, []).append(name)
    for what, text in _SAID.items():
        if silos := kinds.get(what):
            rest = f" and {len(silos) - _NAMED} more" if len(silos) > _NAMED else ""
            yield text.format(floor=floor, silos=", ".join(silos[:_NAMED]) + rest)


def told(count: int, of: int, floor: int) -> int:
    """Return a count of `of` rows as it may be told: fewer than `floor` as 1, all but few as all-1.

    So 0 and all are told apart from some and not all, and nothing else about few rows.

    Example:
        >>> [told(count, 20, 5) for count in (0, 3, 9, 18, 20)]
        [0, 1, 9, 19, 20]
    """
    if 0 < count < min(floor, of):
        return 1
    return of - 1 if 0 < of - count < floor else count


def told_evidence(seen: Mapping[str, int], rows: int, floor: int) -> dict[str, int]:
    """Return a column's counts as they may be told; fewer present values than `floor` as none.

    Args:
        seen: of `columns.evidence`.
        rows: of the column.
        floor: fewest rows behind a count.
    """
    present = seen["present"]
    if floor < 2 or not present:
        return dict(seen)
    if present < floor:
        return {**dict.fromkeys(seen, 0), "withheld": 1}
    shown = told(present, rows, floor)
    out = {"present": shown, "distinct": min(seen["distinct"], shown)}
    for name, count in seen.items():
        if name == "infinite":
            out[name] = told(count, rows, floor)
        elif name not in out:
            # What is present may be told as less: all of it must stay all of it.
            part = told(count, present, floor)
            out[name] = shown if count == present else min(part, shown - 1)
    return out


def coarse(count: int, floor: int) -> int:
    """Return a count in steps of `floor`, rounded down: what it lacks of all tells no few rows."""
    return count if floor < 2 else count - count % floor


def share(hits: int, of: int, floor: int) -> float:
    """Return a share of rows of which neither part may be told if it is smaller than `floor`."""
    return told(hits, of, floor) / of


def lopsided(values: np.ndarray, floor: int) -> bool:
    """Whether so few of the values that are not NaN are there, or differ, that sums give them away.

    Of two moments and the commonest value, one or two others follow by arithmetic.
    """
    kept = values[~np.isnan(values)]
    if len(kept) < floor:
        return True
    counts = np.unique(kept, return_counts=True)[1]
    others = len(kept) - int(counts.max())
    return 0 < others < floor and (int(counts.max()) >= floor or len(counts) == 2)


def merged_bins(counts: np.ndarray, floor: int) -> list[list[int]]:
    """Merge the bins of a histogram until each holds at least `floor` rows.

    A range is halved while both halves hold enough; a wide one that cannot be is cut at the first
    eighth where it can. Edges stand on a grid that does not depend on the rows: closing a bin at
    its `floor`-th row would tell that row to the width of a bin.

    Args:
        counts: rows of each bin; their number is a power of two.
        floor: fewest rows of what is told.

    Returns:
        `[end, rows]` of each merged bin, ascending; none where all bins together hold too few. The
        first begins at 0 and the last ends at the end, whatever the rows are.
    """
    before = np.cumsum([0, *counts.tolist()])

    def parts(low: int, high: int) -> Iterator[list[int]]:
        width = high - low
        for eighths in _WIDE_CUTS if width >= _WIDE else (4,) if width > 1 else ():
            edge = low + width * eighths // 8
            if min(before[edge] - before[low], before[high] - before[edge]) >= floor:
                yield from parts(low, edge)
                yield from parts(edge, high)
                return
        yield [high, int(before[high] - before[low])]

    return list(parts(0, len(counts))) if before[-1] >= floor else []


def named_labels(tally: Counter[str], declared: Sequence[str], floor: int) -> dict[str, list[str]]:
    """Return the classes that a silo may name, each with all its spellings.

    Args:
        tally: train rows of each spelling; which of them are one class says `spelling.kept`.
        declared: names that an owner declared, in any case: schema, whatever the rows hold.
        floor: fewest rows behind any other name. A class has those of all its spellings, and is
            named by the commonest: another one may be a single row's.
    """
    known = {fold(name) for name in declared}
    under = kept(tally, floor)
    spellings: dict[str, list[str]] = {}
    for name in sorted(tally, key=lambda name: (-tally[name], name)):
        spellings.setdefault(under[name], []).append(name)
    return {
        names[0]: names
        for names in spellings.values()
        if fold(names[0]) in known or sum(tally[name] for name in names) >= floor
    }


def refuse_all_few(names: Sequence[str], floor: int) -> DataError:
    """Return the error of a study in which no silo has enough rows."""
    return DataError(
        f"no silo has {floor} train rows: nothing may be asked of any",
        got=f"{len(names)} silos, {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}",
        where="data",
        fix="join silos (partition.clients), or lower preprocess.floor if their owners agree",
    )
