"""FedNova's average: clients that took more steps do not pull the model towards themselves."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from archipelago.aggregate.mean import Folding
from archipelago.core.checks import at_least
from archipelago.core.tree import Layout
from archipelago.core.update import Update

__all__ = ["FedNova", "Normalized"]


@dataclass(slots=True, kw_only=True)
class Normalized(Folding):
    """A sum of normalised changes under way. Changed in place by `FedNova.fold`.

    Attributes:
        weights: where the trained weights lie; statistics are averaged as they are.
        steps: weighted sum of the clients' effective steps.
    """

    weights: slice
    steps: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FedNova:
    r"""Averages directions, then goes the mean way: $\tau_{eff} \sum_k p_k \Delta_k / |a_k|$.

    A client's effort $|a_k|$ is its number of steps for plain SGD; momentum lengthens it, a
    proximal term shortens it. It travels beside the update: one number. With equal efforts this is
    FedAvg. Linear: secure aggregation and the Gaussian mechanism apply.

    Attributes:
        weighting: `examples` weighs a client by its rows, `equal` counts every client once.
        bound: an update that comes by itself is refused where it is so many times as long as the
            median of the branch's last round; 0 refuses none. Sums of a simulation's blocks are
            not measured.
        effective: what the common step is the mean of: the clients' `effort`, or their `steps`,
            as the authors' code does with a proximal term.

    References:
        Wang et al. 2020, arXiv:2007.07481, equation 6.
    """

    kind: Literal["fednova"] = "fednova"
    weighting: Literal["examples", "equal"] = "examples"
    bound: float = 10.0
    effective: Literal["effort", "steps"] = "effort"

    linear: ClassVar[bool] = True
    streaming: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bound:
            at_least("aggregator.bound", self.bound, 1, fix="0 refuses none")

    def start(self, layout: Layout) -> Normalized:
        """Return an empty sum over models of `layout`."""
        return Normalized(total=torch.zeros(layout.size), weights=layout.span("weights"))

    def weight(self, examples: int) -> float:
        """Return the weight of a client with so many training rows."""
        return float(examples) if self.weighting == "examples" else 1.0

    def fold(self, folding: Normalized, update: Update) -> None:
        """Add one client's change, shape `[layout.size]`, to the sum under way, in place."""
        weight = self.weight(update.examples)
        cut = folding.weights
        folding.total[cut].add_(update.delta[cut], alpha=weight / update.effort)
        folding.total[cut.stop :].add_(update.delta[cut.stop :], alpha=weight)
        taken = update.effort if self.effective == "effort" else float(update.steps)
        folding.steps += weight * taken
        folding.weight += weight
        folding.count += 1

    def finish(self, folding: Normalized) -> Tensor:
        """Return the mean, shape `[size]`; zeros when nothing was folded."""
        if not folding.weight:
            return folding.total
        folding.total.div_(folding.weight)
        folding.total[folding.weights].mul_(folding.steps / folding.weight)
        return folding.total
