"""What a strategy promises, and how its state is kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isnan
from random import Random
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

from archipelago.core.errors import ConfigError, JournalError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.space.space import Space

__all__ = ["Allowed", "Log", "Memory", "Strategy", "load", "save"]

Allowed = Callable[[Arch], bool]
T = TypeVar("T")
VERSION = 1
DRAWS = 2000
"""Draws in a row that may be refused before a strategy gives up looking for a new point."""
MOST_LOOKED_THROUGH = 20_000
"""Members of a space that is searched for its last unknown points."""


class Column(Sequence[T]):
    """The first `length` entries of a shared list that only grows. Slices are tuples."""

    __slots__ = ("_entries", "_length")

    def __init__(self, entries: list[T], length: int) -> None:
        self._entries, self._length = entries, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._entries[i] for i in range(*index.indices(self._length)))
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._entries[index if index >= 0 else index + self._length]

    def __iter__(self) -> Iterator[T]:
        return islice(self._entries, self._length)


class Log:
    """What the states of one search share. Grows in place; a state reads only its own prefix.

    Attributes:
        asked: proposals, in order.
        places: of each proposal, the indices of its options.
        keys: of each proposal, its canonical key.
        first: key -> number of the first proposal that has it.
        told: outcomes, in order of arrival.
        heard: number -> place in `told`.
        notes: whatever strategies derive from a prefix, by name; never saved.
    """

    __slots__ = ("asked", "first", "heard", "keys", "notes", "places", "told")

    def __init__(self) -> None:
        self.asked: list[Proposal] = []
        self.places: list[tuple[int, ...]] = []
        self.keys: list[str] = []
        self.first: dict[str, int] = {}
        self.told: list[Outcome] = []
        self.heard: dict[int, int] = {}
        self.notes: dict[Any, Any] = {}

    def until(self, asked: int, told: int) -> "Log":
        """Return a log of its own with these many entries."""
        log = Log()
        log.asked, log.told = self.asked[:asked], self.told[:told]
        log.places, log.keys = self.places[:asked], self.keys[:asked]
        log.first = {key: number for key, number in self.first.items() if number < asked}
        log.heard = {number: place for number, place in self.heard.items() if place < told}
        return log


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What every strategy remembers. A value: an older state stays valid and unchanged.

    States of one search share their columns, so `add` and `hear` cost the same after a thousand
    trials as after one; adding to an older state copies its part of them first.

    Attributes:
        space: what is searched.
        seed: root of its draws; each proposal has a stream of its own.
        log: the shared columns.
        asks: how many proposals of `log` are this state's.
        tells: how many outcomes of `log` are this state's.
    """

    space: Space
    seed: Seed
    log: Log = field(default_factory=Log, compare=False, repr=False)
    asks: int = 0
    tells: int = 0

    @property
    def asked(self) -> Column[Proposal]:
        """Proposals made so far, in order."""
        return Column(self.log.asked, self.asks)

    @property
    def told(self) -> Column[Outcome]:
        """Outcomes so far, in order of arrival."""
        return Column(self.log.told, self.tells)

    def keys(self) -> frozenset[str]:
        """Return the canonical keys of everything proposed."""
        return frozenset(self.log.keys[: self.asks])

    def seen(self, arch: Arch) -> bool:
        """Whether `arch`, or one isomorphic to it, was proposed."""
        return self.log.first.get(self.space.canonical(arch), self.asks) < self.asks

    def heard(self, number: int) -> Outcome | None:
        """Return the outcome of a proposal, once told."""
        place = self.log.heard.get(number, self.tells)
        return self.log.told[place] if place < self.tells else None

    def pending(self) -> tuple[Proposal, ...]:
        """Return the proposals whose outcomes have not come."""
        if self.asks == self.tells:
            return ()
        return tuple(
            p for p in self.asked if self.log.heard.get(p.number, self.tells) >= self.tells
        )

    def rng(self, *names: str | int) -> Random:
        """Return the stream of the next proposal."""
        return self.seed.child(self.asks, *names).rng()

    def add(self, arch: Arch, parent: int | None = None, fidelity: float = 1.0) -> "Memory":
        """Return the memory with one proposal more; an empty `arch` names no member."""
        log = self.log
        if len(log.asked) != self.asks:
            log = log.until(self.asks, self.tells)
        places = self.space.places(arch) if arch else ()
        key = self.space.key_at(places, arch) if arch else ""
        log.asked.append(
            Proposal(number=self.asks, arch=dict(arch), parent=parent, fidelity=fidelity)
        )
        log.places.append(places)
        log.keys.append(key)
        log.first.setdefault(key, self.asks)
        return Memory(
            space=self.space, seed=self.seed, log=log, asks=self.asks + 1, tells=self.tells
        )

    def hear(self, outcomes: Sequence[Outcome]) -> "Memory":
        """Return the memory with these outcomes.

        Raises:
            ConfigError: an outcome of a proposal never made, told twice, or with a NaN score.
        """
        new: set[int] = set()
        for outcome in outcomes:
            if not 0 <= outcome.number < self.asks:
                raise ConfigError("an outcome of a proposal never made", got=outcome.number)
            if outcome.number in new or self.heard(outcome.number) is not None:
                raise ConfigError("an outcome told twice", got=outcome.number)
            if isnan(outcome.score):
                raise ConfigError(
                    "a score is NaN",
                    got=outcome.number,
                    fix="report a failed candidate as status 'failed' with score -inf",
                )
            new.add(outcome.number)
        log = self.log
        if len(log.told) != self.tells:
            log = log.until(self.asks, self.tells)
        for outcome in outcomes:
            log.heard[outcome.number] = len(log.told)
            log.told.append(outcome)
        return Memory(
            space=self.space, seed=self.seed, log=log, asks=self.asks, tells=len(log.told)
        )

    def fresh(
        self, draw: Callable[[Random], Arch], allowed: Allowed | None, *, again: bool = False
    ) -> Arch | None:
        """Return the first draw that is new and allowed; None where there is none.

        After `DRAWS` refusals a small space is looked through, a larger one given up. With
        `again`, what was proposed before is as good as new.
        """
        rng = self.rng()
        for _ in range(DRAWS):
            arch = draw(rng)
            if (again or not self.seen(arch)) and (allowed is None or allowed(arch)):
                return arch
        if self.space.size > MOST_LOOKED_THROUGH:
            return None
        left = (a for a in self.space.enumerate() if again or not self.seen(a))
        return next((arch for arch in left if allowed is None or allowed(arch)), None)


@runtime_checkable
class Strategy(Protocol):
    """Proposes architectures. No side effects: what it knows is in the state it returns."""

    def init(self, space: Space, seed: Seed) -> Memory:
        """Return the state of a search that has asked nothing."""
        ...

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` new proposals; none when nothing new can be found."""
        ...

    def tell(self, state: Memory, outcomes: Sequence[Outcome]) -> Memory:
        """Take outcomes: late, in any order, some or all."""
        ...


def save(state: Memory) -> dict[str, Any]:
    """Return the state as plain JSON data."""
    return {
        "version": VERSION,
        "space": state.space.digest,
        "seed": [state.seed.root, list(state.seed.path)],
        "asked": [
            {"number": p.number, "arch": dict(p.arch), "parent": p.parent, "fidelity": p.fidelity}
            for p in state.asked
        ],
        "told": [outcome.to_json() for outcome in state.told],
    }


def load(space: Space, data: Mapping[str, Any]) -> Memory:
    """Rebuild a state.

    Raises:
        JournalError: written by another version, or for another space.
    """
    if data.get("version") != VERSION:
        raise JournalError(
            "a strategy's state of another version",
            got=data.get("version"),
            fix=f"this program reads version {VERSION}",
        )
    if data.get("space") != space.digest:
        raise JournalError(
            "a strategy's state belongs to another space",
            fix="start a new search, or restore the [space] section it was written with",
        )
    root, path = data["seed"]
    state = Memory(space=space, seed=Seed(root, tuple(path)))
    for proposal in data["asked"]:
        state = state.add(proposal["arch"], proposal["parent"], proposal["fidelity"])
    return state.hear([Outcome.from_json(outcome) for outcome in data["told"]])
