"""Draw a graph node by node, with its shapes known as it grows."""

from math import gcd, prod
from typing import final

from archipelago.core.trial import Value
from archipelago.space.graph import INPUT, Graph, Node

__all__ = ["Sketch"]

FEWEST_IN_GROUP = 16
"""Numbers that a group norm averages at least, where the layer has as many."""


@final
class Sketch:
    """A graph being drawn. Methods change it in place and return the new node's name.

    Example:
        >>> sketch = Sketch((1, 8, 8))
        >>> _ = sketch.conv(16, kernel=3), sketch.add("act"), sketch.add("globalpool")
        >>> _ = sketch.add("linear", features=10)
        >>> sketch.graph().params
        330
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        self._shapes = {INPUT: tuple(input_shape)}
        self._nodes: list[Node] = []
        self.last = INPUT

    def shape(self, name: str | None = None) -> tuple[int, ...]:
        """Return the output shape of a node; of the last one by default."""
        return self._shapes[name or self.last]

    def add(self, op: str, *inputs: str, **attrs: Value) -> str:
        """Append a node after `inputs`, by default after the last one."""
        # A numbered name never meets an attribute of torch's Module.
        name = f"{op}{len(self._nodes)}"
        node = Node(name, op, inputs or (self.last,), tuple(attrs.items()))
        self._shapes[name] = node.measure(self._shapes).shape
        self._nodes.append(node)
        self.last = name
        return name

    def conv(
        self,
        filters: int,
        *,
        kernel: int,
        after: str | None = None,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """Append a convolution that, at stride 1, keeps the size (odd kernels)."""
        return self.add(
            "conv",
            *([after] if after else []),
            filters=filters,
            kernel=kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=bias,
        )

    def norm(self, style: str) -> str:
        """Append a norm, of up to 8 groups; nothing where there is nothing to normalise.

        A group of a few numbers only keeps their order, and its gradients explode: groups are
        merged until each holds `FEWEST_IN_GROUP`.
        """
        shape = self.shape()
        scalars = prod(shape)
        if style == "none" or (style != "batch" and scalars < 2):
            return self.last
        if style != "group":
            return self.add("norm", style=style)
        groups = gcd(shape[0], 8)
        while groups > 1 and scalars // groups < FEWEST_IN_GROUP:
            groups //= 2
        return self.add("norm", style=style, groups=groups)

    def shrink(self, op: str) -> str:
        """Append a pooling by two; nothing where the smallest side is 1 already."""
        return self.add(op, kernel=2) if min(self.shape()[1:]) > 1 else self.last

    def stem(self, filters: int, *, most: int) -> str:
        """Append a strided convolution where the longest side is above `most`; else nothing.

        Without it a layer on a large image or a raw recording would cost what no client can pay.
        """
        stride = -(-max(self.shape()[1:]) // most)
        if stride == 1:
            return self.last
        self.conv(filters, kernel=2 * stride + 1, stride=stride)
        self.norm("group")
        return self.add("act")

    def flatten(self, *, most: int = 8) -> str:
        """Append a flatten, after an average pooling where the longest side is above `most`."""
        kernel = min(-(-max(self.shape()[1:]) // most), *self.shape()[1:])
        if kernel > 1:
            self.add("avgpool", kernel=kernel)
        return self.add("flatten")

    def join(self, before: str) -> str:
        """Add the output of `before` to the last node's; nothing where their shapes differ.

        Measured on digits, 60 drawn members, SGD 0.1 with momentum 0.9: a 1x1 convolution in the
        shortcut left 22 of them stuck after 3 epochs (median loss 1.35), none left 17 (0.82).
        """
        if self.shape(before) != self.shape():
            return self.last
        return self.add("add", before, self.last)

    def dense(self, features: int, *, fn: str = "relu", after: str | None = None) -> str:
        """Append a linear layer and an activation."""
        self.add("linear", *([after] if after else []), features=features)
        return self.add("act", fn=fn)

    def graph(self, *, prune: bool = False) -> Graph:
        """Return what was drawn; with `prune`, without what the last node does not need."""
        nodes = list(self._nodes)
        if prune:
            needed = {nodes[-1].name}
            for node in reversed(nodes):
                needed |= {*node.inputs} if node.name in needed else set()
            nodes = [node for node in nodes if node.name in needed]
        return Graph(self._shapes[INPUT], tuple(nodes))
