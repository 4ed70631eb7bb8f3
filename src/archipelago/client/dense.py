"""Dense networks with a client axis: forward, backward and step written out.

Small dense models spend their time on calls, not on arithmetic. Here one call serves a block of
clients, and plain SGD adds the gradient's matrix product to the weights in place: the gradient
itself is never stored. Equals the loop over one client at a time to rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archipelago.data.tasks import Classification
from archipelago.space.graph import INPUT, Graph

__all__ = ["OPS", "Dense", "Schedule", "descend"]

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
    """Views of one layer of the first few models, made once: a view costs as much as a sum."""

    weight: Tensor
    turned: Tensor
    bias: Tensor | None


class Dense:
    """The first few models of `flat`, shape `[clients, layout.size]`, over one graph of `OPS`.

    Attributes:
        flat: the weights; `descend` changes them in place.
    """

    def __init__(self, graph: Graph, flat: Tensor) -> None:
        self.flat = flat
        self._lines = tuple(
            _Line(n.op, n.name, n.inputs, str(n.settings["fn"]) if n.op == "act" else "")
            for n in graph.nodes
        )
        self._layers = _layers(graph, flat)

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

    def descend(
        self, values: Mapping[str, Tensor], upper: Tensor, ones: Tensor, rate: float
    ) -> None:
        """Take one step of SGD, in place.

        Args:
            values: what `forward` gave.
            upper: gradient of each client's loss in the last node, `[clients, examples, outputs]`.
            ones: `[clients, 1, examples]`: adds up the gradient of a bias.
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
                        layer.bias.baddbmm_(ones, g, alpha=-rate)
                case "act":
                    pass_on(source, _ACTS[line.fn][1](g, values[source], values[line.name]))
                case _:
                    for name in line.inputs:
                        pass_on(name, g)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which rows each client uses at each step; clients with fewer steps come last.

    Attributes:
        order: the clients' places in the caller's order.
        rows: row numbers, int64 `[clients, steps, batch]`; 0 where there is none.
        share: weight of each row in its step's mean, float32, same shape; 0 where there is none.
        counts: rows in each step, int64 `[clients, steps]`; 0 where there is none.
    """

    order: tuple[int, ...]
    rows: Tensor
    share: Tensor
    counts: np.ndarray

    @classmethod
    def of(cls, batches: Sequence[Sequence[np.ndarray]]) -> "Schedule":
        """Lay out every client's batches of row numbers."""
        order = sorted(range(len(batches)), key=lambda client: (-len(batches[client]), client))
        shape = (len(batches), max(map(len, batches)))
        wide = max(len(rows) for own in batches for rows in own)
        rows = np.zeros((*shape, wide), np.int64)
        counts = np.zeros(shape, np.int64)
        for place, client in enumerate(order):
            for step, numbers in enumerate(batches[client]):
                rows[place, step, : len(numbers)] = numbers
                counts[place, step] = len(numbers)
        real = np.arange(wide) < counts[..., None]
        share = (real / np.maximum(counts, 1)[..., None]).astype(np.float32)
        return cls(tuple(order), torch.from_numpy(rows), torch.from_numpy(share), counts)


def descend(
    graph: Graph,
    task: Any,
    flat: Tensor,
    data: Sequence[tuple[Tensor, Tensor]],
    *,
    batches: Sequence[Sequence[np.ndarray]],
    rate: float,
) -> list[float]:
    """Train each row of `flat`, in place, on its own client's batches with plain SGD.

    Args:
        graph: the network, of `OPS` only.
        task: gives `losses(logits, y)`, one a row.
        flat: weights, `[clients, layout.size]`.
        data: each client's x `[examples, ...]` and y.
        batches: each client's row numbers, step by step.
        rate: learning rate.

    Returns:
        Each client's training loss, summed over the rows seen.
    """
    plan = Schedule.of(batches)
    x = torch.cat([data[client][0].flatten(1) for client in plan.order])
    y = torch.cat([data[client][1] for client in plan.order])
    lengths = np.array([len(data[client][1]) for client in plan.order])
    starts = torch.from_numpy(np.cumsum(lengths) - lengths)[:, None, None]
    ordered = plan.order == tuple(range(len(data)))
    weights = flat if ordered else flat[list(plan.order)]
    device, wide = x.device, plan.rows.shape[2]
    index = (plan.rows + starts).transpose(0, 1).contiguous().to(device)
    share = plan.share.transpose(0, 1)[..., None].contiguous().to(device)
    real = (share > 0).to(share.dtype).mT.contiguous()  # [steps, clients, 1, batch]
    totals = torch.zeros(len(data), 1, 1, device=device)
    slope, last = _slope(task), graph.nodes[-1].name
    begin = 0
    for active, steps in groupby((plan.counts > 0).sum(0).tolist()):
        span = slice(begin, begin + len(list(steps)))
        begin = span.stop
        model, total = Dense(graph, weights[:active]), totals[:active]
        ones = torch.ones(active, 1, wide, device=device)
        visits = (index[span, :active].flatten(1), share[span, :active], real[span, :active])
        for rows, part, counted in zip(*visits, strict=True):
            values = model.forward(x.index_select(0, rows).view(active, wide, -1))
            upper, losses = slope(values[last], y.index_select(0, rows), part)
            model.descend(values, upper, ones, rate)
            total.baddbmm_(counted, losses)
    if not ordered:
        flat[list(plan.order)] = weights
    summed = [0.0] * len(data)
    for client, total in zip(plan.order, totals.flatten().tolist(), strict=True):
        summed[client] = total
    return summed


def _slope(task: Any) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what gives the gradient of each client's mean loss in its logits, and the losses.

    It takes logits `[clients, batch, outputs]`, targets `[clients * batch, ...]`, and each row's
    weight in its mean, `[clients, batch, 1]`; losses are `[clients, batch, 1]`.
    """
    if isinstance(task, Classification) and not task.weights:
        return _cross_entropy

    def general(logits: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        flat = logits.flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            losses = task.losses(flat, y).view(share.shape)
            (upper,) = torch.autograd.grad((losses * share).sum(), flat)
        return upper.view(logits.shape), losses.detach()

    return general


def _cross_entropy(logits: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    index = y.view(share.shape)
    logp = logits.log_softmax(2)
    upper = logp.exp().scatter_add_(2, index, torch.full_like(share, -1.0))
    return upper.mul_(share), logp.gather(2, index).neg_()


def _layers(graph: Graph, flat: Tensor) -> dict[str, _Linear]:
    layout = graph.layout
    views = {
        leaf.name: flat[:, start : start + leaf.size].view(-1, *leaf.shape)
        for leaf, start in zip(layout.leaves, layout.offsets, strict=True)
    }
    layers: dict[str, _Linear] = {}
    for node in graph.nodes:
        if node.op == "linear":
            weight, bias = views[f"{node.name}.weight"], views.get(f"{node.name}.bias")
            layers[node.name] = _Linear(weight, weight.mT, None if bias is None else bias[:, None])
    return layers
