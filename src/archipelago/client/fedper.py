"""FedPer: the body of the network is everybody's, its head is each client's own."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from archipelago.client.agreement import Agreement
from archipelago.client.kernels import Kernel
from archipelago.client.training import Assignment, Fitted, LocalTraining
from archipelago.core.checks import at_least
from archipelago.core.tree import Layout
from archipelago.nn.model import Model
from archipelago.space.graph import Graph

__all__ = ["FedPer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedPer:
    """Local heads: the last layers are trained with the rest, kept by each client, never sent.

    Only the body travels, so messages are shorter. The server has no head: each client is scored
    on the body with its own. Zero layers is FedAvg; all of them is training alone.

    Attributes:
        layers: how many layers with weights, counted from the output, stay with the client.
        local: how a client trains.

    References:
        Arivazhagan et al. 2019, arXiv:1912.00818, algorithm 1.
    """

    kind: Literal["fedper"] = "fedper"
    layers: int = 1
    local: LocalTraining = field(default_factory=LocalTraining)

    def __post_init__(self) -> None:
        at_least("client.layers", self.layers, 0, fix="0 is FedAvg")

    @property
    def epochs(self) -> int:
        """Passes over the local rows in a round."""
        return self.local.epochs

    def chosen(self, graph: Graph | None, task: Any) -> Kernel:
        """Return how a network is computed, as its local training does."""
        return self.local.chosen(graph, task)

    def agreement(self, layout: Layout) -> Agreement:
        """Return that the body travels, and that clients have models of their own."""
        body, _ = self._parts(layout)
        return Agreement(body=body, personal=self.layers > 0)

    def initial(self, flat: Tensor, layout: Layout) -> Tensor:
        """Return the head as it was initialised: everybody starts from the same."""
        return _joined(flat, self._parts(layout)[1])

    def personal(self, flat: Tensor, layout: Layout, kept: Tensor) -> Tensor:
        """Return the body, as it travelled, with the client's head."""
        body, head = self._parts(layout)
        whole = torch.empty(layout.size)
        for parts, values in ((body, flat), (head, kept)):
            start = 0
            for part in parts:
                whole[part] = values[start : start + part.stop - part.start]
                start += part.stop - part.start
        return whole

    def fit(self, model: Model, task: Any, asked: Assignment) -> Fitted:
        """Train `model`, which holds the client's head already, in place; see `Keeping`."""
        done = self.local.fit(model, task, asked)
        return replace(done, kept=_joined(model.flat.detach(), self._parts(model.layout)[1]))

    def _parts(self, layout: Layout) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return where body and head lie, leaf by leaf, in order."""
        order = dict.fromkeys(_layer(e.name) for e in layout.leaves if e.group == "weights")
        own = set(list(order)[max(0, len(order) - self.layers) :])
        body: list[slice] = []
        head: list[slice] = []
        for leaf, start in zip(layout.leaves, layout.offsets, strict=True):
            part = slice(start, start + leaf.size)
            (head if _layer(leaf.name) in own else body).append(part)
        return tuple(body), tuple(head)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _joined(flat: Tensor, parts: tuple[slice, ...]) -> Tensor:
    return torch.cat([flat[:0], *(flat[part] for part in parts)])
