"""Ditto: a shared model as FedAvg trains it, and beside it one of each client's own."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from archipelago.client.agreement import Agreement
from archipelago.client.kernels import Kernel
from archipelago.client.training import Assignment, Fitted, LocalTraining
from archipelago.core.checks import at_least, between
from archipelago.core.tree import Layout
from archipelago.nn.model import Model
from archipelago.space.graph import Graph

__all__ = ["Ditto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ditto:
    r"""Each client minimises $F_k(v) + (\lambda/2) |v - w|^2$ beside the shared model `w`.

    The shared model is FedAvg's to the bit. A client keeps `v`, which never travels. Two passes
    over the rows a round. `strength` 0 is training alone; a large one is the shared model.

    Attributes:
        strength: lambda, the pull towards the shared model; must stay below 2 / learning rate.
        epochs_own: passes over the local rows for the client's own model; 0 takes as many as for
            the shared one.
        local: how a client trains, both models alike.

    References:
        Li et al. 2021, arXiv:2012.04221, algorithm 1.
    """

    kind: Literal["ditto"] = "ditto"
    strength: float = 0.1
    epochs_own: int = 0
    local: LocalTraining = field(default_factory=LocalTraining)

    def __post_init__(self) -> None:
        at_least(
            "client.epochs_own", self.epochs_own, 0, high=10_000, fix="0 takes client.local.epochs"
        )
        between(
            "client.strength",
            self.strength,
            0,
            2 / self.local.learning_rate,
            open_high=True,
            fix="beyond 2 / client.local.learning_rate a step jumps over the shared model",
        )

    @property
    def epochs(self) -> int:
        """Passes over the local rows in a round, for the shared model."""
        return self.local.epochs

    def chosen(self, graph: Graph | None, task: Any) -> Kernel:
        """Return how the shared model is computed; the client's own is pulled, one at a time."""
        self.local.chosen(graph, task, alone=False)
        return self.local.chosen(graph, task)

    def agreement(self, layout: Layout) -> Agreement:
        """Return that a visit trains two models, and that one is the client's own."""
        del layout
        own = self.epochs_own or self.local.epochs
        return Agreement(passes=1 + own / self.local.epochs, personal=True)

    def initial(self, flat: Tensor, layout: Layout) -> Tensor:
        """Return the shared model as it is at the client's first visit."""
        del layout
        return flat

    def personal(self, flat: Tensor, layout: Layout, kept: Tensor) -> Tensor:
        """Return the client's own model."""
        del flat, layout
        return kept

    def fit(self, model: Model, task: Any, asked: Assignment) -> Fitted:
        """Train `model` in place, and the client's own model beside it; see `Keeping`."""
        before = model.flat.detach().clone()
        done = self.local.fit(model, task, asked)
        shared = model.flat.detach().clone()
        model.load(before if asked.kept is None else asked.kept.to(before.device))
        again = replace(asked, seed=asked.seed.child("own"), epochs=self.epochs_own or asked.epochs)
        mine = replace(self.local, proximal=self.strength).pulled(
            model, task, again, anchor=before[model.layout.span("weights")]
        )
        own = model.flat.detach().clone()
        model.load(shared)
        return replace(done, examples=done.examples + mine.examples, kept=own)
