"""What left each silo of a run, how often, for what: read from its journal, changed by nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archipelago.core.errors import JournalError
from archipelago.data.releases import BY_QUESTION, Withheld, withheld_lines
from archipelago.journal.journal import Journal

__all__ = ["Ledger", "Sent", "ledger"]

_BY_KIND = {"fit": "model updates", "evaluate": "score vectors"}
_PURPOSES = {
    "statistics": "statistics round",
    "search": "search",
    "tune": "settings of the winner",
    "final": "final training",
    "test": "test",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one silo sent of one kind for one purpose.

    Attributes:
        silo: its name.
        release: kinds of release (`releases.TABLE`), with commas between.
        purpose: phase of the run.
        messages: how many.
        bytes: framed, in all.
    """

    silo: str
    release: str
    purpose: str
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Everything that left, and what did not.

    Attributes:
        sent: in the order of phases and silos.
        floor: fewest rows behind what left; 0 where the set is published.
        withheld: a sentence for each kind of thing that silos did not tell.
    """

    sent: tuple[Sent, ...]
    floor: int
    withheld: tuple[str, ...]


def ledger(journal: Journal) -> Ledger:
    """Return what left each silo of a run that was finished, stopped or killed.

    Raises:
        JournalError: the run has not come as far as its data.
    """
    facts = next((data for _, data, _ in journal.events("facts")), None)
    if facts is None:
        raise JournalError(
            "the run stopped before its first commit: nothing of what left is recorded",
            where=str(journal.directory),
            fix=f"archipelago resume {journal.directory}",
        )
    floor = facts.get("floor", 0)
    withheld = (Withheld(**one) for one in facts.get("withheld", ()))
    return Ledger(
        sent=tuple(_sent(journal, facts)),
        floor=floor,
        withheld=tuple(withheld_lines(withheld, floor)),
    )


def _sent(journal: Journal, facts: Mapping[str, Any]) -> Iterator[Sent]:
    totals: dict[tuple[str, int, str], list[int]] = {}
    for row in journal.meter():
        if not row.bytes_up:
            continue
        # A refused reply has left its silo all the same; what it was, its kind no longer says.
        kind = BY_QUESTION.get(row.note, "column counts") if row.phase == "statistics" else ""
        kind = kind or _BY_KIND.get(row.kind, "refused replies")
        entry = totals.setdefault((row.phase, row.client, kind), [0, 0])
        entry[0] += 1
        entry[1] += row.bytes_up
    clients = sorted({client for _, client, _ in totals})
    known = {client.id: client.name for client in journal.registry.get(clients)}
    homes = dict(enumerate(facts["names"]))
    for (phase, client, kind), (messages, size) in totals.items():
        # Homes answer for a fleet's statistics; its devices are found in the registry.
        names = homes if phase == "statistics" else known
        yield Sent(
            silo=names.get(client, f"client {client}"),
            release=kind,
            purpose=_PURPOSES.get(phase, f"reference line {phase}"),
            messages=messages,
            bytes=size,
        )
