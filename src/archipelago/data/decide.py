"""Which task a label column asks for, decided from counts that the silos give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archipelago.core.errors import DataError
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.data.partition import Classes, Dirichlet, Iid, Natural, Quantity
from archipelago.data.prepare import owned_unread
from archipelago.data.raw import Raw
from archipelago.data.split import Split
from archipelago.data.statistics import Clients
from archipelago.data.tasks import Classification, MultiLabel, Regression

__all__ = ["Decision", "decide"]

_CODES = 10
"""Whole numbers with at most so many different values are classes; more are a quantity."""
_IDS = 20
"""With more different texts than this, and in most rows, a label is a name and no class."""
_SEPARATORS = (";", "|")
_JOINED = 0.1
"""From this share of rows on, a separator in the label is no accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A task and the counts behind it.

    Attributes:
        task: with its default metric.
        why: a sentence with the numbers that decided.
        meter: what asking cost.
    """

    task: Classification | MultiLabel | Regression
    why: str
    meter: tuple[MeterRow, ...]


def decide(
    raw: Raw,
    partition: Iid | Dirichlet | Classes | Quantity | Natural,
    split: Split,
    *,
    seed: Seed,
    floor: int = 0,
) -> Decision:
    """Ask every client what its label column could be, and choose the task.

    Clients with fewer than `floor` train rows are not asked.

    Raises:
        DataError: the label is missing everywhere, one value only, or a number at some silos and
            text at others; silos are named.
    """
    owned = owned_unread(raw, partition, split, seed, floor=floor)
    clients = Clients(owned.local, [c for c in range(len(owned.names)) if c not in owned.held])
    answers = clients.ask({"ask": "label", "separators": list(_SEPARATORS)})
    task, why = _task([(silo, seen) for silo, seen in answers if seen["present"]], raw.target)
    return Decision(task=task, why=why, meter=tuple(clients.meter))


def _task(
    said: Sequence[tuple[str, Mapping[str, Any]]], where: str
) -> tuple[Classification | MultiLabel | Regression, str]:
    if not said:
        raise DataError("the label is empty at every silo", where=where, fix="name another column")
    for silo, seen in said:
        if seen["comma"] > max(seen["number"], seen["present"] / 2):
            raise DataError(
                "the label's numbers are written with a decimal comma",
                where=f"silo {silo!r}, {where}",
                fix="write 3.14, not 3,14",
            )
    most = max(seen["distinct"] for _, seen in said)
    numeric = [silo for silo, seen in said if seen["number"] == seen["present"]]
    rest = [silo for silo, seen in said if seen["number"] < seen["present"]]
    if numeric and rest and _mostly_numbers(said):
        raise DataError(
            "the label holds numbers at some silos and text at others",
            got=f"numbers at {', '.join(numeric[:5])}; text at {', '.join(rest[:5])}",
            where=f"silo {rest[0]!r}, {where}",
            fix="write it in one way everywhere",
        )
    coded = sum(seen.get("codes", 0) for _, seen in said)
    lone = [silo for silo, seen in said if seen["distinct"] > max(_IDS, seen["present"] / 2)]
    if not rest and coded and len(lone) < len(said):
        return Classification(), f"{coded} labels begin with a zero: codes, and no quantity"
    if not rest and not coded:
        if all(seen["whole"] == seen["present"] for _, seen in said) and most <= _CODES:
            return Classification(), f"whole numbers, at most {most} different ones a silo: classes"
        return Regression(), f"numbers, up to {most} different ones a silo: a quantity"
    for mark in _SEPARATORS:
        share = [seen["joined"][mark] / seen["rows"] for _, seen in said]
        if min(share) > _JOINED:
            why = f"{mark!r} joins several names in {sum(share) / len(share):.0%} of the labels"
            return MultiLabel(separator=mark), why
    if len(lone) == len(said):
        raise DataError(
            "nearly every row has its own label",
            got=f"up to {most} different texts a silo",
            where=where,
            fix="name another column to predict",
        )
    return Classification(), f"text, at most {most} different spellings a silo: classes"


def _mostly_numbers(said: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether the text is a fault among numbers, rather than one class whose name is a number."""
    return max(seen["distinct"] for _, seen in said if seen["number"] == seen["present"]) > _CODES
