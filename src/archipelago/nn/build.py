"""A graph becomes a torch module; its tensors have the names and shapes of `graph.layout`."""

from collections.abc import Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Value
from archipelago.space.graph import INPUT, Graph, Node

__all__ = ["BatchNorm", "Network", "build", "initialise"]

_FUNCTIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


@final
class BatchNorm(nn.Module):
    """Batch norm over any number of space dimensions, for federated clients.

    Differs from torch's in two ways: it counts no batches (the momentum is fixed at 0.1), so its
    state is float only; and a training batch of a single value per channel, which a small client's
    last batch can be, is normalised by the running statistics instead of raising.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape `[examples, channels, *space]`; updates the statistics in place."""
        batch = self.training and x.numel() > x.shape[1]
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch, 0.1, 1e-5
        )


@final
class Function(nn.Module):
    """An operation without tensors."""

    def __init__(self, op: str, settings: dict[str, Value], space: tuple[int, ...]) -> None:
        super().__init__()
        self.op = op
        self.fn = str(settings.get("fn", ""))
        self.start = int(settings.get("start", 0))
        self.space = space

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply it to the batch, shape `[examples, ...]`."""
        match self.op:
            case "act":
                return _FUNCTIONS[self.fn](inputs[0])
            case "globalpool":
                return inputs[0].flatten(2).mean(2)
            case "flatten":
                return inputs[0].flatten(1)
            case "concat":
                return torch.cat(inputs, 1)
            case "zero":
                return torch.zeros_like(inputs[0])
            case "crop":
                cut = inputs[0]
                for axis in range(2, cut.ndim):
                    cut = cut.narrow(axis, self.start, cut.shape[axis] - self.start)
                return cut
            case "resize":
                mode = "linear" if len(self.space) == 1 else "bilinear"
                return F.interpolate(inputs[0], self.space, mode=mode, align_corners=False)
            case _:  # add; identity is an add of one
                total = inputs[0]
                for other in inputs[1:]:
                    total = total + other
                return total


@final
class Network(nn.Module):
    """Runs a graph: each node is a child module of the node's name.

    Attributes:
        graph: what it runs.
        channels_last: whether images are stored pixel by pixel, which pooling and convolutions
            are faster on; true where there are any. It changes the last bits only.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.channels_last = len(graph.input_shape) == 3 and any(
            node.op == "conv" for node in graph.nodes
        )
        shapes = {INPUT: graph.input_shape, **graph.shapes}
        for node in graph.nodes:
            if hasattr(self, node.name):
                raise ConfigError(
                    "torch uses this name for something else",
                    where=f"node {node.name!r}",
                    fix="give the node another name",
                )
            self.add_module(node.name, _module(node, shapes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for `x`: `[examples, *input_shape]` -> `[examples, *outputs]`."""
        values = {INPUT: _by_pixel(x) if self.channels_last else x}
        for node in self.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            child = self._modules[node.name]
            assert child is not None  # noqa: S101 - add_module above; for the type checker
            if node.op == "gru":
                _, state = child(inputs[0].transpose(1, 2))
                values[node.name] = state.transpose(0, 1).flatten(1)
            else:
                values[node.name] = child(*inputs)
        return values[self.graph.nodes[-1].name]


class _Undrawn(TorchFunctionMode):
    """Leaves new weights as they are. The device "meta" would too, but it imports sympy: 1 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Skip what draws random numbers."""
        named = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


_DRAWS = frozenset({"uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_"})


def _by_pixel(x: Tensor) -> Tensor:
    # `to(memory_format=)` leaves a single channel as it is, and torch then takes the slow way.
    _, channels, height, width = x.shape
    strides = (channels * height * width, 1, width * channels, channels)
    if x.stride() == strides:
        return x
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def build(graph: Graph) -> Network:
    """Return the module of `graph`, not yet initialised: every tensor holds zeros.

    Draws no random numbers. Load `initialise(graph, seed)` or trained weights into it, most easily
    through `nn.model.Model`.
    """
    with _Undrawn():
        network = Network(graph)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    return network


def initialise(graph: Graph, seed: Seed) -> Tensor:
    """Return starting weights, shape `[graph.layout.size]`, float32: a pure function of both.

    Each tensor has its own stream, so the same node starts alike in two networks; torch's own
    random state is neither read nor moved.

    References:
        He et al. 2015, arXiv:1502.01852, eq. 10. The last layer, which no ReLU follows, has half
        that variance; biases start at 0 and norms at the identity.
    """
    flat = torch.empty(graph.layout.size)
    last = graph.nodes[-1].name
    for name, view in graph.layout.views(flat).items():
        spread, fill = graph.starts[name]
        if not spread:
            view.fill_(fill)
            continue
        if name.split(".")[0] == last:
            spread *= 0.5**0.5
        draw = seed.child("initialise", name).numpy().standard_normal(tuple(view.shape), "float32")
        view.copy_(torch.from_numpy(draw)).mul_(spread)
    return flat


def _module(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    settings, shape = node.settings, shapes[node.inputs[0]]

    def whole(name: str) -> int:
        return int(settings[name])

    flat = len(shape) == 2
    match node.op:
        case "conv":
            return (nn.Conv1d if flat else nn.Conv2d)(
                shape[0],
                whole("filters"),
                whole("kernel"),
                stride=whole("stride"),
                padding=whole("padding"),
                dilation=whole("dilation"),
                groups=whole("groups"),
                bias=bool(settings["bias"]),
            )
        case "linear":
            return nn.Linear(shape[0], whole("features"), bias=bool(settings["bias"]))
        case "maxpool":
            pool = nn.MaxPool1d if flat else nn.MaxPool2d
            return pool(whole("kernel"), whole("stride") or whole("kernel"), whole("padding"))
        case "avgpool":
            pool = nn.AvgPool1d if flat else nn.AvgPool2d
            return pool(
                whole("kernel"),
                whole("stride") or whole("kernel"),
                whole("padding"),
                count_include_pad=False,
            )
        case "norm" if settings["style"] == "batch":
            return BatchNorm(shape[0], affine=bool(settings["affine"]))
        case "norm" if settings["style"] != "none":
            groups = whole("groups") if settings["style"] == "group" else 1
            return nn.GroupNorm(groups, shape[0], affine=bool(settings["affine"]))
        case "dropout":
            return nn.Dropout(float(settings["rate"]))
        case "gru":
            both = bool(settings["bidirectional"])
            return nn.GRU(shape[0], whole("hidden"), batch_first=True, bidirectional=both)
        case _:
            return Function(node.op, settings, shapes[node.name][1:])
