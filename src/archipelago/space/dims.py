"""The words in which a space is declared, and their flattening into slots.

A declaration is a tree (repeated and conditional parts inside parts); a slot is one choice with the
full list of what must hold for it to be there. Everything else works on the flat list of slots.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.core.trial import Value

__all__ = ["Choice", "Condition", "Part", "Range", "Repeat", "Slot", "When", "flatten"]

MOST_SLOTS = 10_000
MOST_OPTIONS = 10_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few unordered options.

    Attributes:
        options: distinct strings, numbers or booleans.
    """

    options: Sequence[Value]

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not isinstance(self.options, Sequence):
            raise ConfigError(
                "a choice is made among a list of options",
                got=self.options,
                fix="write Choice((3, 5)); a single option is written Choice(('relu',))",
            )
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options:
            raise ConfigError("a choice needs at least one option", got=self.options)
        for option in self.options:
            if not isinstance(option, (str, int, float, bool)):
                raise ConfigError("an option is a string, a number or a boolean", got=option)
            if isinstance(option, float) and not isfinite(option):
                raise ConfigError("an option must be finite", got=option)
        if len(set(self.options)) != len(self.options):
            raise ConfigError(
                "two options of one choice are equal", got=self.options, fix="list each one once"
            )


@dataclass(frozen=True, slots=True)
class Range:
    """Equally spaced, ordered numbers: `low, low + step, ...` up to `high` inclusive."""

    low: int | float
    high: int | float
    step: int | float = 1

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high), ("step", self.step)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"a range's {name} is a number", got=value)
            if not isfinite(value):
                raise ConfigError(f"a range's {name} must be finite", got=value)
        if self.step <= 0:
            raise ConfigError("a range's step must be above 0", got=self.step)
        if self.low > self.high:
            raise ConfigError(
                "a range ends before it starts",
                got=(self.low, self.high),
                fix=f"write Range({self.high}, {self.low})",
            )
        if (self.high - self.low) / self.step >= MOST_OPTIONS:
            raise ConfigError(
                f"a range holds at most {MOST_OPTIONS} numbers", got=self, fix="use a larger step"
            )

    @property
    def options(self) -> tuple[Value, ...]:
        """Every number of the range, in ascending order."""
        steps = int((self.high - self.low) / self.step + 1e-9)
        return tuple(self.low + index * self.step for index in range(steps + 1))


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part written several times: under the name `layer` it becomes `layer0`, `layer1`, ...

    Attributes:
        part: what is repeated.
        count: how often; a range adds the choice `layer.count`, and copies beyond it are absent.
    """

    part: "Part"
    count: Range | int

    def __post_init__(self) -> None:
        low = self.count.low if isinstance(self.count, Range) else self.count
        most = self.count.high if isinstance(self.count, Range) else self.count
        at_least("repeat.count", low, 0 if isinstance(self.count, Range) else 1)
        if not all(isinstance(number, int) for number in self.counts):
            raise ConfigError("a part is repeated a whole number of times", got=self.count)
        if most > MOST_SLOTS:
            raise ConfigError(f"a part is repeated at most {MOST_SLOTS} times", got=self.count)

    @property
    def counts(self) -> tuple[Value, ...]:
        """Every number of copies that is possible."""
        return self.count.options if isinstance(self.count, Range) else (self.count,)


@dataclass(frozen=True, slots=True)
class When:
    """A part that is there only when the choice `name`, declared before it, has one of `values`.

    Attributes:
        name: looked up beside the part first, then in the enclosing parts.
        values: options of that choice.
        part: what depends on it.
    """

    name: str
    values: Sequence[Value]
    part: "Part"

    def __post_init__(self) -> None:
        if isinstance(self.values, str) or not self.values:
            raise ConfigError(
                "a condition needs a list of values",
                got=self.values,
                fix=f"write When({self.name!r}, (value,), part)",
            )
        object.__setattr__(self, "values", tuple(self.values))


Part = Choice | Range | Repeat | When | Mapping[str, "Part"]
Condition = tuple[str, tuple[Value, ...]]
"""The name of an earlier slot, and the values of which it must have one."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One choice of the flattened space.

    Attributes:
        name: dotted, unique in the space.
        options: what it may be.
        ordered: whether neighbouring options are alike.
        conditions: all must hold for the slot to be there, at most one for a name.
    """

    name: str
    options: tuple[Value, ...]
    ordered: bool
    conditions: tuple[Condition, ...]

    def present(self, arch: Mapping[str, Value]) -> bool:
        """Whether every condition holds in `arch`, where all earlier slots are settled."""
        return all(name in arch and arch[name] in values for name, values in self.conditions)


def flatten(dims: Mapping[str, Part]) -> tuple[Slot, ...]:
    """Return the slots of a declaration, each after those that it depends on.

    Raises:
        ConfigError: a name is taken twice, or a condition can never hold.
    """
    slots: dict[str, Slot] = {}
    for slot in _walk(dims, ("",), {}, slots):
        if slot.name in slots:
            raise ConfigError("two choices share a name", where=slot.name, fix="rename one")
        if len(slots) >= MOST_SLOTS:
            raise ConfigError(f"a space has at most {MOST_SLOTS} choices", where=slot.name)
        slots[slot.name] = slot
    return tuple(slots.values())


def _walk(
    dims: Mapping[str, Part],
    scopes: tuple[str, ...],
    held: Mapping[str, tuple[Value, ...]],
    slots: Mapping[str, Slot],
) -> Iterator[Slot]:
    for key, part in dims.items():
        if not isinstance(key, str) or not key or "." in key:
            raise ConfigError("a choice's name is a word without dots", got=key)
        yield from _part(scopes[-1] + key, part, scopes, held, slots)


def _part(
    name: str,
    part: Part,
    scopes: tuple[str, ...],
    held: Mapping[str, tuple[Value, ...]],
    slots: Mapping[str, Slot],
) -> Iterator[Slot]:
    match part:
        case Choice() | Range():
            ordered = isinstance(part, Range)
            yield Slot(name, tuple(part.options), ordered, tuple(held.items()))
        case Repeat():
            if isinstance(part.count, Range):
                yield Slot(f"{name}.count", part.counts, True, tuple(held.items()))
            for copy in range(int(part.counts[-1])):
                inside = held
                if isinstance(part.count, Range):
                    enough = tuple(count for count in part.counts if int(count) > copy)
                    inside = _holding(held, f"{name}.count", enough, name)
                yield from _part(f"{name}{copy}", part.part, scopes, inside, slots)
        case When():
            control = _lookup(part.name, name, scopes, slots)
            for value in part.values:
                if value not in control.options:
                    raise ConfigError(
                        f"depends on {control.name!r} having a value that it never has",
                        got=value,
                        where=name,
                        fix=f"use one of {list(control.options)}",
                    )
            inside = dict(control.conditions)
            for other, values in held.items():
                inside = _holding(inside, other, values, name)
            inside = _holding(inside, control.name, tuple(part.values), name)
            yield from _part(name, part.part, scopes, inside, slots)
        case Mapping():
            yield from _walk(part, (*scopes, f"{name}."), held, slots)
        case _:
            raise ConfigError(
                "a space is made of Choice, Range, Repeat, When and mappings of them",
                got=part,
                where=name,
            )


def _lookup(wanted: str, name: str, scopes: tuple[str, ...], slots: Mapping[str, Slot]) -> Slot:
    for scope in reversed(scopes):
        if scope + wanted in slots:
            return slots[scope + wanted]
    raise ConfigError(
        "depends on a choice that is not declared before it",
        got=wanted,
        where=name,
        fix=did_you_mean(wanted, slots) if slots else "declare that choice first",
    )


def _holding(
    held: Mapping[str, tuple[Value, ...]], name: str, values: tuple[Value, ...], where: str
) -> dict[str, tuple[Value, ...]]:
    """Return `held` with one more condition; two on the same slot become their intersection."""
    both = tuple(value for value in held.get(name, values) if value in values)
    if not both:
        raise ConfigError(
            f"contradictory conditions: {name!r} would need a value from both lists",
            got=(held[name], values),
            where=where,
            fix="remove the inner condition, or the part under it",
        )
    return {**held, name: both}
