"""A network whose every tensor is a view of one flat vector."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Literal, Self, final

import torch
from torch import Tensor, nn

from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.core.tree import Layout, Leaf
from archipelago.nn.build import Network, build, initialise
from archipelago.space.graph import Graph

__all__ = ["Model"]


@final
class Model:
    """A torch network over one flat vector: load, step, hash and send are one operation each.

    Parameters and float buffers alias `flat`; the parameters' gradients alias `grad`. So an
    optimiser step is `model.weights.add_(model.weights_grad, alpha=-rate)`. Clear gradients with
    `zero_grad()` of this class only: torch's `set_to_none` would break the alias.

    Attributes:
        module: the torch network.
        layout: which tensor lies where; batch norm's running statistics in group `stats`.
        flat: weights then statistics, shape `[layout.size]`, float32.
        grad: like `flat`; its `stats` entries stay 0.
        weights: the view of `flat` that is trained; `weights_grad` the same of `grad`.

    Example:
        >>> model = Model.of_module(nn.Linear(3, 2))
        >>> model.load(torch.zeros(model.layout.size))
        >>> model(torch.ones(1, 3)).tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, module: nn.Module) -> None:
        """Take over `module`: changes it in place so that its tensors alias `flat`."""
        tensors = _tensors(module)
        self.module = module
        self.layout = Layout.of(
            Leaf(name, tuple(tensor.shape), "weights" if _trained(tensor) else "stats")
            for name, tensor in tensors.items()
        )
        device = next(iter(tensors.values())).device
        self.flat = torch.empty(self.layout.size, device=device)
        self.grad = torch.zeros_like(self.flat)
        span = self.layout.span("weights")
        self.weights, self.weights_grad = self.flat[span], self.grad[span]
        grads = self.layout.views(self.grad)
        for name, view in self.layout.views(self.flat).items():
            tensor = tensors[name]
            view.copy_(tensor.detach())
            tensor.data = view
            if tensor.requires_grad:
                tensor.grad = grads[name]

    @classmethod
    def of_graph(
        cls, graph: Graph, seed: Seed | None = None, device: str | torch.device = "cpu"
    ) -> Self:
        """Build `graph`; its tensors hold zeros until `load`, or start from `seed` where given."""
        model = cls(build(graph).to(device))
        # One order for everyone: the graph's, which needs no torch to be known.
        if model.layout != graph.layout:
            raise AssertionError(f"nn and space disagree on {graph.key}")
        if seed is not None:
            model.load(initialise(graph, seed))
        return model

    @classmethod
    def of_module(cls, module: nn.Module) -> Self:
        """Take a copy of a user's own network, with its present weights.

        Raises:
            ConfigError: it has no parameters, or some that are not float32 on one device.
        """
        return cls(deepcopy(module))

    def load(self, flat: Tensor) -> None:
        """Copy `flat`, shape `[layout.size]`, in; the alias stays."""
        if flat.shape != self.flat.shape:
            raise ConfigError(f"this network has {self.layout.size} numbers", got=tuple(flat.shape))
        with torch.no_grad():
            self.flat.copy_(flat)

    def zero_grad(self) -> None:
        """Set every gradient to 0, in place."""
        self.grad.zero_()

    def train(self, mode: bool = True) -> Self:
        """Switch dropout and batch statistics on or off, in place."""
        self.module.train(mode)
        return self

    def eval(self) -> Self:
        """Switch dropout and batch statistics off, in place."""
        return self.train(False)

    @property
    def graph(self) -> Graph | None:
        """What it was built from; None for a user's own network."""
        return self.module.graph if isinstance(self.module, Network) else None

    @contextmanager
    def stored(self, order: Literal["channels-last", "plain"]) -> Iterator[None]:
        """Compute on images in this order of memory inside the context."""
        module = self.module
        if not isinstance(module, Network):
            yield
            return
        before = module.channels_last
        module.channels_last = order == "channels-last"
        try:
            yield
        finally:
            module.channels_last = before

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output for `x`, shapes `[examples, ...]`."""
        return self.module(x)


def _trained(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what federates, by name: parameters, then float buffers that the state keeps."""
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.track_running_stats:
            if child.momentum is None:
                raise ConfigError(
                    "batch norm with momentum=None averages over a count that is not federated",
                    where=name,
                    fix="give it a momentum, for example 0.1",
                )
            # An integer cannot be averaged; with a fixed momentum nothing reads it.
            child.num_batches_tracked = None
    kept = module.state_dict(keep_vars=True)
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    tensors |= {
        name: buffer
        for name, buffer in module.named_buffers()
        if name in kept and buffer.is_floating_point()
    }
    if not any(_trained(tensor) for tensor in tensors.values()):
        raise ConfigError("this network has no parameters: there is nothing to train")
    device = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if nn.parameter.is_lazy(tensor):
            raise ConfigError(
                "a lazy layer has no shape yet",
                where=name,
                fix="run the network once on one example before handing it over",
            )
        if tensor.dtype != torch.float32 or tensor.device != device:
            raise ConfigError(
                "a network's tensors must be float32 and on one device",
                got=(str(tensor.dtype), str(tensor.device)),
                where=name,
                fix="call .float() and .to(device) on the network",
            )
    return tensors
