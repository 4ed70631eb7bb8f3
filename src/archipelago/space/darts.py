"""The cells of DARTS: a normal and a reduction cell, searched, in a body of stacked cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from archipelago.core.checks import at_least, one_of
from archipelago.core.trial import Arch, Value
from archipelago.space.dims import Choice, Part
from archipelago.space.family import ByGraph, image
from archipelago.space.graph import Graph
from archipelago.space.ops import NORMS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["OPS", "Darts", "genotype"]

OPS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""What an edge of a discretised cell may do; the supernet's `none` never survives."""
NODES = 4
CELLS = ("normal", "reduce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Darts:
    """Two cells of four nodes; each node keeps two of the nodes before it, each with an operation.

    A cell's inputs are the outputs of the two cells before it; its output is the concatenation of
    its nodes. Cells at one and two thirds of the depth halve the picture and double the channels.

    Attributes:
        channels: of the first cells.
        layers: cells in the body.
        norm: after every convolution; the published networks have `batch`.

    References:
        Liu et al. 2019, arXiv:1806.09055, sections 2.1 and 3.
    """

    kind: Literal["darts"] = "darts"
    channels: int = 16
    layers: int = 8
    norm: str = "group"

    def __post_init__(self) -> None:
        at_least("space.channels", self.channels, 2)
        at_least("space.layers", self.layers, 1)
        one_of("space.norm", self.norm, NORMS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choices: about 10^9 cells of each kind."""
        image("darts", input_shape)
        cell: Mapping[str, Part] = {f"node{node}": _node(node) for node in range(NODES)}
        return Space(dict.fromkeys(CELLS, cell), canonicaliser=ByGraph(self, input_shape, outputs))

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; an odd picture is halved by one strided convolution, not two."""
        image("darts", input_shape)
        draw = _Draw(Sketch(input_shape), self.norm)
        before = last = draw.unit(None, 3 * self.channels, kernel=3)
        channels, reduced = self.channels, False
        for layer in range(self.layers):
            halve = self.layers > 2 and layer in (self.layers // 3, 2 * self.layers // 3)
            channels *= 2 if halve else 1
            first = draw.halved(before, channels) if reduced else draw.active(before, channels)
            second = draw.active(last, channels)
            name = CELLS[halve]
            before, last = last, draw.cell(arch, name, [first, second], 2 if halve else 1)
            reduced = draw.side(before) > draw.side(last)
        draw.sketch.add("globalpool")
        draw.sketch.add("linear", features=outputs)
        # An input that a cell ignores is prepared for nothing.
        return draw.sketch.graph(prune=True)

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return separable convolutions of both inputs in every node."""
        edge = ("sep_conv_3x3", 0), ("sep_conv_3x3", 1)
        return self.graph(genotype(normal=edge * 4, reduce=edge * 4), input_shape, outputs)


def genotype(**cells: tuple[tuple[str, int], ...]) -> dict[str, Value]:
    """Return the point that the published spelling of cells names.

    Args:
        cells: `normal` and `reduce`: (operation, input) of each edge, two edges a node.

    Example:
        >>> edge = ("skip_connect", 0), ("max_pool_3x3", 1)
        >>> genotype(normal=edge * 4, reduce=edge * 4)["normal.node3.inputs"]
        '0+1'
    """
    arch: dict[str, Value] = {}
    for name in CELLS:
        for node in range(NODES):
            (a, i), (b, j) = sorted(cells[name][2 * node : 2 * node + 2], key=lambda e: e[1])
            arch |= {
                f"{name}.node{node}.inputs": f"{i}+{j}",
                f"{name}.node{node}.first": a,
                f"{name}.node{node}.second": b,
            }
    return arch


def _node(node: int) -> Part:
    pairs = tuple(f"{i}+{j}" for i, j in combinations(range(node + 2), 2))
    return {"inputs": Choice(pairs), "first": Choice(OPS), "second": Choice(OPS)}


@dataclass(frozen=True, slots=True)
class _Draw:
    """Draws the pieces of a DARTS network onto a sketch."""

    sketch: Sketch
    norm: str

    def side(self, node: str) -> int:
        return min(self.sketch.shape(node)[1:])

    def unit(self, source: str | None, channels: int, *, kernel: int = 1, stride: int = 1) -> str:
        self.sketch.conv(channels, kernel=kernel, stride=stride, bias=False, after=source)
        return self.sketch.norm(self.norm)

    def active(self, source: str, channels: int) -> str:
        """A rectifier, a 1x1 convolution, a norm: brings an input to a cell's channels."""
        return self.unit(self.sketch.add("act", source), channels)

    def halved(self, source: str, channels: int) -> str:
        """Factorised reduction: two strided 1x1 convolutions, one of them a pixel on."""
        active = self.sketch.add("act", source)
        if any(size % 2 for size in self.sketch.shape(source)[1:]):
            stride = 2 if self.side(source) > 1 else 1
            return self.unit(active, channels, stride=stride)
        left = self.sketch.conv(channels // 2, kernel=1, stride=2, bias=False, after=active)
        on = self.sketch.add("crop", active, start=1)
        rest = channels - channels // 2
        right = self.sketch.conv(rest, kernel=1, stride=2, bias=False, after=on)
        self.sketch.add("concat", left, right)
        return self.sketch.norm(self.norm)

    def cell(self, arch: Arch, name: str, nodes: list[str], stride: int) -> str:
        for node in range(NODES):
            at = f"{name}.node{node}"
            inputs = [int(place) for place in str(arch[f"{at}.inputs"]).split("+")]
            ops = (str(arch[f"{at}.first"]), str(arch[f"{at}.second"]))
            edges = [
                self.edge(op, nodes[place], stride if place < 2 else 1)
                for op, place in zip(ops, inputs, strict=True)
            ]
            nodes.append(self.sketch.add("add", *edges))
        return self.sketch.add("concat", *nodes[2:])

    def edge(self, op: str, source: str, stride: int) -> str:
        channels = self.sketch.shape(source)[0]
        stride = stride if self.side(source) > 1 else 1
        kind, kernel = op[:3], 5 if op.endswith("5x5") else 3
        match kind:
            case "max" | "avg":
                return self.sketch.add(f"{kind}pool", source, kernel=3, stride=stride, padding=1)
            case "sep":
                first = self.separable(source, channels, kernel, stride=stride)
                return self.separable(first, channels, kernel)
            case "dil":
                return self.separable(source, channels, kernel, stride=stride, dilation=2)
            case _:
                # An identity of its own: the same input twice is still two edges.
                return (
                    self.halved(source, channels)
                    if stride == 2
                    else self.sketch.add("identity", source)
                )

    def separable(
        self, source: str, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1
    ) -> str:
        self.sketch.add(
            "conv",
            self.sketch.add("act", source),
            filters=channels,
            kernel=kernel,
            stride=stride,
            padding=dilation * (kernel - 1) // 2,
            dilation=dilation,
            groups=channels,
            bias=False,
        )
        return self.unit(None, channels)
