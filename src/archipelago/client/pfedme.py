"""pFedMe: the shared model is where the clients' own models are pulled to, and only that."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from archipelago.client.agreement import Agreement
from archipelago.client.kernels import Kernel
from archipelago.client.training import Assignment, Fitted, LocalTraining, batches
from archipelago.core.checks import at_least, between
from archipelago.core.errors import IncompatibleParts
from archipelago.core.tree import Layout
from archipelago.nn.model import Model
from archipelago.space.graph import Graph

__all__ = ["PFedMe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PFedMe:
    r"""Descends the Moreau envelope of each client's loss; the minimiser is the client's own model.

    For every batch, `steps` steps on $F_k(\theta) + (\lambda/2) |\theta - w|^2$ give the own model
    $\theta$; then $w \leftarrow w - \eta \lambda (w - \theta)$. The server's beta is
    `server.learning_rate`. `steps` passes over the rows an epoch.

    Attributes:
        strength: lambda: a small one leaves clients to themselves.
        steps: K, inner steps on each batch.
        own_rate: learning rate of the inner steps; times `strength` it must stay below 2.
        local: batches, epochs and eta (`learning_rate`); plain SGD.

    References:
        Dinh et al. 2020, arXiv:2006.08848, algorithm 1.
    """

    kind: Literal["pfedme"] = "pfedme"
    strength: float = 15.0
    steps: int = 5
    own_rate: float = 0.05
    local: LocalTraining = field(default_factory=LocalTraining)

    def __post_init__(self) -> None:
        between("client.strength", self.strength, 0, 1e6, open_low=True)
        at_least("client.steps", self.steps, 1, high=100_000)
        between(
            "client.own_rate",
            self.own_rate,
            0,
            2 / self.strength,
            open_low=True,
            open_high=True,
            fix="beyond 2 / client.strength an inner step jumps over the shared model",
        )
        asked = {"optimizer": "sgd", "momentum": 0.0, "proximal": 0.0, "patience": 0}
        for name, plain in asked.items():
            value = getattr(self.local, name)
            if value != plain:
                raise IncompatibleParts(
                    "pFedMe has inner steps of its own: plain SGD with its own pull",
                    got=value,
                    where=f"client.local.{name}",
                    fix=f"set it to {plain!r}",
                )
        if self.local.path not in ("auto", "flat"):
            raise IncompatibleParts(
                "pFedMe has inner steps of its own: no other path takes them",
                got=self.local.path,
                where="client.local.path",
                fix="set it to 'auto'",
            )

    @property
    def epochs(self) -> int:
        """Passes over the local rows in a round, each of `steps` inner steps a batch."""
        return self.local.epochs

    def chosen(self, graph: Graph | None, task: Any) -> Kernel:
        """Return how a network is computed: inner steps of its own, in the plain loop."""
        del graph, task
        return Kernel("flat", "inner steps on each batch")

    def agreement(self, layout: Layout) -> Agreement:
        """Return that a pass costs `steps`, and that clients have models of their own."""
        del layout
        return Agreement(passes=self.steps, personal=True)

    def initial(self, flat: Tensor, layout: Layout) -> Tensor:
        """Return the shared model as it is at the client's first visit."""
        del layout
        return flat

    def personal(self, flat: Tensor, layout: Layout, kept: Tensor) -> Tensor:
        """Return the client's own model."""
        del flat, layout
        return kept

    def fit(self, model: Model, task: Any, asked: Assignment) -> Fitted:
        """Train `model` in place; see `Keeping`."""
        local, x, y = self.local, asked.x, asked.y
        theta, grad = model.weights.detach(), model.weights_grad
        shared = theta.clone()
        share = local.rate(asked.progress) / local.learning_rate
        total = torch.zeros((), device=theta.device)
        steps = done = 0
        model.train()
        for epoch in range(asked.epochs):
            for rows in batches(len(y), local.batch, asked.seed.child("epoch", epoch)):
                inputs, targets = (x, y) if rows is None else (x[rows], y[rows])
                for _ in range(self.steps):
                    grad.zero_()
                    loss = task.loss(model(inputs), targets)
                    loss.backward()
                    if local.weight_decay:
                        grad.add_(theta, alpha=local.weight_decay)
                    if local.clip:
                        grad.mul_(torch.clamp(local.clip / (grad.norm() + 1e-12), max=1.0))
                    grad.add_(theta - shared, alpha=self.strength)
                    theta.add_(grad, alpha=-self.own_rate * share)
                    total += loss.detach() * len(targets)
                    done += len(targets)
                shared.add_(theta - shared, alpha=local.rate(asked.progress) * self.strength)
                steps += 1
        own = model.flat.detach().clone()
        theta.copy_(shared)
        return Fitted(steps=steps, examples=done, loss=total.item() / max(done, 1), kept=own)
