"""The Pareto front of a search so far, with weights: what somebody may choose from later."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from archipelago.core.trial import Outcome

__all__ = ["Kept", "pareto"]

COSTS = ("macs", "params")
"""What a choice may be limited by; the size of a file follows the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A candidate whose weights of the search are still there.

    Attributes:
        outcome: what the estimator said; `done`.
        digest: where its weights lie in the journal.
    """

    outcome: Outcome
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return {"outcome": self.outcome.to_json(), "digest": self.digest}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Kept":
        """Rebuild what `to_json` wrote."""
        return cls(outcome=Outcome.from_json(data["outcome"]), digest=data["digest"])


def pareto(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """Return those that no other one beats in score, `macs` and `params` at once, by number.

    Only candidates that are `done` compete. Of equals the first by number stays.
    """
    rivals = sorted(
        (o for o in outcomes if o.status == "done" and o.score > float("-inf")),
        key=lambda o: (-o.score, *(o.costs[cost] for cost in COSTS), o.number),
    )
    kept: list[Outcome] = []
    for rival in rivals:  # whoever comes later scores no higher
        if not any(all(k.costs[c] <= rival.costs[c] for c in COSTS) for k in kept):
            kept.append(rival)
    return tuple(sorted(kept, key=lambda o: o.number))
