"""What a strategy and an estimator say to each other. No torch: a search runs without it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Arch", "Outcome", "Proposal", "Status", "Value"]

Value = str | int | float | bool
Arch = Mapping[str, Value]
Status = Literal["done", "dropped", "failed", "undefined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Strategy -> estimator: please score this architecture.

    Attributes:
        number: counts up from 0 over the whole search.
        arch: a point of the space.
        parent: number of the proposal whose weights may be inherited.
        fidelity: how much to spend, as a share of the estimator's full budget, in (0, 1].
    """

    number: int
    arch: Arch
    parent: int | None = None
    fidelity: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Estimator -> strategy: what the proposal was worth.

    Attributes:
        score: higher is better; negative infinity where there is none.
        status: `done` reached its full budget, `dropped` was stopped early (its score is its
            last checkpoint's), `failed` has a `reason` and no useful score, `undefined` neither:
            the metric has no value on the rows that scored it, whatever the network.
        metrics: named values, e.g. `loss`, `accuracy` on the common validation clients.
        costs: exact architecture costs (`params`, `macs`, `bytes_per_round`) and what the
            meter counted (`client_seconds`, `bytes_up`, ...).
        leaves: whatever else came out, by name: plain JSON data, or a flat float32 tensor (a
            supernet's mixing weights), for which loop one puts `{"digest": ...}`, the place where
            the journal keeps it for good.
    """

    number: int
    arch: Arch
    score: float
    status: Status = "done"
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    costs: Mapping[str, float] = field(default_factory=dict[str, float])
    reason: str | None = None
    fidelity: float = 1.0
    leaves: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def scored(self) -> bool:
        """Whether it has a score that others can be compared with."""
        return self.status not in ("failed", "undefined")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        record: dict[str, Any] = {
            "number": self.number,
            "arch": dict(self.arch),
            "score": self.score if self.score > float("-inf") else None,
            "status": self.status,
            "metrics": dict(self.metrics),
            "costs": dict(self.costs),
            "reason": self.reason,
            "fidelity": self.fidelity,
        }
        return {**record, "leaves": dict(self.leaves)} if self.leaves else record

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Outcome":
        """Rebuild what `to_json` wrote."""
        score = data["score"]
        return cls(**{**data, "score": float("-inf") if score is None else score})
