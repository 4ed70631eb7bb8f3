"""What the updates of a branch's last round were like: what its next ones are measured by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["RoundNorms", "Measured", "lower_median"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An update's norm, its gradient steps, and the norms of its further vectors."""

    length: float
    steps: int
    extras: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundNorms:
    """What a round's accepted updates were like.

    Attributes:
        length: lower median of their norms.
        steps: lower median of their gradient steps.
        replies: how many there were.
        extras: lower median of the norms of each further vector, the longest of all rounds.
    """

    length: float
    steps: int
    replies: int
    extras: Mapping[str, float] = field(default_factory=dict[str, float])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> "RoundNorms | None":
        """Rebuild what `to_json` wrote."""
        return None if data is None else cls(**data)

    @classmethod
    def of(
        cls, measured: Sequence[Measured], before: "RoundNorms | None" = None
    ) -> "RoundNorms | None":
        """Return what some updates agree on.

        A control variate changes most at a client's first visit, whenever that is: of further
        vectors the longest median so far counts.
        """
        if not measured:
            return None
        return cls(
            length=lower_median([one.length for one in measured]),
            steps=lower_median([one.steps for one in measured]),
            replies=len(measured),
            extras={
                name: max(
                    lower_median([one.extras[name] for one in measured]),
                    before.extras.get(name, 0.0) if before else 0.0,
                )
                for name in measured[0].extras
            },
        )


def lower_median(values: Sequence[Any]) -> Any:
    """Return the middle value; of an even number of them the lower one of the two.

    Example:
        >>> lower_median([4, 1, 3, 2])
        2
    """
    return sorted(values)[(len(values) - 1) // 2]
