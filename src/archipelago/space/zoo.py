"""Hand-made networks as points: baselines that a search must beat, each at any width."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import one_of
from archipelago.core.trial import Arch
from archipelago.space.dims import Choice
from archipelago.space.family import ByGraph, image, known_words, sizes
from archipelago.space.graph import Graph
from archipelago.space.ops import NORMS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["NETWORKS", "Zoo"]

SMALL = 64
"""Pixels: below it a network's first layers keep the picture's size, as their CIFAR forms do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoo:
    """Published networks; which one, and how wide, are the choices.

    At width 1 on 224 x 224 pixels, 1,000 classes and norm `batch` they have their published sizes.
    On small pictures the strided stem is left out, and a reduction that no pixel is left for too.

    Attributes:
        networks: offered: `lenet`, `vgg11`, `vgg16`, `inception`, `resnet18`, `resnet50`,
            `densenet121`, `mobilenet-v2`.
        widths: factors on every number of channels.
        norm: where the published network has a batch norm.

    References:
        LeCun et al. 1998 (lenet); Simonyan and Zisserman 2015, arXiv:1409.1556 (vgg); Szegedy et
        al. 2015, arXiv:1409.4842 (inception); He et al. 2016, arXiv:1512.03385 (resnet); Huang et
        al. 2017, arXiv:1608.06993 (densenet); Sandler et al. 2018, arXiv:1801.04381 (mobilenet).
    """

    kind: Literal["zoo"] = "zoo"
    networks: tuple[str, ...] = ("lenet", "vgg11", "inception", "resnet18", "mobilenet-v2")
    widths: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    norm: str = "group"

    def __post_init__(self) -> None:
        known_words("space.networks", self.networks, tuple(NETWORKS))
        sizes("space.widths", [width * 1000 for width in self.widths])
        one_of("space.norm", self.norm, NORMS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choice of network and of width."""
        image("zoo", input_shape)
        return Space(
            {"network": Choice(self.networks), "width": Choice(self.widths)},
            canonicaliser=ByGraph(self, input_shape, outputs),
        )

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build one of them."""
        image("zoo", input_shape)
        pen = _Pen(Sketch(input_shape), float(arch["width"]), self.norm)
        NETWORKS[str(arch["network"])](pen)
        pen.sketch.add("linear", features=outputs)
        return pen.sketch.graph()

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return a ResNet-18 of a quarter of the width."""
        return self.graph({"network": "resnet18", "width": 0.25}, input_shape, outputs)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Draws scaled layers onto a sketch."""

    sketch: Sketch
    width: float
    norm: str

    @property
    def large(self) -> bool:
        return max(self.sketch.shape("input")[1:]) >= SMALL

    def wide(self, channels: int) -> int:
        return max(1, round(channels * self.width))

    def stride(self, wanted: int) -> int:
        return wanted if min(self.sketch.shape()[1:]) > 1 else 1

    def conv(
        self,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        after: str | None = None,
        act: bool = True,
        groups: int = 1,
    ) -> str:
        """Append a convolution of exactly `channels`, a norm, and a rectifier."""
        sketch = self.sketch
        if after:
            sketch.last = after
        stride = self.stride(stride)
        sketch.conv(channels, kernel=kernel, stride=stride, bias=False, groups=groups)
        sketch.norm(self.norm)
        return sketch.add("act") if act else sketch.last

    def pool(self, op: str = "maxpool", kernel: int = 3) -> str:
        """Append a pooling that halves, where there is more than a pixel."""
        if self.stride(2) == 1:
            return self.sketch.last
        return self.sketch.add(op, kernel=kernel, stride=2, padding=(kernel - 1) // 2)

    def stem(self, channels: int) -> None:
        """Append the first convolution: strided and pooled on large pictures only."""
        if self.large:
            self.conv(channels, 7, stride=2)
            self.pool()
        else:
            self.conv(channels, 3)


def _lenet(pen: _Pen) -> None:
    sketch = pen.sketch
    for place, channels in enumerate((6, 16)):
        # The first one was padded: 28 pixels stay 28.
        fits = min(sketch.shape()[1:]) >= 5
        padding = 2 if place == 0 or not fits else 0
        sketch.add("conv", filters=pen.wide(channels), kernel=5, padding=padding)
        sketch.add("act", fn="tanh")
        sketch.shrink("avgpool")
    sketch.flatten(most=8)
    for features in (120, 84):
        sketch.dense(pen.wide(features), fn="tanh")


def _vgg(*stages: int) -> Callable[[_Pen], None]:
    def draw(pen: _Pen) -> None:
        sketch = pen.sketch
        for channels, layers in zip((64, 128, 256, 512, 512), stages, strict=True):
            for _ in range(layers):
                sketch.conv(pen.wide(channels), kernel=3)
                sketch.add("act")
            sketch.shrink("maxpool")
        sketch.flatten(most=8)
        # The CIFAR forms have no hidden layers of 4,096.
        for _ in range(2):
            sketch.dense(pen.wide(4096 if pen.large else 512))
            sketch.add("dropout", rate=0.5)

    return draw


def _inception(pen: _Pen) -> None:
    wide, sketch = pen.wide, pen.sketch
    pen.stem(wide(64))
    pen.conv(wide(64), 1)
    pen.conv(wide(192), 3)
    for block in _INCEPTIONS:
        if not block:
            pen.pool()
            continue
        one, squeeze3, three, squeeze5, five, pooled = (wide(channels) for channels in block)
        start = sketch.last
        branches = [pen.conv(one, 1)]
        pen.conv(squeeze3, 1, after=start)
        branches.append(pen.conv(three, 3))
        pen.conv(squeeze5, 1, after=start)
        # As torchvision's: the 5x5 branch has a 3x3 kernel.
        branches.append(pen.conv(five, 3))
        sketch.add("maxpool", start, kernel=3, stride=1, padding=1)
        branches.append(pen.conv(pooled, 1))
        sketch.add("concat", *branches)
    sketch.add("globalpool")
    sketch.add("dropout", rate=0.2)


_INCEPTIONS: tuple[tuple[int, ...], ...] = (
    (),
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
"""Channels of 1x1, 3x3 (squeezed, full), 5x5 (squeezed, full) and pooling; empty is a pooling."""


def _resnet(stages: tuple[int, ...], *, bottleneck: bool) -> Callable[[_Pen], None]:
    def draw(pen: _Pen) -> None:
        sketch = pen.sketch
        pen.stem(pen.wide(64))
        for stage, blocks in enumerate(stages):
            for block in range(blocks):
                start, channels = sketch.last, pen.wide(64 * 2**stage)
                stride = pen.stride(2 if stage and not block else 1)
                out = 4 * channels if bottleneck else channels
                if bottleneck:
                    pen.conv(channels, 1)
                    pen.conv(channels, 3, stride=stride)
                    long = pen.conv(out, 1, act=False)
                else:
                    pen.conv(channels, 3, stride=stride)
                    long = pen.conv(out, 3, act=False)
                short = start
                if sketch.shape(start) != sketch.shape(long):
                    sketch.last = start
                    short = pen.conv(out, 1, stride=stride, act=False)
                sketch.add("add", long, short)
                sketch.add("act")
        sketch.add("globalpool")

    return draw


def _densenet(*stages: int) -> Callable[[_Pen], None]:
    def draw(pen: _Pen) -> None:
        sketch, growth = pen.sketch, pen.wide(32)
        pen.stem(2 * growth)
        for stage, layers in enumerate(stages):
            if stage:
                _before(pen, sketch.last, max(1, sketch.shape()[0] // 2), 1)
                sketch.shrink("avgpool")
            for _ in range(layers):
                start = sketch.last
                _before(pen, start, 4 * growth, 1)
                new = _before(pen, sketch.last, growth, 3)
                sketch.add("concat", start, new)
        sketch.norm(pen.norm)
        sketch.add("act")
        sketch.add("globalpool")

    return draw


def _before(pen: _Pen, start: str, channels: int, kernel: int) -> str:
    """Append norm, rectifier and convolution: DenseNet's order."""
    pen.sketch.last = start
    pen.sketch.norm(pen.norm)
    pen.sketch.add("act")
    return pen.sketch.conv(channels, kernel=kernel, bias=False)


def _mobilenet(pen: _Pen) -> None:
    sketch = pen.sketch
    pen.conv(pen.wide(32), 3, stride=2 if pen.large else 1)
    for expand, channels, blocks, stride in _INVERTED:
        for block in range(blocks):
            start, inside = sketch.last, expand * sketch.shape()[0]
            if expand > 1:
                pen.conv(inside, 1)
            pen.conv(inside, 3, stride=1 if block else stride, groups=inside)
            end = pen.conv(pen.wide(channels), 1, act=False)
            if sketch.shape(start) == sketch.shape(end):
                sketch.add("add", start, end)
    pen.conv(pen.wide(1280), 1)
    sketch.add("globalpool")
    sketch.add("dropout", rate=0.2)


_INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of each stage; its table 2."""


NETWORKS: Mapping[str, Callable[[_Pen], None]] = {
    "lenet": _lenet,
    "vgg11": _vgg(1, 1, 2, 2, 2),
    "vgg16": _vgg(2, 2, 3, 3, 3),
    "inception": _inception,
    "resnet18": _resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": _resnet((3, 4, 6, 3), bottleneck=True),
    "densenet121": _densenet(6, 12, 24, 16),
    "mobilenet-v2": _mobilenet,
}
