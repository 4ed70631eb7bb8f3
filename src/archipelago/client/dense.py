"""Dense networks with a client axis: forward, backward and step written out.

Small dense models spend their time on calls, not on arithmetic. Here one call serves a block of
clients, and plain SGD adds the gradient's matrix product to the weights in place: the gradient
itself is never stored. Equals the loop over one client at a time to rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archipelago.client.block import Begin, Leaves, Step
from archipelago.data.tasks import Classification
from archipelago.space.graph import INPUT, Graph

__all__ = ["OPS", "Dense", "dense"]

OPS = frozenset({"linear", "act", "flatten", "add", "identity"})
"""What a network may consist of."""

_aten = torch.ops.aten
_ACTS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]]
_ACTS = {  # name -> value, and slope times g, given (g, input, output)
    "relu": (torch.relu, lambda g, _, out: _aten.threshold_backward.default(g, out, 0)),
    "tanh": (torch.tanh, lambda g, _, out: _aten.tanh_backward.default(g, out)),
    "gelu": (_aten.gelu.default, lambda g, x, _: _aten.gelu_backward.default(g, x)),
    "silu": (_aten.silu.default, lambda g, x, _: _aten.silu_backward.default(g, x)),
    "hardswish": (
        _aten.hardswish.default,
        lambda g, x, _: _aten.hardswish_backward.default(g, x),
    ),
}


@dataclass(frozen=True, slots=True)
class _Line:
    op: str
    name: str
    inputs: tuple[str, ...]
    fn: str


@dataclass(frozen=True, slots=True)
class _Linear:
    """Views of one layer of a block of models, made once: a view costs as much as a sum."""

    weight: Tensor
    turned: Tensor
    bias: Tensor | None


class Dense:
    """A block of models over one graph of `OPS`; `descend` changes their weights in place."""

    def __init__(self, graph: Graph, leaves: Leaves) -> None:
        self._lines = tuple(
            _Line(n.op, n.name, n.inputs, str(n.settings["fn"]) if n.op == "act" else "")
            for n in graph.nodes
        )
        self._layers = _layers(graph, leaves)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return every node's output, the last node's last.

        Args:
            x: `[clients, examples, features]`.
        """
        values = {INPUT: x}
        for line in self._lines:
            first = values[line.inputs[0]]
            match line.op:
                case "linear":
                    layer = self._layers[line.name]
                    values[line.name] = (
                        torch.bmm(first, layer.turned)
                        if layer.bias is None
                        else torch.baddbmm(layer.bias, first, layer.turned)
                    )
                case "act":
                    values[line.name] = _ACTS[line.fn][0](first)
                case "add":
                    values[line.name] = sum((values[n] for n in line.inputs[1:]), start=first)
                case _:  # flatten and identity: rows are flat already
                    values[line.name] = first
        return values

    def descend(self, values: Mapping[str, Tensor], upper: Tensor, rate: float) -> None:
        """Take one step of SGD, in place.

        Args:
            values: what `forward` gave.
            upper: gradient of each client's loss in the last node, `[clients, examples, outputs]`.
            rate: learning rate.
        """
        due = {self._lines[-1].name: upper}

        def pass_on(name: str, g: Tensor) -> None:
            if name != INPUT:
                due[name] = due[name] + g if name in due else g

        for line in reversed(self._lines):
            g, source = due.pop(line.name, None), line.inputs[0]
            if g is None:
                continue
            match line.op:
                case "linear":
                    layer = self._layers[line.name]
                    if source != INPUT:  # before the weights change
                        pass_on(source, torch.bmm(g, layer.weight))
                    layer.weight.baddbmm_(g.mT, values[source], alpha=-rate)
                    if layer.bias is not None:
                        layer.bias.sub_(g.sum(1, keepdim=True), alpha=rate)
                case "act":
                    pass_on(source, _ACTS[line.fn][1](g, values[source], values[line.name]))
                case _:
                    for name in line.inputs:
                        pass_on(name, g)


def dense(graph: Graph, task: Any, rate: float) -> Begin:
    """Return how a block of models of `graph`, of `OPS` only, is trained; see `client/block.py`.

    Args:
        graph: the network.
        task: gives `losses(logits, y)`, one a row.
        rate: learning rate.
    """
    slope, last = _slope(task), graph.nodes[-1].name

    def begin(leaves: Leaves) -> Step:
        model = Dense(graph, leaves)

        def step(x: Tensor, y: Tensor, share: Tensor, loss: Tensor) -> None:
            values = model.forward(x.flatten(2))
            model.descend(values, slope(values[last], y, share, loss), rate)

        return step

    return begin


def _slope(task: Any) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return what gives the gradient of each client's mean loss in its logits.

    It takes logits `[clients, batch, outputs]`, targets `[clients, batch, ...]`, each row's weight
    in its mean, and where its loss goes, both `[clients, batch, 1]`.
    """

    def general(logits: Tensor, y: Tensor, share: Tensor, loss: Tensor) -> Tensor:
        flat = logits.flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            losses = task.losses(flat, y.flatten(0, 1)).view(share.shape)
            (upper,) = torch.autograd.grad((losses * share).sum(), flat)
        loss.copy_(losses.detach())
        return upper.view(logits.shape)

    if not isinstance(task, Classification) or task.weights:
        return general

    def classes(logits: Tensor, y: Tensor, share: Tensor, loss: Tensor) -> Tensor:
        mixed = y.is_floating_point()  # shares of classes, where rows were mixed
        return (general if mixed else _cross_entropy)(logits, y, share, loss)

    return classes


def _cross_entropy(logits: Tensor, y: Tensor, share: Tensor, loss: Tensor) -> Tensor:
    # Written out: torch's softmax takes twice as long over so few classes.
    index = y[..., None]
    shifted = logits - logits.amax(2, keepdim=True)
    powers = shifted.exp()
    total = powers.sum(2, keepdim=True)
    loss.add_(total.log()).sub_(shifted.gather(2, index))
    return powers.mul_(share / total).scatter_add_(2, index, share.neg())


def _layers(graph: Graph, leaves: Leaves) -> dict[str, _Linear]:
    layers: dict[str, _Linear] = {}
    for node in graph.nodes:
        if node.op == "linear":
            weight, bias = leaves[f"{node.name}.weight"], leaves.get(f"{node.name}.bias")
            layers[node.name] = _Linear(weight, weight.mT, None if bias is None else bias[:, None])
    return layers
