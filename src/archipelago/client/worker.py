"""What every worker holds while it plays clients: the shards, the task, and built models."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archipelago.client.block import Held, Rows
from archipelago.core.tree import Layout
from archipelago.data.fleet import FleetShards
from archipelago.data.shards import Shards
from archipelago.nn.custom import built
from archipelago.nn.model import Model
from archipelago.space.graph import Graph
from archipelago.wire.frame import Frame

__all__ = ["Worker", "WorkerContext", "vector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """The engine's context: pickled once for each worker, entered once in it.

    Attributes:
        shards: every client's rows, memory-mapped and opened by path.
        task: loss and sufficient statistics.
        device: where models live, e.g. "cpu" or "cuda".
        models: built networks that a worker keeps; the least recently used leave first.
        networks: factories of a user's own torch networks, by name; see `nn/custom.py`.
    """

    shards: Any
    task: Any
    device: str = "cpu"
    models: int = 32
    networks: Mapping[str, Callable[..., nn.Module]] = field(default_factory=dict[str, Any])

    def enter(self) -> "Worker":
        """Return the worker; a machine without the device says so before any task."""
        torch.empty(0, device=self.device)
        return Worker(self)


@dataclass(slots=True)
class Worker:
    """One worker's shards and models. Only its own thread touches it."""

    context: WorkerContext
    _models: OrderedDict[str, Model] = field(default_factory=OrderedDict)
    _views: dict[str, Any] = field(default_factory=dict[str, Any])

    def model(self, frame: Frame, whole: Callable[[Tensor, Layout], Tensor] | None = None) -> Model:
        """Return the network described by a `model` frame, loaded with its weights.

        Args:
            frame: as received.
            whole: turns what travelled into the whole flat vector; None where all of it did.
        """
        key = str(frame.fields["key"])
        model = self._models.pop(key, None)
        if model is None:
            described = frame.fields["graph"]
            model = (
                built(described, self.context.networks, self.context.device)
                if "own" in described
                else Model.of_graph(Graph.from_json(described), device=self.context.device)
            )
        self._models[key] = model
        while len(self._models) > self.context.models:
            self._models.popitem(last=False)
        if whole is not None:
            model.load(whole(vector(frame, 0), model.layout))
        elif model.flat.device.type == "cpu" and model.flat.shape == frame.arrays[0].shape:
            np.copyto(model.flat.numpy(), frame.arrays[0])
        else:
            model.load(vector(frame, 0))
        return model

    def rows(self, client: int, split: str, view: str = "") -> tuple[Tensor, Tensor]:
        """Return one client's rows of `split` (`train`, `validation` or `test`) on the device.

        Args:
            client: whose.
            split: which of them.
            view: under which preparation, where the run has several.
        """
        x, y = getattr(self._shards(view), split)(client)
        return x.to(self.context.device), y.to(self.context.device)

    def several(self, clients: Sequence[int], view: str = "") -> Rows:
        """Return the train rows of several clients; on the CPU, files are read as they are needed.

        Args:
            clients: whose, at least one.
            view: as in `rows`.
        """
        shards = self._shards(view)
        # Shards derived from these may hold other rows than the files: they are asked for them.
        if type(shards) in (Shards, FleetShards) and self.context.device == "cpu":
            return shards.several(clients)
        return Held([self.rows(client, "train", view) for client in clients])

    def _shards(self, view: str) -> Any:
        if not view:
            return self.context.shards
        if view not in self._views:
            self._views[view] = self.context.shards.view(view)
        return self._views[view]


def vector(frame: Frame, index: int) -> Tensor:
    """Return a copy of one float32 array of a frame."""
    return torch.from_numpy(frame.arrays[index].copy())
