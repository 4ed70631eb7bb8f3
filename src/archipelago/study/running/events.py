"""What a study says while it runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archipelago.driver.loop import Position
from archipelago.estimate.context import Step

__all__ = ["Event", "shown"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth showing while a study runs.

    Attributes:
        kind: `started`, `prepared`, `withheld`, `round`, `outcome`, `reference`, `tested`,
            `exported`, `report`, `stopped` or `finished`.
        data: the rest, ready for JSON.
    """

    kind: str
    data: Mapping[str, Any]


def shown(
    name: str, at: Position, step: Step, *, direction: int, moved: float, seconds: float
) -> Iterator[Event]:
    """Yield a round, and the outcomes that it brought.

    Args:
        name: of the stage.
        at: where the stage is after the round.
        step: what the round gave.
        direction: of the metric: a score times it is the metric as the user knows it.
        moved: bytes of the stage so far, up and down.
        seconds: since the study began, by the wall.
    """
    generation = step.generation
    yield Event(
        "round",
        {
            "phase": name,
            "round": max(branch.round for branch in generation.branches),
            "rounds": generation.branches[0].rounds,
            "generation": generation.index,
            "branches": sum(branch.alive for branch in generation.branches),
            "clients": len({row.client for row in step.rows if row.kind == "fit"}),
            "bytes": moved,
            "best": at.champion.outcome.score if at.champion else None,
            "direction": direction,
            "trials": at.trials,
            "seconds": seconds,
        },
    )
    for outcome in generation.outcomes:
        yield Event(
            "outcome",
            {
                "phase": name,
                "number": outcome.number,
                "status": outcome.status,
                "score": outcome.score if outcome.score > float("-inf") else None,
                "direction": direction,
                "params": outcome.costs["params"],
                "macs": outcome.costs["macs"],
                "reason": outcome.reason,
                "outcome": outcome.to_json(),
            },
        )
