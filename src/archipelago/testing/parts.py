"""What holds of a part of any family."""

import pickle
from dataclasses import fields, is_dataclass
from typing import Any

from archipelago.config.catalog import place_of
from archipelago.config.describe import describe
from archipelago.config.tables import from_table, to_table

__all__ = ["EVERY"]


def is_a_frozen_record(part: Any) -> None:
    """A dataclass whose first field is its kind; nobody can change it, and it equals its copy."""
    cls = type(part)
    assert is_dataclass(cls), "a part is a dataclass"
    assert cls.__dataclass_params__.frozen, "a part is frozen"  # pyright: ignore[reportAttributeAccessIssue]
    assert fields(cls)[0].name == "kind", "the first field of a part is its kind"
    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301 - our own bytes


def survives_the_run_file(part: Any) -> None:
    """Written into a run file and read back it is the same value."""
    place = place_of(part)
    assert place is not None, "list it: an entry point of the group `archipelago.parts`"
    section, kind = place
    assert part.kind == kind, f"its kind is {part.kind!r}, it is listed as {kind!r}"
    made, faults = from_table(section, to_table(part, section))
    assert not faults, faults
    assert made == part


def says_what_it_is(part: Any) -> None:
    """Its docstring says what it does, and what each option does."""
    place = place_of(part)
    assert place is not None, "list it: an entry point of the group `archipelago.parts`"
    about = describe(*place)
    assert about.about, "its docstring says what it is"
    silent = [o.name for o in about.options if not o.about and o.name not in _OF_ITSELF]
    assert not silent, f"its docstring leaves out {', '.join(silent)}"


_OF_ITSELF = frozenset({"clients", "least", "metric", "about"})
"""Options that mean the same in a whole family, described once."""

EVERY = (is_a_frozen_record, survives_the_run_file, says_what_it_is)
