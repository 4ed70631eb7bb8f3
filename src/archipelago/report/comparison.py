"""Runs side by side, as lines of text and as a page: plain values in, no journal, no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from archipelago.report.html import STYLE
from archipelago.report.tables import table
from archipelago.report.text import count, html, number, plural, shown, size

__all__ = ["Comparison", "Group", "Pair", "lines", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        name: of the runs.
        settings: in which they differ from the first group, as `section.option=value`.
        seeds: of the runs, ascending.
        mean: of the shipped networks' test scores, in the metric's own unit.
        deviation: standard deviation over seeds; None for one seed.
        params: of the shipped network, mean over seeds.
        macs: of it, a row; mean over seeds.
        client_seconds: that search and final training took on clients, virtual; mean over seeds.
        bytes: that they moved, up and down; mean over seeds.
    """

    name: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    mean: float
    deviation: float | None
    params: float
    macs: float
    client_seconds: float
    bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The first group minus the second, turned so that positive means that the first is better.

    Attributes:
        first: index of a group; `second` too.
        difference: mean over what is paired; `low` and `high` bound it at 95 %.
        p: of a paired t test over seeds; None where clients are drawn instead.
        paired: `seeds` or `clients`; `none` without a seed in common.
        units: how many pairs.
        note: why there is no interval, or what it leaves out.
    """

    first: int
    second: int
    difference: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p: float | None = None
    paired: str = "none"
    units: int = 0
    note: str = ""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `not distinguishable` or `not compared`, by the interval alone."""
        if not (isfinite(self.low) and isfinite(self.high)):
            return "not compared"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not distinguishable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Groups of runs on the same data.

    Attributes:
        data: one line on what all were trained on.
        metric: shown everywhere; `percent` as in `Findings`.
        groups: in the order in which they were given.
        pairs: every two of them.
        notes: runs that were given and left out, and why.
    """

    data: str
    metric: str
    percent: bool
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()


_HEADS = ("run", "seeds", "test", "client time", "bytes", "parameters", "MACs a row", "differs by")
_PAIRED = ("first", "second", "first minus second", "95 % interval", "p", "paired over", "verdict")


def lines(found: Comparison) -> Iterator[str]:
    """Yield the comparison as text."""
    yield f"{found.metric} on test rows; {found.data}"
    yield from _aligned([_HEADS, *_groups(found)])
    if found.pairs:
        yield ""
        yield from _aligned([_PAIRED, *_pairs(found)])
        yield _HOW
    yield from found.notes


def render(found: Comparison) -> str:
    """Return the comparison as one self-contained page. Equal values give equal bytes."""
    names = " against ".join(_label(found, index) for index in range(len(found.groups)))
    pairs = table(_HOW, _PAIRED, list(_pairs(found))) if found.pairs else ""
    caption = f"{found.metric}: mean and standard deviation over seeds."
    notes = "".join(f"<p class='soft'>{html(note)}</p>" for note in found.notes)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html(names)}: Archipelago comparison</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{html(names)}</h1><p class='soft'>{html(found.data)}</p>"
        f"<h2>Scores and what they cost</h2>{table(caption, _HEADS, list(_groups(found)))}{notes}"
        f"<h2>Paired differences</h2>{pairs}</main></body></html>"
    )


_HOW = (
    "Differences are turned so that positive means better. Over seeds: a paired t test (three "
    "seeds or more in common); over clients: drawn with replacement, which says nothing of a "
    "repetition of the search."
)


def _groups(found: Comparison) -> Iterator[tuple[str, ...]]:
    for index, group in enumerate(found.groups):
        spread = "" if group.deviation is None else f" ± {_value(group.deviation, found)}"
        yield (
            _label(found, index),
            ", ".join(map(str, group.seeds)),
            f"{_value(group.mean, found)}{spread}",
            f"{number(group.client_seconds)} s",
            size(group.bytes),
            count(group.params),
            count(group.macs),
            ", ".join(group.settings) or "–",
        )


def _pairs(found: Comparison) -> Iterator[tuple[str, ...]]:
    for pair in found.pairs:
        yield (
            _label(found, pair.first),
            _label(found, pair.second),
            shown(pair.difference, percent=found.percent, signed=True),
            "–" if pair.paired == "none" else _interval(pair, found),
            "–" if pair.p is None else f"{pair.p:.3f}",
            "–" if pair.paired == "none" else plural(pair.units, pair.paired.rstrip("s")),
            pair.verdict,
        )


def _interval(pair: Pair, found: Comparison) -> str:
    if not (isfinite(pair.low) and isfinite(pair.high)):
        return f"none: {pair.note}"
    low, high = (shown(v, percent=found.percent, signed=True) for v in (pair.low, pair.high))
    return f"{low} to {high}" + (f" ({pair.note})" if pair.note else "")


def _label(found: Comparison, index: int) -> str:
    name = found.groups[index].name
    twice = sum(group.name == name for group in found.groups) > 1
    return f"{name} ({index + 1})" if twice else name


def _value(value: float, found: Comparison) -> str:
    if not isfinite(value):
        return "undefined"
    return shown(value, percent=found.percent)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
