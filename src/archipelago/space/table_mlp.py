"""Multilayer perceptrons for tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, between
from archipelago.core.errors import IncompatibleParts
from archipelago.core.trial import Arch
from archipelago.space.dims import Choice, Part, Range, Repeat
from archipelago.space.family import ByGraph, known_words, sizes
from archipelago.space.graph import Graph
from archipelago.space.ops import ACTIVATIONS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["TableMlp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMlp:
    """Hidden layers of chosen width, each with or without a residual connection.

    Attributes:
        layers: most hidden layers.
        widths: offered for each layer.
        activations: offered for the whole network.
        dropouts: rates offered for the whole network.
    """

    kind: Literal["table-mlp"] = "table-mlp"
    layers: int = 3
    widths: tuple[int, ...] = (8, 16, 32, 64)
    activations: tuple[str, ...] = ("relu", "gelu", "tanh")
    dropouts: tuple[float, ...] = (0.0, 0.2)

    def __post_init__(self) -> None:
        at_least("space.layers", self.layers, 1)
        sizes("space.widths", self.widths)
        known_words("space.activations", self.activations, ACTIVATIONS)
        sizes("space.dropouts", self.dropouts, low=0)
        for rate in self.dropouts:
            between("space.dropouts", rate, 0, 0.99)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choices; members that build the same network share a canonical key."""
        _table(input_shape)
        layer: Mapping[str, Part] = {
            "width": Choice(self.widths),
            "residual": Choice((False, True)),
        }
        return Space(
            {
                "layer": Repeat(layer, Range(1, self.layers)),
                "activation": Choice(self.activations),
                "dropout": Choice(self.dropouts),
            },
            canonicaliser=ByGraph(self, input_shape, outputs),
        )

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; a residual joins layers of equal width only."""
        _table(input_shape)
        sketch = Sketch(input_shape)
        for index in range(int(arch["layer.count"])):
            before = sketch.last
            sketch.dense(int(arch[f"layer{index}.width"]), fn=str(arch["activation"]))
            if arch[f"layer{index}.residual"]:
                sketch.join(before)
            if arch["dropout"]:
                sketch.add("dropout", rate=float(arch["dropout"]))
        sketch.add("linear", features=outputs)
        return sketch.graph()

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return two hidden layers of 32."""
        _table(input_shape)
        sketch = Sketch(input_shape)
        sketch.dense(32)
        sketch.dense(32)
        sketch.add("linear", features=outputs)
        return sketch.graph()


def _table(shape: tuple[int, ...]) -> None:
    if len(shape) != 1:
        raise IncompatibleParts(
            "a table MLP needs tables (features,)",
            got=shape,
            where="space.kind",
            fix="use image-chain for images, series-chain for series",
        )
