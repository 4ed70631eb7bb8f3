"""Directed graphs of layers: each layer reads any of the layers before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, one_of
from archipelago.core.trial import Arch, Value
from archipelago.space.dims import Choice, Part
from archipelago.space.family import ByGraph, image, known_words, sizes
from archipelago.space.graph import Graph
from archipelago.space.image_chain import LONGEST_SIDE
from archipelago.space.ops import NORMS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["OPS", "MultiBranch"]

OPS: Mapping[str, int] = {"conv1": 1, "conv3": 3, "conv5": 5, "separable3": 3, "maxpool3": 3}
"""What a layer may do, and its kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiBranch:
    """Stages of layers with free wiring; chains, residual and dense networks are points of it.

    A stage begins with a 3x3 convolution and ends with a pooling by two. A layer without an input
    reads the stage's; outputs that no layer of a stage reads are joined at its end. Joined by `add`
    all layers have the same channels; by `concat` the channels of a layer's inputs add up.

    Attributes:
        layers: in each stage.
        stages: between which the picture is halved and the filters double.
        operations: offered for each layer.
        filters: offered for the layers of the first stage.
        joins: offered for the network: `add`, `concat`.
        norm: after every convolution.

    References:
        Zoph and Le 2017, arXiv:1611.01578, section 3.3 (skips by anchor points); Elsken et al.
        2019, arXiv:1808.05377, section 2 (multi-branch spaces).
    """

    kind: Literal["multi-branch"] = "multi-branch"
    layers: int = 3
    stages: int = 2
    operations: tuple[str, ...] = ("conv3", "conv5", "separable3", "maxpool3")
    filters: tuple[int, ...] = (8, 16, 32)
    joins: tuple[str, ...] = ("add", "concat")
    norm: str = "group"

    def __post_init__(self) -> None:
        at_least("space.layers", self.layers, 1)
        at_least("space.stages", self.stages, 1)
        known_words("space.operations", self.operations, tuple(OPS))
        sizes("space.filters", self.filters)
        known_words("space.joins", self.joins, ("add", "concat"))
        one_of("space.norm", self.norm, NORMS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choices; wirings that build the same network share a key."""
        image("multi-branch", input_shape)
        layers: dict[str, Part] = {}
        for layer in range(self.layers):
            reads = {f"reads{source}": Choice((False, True)) for source in range(layer)}
            layers[f"layer{layer}"] = {"op": Choice(self.operations), **reads}
        return Space(
            {
                "filters": Choice(self.filters),
                "join": Choice(self.joins),
                **{f"stage{stage}": layers for stage in range(self.stages)},
            },
            canonicaliser=ByGraph(self, input_shape, outputs),
        )

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network."""
        image("multi-branch", input_shape)
        sketch = Sketch(input_shape)
        sketch.stem(min(self.filters), most=LONGEST_SIDE)
        for stage in range(self.stages):
            filters = int(arch["filters"]) * 2**stage
            self._stage(sketch, dict(_under(arch, f"stage{stage}.")), filters, arch)
            sketch.shrink("maxpool")
        sketch.add("globalpool")
        sketch.add("linear", features=outputs)
        return sketch.graph()

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return a chain of 3x3 convolutions with the middle number of filters."""
        filters = sorted(self.filters)[len(self.filters) // 2]
        arch: dict[str, Value] = {"filters": filters, "join": "add"}
        for stage in range(self.stages):
            for layer in range(self.layers):
                at = f"stage{stage}.layer{layer}"
                arch[f"{at}.op"] = "conv3"
                arch |= {f"{at}.reads{source}": source == layer - 1 for source in range(layer)}
        return self.graph(arch, input_shape, outputs)

    def _stage(self, sketch: Sketch, stage: Arch, filters: int, arch: Arch) -> None:
        self._unit(sketch, filters, kernel=3)
        start, join = sketch.last, str(arch["join"])
        made: list[str] = []
        read: set[int] = set()
        for layer in range(self.layers):
            sources = [s for s in range(layer) if stage[f"layer{layer}.reads{s}"]]
            read |= {*sources}
            sketch.last = start
            if sources:
                _joined(sketch, join, [made[source] for source in sources])
            made.append(self._layer(sketch, str(stage[f"layer{layer}.op"]), filters))
        _joined(sketch, join, [made[layer] for layer in range(self.layers) if layer not in read])

    def _layer(self, sketch: Sketch, op: str, filters: int) -> str:
        if op == "maxpool3":
            return sketch.add("maxpool", kernel=3, stride=1, padding=1)
        if op == "separable3":
            sketch.conv(sketch.shape()[0], kernel=3, groups=sketch.shape()[0], bias=False)
            return self._unit(sketch, filters, kernel=1)
        return self._unit(sketch, filters, kernel=OPS[op])

    def _unit(self, sketch: Sketch, filters: int, *, kernel: int) -> str:
        sketch.conv(filters, kernel=kernel)
        sketch.norm(self.norm)
        return sketch.add("act")


def _joined(sketch: Sketch, join: str, nodes: list[str]) -> str:
    if len(nodes) == 1:
        sketch.last = nodes[0]
        return nodes[0]
    return sketch.add(join, *nodes)


def _under(arch: Arch, prefix: str) -> list[tuple[str, Value]]:
    return [(k.removeprefix(prefix), v) for k, v in arch.items() if k.startswith(prefix)]
