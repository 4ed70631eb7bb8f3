"""Chains for multichannel series."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, one_of
from archipelago.core.errors import IncompatibleParts
from archipelago.core.trial import Arch
from archipelago.space.dims import Choice, Part, Range, Repeat, When
from archipelago.space.family import ByGraph, known_words, odd_sizes, sizes
from archipelago.space.graph import Graph
from archipelago.space.ops import ACTIVATIONS, NORMS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["SeriesChain"]

MOST_STEPS = 512
"""A longer series is first brought below this by a strided convolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesChain:
    """A chain of plain or depthwise separable convolutions over time, then a pooling or a GRU.

    Attributes:
        layers: most convolutions in a chain.
        kernels: odd sizes offered, in steps.
        filters: numbers of filters offered.
        norms: normalisations offered.
        hidden: sizes offered for the GRU.
        activation: after every layer.
    """

    kind: Literal["series-chain"] = "series-chain"
    layers: int = 4
    kernels: tuple[int, ...] = (3, 5, 9)
    filters: tuple[int, ...] = (16, 32, 64)
    norms: tuple[str, ...] = ("group", "none")
    hidden: tuple[int, ...] = (16, 32)
    activation: str = "relu"

    def __post_init__(self) -> None:
        at_least("space.layers", self.layers, 1)
        odd_sizes("space.kernels", self.kernels)
        sizes("space.filters", self.filters)
        known_words("space.norms", self.norms, NORMS)
        sizes("space.hidden", self.hidden)
        one_of("space.activation", self.activation, ACTIVATIONS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choices; members that build the same network share a canonical key."""
        _series(input_shape)
        layer: Mapping[str, Part] = {
            "op": Choice(("conv", "depthwise")),
            "kernel": Choice(self.kernels),
            "filters": Choice(self.filters),
            "pool": Choice(("none", "maxpool", "avgpool")),
            "norm": Choice(self.norms),
        }
        return Space(
            {
                "layer": Repeat(layer, Range(1, self.layers)),
                "head": Choice(("globalpool", "gru")),
                "hidden": When("head", ("gru",), Choice(self.hidden)),
            },
            canonicaliser=ByGraph(self, input_shape, outputs),
        )

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; what would shrink below one step is left out.

        Series above 512 steps get a strided first convolution.
        """
        _series(input_shape)
        sketch = Sketch(input_shape)
        sketch.stem(min(self.filters), most=MOST_STEPS)
        for index in range(int(arch["layer.count"])):
            name = f"layer{index}"
            kernel, filters = int(arch[f"{name}.kernel"]), int(arch[f"{name}.filters"])
            if arch[f"{name}.op"] == "depthwise":
                channels = sketch.shape()[0]
                sketch.conv(channels, kernel=kernel, groups=channels)
                kernel = 1
            sketch.conv(filters, kernel=kernel)
            sketch.norm(str(arch[f"{name}.norm"]))
            sketch.add("act", fn=self.activation)
            if arch[f"{name}.pool"] != "none":
                sketch.shrink(str(arch[f"{name}.pool"]))
        if arch["head"] == "gru":
            sketch.add("gru", hidden=int(arch["hidden"]))
        else:
            sketch.add("globalpool")
        sketch.add("linear", features=outputs)
        return sketch.graph()

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return three convolutions and a global pooling, after Wang et al. 2017's FCN.

        References:
            Wang, Yan and Oates 2017, arXiv:1611.06455.
        """
        _series(input_shape)
        sketch = Sketch(input_shape)
        sketch.stem(32, most=MOST_STEPS)
        for filters, kernel in ((32, 9), (64, 5), (32, 3)):
            sketch.conv(filters, kernel=kernel)
            sketch.norm("group")
            sketch.add("act", fn=self.activation)
        sketch.add("globalpool")
        sketch.add("linear", features=outputs)
        return sketch.graph()


def _series(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise IncompatibleParts(
            "a series chain needs series (channels, steps)",
            got=shape,
            where="space.kind",
            fix="use image-chain for images, table-mlp for tables",
        )
