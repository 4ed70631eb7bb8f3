"""Costs are rows, not log lines: every message, fit and evaluation adds one."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Literal

__all__ = ["COLUMNS", "VOLATILE", "MeterRow", "totals"]

Kind = Literal["fit", "evaluate", "statistics", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """What one client did for one branch in one round.

    Attributes:
        phase: `search`, `final`, `test`, `statistics`, or the name of a reference line.
        round: counts up from 0 within the phase's plan.
        branch: proposal number, or -1 where no candidate is concerned.
        client: client id.
        kind: what was done; `refused` spent its bytes and did not count.
        examples: rows used (each epoch counts).
        bytes_down: length of the framed model or task received.
        bytes_up: length of the framed reply.
        macs: multiply-accumulates of the work (training counts three forward passes).
        virtual_seconds: simulated duration on the client, from the device model.
        seconds: measured wall-clock of the work. Volatile: never part of identity.
        note: reason of a refusal, drop-out or lateness.
    """

    phase: str
    round: int
    branch: int
    client: int
    kind: Kind
    examples: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    macs: int = 0
    virtual_seconds: float = 0.0
    seconds: float = 0.0
    note: str = ""

    def to_row(self) -> tuple[object, ...]:
        """Return the values in the order of `COLUMNS`."""
        return _VALUES(self)


COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(MeterRow))
_VALUES = attrgetter(*COLUMNS)
VOLATILE: frozenset[str] = frozenset({"seconds"})


def totals(rows: Iterable[MeterRow]) -> dict[str, float]:
    """Sum the additive columns.

    Returns:
        `examples`, `bytes_down`, `bytes_up`, `macs`, `virtual_seconds`, `seconds`.
    """
    names: tuple[str, ...] = (
        "examples",
        "bytes_down",
        "bytes_up",
        "macs",
        "virtual_seconds",
        "seconds",
    )
    out: dict[str, float] = dict.fromkeys(names, 0.0)
    for row in rows:
        for name in names:
            out[name] += getattr(row, name)
    return out
