"""A user's own torch network, as the federation sees one: a layout, exact sizes, a name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from archipelago.core.seeds import Seed
from archipelago.core.tree import Layout
from archipelago.core.trial import Value
from archipelago.nn.model import Model
from archipelago.space.graph import Graph

__all__ = ["CustomNetwork", "built"]


@dataclass(frozen=True)
class CustomNetwork(Graph):
    """Stands where a `Graph` does in loop two; what is inside is the torch module's business.

    A client builds it by its name from `WorkerContext.networks`: no message carries code. Journals,
    reports and ONNX files hold graphs only.

    Attributes:
        network: its name there.
        options: what the factory is called with, as sorted pairs.
        build: the factory itself.

    Example:
        >>> class Tiny(nn.Linear):
        ...     def __init__(self, width): super().__init__(4, width)
        >>> CustomNetwork.of(Tiny, (4,), width=3).params
        15
    """

    nodes: tuple[Any, ...] = ()
    network: str = ""
    options: tuple[tuple[str, Value], ...] = ()
    build: Callable[..., nn.Module] = field(default=nn.Identity, compare=False)

    def __post_init__(self) -> None:
        """Check nothing of a graph's nodes: there are none."""

    @classmethod
    def of(
        cls, build: Callable[..., nn.Module], input_shape: tuple[int, ...], **options: Value
    ) -> "CustomNetwork":
        """Return the network that `build(**options)` makes, named after `build`.

        Args:
            build: a class or function; worker processes must be able to import it.
            input_shape: of one example.
            options: plain values: a point of a space, for instance.
        """
        return cls(
            input_shape=input_shape,
            network=getattr(build, "__name__", "network"),
            options=tuple(sorted(options.items())),
            build=build,
        )

    def start(self, seed: Seed) -> Tensor:
        """Return the weights that the module itself begins with, given the seed; `[size]`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed.value())
            return Model.of_module(self.build(**dict(self.options))).flat.clone()

    @cached_property
    def layout(self) -> Layout:
        """Which tensor lies where."""
        return Model.of_module(self.build(**dict(self.options))).layout

    @cached_property
    def params(self) -> int:
        """Trained scalars."""
        span = self.layout.span("weights")
        return span.stop - span.start

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one example's forward pass, as torch counts them."""
        module = self.build(**dict(self.options)).to("meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.empty(1, *self.input_shape, device="meta"))
        return counter.get_total_flops() // 2

    @cached_property
    def key(self) -> str:
        """The same for the same name and options."""
        text = repr((self.input_shape, self.network, self.options))
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return what a client needs to build it, given `WorkerContext.networks`."""
        return {"own": self.network, "options": dict(self.options)}


def built(described: Mapping[str, Any], networks: Mapping[str, Any], device: str) -> Model:
    """Return the model that `Own.to_json` describes.

    Raises:
        KeyError: the client knows no such network.
    """
    module = networks[str(described["own"])](**described["options"])
    return Model.of_module(module.to(device))
