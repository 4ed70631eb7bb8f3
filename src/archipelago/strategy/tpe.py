"""Tree-structured Parzen estimators."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from random import Random
from typing import Literal

import numpy as np

from archipelago.core.checks import at_least, between
from archipelago.core.trial import Arch, Proposal
from archipelago.space.dims import Slot
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory
from archipelago.strategy.columns import Growing, Numbers, pool, propose, told, told_places

__all__ = ["Tpe", "improvement"]


def improvement(ratio: Numbers, share: float) -> Numbers:
    r"""Return expected improvement up to a constant: $(\gamma + \frac{g}{\ell}(1 - \gamma))^{-1}$.

    Args:
        ratio: l / g, density among the good over density among the others.
        share: gamma, the share of the good.

    References:
        Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization, equation 3.
    """
    return 1.0 / (share + (1.0 - share) / ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpe:
    """Model the good and the others, and propose what is much likelier among the good.

    Each model is a product over choices (`choices`), as the method is taught, or over pairs of
    choices (`pairs`), which sees what works together. Numbers in order are smoothed over their
    neighbours; a choice that is absent says nothing. What was proposed is never proposed again.

    Attributes:
        model: `choices` or `pairs`.
        good: `root`: a quarter of the square root of the trials are good, at most 25 (hyperopt);
            `share`: a tenth, at most 25 (Optuna); `quarter`: a quarter, however many.
        startup: random proposals before the first model.
        prior: weight of the uniform distribution, in trials.
        candidates: drawn from the model of the good for each proposal; 0 compares every class of
            a small space (24 in a large one).

    References:
        Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; Watanabe 2023,
        arXiv:2304.11127 (the variants in practice).
    """

    kind: Literal["tpe"] = "tpe"
    model: Literal["choices", "pairs"] = "pairs"
    good: Literal["root", "share", "quarter"] = "share"
    startup: int = 20
    prior: float = 1.0
    candidates: int = 0

    def __post_init__(self) -> None:
        at_least("strategy.startup", self.startup, 2)
        at_least("strategy.candidates", self.candidates, 0)
        between("strategy.prior", self.prior, 0, 1000, open_low=True)

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` points."""
        return propose(state, n, allowed, startup=self.startup, choose=self._choose)

    def count_good(self, trials: int) -> int:
        """Return how many of `trials` are good."""
        rules = {
            "root": min(ceil(0.25 * sqrt(trials)), 25),
            "share": min(ceil(0.1 * trials), 25),
            "quarter": ceil(0.25 * trials),
        }
        return max(1, min(rules[self.good], trials - 1))

    def _choose(self, state: Memory, rng: Random) -> tuple[Sequence[Arch], Numbers]:
        scores = told(state)[1]
        count = self.count_good(len(scores))
        good = np.zeros(len(scores), bool)
        good[np.argsort(-scores, kind="stable")[:count]] = True
        layout = _layout(state.space, self.model == "pairs")
        ratio = _log_ratio(_cells(state, layout), good, layout, self.prior)
        small = pool(state.space) if self.candidates == 0 else None
        if small is not None:
            key = ("cells", self.model)
            if key not in small.notes:
                # A row for each group: sums run along memory.
                small.notes[key] = np.ascontiguousarray(_cells_of(small.places, layout).T)
            values = np.take(ratio.astype(np.float32), small.notes[key]).sum(axis=0)
            return small.archs, np.where(small.open(state), values, np.float32("-inf"))
        archs = self._draw(state, good, rng)
        if not archs:
            return (), np.zeros(0)
        places = np.array([state.space.places(arch) for arch in archs])
        return archs, ratio[_cells_of(places, layout)].sum(axis=1)

    def _draw(self, state: Memory, good: Numbers, rng: Random) -> list[Arch]:
        """Draw new points, each choice from the good."""
        places = told_places(state)[good]
        odds: dict[str, list[float]] = {}
        for index, slot in enumerate(state.space.slots):
            here = places[:, index]
            counts = np.bincount(here[here >= 0], minlength=len(slot.options)).astype(float)
            odds[slot.name] = (_spread(slot, counts) + self.prior / len(slot.options)).tolist()

        def fill(slot: Slot) -> str | int | float | bool:
            return rng.choices(slot.options, odds[slot.name])[0]

        found: list[Arch] = []
        wanted = self.candidates or 24
        for _ in range(4 * wanted):
            arch = state.space.fill({}, fill)
            if not state.seen(arch):
                found.append(arch)
                if len(found) == wanted:
                    break
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Where the cells of each group of choices lie in one row; cell 0 is for the absent.

    Attributes:
        pairs: whether a group is two choices, or one.
        groups: indices of the choices of each group.
        tables: the choices themselves.
        sizes: cells of each group.
        starts: first cell of each group.
        owners: group of each cell but the first.
        ordered: whether any choice is ordered.
    """

    pairs: bool
    groups: tuple[tuple[int, ...], ...]
    tables: tuple[tuple[Slot, ...], ...]
    sizes: Numbers
    starts: Numbers
    owners: Numbers
    ordered: bool


def _layout(space: Space, pairs: bool) -> _Layout:
    key = ("tpe", pairs)
    if key not in space.notes:
        slots = space.slots
        groups = tuple((i,) for i in range(len(slots)))
        if pairs and len(slots) > 1:
            groups = tuple((i, j) for j in range(len(slots)) for i in range(j))
        tables = tuple(tuple(slots[i] for i in group) for group in groups)
        sizes = np.array([int(np.prod([len(s.options) for s in table])) for table in tables])
        space.notes[key] = _Layout(
            pairs=pairs,
            groups=groups,
            tables=tables,
            sizes=sizes,
            starts=np.cumsum([1, *sizes[:-1]]),
            owners=np.repeat(np.arange(len(sizes)), sizes),
            ordered=any(slot.ordered for slot in slots),
        )
    return space.notes[key]


def _cells_of(places: Numbers, layout: _Layout) -> Numbers:
    """Return for every row the cells it falls into, shape `[rows, groups]`."""
    columns: list[Numbers] = []
    for group, table, start in zip(layout.groups, layout.tables, layout.starts, strict=True):
        cell, absent = np.zeros(len(places), np.int64), np.zeros(len(places), bool)
        for index, slot in zip(group, table, strict=True):
            cell = cell * len(slot.options) + places[:, index]
            absent |= places[:, index] < 0
        columns.append(np.where(absent, 0, cell + start))
    return np.stack(columns, axis=1)


def _cells(state: Memory, layout: _Layout) -> Numbers:
    """Return the cells of everything told; each outcome's are worked out once."""
    key = ("tpe", layout.pairs)
    rows = state.log.notes.get(key)
    if rows is None:
        rows = state.log.notes[key] = Growing((len(layout.groups),), np.int64)
    if rows.length < state.tells:
        for row in _cells_of(told_places(state)[rows.length :], layout):
            rows.append(row)
    return rows.first(state.tells)


def _log_ratio(cells: Numbers, good: Numbers, layout: _Layout, prior: float) -> Numbers:
    """Return log(l / g) of every cell; 0 for the absent."""
    total = 1 + len(layout.owners)
    near = np.bincount(cells[good].ravel(), minlength=total).astype(float)
    far = np.bincount(cells.ravel(), minlength=total) - near
    if layout.ordered:
        for table, size, start in zip(layout.tables, layout.sizes, layout.starts, strict=True):
            if any(slot.ordered for slot in table):
                span = slice(start, start + size)
                shape = tuple(len(slot.options) for slot in table)
                near[span] = _smooth(table, near[span].reshape(shape)).ravel()
                far[span] = _smooth(table, far[span].reshape(shape)).ravel()
    ratio = np.zeros(total)
    uniform = (prior / layout.sizes)[layout.owners]
    nears = np.add.reduceat(near[1:], layout.starts - 1)[layout.owners]
    fars = np.add.reduceat(far[1:], layout.starts - 1)[layout.owners]
    ratio[1:] = np.log((near[1:] + uniform) * (fars + prior))
    ratio[1:] -= np.log((far[1:] + uniform) * (nears + prior))
    return ratio


def _smooth(table: Sequence[Slot], counts: Numbers) -> Numbers:
    for axis, slot in enumerate(table):
        if slot.ordered:
            moved = np.moveaxis(counts, axis, -1)
            counts = np.moveaxis(_spread(slot, moved), -1, axis)
    return counts


def _spread(slot: Slot, counts: Numbers) -> Numbers:
    """Let every count of an ordered choice reach its neighbours; totals stay."""
    if not slot.ordered or len(slot.options) < 3:
        return counts
    place = np.arange(len(slot.options))
    width = max(1.0, len(slot.options) / 10)
    kernel = np.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return counts @ (kernel / kernel.sum(axis=1, keepdims=True))
