"""When a search ends, and how long the winner trains."""

from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least

__all__ = ["Budget", "Final"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Ends loop one; what comes first ends it.

    Attributes:
        trials: proposals scored in all.
        macs: multiply-accumulates spent on clients by the search; 0 sets no limit.
        megabytes: bytes moved by the search, up and down, in 10^6; 0 sets no limit.
    """

    kind: Literal["trials"] = "trials"
    trials: int = 30
    macs: float = 0.0
    megabytes: float = 0.0

    def __post_init__(self) -> None:
        at_least("budget.trials", self.trials, 1, high=100_000)
        at_least("budget.macs", self.macs, 0, high=1e30, fix="0 sets no limit")
        at_least("budget.megabytes", self.megabytes, 0, fix="0 sets no limit")

    def left(self, trials: int, cost: dict[str, float]) -> int:
        """Return how many trials may still start.

        Args:
            trials: scored so far.
            cost: meter totals of the search so far.
        """
        if self.macs and cost["macs"] >= self.macs:
            return 0
        moved = cost["bytes_up"] + cost["bytes_down"]
        if self.megabytes and moved >= self.megabytes * 1e6:
            return 0
        return max(0, self.trials - trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """Trains the winner on all clients.

    Attributes:
        rounds: federated rounds.
        every: rounds between validations.
        patience: validations without a lower loss before training has converged; 0 uses every
            round.
        references: whether the hand-made network, random search and pooled training are run too.
    """

    kind: Literal["rounds"] = "rounds"
    rounds: int = 30
    every: int = 5
    patience: int = 0
    references: bool = True

    def __post_init__(self) -> None:
        at_least("final.rounds", self.rounds, 1, high=1_000_000)
        at_least("final.every", self.every, 1)
        at_least("final.patience", self.patience, 0, fix="0 uses every round")
