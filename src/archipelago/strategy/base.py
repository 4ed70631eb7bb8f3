"""What a strategy promises, and how its state is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from random import Random
from typing import Any, Protocol, runtime_checkable

from archipelago.core.errors import ConfigError, JournalError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Arch, Outcome, Proposal
from archipelago.space.space import Space

__all__ = ["Allowed", "Memory", "Strategy", "load", "save"]

Allowed = Callable[[Arch], bool]
VERSION = 1
DRAWS = 2000
"""Draws in a row that may be refused before a strategy gives up looking for a new point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What every strategy remembers.

    Attributes:
        space: what is searched.
        seed: root of its draws; each proposal has a stream of its own.
        asked: proposals made so far, in order.
        told: outcomes so far, in order of arrival.
    """

    space: Space
    seed: Seed
    asked: tuple[Proposal, ...] = ()
    told: tuple[Outcome, ...] = ()

    def keys(self) -> frozenset[str]:
        """Return the canonical keys of everything proposed."""
        return frozenset(self.space.canonical(p.arch) for p in self.asked)

    def rng(self, *names: str | int) -> Random:
        """Return the stream of the next proposal."""
        return self.seed.child(len(self.asked), *names).rng()

    def add(self, arch: Arch, parent: int | None = None) -> "Memory":
        """Return the memory with one proposal more."""
        proposal = Proposal(number=len(self.asked), arch=dict(arch), parent=parent)
        return replace(self, asked=(*self.asked, proposal))

    def hear(self, outcomes: Sequence[Outcome]) -> "Memory":
        """Return the memory with these outcomes.

        Raises:
            ConfigError: an outcome of a proposal never made, told twice, or with a NaN score.
        """
        heard = {outcome.number for outcome in self.told}
        for outcome in outcomes:
            if not 0 <= outcome.number < len(self.asked):
                raise ConfigError("an outcome of a proposal never made", got=outcome.number)
            if outcome.number in heard:
                raise ConfigError("an outcome told twice", got=outcome.number)
            if isnan(outcome.score):
                raise ConfigError(
                    "a score is NaN",
                    got=outcome.number,
                    fix="report a failed candidate as status 'failed' with score -inf",
                )
            heard.add(outcome.number)
        return replace(self, told=(*self.told, *outcomes))

    def fresh(self, draw: Callable[[Random], Arch], allowed: Allowed | None) -> Arch | None:
        """Return the first draw that is new and allowed, or None after `DRAWS` refusals."""
        seen, rng = self.keys(), self.rng()
        for _ in range(DRAWS):
            arch = draw(rng)
            if self.space.canonical(arch) not in seen and (allowed is None or allowed(arch)):
                return arch
        return None


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
    return Memory(
        space=space,
        seed=Seed(root, tuple(path)),
        asked=tuple(Proposal(**p) for p in data["asked"]),
        told=tuple(Outcome.from_json(o) for o in data["told"]),
    )
