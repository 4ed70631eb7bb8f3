"""What a strategy promises, and how its state is kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import isnan
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload, runtime_checkable

from archipelago.core.errors import ConfigError, JournalError
from archipelago.core.part_state import PartState
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.space.space import Space

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Allowed", "Log", "Memory", "Strategy", "load", "save"]

Allowed = Callable[[Arch], bool]
T = TypeVar("T")
VERSION = 1
LEARNED = 2
"""Written where a strategy keeps a state of its own: an older program would go on without it."""
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
        learned: the strategy's own state, where it keeps one; None where what it knows is a pure
            function of proposals and outcomes, which is then derived again after a restart.
    """

    space: Space
    seed: Seed
    log: Log = field(default_factory=Log, compare=False, repr=False)
    asks: int = 0
    tells: int = 0
    learned: PartState | None = field(default=None, compare=False)

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
        return self._at(log, self.asks + 1, self.tells)

    def hear(self, outcomes: Sequence[Outcome]) -> "Memory":
        """Return the memory with these outcomes.

        Raises:
            ConfigError: an outcome of a proposal never made, told twice, of another architecture
                or fidelity than was proposed, or with a score that is no number. None is taken.
        """
        new: set[int] = set()
        for outcome in outcomes:
            self._check(outcome)
            if outcome.number in new or self.heard(outcome.number) is not None:
                raise ConfigError("an outcome told twice", got=outcome.number)
            new.add(outcome.number)
        log = self.log
        if len(log.told) != self.tells:
            log = log.until(self.asks, self.tells)
        for outcome in outcomes:
            log.heard[outcome.number] = len(log.told)
            log.told.append(outcome)
        return self._at(log, self.asks, len(log.told))

    def learn(self, learned: PartState) -> "Memory":
        """Return the memory with this own state of the strategy in the place of the one before."""
        return replace(self, learned=learned)

    def _at(self, log: Log, asks: int, tells: int) -> "Memory":
        return Memory(
            space=self.space,
            seed=self.seed,
            log=log,
            asks=asks,
            tells=tells,
            learned=self.learned,
        )

    def _check(self, outcome: Outcome) -> None:
        number, score = outcome.number, outcome.score
        if not isinstance(number, int) or not 0 <= number < self.asks:
            raise ConfigError("an outcome of a proposal never made", got=number)
        if not isinstance(score, (int, float)):
            raise ConfigError(
                f"the score of proposal {number} is not a Python number",
                got=type(score).__name__,
                fix="write score=float(...)",
            )
        if isnan(score):
            raise ConfigError(
                "a score is NaN",
                got=number,
                fix="report a failed candidate as status 'failed' with score -inf",
            )
        proposal = self.log.asked[number]
        if outcome.arch != proposal.arch:
            raise ConfigError(
                f"an outcome of another architecture than proposal {number}",
                got=dict(outcome.arch),
                fix=f"tell what became of {dict(proposal.arch)}",
            )
        if outcome.fidelity != proposal.fidelity:
            raise ConfigError(
                f"an outcome of another fidelity than proposal {number}",
                got=outcome.fidelity,
                fix=f"write fidelity=proposal.fidelity, here {proposal.fidelity}",
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
    """Proposes architectures. No side effects: what it knows is in the state it returns.

    Whoever drives the search keeps the state and adds the outcomes to it; `state.told` holds them
    in order of arrival: late, in any order, some or all. What follows from a prefix of them may be
    remembered in `state.log.notes`, which live as long as the search. What does not, a strategy
    keeps as its own: `state.learn(PartState(...))`, found again in `state.learned`, None at first.
    """

    def ask(
        self, state: Memory, n: int, allowed: Allowed | None = None
    ) -> tuple[Memory, tuple[Proposal, ...]]:
        """Return up to `n` new proposals; none when nothing new can be found."""
        ...


def save(state: Memory) -> dict[str, Any]:
    """Return the state as plain JSON data, without the tensors of `state.learned`."""
    saved: dict[str, Any] = {
        "version": VERSION if state.learned is None else LEARNED,
        "space": state.space.digest,
        "seed": [state.seed.root, list(state.seed.path)],
        "asked": [
            {"number": p.number, "arch": dict(p.arch), "parent": p.parent, "fidelity": p.fidelity}
            for p in state.asked
        ],
        "told": [outcome.to_json() for outcome in state.told],
    }
    return saved if state.learned is None else {**saved, "learned": state.learned.to_json()}


def load(
    space: Space, data: Mapping[str, Any], tensors: "Mapping[str, Tensor] | None" = None
) -> Memory:
    """Rebuild a state.

    Args:
        space: the space it belongs to.
        data: what `save` returned.
        tensors: those of the strategy's own state, by name, where it has any.

    Raises:
        JournalError: written by another version, or for another space.
    """
    if data.get("version") not in (VERSION, LEARNED):
        raise JournalError(
            "a strategy's state of another version",
            got=data.get("version"),
            fix=f"this program reads versions {VERSION} and {LEARNED}",
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
    state = state.hear([Outcome.from_json(outcome) for outcome in data["told"]])
    own = data.get("learned")
    return state if own is None else state.learn(PartState.from_json(own, tensors or {}))
