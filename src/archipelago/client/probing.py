"""A third thing that a server may ask of a client: a proxy of a network on one minibatch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from archipelago.client.worker import Worker
from archipelago.core.seeds import Seed
from archipelago.nn.proxies import proxy
from archipelago.wire.frame import pack, unpack

__all__ = ["Probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Judge one branch's untrained model on one minibatch of one client's train rows.

    Attributes:
        client: whose rows.
        branch: which model.
        round: of the plan.
        weight: work, for scheduling.
        handle: the framed model.
        proxies: names, see `nn.proxies`.
        batch: rows at most.
        seed: draws the rows; the same for every branch, so that all see the same.
    """

    client: int
    branch: int
    round: int
    weight: int
    handle: Any
    proxies: tuple[str, ...]
    batch: int
    seed: Seed

    def __call__(self, worker: Worker, memory: Any) -> Sequence[Any]:
        """Judge in the worker; the reply is one number a proxy."""
        model = worker.model(unpack(memory.view(self.handle)))
        x, y = worker.rows(self.client, "train")
        if len(y) > self.batch:
            drawn = np.sort(self.seed.numpy().permutation(len(y))[: self.batch])
            x, y = x[torch.from_numpy(drawn)], y[torch.from_numpy(drawn)]
        loss = worker.context.task.loss
        values = [proxy(name, model.module, x, y, loss) for name in self.proxies]
        fields = {
            "client": self.client,
            "branch": self.branch,
            "round": self.round,
            "examples": len(y),
        }
        return pack("score", fields, [np.array(values, np.float64)])
