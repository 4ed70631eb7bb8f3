"""The two things that a server may ask of a client, as values that an engine can carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from archipelago.client.training import Training
from archipelago.client.workplace import Bench
from archipelago.core.seeds import Seed
from archipelago.wire.frame import pack, unpack

__all__ = ["Evaluate", "Fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Train one branch's model on one client's train rows; reply with an `update` frame.

    Attributes:
        client: whose rows.
        branch: which model.
        round: which round; the server refuses any other.
        weight: work, for scheduling: rows times multiply-accumulates of a row.
        handle: the framed model, shared by all clients of the branch.
        training: how to train.
        seed: this visit's stream.
        progress: share of the plan's rounds already done.
        epochs: passes over the rows.
    """

    client: int
    branch: int
    round: int
    weight: int
    handle: Any
    training: Training
    seed: Seed
    progress: float
    epochs: int

    def __call__(self, context: Bench, memory: Any) -> Sequence[Any]:
        """Train in the worker."""
        model = context.model(unpack(memory.view(self.handle)))
        x, y = context.rows(self.client, "train")
        before = model.flat.clone()
        task = context.place.task

        def validate() -> float:
            inputs, targets = context.rows(self.client, "validation")
            model.eval()
            with torch.no_grad():
                return task.loss(model(inputs), targets).item()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed.child("dropout").value())
            done = self.training.fit(
                model,
                task,
                x,
                y,
                seed=self.seed,
                progress=self.progress,
                epochs=self.epochs,
                validate=validate,
            )
        fields = {
            "client": self.client,
            "branch": self.branch,
            "round": self.round,
            "examples": len(y),
            "seen": done.examples,
            "steps": done.steps,
            "metrics": {"loss": done.loss},
        }
        return pack("update", fields, [(model.flat - before).detach().cpu().numpy()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score one branch's model on one client's rows; reply with sufficient statistics.

    Attributes:
        client: whose rows.
        branch: which model.
        round: after which round.
        weight: work, for scheduling.
        handle: the framed model.
        split: `validation`, or `test` where the workplace holds opened test rows.
    """

    client: int
    branch: int
    round: int
    weight: int
    handle: Any
    split: str = "validation"

    def __call__(self, context: Bench, memory: Any) -> Sequence[Any]:
        """Score in the worker."""
        model = context.model(unpack(memory.view(self.handle)))
        x, y = context.rows(self.client, self.split)
        model.eval()
        with torch.no_grad():
            vector = context.place.task.statistics(model(x), y)
        fields = {
            "client": self.client,
            "branch": self.branch,
            "round": self.round,
            "examples": len(y),
        }
        return pack("score", fields, [vector])
