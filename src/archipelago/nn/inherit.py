"""A child network starts from its parent's weights, sliced."""

import torch
from torch import Tensor

from archipelago.core.errors import IncompatibleParts
from archipelago.space.graph import Graph
from archipelago.space.slicing import Slice, widths

__all__ = ["inherited"]


def inherited(parent: Graph, flat: Tensor, child: Graph) -> Tensor:
    """Return the weights that `child` takes over, shape `[child.layout.size]`.

    The child has the parent's layers, some of them with fewer filters: the ones with the largest
    L2 norm stay.

    Raises:
        IncompatibleParts: the child is not a narrower form of its parent.
    """
    if parent.key == child.key and parent.layout == child.layout:
        return flat.clone()
    names, wanted = widths(parent), widths(child)
    if names.keys() == wanted.keys() and all(wanted[name] <= names[name] for name in names):
        cut = Slice.largest(parent, flat.numpy(), wanted)
        if cut.graph.key == child.key and cut.graph.layout == child.layout:
            return torch.from_numpy(cut.extract(flat.numpy()))
    raise IncompatibleParts(
        "weights are inherited by a narrower form of the same network only",
        got=(parent.key[:8], child.key[:8]),
        where="estimator.inherit",
        fix="set estimator.inherit = false, or search widths with progressive-shrinking",
    )
