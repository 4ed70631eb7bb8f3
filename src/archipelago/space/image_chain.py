"""Convolutional chains for images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, one_of
from archipelago.core.errors import IncompatibleParts
from archipelago.core.trial import Arch
from archipelago.space.dims import Choice, Part, Range, Repeat
from archipelago.space.family import ByGraph, known_words, odd_sizes, sizes
from archipelago.space.graph import Graph
from archipelago.space.ops import ACTIVATIONS, NORMS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["ImageChain"]

LONGEST_SIDE = 64
"""Pixels; a larger image is first brought below this by a strided convolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChain:
    """A chain of convolutions; each layer chooses its kernel, filters, reduction, norm and skip.

    Attributes:
        layers: most convolutions in a chain.
        kernels: odd sizes offered.
        filters: numbers of filters offered.
        norms: normalisations offered: `group`, `batch`, `layer`, `none`.
        dense: widths offered for a hidden layer after the chain; 0 is none.
        activation: after every layer.
    """

    kind: Literal["image-chain"] = "image-chain"
    layers: int = 4
    kernels: tuple[int, ...] = (3, 5)
    filters: tuple[int, ...] = (8, 16, 32, 64)
    norms: tuple[str, ...] = ("group", "none")
    dense: tuple[int, ...] = (0, 64)
    activation: str = "relu"

    def __post_init__(self) -> None:
        at_least("space.layers", self.layers, 1)
        odd_sizes("space.kernels", self.kernels)
        sizes("space.filters", self.filters)
        known_words("space.norms", self.norms, NORMS)
        sizes("space.dense", self.dense, low=0)
        one_of("space.activation", self.activation, ACTIVATIONS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choices; members that build the same network share a canonical key."""
        _image(input_shape)
        layer: Mapping[str, Part] = {
            "kernel": Choice(self.kernels),
            "filters": Choice(self.filters),
            "reduce": Choice(("none", "maxpool", "stride")),
            "norm": Choice(self.norms),
            "skip": Choice((False, True)),
        }
        return Space(
            {
                "layer": Repeat(layer, Range(1, self.layers)),
                "head": Choice(("flatten", "globalpool")),
                "dense": Choice(self.dense),
            },
            canonicaliser=ByGraph(self, input_shape, outputs),
        )

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; what would shrink below one pixel is left out.

        A skip needs equal shapes; elsewhere the choice changes nothing. Images above 64 pixels
        get a strided first convolution, and `flatten` first averages down to 8 pixels a side.
        """
        _image(input_shape)
        sketch = Sketch(input_shape)
        sketch.stem(min(self.filters), most=LONGEST_SIDE)
        for index in range(int(arch["layer.count"])):
            self._layer(sketch, {k: arch[f"layer{index}.{k}"] for k in _LAYER})
        if arch["head"] == "flatten":
            sketch.flatten()
        else:
            sketch.add("globalpool")
        if arch["dense"]:
            sketch.dense(int(arch["dense"]), fn=self.activation)
        sketch.add("linear", features=outputs)
        return sketch.graph()

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return two convolutions with pooling and a hidden layer, as LeNet and McMahan's CNN."""
        _image(input_shape)
        sketch = Sketch(input_shape)
        sketch.stem(16, most=LONGEST_SIDE)
        wide = min(input_shape[1:]) >= 24
        for filters in (16, 32) if not wide else (32, 64):
            sketch.conv(filters, kernel=5 if wide else 3)
            sketch.norm("group")
            sketch.add("act", fn=self.activation)
            sketch.shrink("maxpool")
        sketch.flatten()
        sketch.dense(64 if not wide else 128, fn=self.activation)
        sketch.add("linear", features=outputs)
        return sketch.graph()

    def _layer(self, sketch: Sketch, layer: Arch) -> None:
        before = sketch.last
        stride = 2 if layer["reduce"] == "stride" and max(sketch.shape()[1:]) > 1 else 1
        filters = int(layer["filters"])
        sketch.conv(filters, kernel=int(layer["kernel"]), stride=stride)
        sketch.norm(str(layer["norm"]))
        if layer["skip"]:
            sketch.join(before)
        sketch.add("act", fn=self.activation)
        if layer["reduce"] == "maxpool":
            sketch.shrink("maxpool")


_LAYER = ("kernel", "filters", "reduce", "norm", "skip")


def _image(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise IncompatibleParts(
            "an image chain needs images (channels, height, width)",
            got=shape,
            where="space.kind",
            fix="use series-chain for series, table-mlp for tables",
        )
