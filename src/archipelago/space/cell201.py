"""The networks of NAS-Bench-201: a searched cell in a fixed body, or widths of fixed cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, one_of
from archipelago.core.trial import Arch
from archipelago.space.dims import Choice
from archipelago.space.family import ByGraph, image, sizes
from archipelago.space.graph import Graph
from archipelago.space.nasbench201 import EDGES, arch_of, cell_space
from archipelago.space.ops import NORMS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["NasBench201", "NasBench201Size"]

RESIDUAL = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
"""The cell of the hand-made baseline and of the size space: 3x3 convolutions and a skip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NasBench201:
    """The cell space of NAS-Bench-201: four nodes, one of five operations on each of six edges.

    A 3x3 convolution, then three stages of `cells` equal cells, with a residual block of stride 2
    between them that doubles the channels. With the defaults, costs are those of the benchmark.

    Attributes:
        channels: of the first stage.
        cells: in each stage.
        norm: after every convolution; the published networks have `batch`. Statistics of a batch
            suffer when clients differ: `group` does not.

    References:
        Dong and Yang 2020, arXiv:2001.00326, figure 1.
    """

    kind: Literal["nas-bench-201"] = "nas-bench-201"
    channels: int = 16
    cells: int = 5
    norm: str = "batch"

    def __post_init__(self) -> None:
        at_least("space.channels", self.channels, 1)
        at_least("space.cells", self.cells, 1)
        one_of("space.norm", self.norm, NORMS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the 15,625 cells; 6,466 keys."""
        del outputs
        image("nas-bench-201", input_shape)
        return cell_space()

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; dead edges are built too, as in the benchmark."""
        image("nas-bench-201", input_shape)
        stages = [self.channels * 2**stage for stage in range(3)]
        sketch = Sketch(input_shape)
        _plain(sketch, stages[0], self.norm)
        for stage, channels in enumerate(stages):
            if stage:
                _reduce(sketch, channels, self.norm)
            for _ in range(self.cells):
                _cell(sketch, arch, channels, self.norm)
        return _head(sketch, outputs, self.norm)

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return the residual cell of 3x3 convolutions."""
        return self.graph(arch_of(RESIDUAL), input_shape, outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class NasBench201Size:
    """The size space of NATS-Bench: the width of each of five layers, with one fixed cell.

    The layers are cell, residual block of stride 2, cell, residual block, cell.

    Attributes:
        widths: offered for each layer.
        norm: after every convolution; the published networks have `batch`.

    References:
        Dong et al. 2021, arXiv:2009.00437, section 3.2.
    """

    kind: Literal["nas-bench-201-size"] = "nas-bench-201-size"
    widths: tuple[int, ...] = (8, 16, 24, 32, 40, 48, 56, 64)
    norm: str = "batch"

    def __post_init__(self) -> None:
        sizes("space.widths", self.widths)
        one_of("space.norm", self.norm, NORMS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the widths: 32,768 members with the defaults."""
        image("nas-bench-201-size", input_shape)
        return Space(
            {f"width{layer}": Choice(self.widths) for layer in range(5)},
            canonicaliser=ByGraph(self, input_shape, outputs),
        )

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; a skip between unequal widths is a 1x1 convolution."""
        image("nas-bench-201-size", input_shape)
        widths = [int(arch[f"width{layer}"]) for layer in range(5)]
        sketch, cell = Sketch(input_shape), arch_of(RESIDUAL)
        _plain(sketch, widths[0], self.norm)
        for layer, width in enumerate(widths):
            if layer % 2:
                _reduce(sketch, width, self.norm)
            else:
                _cell(sketch, cell, width, self.norm)
        return _head(sketch, outputs, self.norm)

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return the widths that double where the picture halves, as in ResNets."""
        middle = sorted(self.widths)[len(self.widths) // 2]
        doubling = (max(1, middle // 2), middle, middle, 2 * middle, 2 * middle)
        return self.graph(
            {f"width{layer}": width for layer, width in enumerate(doubling)}, input_shape, outputs
        )


def _plain(sketch: Sketch, channels: int, norm: str, *, kernel: int = 3, stride: int = 1) -> str:
    """Append a convolution and its norm."""
    sketch.conv(channels, kernel=kernel, stride=stride, bias=False)
    return sketch.norm(norm)


def _active(sketch: Sketch, source: str, channels: int, norm: str, **options: int) -> str:
    """Append a rectifier, a convolution and its norm after `source`."""
    sketch.add("act", source)
    return _plain(sketch, channels, norm, **options)


def _cell(sketch: Sketch, arch: Arch, channels: int, norm: str) -> str:
    nodes = [sketch.last]
    for target in (1, 2, 3):
        edges = [
            _edge(sketch, str(arch[f"edge{a}{b}"]), nodes[a], channels, norm)
            for a, b in EDGES
            if b == target
        ]
        nodes.append(sketch.add("add", *edges))
    return nodes[-1]


def _edge(sketch: Sketch, op: str, source: str, channels: int, norm: str) -> str:
    wider = sketch.shape(source)[0] != channels
    match op:
        case "nor_conv_1x1" | "nor_conv_3x3":
            return _active(sketch, source, channels, norm, kernel=_KERNELS[op])
        case "skip_connect" if not wider:
            return sketch.add("identity", source)
        case "skip_connect":
            sketch.add("conv", source, filters=channels, kernel=1, bias=False)
            return sketch.norm(norm)
        case "avg_pool_3x3":
            return sketch.add("avgpool", source, kernel=3, stride=1, padding=1)
        case _:
            return sketch.add("zero", source)


_KERNELS: Mapping[str, int] = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


def _reduce(sketch: Sketch, channels: int, norm: str) -> str:
    """Append the residual block of stride 2; at one pixel it keeps the size."""
    start = sketch.last
    stride = 2 if min(sketch.shape()[1:]) > 1 else 1
    _active(sketch, start, channels, norm, stride=stride)
    long = _active(sketch, sketch.last, channels, norm)
    even = not any(size % 2 for size in sketch.shape(start)[1:])
    short = sketch.add("avgpool", start, kernel=2) if even else start
    rest = 1 if even else stride  # averaging pairs would lose an odd picture's last row
    short = sketch.add("conv", short, filters=channels, kernel=1, stride=rest, bias=False)
    return sketch.add("add", long, short)


def _head(sketch: Sketch, outputs: int, norm: str) -> Graph:
    sketch.norm(norm)
    sketch.add("act")
    sketch.add("globalpool")
    sketch.add("linear", features=outputs)
    return sketch.graph()
