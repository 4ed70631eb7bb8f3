"""A search's history as arrays that grow with it, and the space's classes as one array."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archipelago.core.trial import Arch, Proposal
from archipelago.space.space import Space
from archipelago.strategy.base import Allowed, Memory

__all__ = [
    "Growing",
    "Numbers",
    "Pool",
    "draw",
    "inputs",
    "pool",
    "propose",
    "rank_normal",
    "standard",
    "told",
    "told_places",
    "views",
]

Numbers = NDArray[Any]
MOST_MEMBERS = 20_000
"""Spaces up to this size are scored whole; of larger ones, candidates are drawn."""


class Growing:
    """An array that grows by rows, at a constant cost each."""

    __slots__ = ("_rows", "length")

    def __init__(self, width: tuple[int, ...] = (), dtype: Any = float) -> None:
        self._rows, self.length = np.empty((16, *width), dtype), 0

    def append(self, row: Any) -> None:
        """Add a row in place."""
        if self.length == len(self._rows):
            more = np.empty((2 * self.length, *self._rows.shape[1:]), self._rows.dtype)
            more[: self.length] = self._rows
            self._rows = more
        self._rows[self.length] = row
        self.length += 1

    def first(self, length: int) -> Numbers:
        """Return a view of the first rows."""
        return self._rows[:length]


def told(state: Memory) -> tuple[Numbers, Numbers]:
    """Return numbers and scores of the outcomes in order of arrival, shape `[tells]` each.

    A failed candidate has the score minus infinity.
    """
    notes = state.log.notes
    numbers = notes.setdefault("told.numbers", Growing(dtype=np.int64))
    scores = notes.setdefault("told.scores", Growing())
    for outcome in state.log.told[scores.length : state.tells]:
        numbers.append(outcome.number)
        scores.append(outcome.score if outcome.scored else float("-inf"))
    return numbers.first(state.tells), scores.first(state.tells)


def told_places(state: Memory) -> Numbers:
    """Return the places of what was told, shape `[tells, slots]`, -1 where a choice is absent."""
    key = "told.places"
    rows = state.log.notes.get(key)
    if rows is None:
        rows = state.log.notes[key] = Growing((len(state.space.slots),), np.int64)
    for outcome in state.log.told[rows.length : state.tells]:
        rows.append(state.log.places[outcome.number])
    return rows.first(state.tells)


def rank_normal(scores: Numbers) -> Numbers:
    """Return the standard normal quantiles of the ranks: ties share one, failures are last."""
    from scipy.special import ndtri  # here: every run imports this module, few rank

    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return ndtri((ranks[place] - 0.5) / len(scores))


def standard(scores: Numbers) -> Numbers:
    """Return scores of mean 0 and deviation 1; failures count as the worst that did not fail."""
    scores = _floored(scores)
    spread = scores.std()
    return (scores - scores.mean()) / (spread if spread > 0 else 1.0)


def _floored(scores: Numbers) -> Numbers:
    finite = np.isfinite(scores)
    return np.where(finite, scores, scores[finite].min() if finite.any() else 0.0)


def views(space: Space, archs: Sequence[Arch], *, choices: bool = False) -> list[Numbers]:
    """Return the space's views of these members, or only the view of the choices themselves.

    Returns:
        Arrays of shape `[archs, width]`; half the L1 distance of two rows is in about [0, 1].
    """
    if not archs:
        return []
    if space.features is None or choices:
        slots = space.slots
        weight = [w for s in slots for w in ([2.0] if s.ordered else [1.0] * len(s.options))]
        rows = np.array([space.encode(arch) for arch in archs], np.float32)
        return [rows.reshape(len(archs), -1) * np.array(weight, np.float32) / len(slots)]
    groups = zip(*(space.features(arch) for arch in archs), strict=True)
    return [np.array(group, np.float32) for group in groups]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """One member of every class of a small space.

    Attributes:
        archs: the first member of each class, in order of enumeration.
        index: canonical key -> position.
        places: shape `[classes, slots]`.
        notes: whatever is derived from them, by name.
    """

    archs: tuple[dict[str, Any], ...]
    index: dict[str, int]
    places: Numbers
    notes: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def views(self, space: Space, *, choices: bool) -> list[Numbers]:
        """Return `views` of every class; remembered."""
        key = ("views", choices)
        if key not in self.notes:
            self.notes[key] = views(space, self.archs, choices=choices)
        return self.notes[key]

    def open(self, state: Memory) -> Numbers:
        """Return which classes were not proposed, shape `[classes]`; a fresh array."""
        rows = state.log.notes.setdefault("pool.asked", Growing(dtype=np.int64))
        for key in state.log.keys[rows.length : state.asks]:
            rows.append(self.index[key])
        free = np.ones(len(self.archs), bool)
        free[rows.first(state.asks)] = False
        return free

    def told(self, state: Memory) -> Numbers:
        """Return the classes of the outcomes, in order of arrival, shape `[tells]`."""
        self.open(state)
        return state.log.notes["pool.asked"].first(state.asks)[told(state)[0]]


def pool(space: Space) -> Pool | None:
    """Return every class of a small space, remembered with it; None for a larger one."""
    if space.size > MOST_MEMBERS:
        return None
    if "pool" not in space.notes:
        first: dict[str, dict[str, Any]] = {}
        for arch in space.enumerate():
            first.setdefault(space.canonical(arch), arch)
        archs = tuple(first.values())
        places = np.array([space.places(arch) for arch in archs])
        space.notes["pool"] = Pool(archs, {key: i for i, key in enumerate(first)}, places)
    return space.notes["pool"]


def draw(state: Memory, rng: Random, count: int, *, top: int = 5) -> list[Arch]:
    """Return up to `count` new members: neighbours of the best `top` told, the rest at random."""
    numbers, scores = told(state)
    found: dict[str, Arch] = {}
    best = numbers[np.argsort(-scores, kind="stable")[:top]].tolist()
    near = [arch for n in best for arch in state.space.neighbours(state.asked[n].arch)]
    rng.shuffle(near)
    for arch in near[: count // 2]:
        if not state.seen(arch):
            found.setdefault(state.space.canonical(arch), arch)
    for _ in range(4 * count):
        if len(found) >= count:
            break
        arch = state.space.sample(rng)
        if not state.seen(arch):
            found.setdefault(state.space.canonical(arch), arch)
    return list(found.values())


def inputs(
    state: Memory, rng: Random, count: int, *, choices: bool
) -> tuple[Numbers, Sequence[Arch], Numbers, Numbers]:
    """Return what a surrogate learns from and what it is asked about.

    Returns:
        Rows of what was told, shape `[tells, width]`; candidates; their rows, shape
        `[candidates, width]`; and which of them were not proposed. A small space's candidates are
        all its classes, and their rows are one object for the life of the space.
    """
    small = pool(state.space)
    if small is not None:
        key = ("rows", choices)
        if key not in small.notes:
            rows = np.concatenate(small.views(state.space, choices=choices), axis=1)
            small.notes[key] = np.ascontiguousarray(rows, np.float32)
        rows = small.notes[key]
        return rows[small.told(state)], small.archs, rows, small.open(state)
    kept = state.log.notes.get(("told.rows", choices))
    for outcome in state.log.told[kept.length if kept else 0 : state.tells]:
        row = np.concatenate(views(state.space, [outcome.arch], choices=choices), axis=1)[0]
        if kept is None:
            kept = state.log.notes[("told.rows", choices)] = Growing(row.shape, np.float32)
        kept.append(row)
    assert kept is not None  # noqa: S101
    archs = draw(state, rng, count)
    if not archs:
        return kept.first(state.tells), (), np.zeros((0, 0)), np.zeros(0, bool)
    rows = np.concatenate(views(state.space, archs, choices=choices), axis=1)
    rows = np.ascontiguousarray(rows, np.float32)
    return kept.first(state.tells), archs, rows, np.ones(len(archs), bool)


def propose(
    state: Memory,
    n: int,
    allowed: Allowed | None,
    *,
    startup: int,
    choose: Callable[[Memory, Random], tuple[Sequence[Arch], Numbers]],
) -> tuple[Memory, tuple[Proposal, ...]]:
    """Ask a model: random points until `startup`, then the allowed candidate of highest value.

    Args:
        state: what is known.
        n: proposals wanted.
        allowed: hard constraints.
        startup: proposals before the model is asked.
        choose: returns candidates and what each promises, shape `[candidates]`; minus infinity
            for those that were proposed.
    """
    before = state.asks
    for _ in range(n):
        arch: Arch | None = None
        scores = told(state)[1]
        if state.asks >= startup and np.isfinite(scores).sum() >= 2:
            archs, values = choose(state, state.rng())
            arch = _best(archs, values, allowed)
        if arch is None:
            arch = state.fresh(_uniform(state.space), allowed)
        if arch is None:
            break
        state = state.add(arch)
    return state, state.asked[before:]


def _uniform(space: Space) -> Callable[[Random], Arch]:
    """Draw uniformly over networks where they are known, not over their spellings."""
    small = pool(space)
    return space.sample if small is None else lambda rng: rng.choice(small.archs)


def _best(archs: Sequence[Arch], values: Numbers, allowed: Allowed | None) -> Arch | None:
    if not len(archs):
        return None
    best = int(values.argmax())
    if allowed is None:
        return archs[best] if values[best] > float("-inf") else None
    for index in np.argsort(-values, kind="stable").tolist():
        if values[index] == float("-inf"):
            return None
        if allowed(archs[index]):
            return archs[index]
    return None
