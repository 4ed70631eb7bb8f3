"""The outer shape of a network: how many cells, how connected, how wide, at which resolution."""

from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, between, one_of
from archipelago.core.trial import Arch, Value
from archipelago.space.dims import Choice
from archipelago.space.family import ByGraph, image, known_words, sizes
from archipelago.space.graph import Graph
from archipelago.space.ops import NORMS
from archipelago.space.sketch import Sketch
from archipelago.space.space import Space

__all__ = ["CONNECTIONS", "Macro", "rounded"]

CONNECTIONS = ("chain", "residual", "dense")


@dataclass(frozen=True, slots=True, kw_only=True)
class Macro:
    """Stages of equal cells; depth, width, resolution and connection are the choices.

    A cell is a 3x3 convolution, a norm and a rectifier. In a `chain` each follows the one before;
    `residual` adds a cell's input to its output; `dense` concatenates everything before it in the
    stage. Channels double and the picture is halved from stage to stage.

    Attributes:
        stages: of cells.
        depths: cells in a stage, offered.
        widths: channels of the first stage, offered.
        resolutions: offered factors on the sides of the picture.
        connections: offered: `chain`, `residual`, `dense`.
        norm: after every convolution.

    References:
        Tan and Le 2019, arXiv:1905.11946, section 3 (compound scaling is a point of this space).
    """

    kind: Literal["macro"] = "macro"
    stages: int = 3
    depths: tuple[int, ...] = (1, 2, 3)
    widths: tuple[int, ...] = (8, 16, 24, 32)
    resolutions: tuple[float, ...] = (0.5, 0.75, 1.0)
    connections: tuple[str, ...] = CONNECTIONS
    norm: str = "group"

    def __post_init__(self) -> None:
        at_least("space.stages", self.stages, 1)
        sizes("space.depths", self.depths)
        sizes("space.widths", self.widths)
        sizes("space.resolutions", self.resolutions, low=0)
        for factor in self.resolutions:
            between("space.resolutions", factor, 0, 16, open_low=True)
        known_words("space.connections", self.connections, CONNECTIONS)
        one_of("space.norm", self.norm, NORMS)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return the choices; where one cell a stage leaves nothing to connect, keys are shared."""
        image("macro", input_shape)
        return Space(
            {
                "depth": Choice(self.depths),
                "width": Choice(self.widths),
                "resolution": Choice(self.resolutions),
                "connection": Choice(self.connections),
            },
            canonicaliser=ByGraph(self, input_shape, outputs),
        )

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Build the network; any depth, width and resolution will do, offered or not."""
        image("macro", input_shape)
        sketch, longest = Sketch(input_shape), max(input_shape[1:])
        size = max(1, round(longest * float(arch["resolution"])))
        if size != longest:
            sketch.add("resize", size=size)
        for stage in range(self.stages):
            channels = int(arch["width"]) * 2**stage
            last = self._unit(sketch, channels, stride=2 if stage else 1)
            before = [last]
            for _ in range(int(arch["depth"]) - 1):
                self._unit(sketch, channels)
                match arch["connection"]:
                    case "residual":
                        sketch.join(before[-1])
                        before.append(sketch.last)
                    case "dense":
                        before.append(sketch.last)
                        sketch.add("concat", *before)
                    case _:
                        before.append(sketch.last)
        sketch.add("globalpool")
        sketch.add("linear", features=outputs)
        return sketch.graph()

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return the residual network of middle depth and width at full resolution."""
        return self.graph(self._middle(), input_shape, outputs)

    def compound(
        self,
        phi: float,
        base: Arch | None = None,
        *,
        depth: float = 1.2,
        width: float = 1.1,
        resolution: float = 1.15,
    ) -> dict[str, Value]:
        """Return `base` scaled by one knob: MACs grow about 2^phi times.

        Args:
            phi: how much more to spend, as a power of two.
            base: what is scaled; the middle of the space unless given.
            depth: factor on the cells for phi = 1.
            width: factor on the channels; they are rounded to multiples of 8.
            resolution: factor on the sides of the picture.

        References:
            Tan and Le 2019, arXiv:1905.11946, equation 3 and its alpha, beta, gamma.
        """
        start = {**(base or self._middle())}
        return {
            **start,
            "depth": max(1, round(int(start["depth"]) * depth**phi)),
            "width": rounded(int(start["width"]) * width**phi),
            "resolution": float(start["resolution"]) * resolution**phi,
        }

    def _middle(self) -> dict[str, Value]:
        return {
            "depth": sorted(self.depths)[len(self.depths) // 2],
            "width": sorted(self.widths)[len(self.widths) // 2],
            "resolution": 1.0,
            "connection": "residual",
        }

    def _unit(self, sketch: Sketch, channels: int, *, stride: int = 1) -> str:
        stride = stride if min(sketch.shape()[1:]) > 1 else 1
        sketch.conv(channels, kernel=3, stride=stride)
        sketch.norm(self.norm)
        return sketch.add("act")


def rounded(channels: float, multiple: int = 8) -> int:
    """Return the multiple nearest to `channels`, never below 90 % of it.

    References:
        Tan and Le 2019, the released code's `round_filters`.

    Example:
        >>> rounded(35.2), rounded(8.8), rounded(12)
        (32, 8, 16)
    """
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * channels else nearest + multiple
