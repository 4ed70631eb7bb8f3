"""Any network without randomness with a client axis: one call of `vmap` serves a block of clients.

For accelerators, where many small clients spend their time on launching kernels. On a CPU it loses:
convolutions with weights of their own a client become grouped ones, which are slow there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from archipelago.client.block import Begin, Leaves, Step
from archipelago.nn.model import Model
from archipelago.space.graph import Node

__all__ = ["stackable", "stacked"]

_OPS = frozenset(
    {"conv", "linear", "act", "norm", "maxpool", "avgpool", "globalpool", "flatten"}
    | {"add", "concat", "identity", "zero", "crop"}
)


def stackable(nodes: Sequence[Node]) -> bool:
    """Whether examples neither meet in a network, as in batch norm, nor draw random numbers."""
    return all(
        node.op in _OPS and (node.op != "norm" or node.settings["style"] != "batch")
        for node in nodes
    )


def stacked(model: Model, task: Any, rate: float) -> Begin:
    """Return how a block of models like `model` is trained; see `client/block.py`.

    Args:
        model: its weights are left alone.
        task: gives `losses(logits, y)`, one a row.
        rate: learning rate.
    """

    def mean(
        own: Mapping[str, Tensor], x: Tensor, y: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        losses = task.losses(functional_call(model.module, dict(own), (x,)), y)
        return (losses * share).sum(), losses.detach()

    slope = vmap(grad(mean, has_aux=True))

    def begin(leaves: Leaves) -> Step:
        def step(x: Tensor, y: Tensor, share: Tensor, loss: Tensor) -> None:
            with model.stored("plain"):
                slopes, losses = slope(dict(leaves), x, y, share[..., 0])
            with torch.no_grad():
                for name, own in leaves.items():
                    own.add_(slopes[name], alpha=-rate)
                loss.add_(losses[..., None])

        return step

    return begin
