"""All narrower forms of one network: what pruning searches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, one_of
from archipelago.core.device import Device, device
from archipelago.core.errors import ConfigError
from archipelago.core.trial import Arch
from archipelago.space.dims import Range
from archipelago.space.graph import Graph
from archipelago.space.image_chain import ImageChain
from archipelago.space.series_chain import SeriesChain
from archipelago.space.slicing import groups, narrow
from archipelago.space.space import Space
from archipelago.space.table_mlp import TableMlp

__all__ = ["Narrower", "Widths"]

_FAMILIES = {"image-chain": ImageChain, "series-chain": SeriesChain, "table-mlp": TableMlp}
_BY_RANK = {3: "image-chain", 2: "series-chain", 1: "table-mlp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrower:
    """The family of one given network and all that is cut from it.

    Attributes:
        network: the widest member.
        least: filters that a group keeps, as a share of its own.
        device: on which `latency_ms` is estimated; None leaves it out.
    """

    network: Graph
    least: float = 0.0
    device: Device | None = None

    def space(self, input_shape: tuple[int, ...] = (), outputs: int = 0) -> Space:
        """Return one ordered choice a group: how many filters it keeps.

        Raises:
            ConfigError: there is no group of which anything can be removed.
        """
        del input_shape, outputs
        found = groups(self.network)
        if not found:
            raise ConfigError(
                "this network has nothing to prune: no layer has filters that could go",
                got=[node.op for node in self.network.nodes],
                where="space",
                fix="start from a network with a hidden layer of two filters or more",
            )
        dims = {
            group.name: Range(
                group.unit * max(1, round(self.least * group.units)), group.filters, group.unit
            )
            for group in found
        }
        return Space(dims, costs=self.costs)

    def graph(self, arch: Arch, input_shape: tuple[int, ...] = (), outputs: int = 0) -> Graph:
        """Cut the network to the widths of `arch`."""
        del input_shape, outputs
        return narrow(self.network, {name: int(filters) for name, filters in arch.items()})

    def baseline(self, input_shape: tuple[int, ...] = (), outputs: int = 0) -> Graph:
        """Return the whole network."""
        del input_shape, outputs
        return self.network

    def costs(self, arch: Arch) -> Mapping[str, float]:
        """Return `params`, `macs`, `bytes_per_round`, and `latency_ms` where there is a device."""
        graph = self.graph(arch)
        if self.device is None:
            return graph.costs
        return {**graph.costs, "latency_ms": self.device.latency(graph.node_costs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Every narrower form of the hand-made network of a family: what pruning searches.

    Attributes:
        network: whose hand-made network is the widest; `auto` goes by the shape of the rows.
        least: filters that a group of layers keeps, as a share of its own.
        device: a device's name or a JSON file, for budgets of `latency_ms`; empty is none.
    """

    kind: Literal["widths"] = "widths"
    network: Literal["auto", "image-chain", "series-chain", "table-mlp"] = "auto"
    least: float = 0.0
    device: str = ""

    def __post_init__(self) -> None:
        at_least("space.least", self.least, 0)
        if self.least >= 1:
            raise ConfigError(
                "nothing could be removed",
                got=self.least,
                where="space.least",
                fix="0.25 lets three quarters of a layer go",
            )
        one_of("space.network", self.network, ("auto", *_FAMILIES))
        if self.device:
            device(self.device)

    def space(self, input_shape: tuple[int, ...], outputs: int) -> Space:
        """Return one ordered choice a group of layers: how many filters it keeps."""
        return self._narrower(input_shape, outputs).space()

    def graph(self, arch: Arch, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Cut the hand-made network to the widths of `arch`."""
        return self._narrower(input_shape, outputs).graph(arch)

    def baseline(self, input_shape: tuple[int, ...], outputs: int) -> Graph:
        """Return the whole hand-made network."""
        return self._narrower(input_shape, outputs).network

    def _narrower(self, shape: tuple[int, ...], outputs: int) -> Narrower:
        name = _BY_RANK[len(shape)] if self.network == "auto" else self.network
        return Narrower(
            network=_FAMILIES[name]().baseline(shape, outputs),
            least=self.least,
            device=device(self.device) if self.device else None,
        )
