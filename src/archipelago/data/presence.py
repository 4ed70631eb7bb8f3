"""Which classes each split of each silo holds, asked before anything is trained.

A metric that compares classes has no value on rows of one class. Whether a study can answer its own
question is thus known before it begins, if each silo says of every class and split whether it has
none of it, fewer rows than a floor, or enough; never how many.

Test rows are counted for this at their silo, and only so far: three values a class. No choice of
the search sees them: a study that cannot be tested is refused, one that can is the same study.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from archipelago.core.buffers import join, length
from archipelago.core.errors import DataError
from archipelago.core.meter import MeterRow
from archipelago.data.coverage import Truth
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.wire.frame import pack, unpack

__all__ = ["ENOUGH", "FEW", "NONE", "SPLITS", "Labels", "Presence", "answered", "ask"]

NONE, FEW, ENOUGH = 0, 1, 2
SPLITS = ("train", "validation", "test")
_LIMIT = 1 << 20
"""Bytes of an answer: a digit a class and split."""

_Task = Classification | MultiLabel | Regression


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """One client's own targets: what its answer is computed from. They do not leave it.

    Attributes:
        client: its number.
        home: who answers for it, and in whose name the meter counts it: itself, unless it is a
            device of a fleet, whose rows its home holds.
        name: its name.
        parts: targets of its train, validation and test rows: class numbers `[rows]`, 0 and 1
            `[rows, labels]`, or numbers `[rows]`.
    """

    client: int
    home: int
    name: str
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Presence:
    """What every client answered.

    Attributes:
        clients: who was asked, ascending.
        names: of them.
        amounts: by split, `[clients, questions]` of `NONE`, `FEW` or `ENOUGH`. A classification has
            one question a class: how many rows have it. Several labels a row have two a label: how
            many rows have it, and how many have not. A regression has three: how many rows are
            below the agreed mean, how many are not, and how many differ from the client's commonest
            value.
        floor: rows from which on there are enough.
    """

    clients: tuple[int, ...]
    names: tuple[str, ...]
    amounts: Mapping[str, np.ndarray]
    floor: int

    def truth(self, task: _Task, split: str, clients: Iterable[int] | None = None) -> Truth:
        """Return what some clients' rows of a split hold together; everybody's unless named."""
        return _truth(task, self._of(split, clients))

    def few(self, task: _Task, split: str) -> tuple[str, ...]:
        """Return classes or labels of which all rows together are fewer than the floor.

        They are sure to be where one client has few and nobody else any.
        """
        if isinstance(task, Regression):
            return ()
        amounts = self.amounts[split]
        held = amounts[:, 0::2] if isinstance(task, MultiLabel) else amounts
        little = held.sum(0) == FEW
        return tuple(name for name, here in zip(task.classes, little.tolist(), strict=True) if here)

    def lone(self, task: _Task, split: str) -> tuple[str, ...]:
        """Return clients that have rows of a split on which the chosen metric has no value."""
        covers = [task.cover(_truth(task, row[None])) for row in self.amounts[split]]
        found = zip(self.names, covers, strict=True)
        return tuple(name for name, cover in found if cover.rows and not cover.defined)

    def holding(self, split: str) -> int:
        """Return how many clients have rows of a split."""
        return int((self.amounts[split] > NONE).any(axis=1).sum())

    def completed(
        self, task: _Task, drawn: Sequence[int], others: Sequence[int]
    ) -> tuple[int, ...]:
        """Return validators on whose rows the chosen metric has a value, ascending.

        They are `drawn`, unless it has none there: then the first of `others` that bring what is
        missing take the places of as many, or join them where there are no places to spare.

        Args:
            task: what is scored.
            drawn: clients, in any order.
            others: further ones, in the order in which they are tried.
        """

        def fine(clients: Sequence[int]) -> bool:
            return task.cover(self.truth(task, "validation", clients)).defined

        if fine(drawn):
            return tuple(sorted(drawn))
        kept, joined = list(drawn), list[int]()
        held = self._held(kept)
        for client in others:
            more = held | self._held([client])
            if (more > held).any():
                joined.append(client)
                held = more
            if fine([*kept, *joined]):
                break
        for client in reversed(drawn):
            rest = [one for one in kept if one != client]
            if len(rest) + len(joined) >= len(drawn) and fine([*rest, *joined]):
                kept = rest
        return tuple(sorted((*kept, *joined)))

    def _held(self, clients: Iterable[int]) -> np.ndarray:
        return _there(self._of("validation", clients))

    def _of(self, split: str, clients: Iterable[int] | None) -> np.ndarray:
        amounts = self.amounts[split]
        if clients is None:
            return amounts
        return amounts[np.isin(self.clients, list(clients))]


def ask(
    task: _Task, silos: Iterable[Labels], *, floor: int, meter: list[MeterRow], turn: int
) -> Presence:
    """Ask every client once; append what it cost to `meter` in place.

    Args:
        task: with its classes agreed, or its mean.
        silos: everybody's own targets, ascending.
        floor: rows from which on there are enough.
        meter: of the statistics round.
        turn: which request of that round this is.

    Raises:
        DataError: an answer is none.
    """
    request = {"ask": "presence", "task": task.kind, "classes": _classes(task), "floor": floor}
    if isinstance(task, Regression):
        request["mean"] = task.mean
    down = pack("statistics-request", request)
    down_bytes, told = length(down), unpack(join(down)).fields
    wide = _questions(task)
    clients: list[int] = []
    names: list[str] = []
    amounts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for silo in silos:
        started = perf_counter()
        up = join(pack("statistics-answer", answered(silo, told)))
        said = unpack(up, limit=_LIMIT).fields
        for split in SPLITS:
            amounts[split].append(_read(said.get(split), wide, silo.name))
        clients.append(silo.client)
        names.append(silo.name)
        meter.append(
            MeterRow(
                phase="statistics",
                round=turn,
                branch=-1,
                client=silo.home,
                kind="statistics",
                examples=sum(len(part) for part in silo.parts),
                bytes_down=down_bytes,
                bytes_up=len(up),
                seconds=perf_counter() - started,
                note="presence",
            )
        )
    return Presence(
        clients=tuple(clients),
        names=tuple(names),
        amounts={
            split: np.array(rows, np.int8).reshape(-1, wide) for split, rows in amounts.items()
        },
        floor=floor,
    )


def answered(silo: Labels, request: Mapping[str, Any]) -> dict[str, str]:
    """Return a client's answer: by split a digit a question, 0 none, 1 few, 2 enough.

    Args:
        silo: the client's own targets.
        request: `task`, `classes` in the order of their numbers, `floor`, and `mean` of a target.
    """
    out: dict[str, str] = {}
    for split, y in zip(SPLITS, silo.parts, strict=True):
        if request["task"] == "classification":
            counts = np.bincount(y[y >= 0], minlength=len(request["classes"]))
        elif request["task"] == "multi-label":
            have = (y > 0.5).sum(0)
            counts = np.stack([have, len(y) - have], axis=1).reshape(-1)
        else:
            common = np.unique(y, return_counts=True)[1].max() if len(y) else 0
            below = int((y < request["mean"]).sum())
            counts = np.array([below, len(y) - below, len(y) - common])
        amounts = (counts > 0).astype(int) + (counts >= request["floor"])
        out[split] = "".join(map(str, amounts.tolist()))
    return out


def _truth(task: _Task, amounts: np.ndarray) -> Truth:
    """Return what clients hold together; `amounts` is `[clients, questions]`."""
    there = _there(amounts)
    if isinstance(task, Classification):
        others = there.sum() - there.astype(int)
        return Truth(rows=bool(there.any()), present=there, absent=others > 0)
    if isinstance(task, MultiLabel):
        return Truth(rows=bool(there.any()), present=there[0::2], absent=there[1::2])
    below, above, differing = there.tolist()
    holders = int((amounts[:, :2] > NONE).any(axis=1).sum())
    # Clients that hold one value each, on one side of the mean, may hold the same one.
    varies = True if differing or (below and above) else None if holders > 1 else False
    none = np.zeros(0, bool)
    return Truth(rows=below or above, present=none, absent=none, varies=varies)


def _there(amounts: np.ndarray) -> np.ndarray:
    """Return which questions somebody has rows for, `[questions]` bool."""
    return np.asarray((amounts > NONE).any(axis=0))


def _read(said: Any, wide: int, silo: str) -> np.ndarray:
    if not isinstance(said, str) or len(said) != wide or set(said) - set("012"):
        raise DataError(
            "an answer must be a digit from 0 to 2 for each class",
            got=str(said)[:80],
            where=f"silo {silo!r}, presence of classes",
            fix="run the same version everywhere",
        )
    return np.frombuffer(said.encode(), np.uint8) - ord("0")


def _classes(task: _Task) -> list[str]:
    return [] if isinstance(task, Regression) else list(task.classes)


def _questions(task: _Task) -> int:
    if isinstance(task, Regression):
        return 3
    return task.outputs * (2 if isinstance(task, MultiLabel) else 1)
