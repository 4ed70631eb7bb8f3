"""Dense networks with a client axis: forward, backward and step written out.

Small dense models spend their time on calls, not on arithmetic. Here one call serves a block of
clients, and plain SGD adds the gradient's matrix product to the weights in place: the gradient
itself is never stored. Equals the loop over one client at a time to rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    "relu": (torch.relu, lambda g, _, out: _aten.threshold_backward(g, out, 0)),
    "tanh": (torch.tanh, lambda g, _, out: _aten.tanh_backward(g, out)),
    "gelu": (_aten.gelu, lambda g, x, _: _aten.gelu_backward(g, x)),
    "silu": (_aten.silu, lambda g, x, _: _aten.silu_backward(g, x)),
    "hardswish": (_aten.hardswish, lambda g, x, _: _aten.hardswish_backward(g, x)),
}


@dataclass(frozen=True, slots=True)
class _Line:
    op: str
    name: str
    inputs: tuple[str, ...]
    fn: str


class Dense:
    """A graph of `OPS` over `flat`, shape `[clients, layout.size]`: each row is a model.

    Attributes:
        flat: the weights; `descend` changes them in place.
    """

    def __init__(self, graph: Graph, flat: Tensor) -> None:
        self.flat = flat
        self._lines = tuple(
            _Line(n.op, n.name, n.inputs, str(n.settings.get("fn", ""))) for n in graph.nodes
        )
        self._weights = _views(graph, flat)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return every node's output of the first `len(x)` models, the last node's last.

        Args:
            x: `[clients, examples, features]`.
        """
        values = {INPUT: x}
        for line in self._lines:
            first = values[line.inputs[0]]
            match line.op:
                case "linear":
                    weight, bias = self._weights[line.name]
                    w = weight[: len(x)].mT
                    values[line.name] = (
                        torch.bmm(first, w)
                        if bias is None
                        else torch.baddbmm(bias[: len(x), None], first, w)
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
                    weight, bias = self._weights[line.name]
                    if source != INPUT:  # before the weights change
                        pass_on(source, torch.bmm(g, weight[: len(g)]))
                    weight[: len(g)].baddbmm_(g.mT, values[source], alpha=-rate)
                    if bias is not None:
                        bias[: len(g)].add_(g.sum(1), alpha=-rate)
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
    starts = torch.from_numpy(np.cumsum(lengths) - lengths)[:, None]
    ordered = plan.order == tuple(range(len(data)))
    weights = flat if ordered else flat[list(plan.order)]
    model = Dense(graph, weights)
    totals = torch.zeros(len(data), device=flat.device)
    counts = torch.from_numpy(plan.counts.astype(np.float32)).to(flat.device)
    for step in range(plan.rows.shape[1]):
        active = int((plan.counts[:, step] > 0).sum())
        rows = (plan.rows[:active, step] + starts[:active]).flatten().to(x.device)
        values = model.forward(x[rows].view(active, -1, x.shape[1]))
        logits = values[graph.nodes[-1].name]
        upper, means = _slope(task, logits, y[rows], plan.share[:active, step].to(x.device))
        model.descend(values, upper, rate)
        totals[:active].add_(means * counts[:active, step])
    if not ordered:
        flat[list(plan.order)] = weights
    losses = [0.0] * len(data)
    for client, total in zip(plan.order, totals.tolist(), strict=True):
        losses[client] = total
    return losses


def _slope(task: Any, logits: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of each client's mean loss in its logits, and those means."""
    if isinstance(task, Classification) and not task.weights:
        logp = logits.flatten(0, 1).log_softmax(1)
        index = y[:, None]
        upper = logp.exp().scatter_add_(1, index, torch.full_like(logp[:, :1], -1.0))
        means = -(logp.gather(1, index).view(share.shape) * share).sum(1)
        return upper.view(logits.shape).mul_(share[..., None]), means
    flat = logits.flatten(0, 1).requires_grad_()
    with torch.enable_grad():
        means = (task.losses(flat, y).view(share.shape) * share).sum(1)
        (upper,) = torch.autograd.grad(means.sum(), flat)
    return upper.view(logits.shape), means.detach()


def _views(graph: Graph, flat: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    layout = graph.layout
    views = {
        leaf.name: flat[:, start : start + leaf.size].view(-1, *leaf.shape)
        for leaf, start in zip(layout.leaves, layout.offsets, strict=True)
    }
    return {
        node.name: (views[f"{node.name}.weight"], views.get(f"{node.name}.bias"))
        for node in graph.nodes
        if node.op == "linear"
    }
