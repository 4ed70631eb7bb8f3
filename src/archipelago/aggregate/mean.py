"""FedAvg's average, folded one update at a time."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

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
    arrivals. Linear: secure aggregation and the Gaussian mechanism apply.

    Attributes:
        weighting: `examples` weighs a client by its rows, `equal` counts every client once.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    kind: Literal["weighted-mean"] = "weighted-mean"
    weighting: Literal["examples", "equal"] = "examples"

    linear: ClassVar[bool] = True
    streaming: ClassVar[bool] = True

    def start(self, size: int) -> Folding:
        """Return an empty sum over vectors of `size` scalars."""
        return Folding(torch.zeros(size))

    def fold(self, folding: Folding, delta: Tensor, examples: int) -> None:
        """Add one client's change, in place.

        Args:
            folding: the sum under way.
            delta: new minus old, shape `[size]`.
            examples: training rows behind it.
        """
        weight = float(examples) if self.weighting == "examples" else 1.0
        folding.total.add_(delta, alpha=weight)
        folding.weight += weight
        folding.count += 1

    def finish(self, folding: Folding) -> Tensor:
        """Return the mean, shape `[size]`; zeros when nothing was folded."""
        return folding.total.div_(folding.weight) if folding.weight else folding.total
