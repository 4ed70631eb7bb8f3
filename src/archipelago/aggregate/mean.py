"""FedAvg's average, folded one update at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from archipelago.core.checks import at_least
from archipelago.core.tree import Layout
from archipelago.core.update import Update

__all__ = ["Folding", "WeightedMean"]


@dataclass(slots=True)
class Folding:
    """A sum under way. Changed in place by `WeightedMean.fold`.

    Attributes:
        total: weighted sum so far, shape `[size]`.
        weight: sum of the weights so far.
        count: updates folded.
    """

    total: Tensor
    weight: float = 0.0
    count: int = field(default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedMean:
    r"""FedAvg's server step: $\sum_k n_k \Delta_k / \sum_k n_k$.

    Folds in issue order into one running sum, so memory grows only with the window of early
    arrivals. Linear: secure aggregation and the Gaussian mechanism apply. Streaming: an update is
    not kept once it is folded; an average that keeps updates says `streaming = False`.

    Attributes:
        weighting: `examples` weighs a client by its rows, `equal` counts every client once.
        bound: an update that comes by itself is refused where it is so many times as long as the
            median of the branch's last round; 0 refuses none. Sums of a simulation's blocks are
            not measured.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    kind: Literal["weighted-mean"] = "weighted-mean"
    weighting: Literal["examples", "equal"] = "examples"
    bound: float = 10.0

    linear: ClassVar[bool] = True
    streaming: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bound:
            at_least("aggregator.bound", self.bound, 1, fix="0 refuses none")

    def start(self, layout: Layout) -> Folding:
        """Return an empty sum over models of `layout`."""
        return Folding(torch.zeros(layout.size))

    def weight(self, examples: int) -> float:
        """Return the weight of a client with so many training rows."""
        return float(examples) if self.weighting == "examples" else 1.0

    def fold(self, folding: Folding, update: Update) -> None:
        """Add one client's change, shape `[layout.size]`, to the sum under way, in place."""
        weight = self.weight(update.examples)
        folding.total.add_(update.delta, alpha=weight)
        folding.weight += weight
        folding.count += 1

    def gather(self, deltas: Tensor, examples: Sequence[int]) -> Folding:
        """Return the sum of a block of clients' changes, `[clients, size]`: as if each were folded.

        Args:
            deltas: one a client.
            examples: each client's training rows.
        """
        weights = [self.weight(rows) for rows in examples]
        total = torch.mv(deltas.mT, deltas.new_tensor(weights))
        return Folding(total, sum(weights), len(weights))

    def join(self, folding: Folding, other: Folding) -> None:
        """Add another sum to the one under way, in place."""
        folding.total.add_(other.total)
        folding.weight += other.weight
        folding.count += other.count

    def finish(self, folding: Folding) -> Tensor:
        """Return the mean, shape `[size]`; zeros when nothing was folded."""
        return folding.total.div_(folding.weight) if folding.weight else folding.total
