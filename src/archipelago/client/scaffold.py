"""SCAFFOLD: clients correct each step by how their gradient differs from everybody's."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from archipelago.client.agreement import Agreement
from archipelago.client.kernels import Kernel
from archipelago.client.training import Assignment, Fitted, LocalTraining
from archipelago.core.errors import IncompatibleParts
from archipelago.core.tree import Layout
from archipelago.nn.model import Model
from archipelago.space.graph import Graph

__all__ = ["Scaffold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """SCAFFOLD's client: every step adds c - c_i, so that local steps do not drift apart.

    The client keeps its control variate c_i, and replaces it by the mean gradient along its way
    (option II of the paper). Its change travels beside the update, and the mean c beside the
    model: twice the traffic of FedAvg. The server weighs control variates as its aggregator weighs
    updates; `aggregator.weighting = "equal"` is the paper's. A client that is seldom sampled
    corrects with a stale c_i.

    Attributes:
        local: how a client steps; plain SGD only, as the mean gradient is read off its way.

    References:
        Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1.
    """

    kind: Literal["scaffold"] = "scaffold"
    local: LocalTraining = field(default_factory=LocalTraining)

    def __post_init__(self) -> None:
        for name, plain in (("optimizer", "sgd"), ("momentum", 0.0), ("proximal", 0.0)):
            value = getattr(self.local, name)
            if value != plain:
                raise IncompatibleParts(
                    "a control variate is the mean gradient along plain SGD steps",
                    got=value,
                    where=f"client.local.{name}",
                    fix=f"set it to {plain!r}, or choose client.kind = 'local'",
                )

    @property
    def epochs(self) -> int:
        """Passes over the local rows in a round."""
        return self.local.epochs

    def chosen(self, graph: Graph | None, task: Any) -> Kernel:
        """Return how a network is computed: the correction rules blocks of clients out."""
        return self.local.chosen(graph, task, alone=False)

    def agreement(self, layout: Layout) -> Agreement:
        """Return that a control variate travels both ways."""
        return Agreement(extras={"control": _size(layout)})

    def initial(self, flat: Tensor, layout: Layout) -> Tensor:
        """Return zero: no correction."""
        del flat
        return torch.zeros(_size(layout))

    def personal(self, flat: Tensor, layout: Layout, kept: Tensor) -> Tensor:
        """Return the server's model: clients have none of their own."""
        del layout, kept
        return flat

    def fit(self, model: Model, task: Any, asked: Assignment) -> Fitted:
        """Train `model` in place; see `Keeping`."""
        start = model.weights.detach().clone()
        mine = torch.zeros_like(start) if asked.kept is None else asked.kept.to(start.device)
        mean = asked.extras.get("control", torch.zeros_like(start)).to(start.device)
        done = self.local.pulled(model, task, asked, correction=mean - mine)
        # Equation 4, option II: what is left of the way when the correction is taken out of it.
        way = (start - model.weights.detach()) / (done.steps * self.local.rate(asked.progress))
        renewed = mine - mean + way
        return replace(done, kept=renewed, extras={"control": renewed - mine})


def _size(layout: Layout) -> int:
    span = layout.span("weights")
    return span.stop - span.start
