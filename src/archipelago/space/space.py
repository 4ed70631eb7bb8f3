"""The set of architectures that a search may propose."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import isfinite
from random import Random
from typing import Any, final

from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.core.trial import Arch, Value
from archipelago.space.dims import Choice, Part, Range, Repeat, Slot, When, flatten

__all__ = ["Choice", "Range", "Repeat", "Space", "When"]

Fill = Callable[[Slot], Value]
MOST_KNOWN = 200_000
"""Canonical keys remembered by a space; then it forgets them all."""


@final
@dataclass(frozen=True, eq=False)
class Space:
    """Architectures, declared as choices. A point is a plain flat dictionary, name to option.

    Attributes:
        dims: names and what they may be; repeated and conditional parts nest.
        canonicaliser: maps a member to a key that isomorphic members share. Must be sound (equal
            keys, equal networks) and picklable. Without it every member is its own class.
        features: maps a member to views of it, each a list of fixed length whose numbers sum to
            about 1 and in which alike networks lie near each other; picklable. Surrogates learn
            from them; without it, from the choices themselves.
        costs: what a member costs, known before anything is trained; picklable. Methods that
            search under a budget need it.

    Raises:
        ConfigError: contradictory conditions, names taken twice, or fewer than two members.

    Example:
        >>> space = Space({"depth": Range(1, 3), "act": Choice(("relu", "gelu"))})
        >>> space.size, space.decode(space.encode({"depth": 2, "act": "gelu"}))
        (6, {'depth': 2, 'act': 'gelu'})
    """

    dims: Mapping[str, Part]
    canonicaliser: Callable[[Arch], str] | None = None
    features: Callable[[Arch], Sequence[Sequence[float]]] | None = None
    costs: Callable[[Arch], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ConfigError(
                "this space holds a single architecture: there is nothing to search",
                got=dict(self.dims),
                where="space",
                fix="offer a second option somewhere",
            )

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Every choice, each after those that it depends on."""
        return flatten(self.dims)

    @cached_property
    def digest(self) -> str:
        """Name of the declaration: the same on every machine, without the canonicaliser."""
        text = repr([(s.name, s.options, s.ordered, s.conditions) for s in self.slots])
        return blake2b(text.encode(), digest_size=16).hexdigest()

    @cached_property
    def size(self) -> int:
        """Number of members, exact however large. Isomorphic members count separately."""
        return _count(self.slots)

    @cached_property
    def _places(self) -> tuple[tuple[str, Mapping[Any, int], Slot], ...]:
        # True == 1 == 1.0: the type decides, or one member would have several spellings.
        return tuple(
            (s.name, {(type(o), o): i for i, o in enumerate(s.options)}, s) for s in self.slots
        )

    @cached_property
    def _known(self) -> dict[tuple[int, ...], str]:
        return {}

    @cached_property
    def notes(self) -> dict[Any, Any]:
        """Whatever others derive from the declaration alone, by name; never saved."""
        return {}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Space)
            and self.digest == other.digest
            and self.canonicaliser == other.canonicaliser
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Space, (self.dims, self.canonicaliser, self.features)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, Mapping) and self._fault(arch) is None

    def check(self, arch: Arch) -> None:
        """Raise `ConfigError` naming the first thing that keeps `arch` out of the space."""
        self.places(arch)

    def places(self, arch: Arch) -> tuple[int, ...]:
        """Return for every slot the index of its option in `arch`; -1 where it is absent.

        Raises:
            ConfigError: `arch` is not a member; says why.
        """
        codes: list[int] = []
        present = 0
        for name, options, slot in self._places:
            if name in arch:
                value = arch[name]
                code = options.get((type(value), value), -1)
                if code < 0 or (slot.conditions and not slot.present(arch)):
                    break
                present += 1
                codes.append(code)
            elif slot.conditions and not slot.present(arch):
                codes.append(-1)
            else:
                break
        else:
            if present == len(arch):
                return tuple(codes)
        fault = self._fault(arch)
        assert fault is not None  # noqa: S101
        raise fault

    def at(self, places: Sequence[int]) -> dict[str, Value]:
        """Return the member whose `places` these are."""
        return {
            slot.name: slot.options[place]
            for slot, place in zip(self.slots, places, strict=True)
            if place >= 0
        }

    def sample(self, rng: Random) -> dict[str, Value]:
        """Draw a member: every choice uniformly among its options, in order of declaration."""
        return self.fill({}, lambda slot: rng.choice(slot.options))

    def mutate(self, arch: Arch, rng: Random) -> dict[str, Value]:
        """Change exactly one choice of `arch`, to a uniformly drawn other option.

        Choices that depend on it appear (drawn afresh) or vanish; all others stay.
        """
        self.check(arch)
        slot = rng.choice([s for s in self.slots if s.name in arch and len(s.options) > 1])
        value = rng.choice([option for option in slot.options if option != arch[slot.name]])
        return self.fill({**arch, slot.name: value}, lambda s: rng.choice(s.options))

    def crossover(self, a: Arch, b: Arch, rng: Random) -> dict[str, Value]:
        """Take each choice from `a` or `b` with equal chance; one that neither has is drawn."""
        self.check(a)
        self.check(b)
        mixed = {
            slot.name: rng.choice([parent[slot.name] for parent in (a, b) if slot.name in parent])
            for slot in self.slots
            if slot.name in a or slot.name in b
        }
        return self.fill(mixed, lambda slot: rng.choice(slot.options))

    def neighbours(self, arch: Arch) -> Iterator[dict[str, Value]]:
        """Yield every member that differs in exactly one choice.

        Dependent choices that appear take their first option, so that neighbours stay few.
        """
        self.check(arch)
        for slot in self.slots:
            for option in slot.options if slot.name in arch else ():
                if option != arch[slot.name]:
                    yield self.fill({**arch, slot.name: option}, _first)

    def enumerate(self) -> Iterator[dict[str, Value]]:
        """Yield every member once, the last choice changing fastest. Lazy: sizes may be huge."""
        arch = self.fill({}, _first)
        while True:
            yield dict(arch)
            for index in range(len(self.slots) - 1, -1, -1):
                slot = self.slots[index]
                if slot.name in arch and arch[slot.name] != slot.options[-1]:
                    break
            else:
                return
            kept = {s.name: arch[s.name] for s in self.slots[:index] if s.name in arch}
            kept[slot.name] = slot.options[slot.options.index(arch[slot.name]) + 1]
            arch = self.fill(kept, _first)

    def encode(self, arch: Arch) -> list[float]:
        """Return a vector of fixed length: one-hot for choices, (0, 1] for ranges, absent 0."""
        vector: list[float] = []
        for slot, place in zip(self.slots, self.places(arch), strict=True):
            if slot.ordered:
                vector.append((place + 1) / len(slot.options))
            else:
                vector.extend(float(place == index) for index in range(len(slot.options)))
        return vector

    def decode(self, vector: Sequence[float]) -> dict[str, Value]:
        """Return the member nearest to `vector`, choice by choice; the inverse of `encode`."""
        widths = [1 if slot.ordered else len(slot.options) for slot in self.slots]
        if len(vector) != sum(widths):
            raise ConfigError(
                f"an encoding of this space has {sum(widths)} numbers", got=len(vector)
            )
        if not all(isfinite(number) for number in vector):
            raise ConfigError("an encoding holds finite numbers only", got=list(vector))
        nearest: dict[str, Value] = {}
        start = 0
        for slot, width in zip(self.slots, widths, strict=True):
            piece = list(vector[start : start + width])
            start += width
            if slot.ordered:
                place = round(piece[0] * len(slot.options)) - 1
            else:
                place = piece.index(max(piece))
            nearest[slot.name] = slot.options[min(max(place, 0), len(slot.options) - 1)]
        return self.fill(nearest, _first)

    def canonical(self, arch: Arch) -> str:
        """Return a stable key of `arch`; with a canonicaliser, isomorphic members share it."""
        return self.key_at(self.places(arch), arch)

    def key_at(self, places: tuple[int, ...], arch: Arch) -> str:
        """Return `canonical(arch)` where `places(arch)` is known already; remembered."""
        key = self._known.get(places)
        if key is None:
            if self.canonicaliser is not None:
                key = self.canonicaliser(arch)
            else:
                key = json.dumps(dict(arch), sort_keys=True, separators=(",", ":"))
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[places] = key
        return key

    def complete(self, known: Mapping[str, Value], rng: Random) -> dict[str, Value]:
        """Return a member that keeps what of `known` belongs; what is missing is drawn."""
        return self.fill(known, lambda slot: rng.choice(slot.options))

    def fill(self, known: Mapping[str, Value], choose: Fill) -> dict[str, Value]:
        """Return a member that keeps what of `known` belongs; `choose` decides what is missing."""
        arch: dict[str, Value] = {}
        for slot in self.slots:
            if not slot.conditions or slot.present(arch):
                arch[slot.name] = known[slot.name] if slot.name in known else choose(slot)
        return arch

    def _fault(self, arch: Arch) -> ConfigError | None:
        seen = 0
        for slot in self.slots:
            if slot.name not in arch:
                if slot.present(arch):
                    return ConfigError("this choice is missing", where=slot.name)
                continue
            seen += 1
            if not slot.present(arch):
                needs = " and ".join(f"{name} in {values}" for name, values in slot.conditions)
                return ConfigError("this choice is there only when " + needs, where=slot.name)
            value = arch[slot.name]
            # True == 1 == 1.0: the type decides, or one member would have several spellings.
            if not any(type(o) is type(value) and o == value for o in slot.options):
                return ConfigError(
                    f"must be one of {list(slot.options)}", got=value, where=slot.name
                )
        if seen < len(arch):
            names = [slot.name for slot in self.slots]
            unknown = next(name for name in arch if name not in names)
            return ConfigError(
                "no such choice", where=str(unknown), fix=did_you_mean(str(unknown), names)
            )
        return None


def _first(slot: Slot) -> Value:
    return slot.options[0]


def _count(slots: Sequence[Slot]) -> int:
    """Count assignments: independent groups multiply, and within one the root choice sums."""
    total = 1
    for group in _independent(slots):
        root, rest = group[0], group[1:]
        if not rest:
            total *= len(root.options)
            continue
        # Options that settle every condition alike leave the same count: count each kind once.
        kinds: dict[tuple[Slot, ...], int] = {}
        for option in root.options:
            left = tuple(_settled(rest, root.name, option))
            kinds[left] = kinds.get(left, 0) + 1
        total *= sum(times * _count(left) for left, times in kinds.items())
    return total


def _settled(slots: Sequence[Slot], name: str, value: Value) -> Iterator[Slot]:
    absent: set[str] = set()
    for slot in slots:
        conditions = dict(slot.conditions)
        if absent & conditions.keys() or value not in conditions.get(name, (value,)):
            absent.add(slot.name)
            continue
        conditions.pop(name, None)
        yield Slot(slot.name, slot.options, slot.ordered, tuple(conditions.items()))


def _independent(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Split into groups that share no condition, each in order of declaration."""
    groups: list[list[Slot]] = []
    homes: dict[str, list[Slot]] = {}
    for slot in slots:
        touched: list[list[Slot]] = []
        for name, _ in slot.conditions:
            if not any(homes[name] is group for group in touched):
                touched.append(homes[name])
        for group in touched:
            groups = [other for other in groups if other is not group]
        joined = [*(member for group in touched for member in group), slot]
        groups.append(joined)
        homes.update((member.name, joined) for member in joined)
    order = {slot.name: index for index, slot in enumerate(slots)}
    return [sorted(group, key=lambda slot: order[slot.name]) for group in groups]
