"""A network as data: nodes, exact costs, and a JSON form that is checked and never executed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import prod
from typing import Any

from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.core.tree import Layout, Leaf
from archipelago.core.trial import Value
from archipelago.space.ops import MOST_SCALARS, Measure, complete, measure

__all__ = ["INPUT", "Graph", "Node"]

INPUT = "input"
MOST_NODES = 2_000
MOST_PARAMS = 2**30
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a network.

    Attributes:
        name: also the name of its module and the prefix of its tensors.
        op: one of `ops.OPS`.
        inputs: earlier nodes, or `input`.
        attrs: what differs from the operation's defaults, as sorted pairs.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "attrs", tuple(sorted((k, v) for k, v in self.attrs)))

    @property
    def settings(self) -> dict[str, Value]:
        """Every attribute, defaults included."""
        return complete(self.op, dict(self.attrs))

    def measure(self, shapes: Mapping[str, tuple[int, ...]]) -> Measure:
        """Return shape, tensors and MACs, given the output shapes of earlier nodes.

        Raises:
            ConfigError: naming this node.
        """
        try:
            if not _NAME.fullmatch(self.name) or self.name == INPUT:
                raise ConfigError("a node's name is a letter, then letters, digits or _")
            for name in self.inputs:
                if name not in shapes:
                    raise ConfigError(
                        "no such node before this one", got=name, fix=did_you_mean(name, shapes)
                    )
            if self.name in shapes:
                raise ConfigError("two nodes share a name")
            return measure(self.op, dict(self.attrs), [shapes[name] for name in self.inputs])
        except ConfigError as error:
            where = f"node {self.name!r}"
            raise ConfigError(error.what, got=error.got, where=where, fix=error.fix) from None


@dataclass(frozen=True)
class Graph:
    """A feed-forward network: hashable, picklable, free of torch.

    Attributes:
        input_shape: of one example, without the batch: `(channels, height, width)`,
            `(channels, steps)` or `(features,)`.
        nodes: in an order in which they can be computed; the last one's output is the result.

    Raises:
        ConfigError: naming the first node that does not fit, or whose output nobody uses.

    Example:
        >>> net = Graph((784,), (Node("out", "linear", ("input",), (("features", 10),)),))
        >>> net.params, net.macs, net.bytes_per_round
        (7850, 7840, 62800)
    """

    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        whole = all(type(size) is int and 0 < size <= 2**24 for size in self.input_shape)
        if not whole or not 1 <= len(self.input_shape) <= 3:
            raise ConfigError("an input shape is one to three positive sizes", got=self.input_shape)
        if prod(self.input_shape) > MOST_SCALARS:
            raise ConfigError(
                f"an input holds at most {MOST_SCALARS} numbers", got=self.input_shape
            )
        if not 1 <= len(self.nodes) <= MOST_NODES:
            raise ConfigError(f"a network has 1 to {MOST_NODES} nodes", got=len(self.nodes))
        _ = self._measures
        used = {name for node in self.nodes for name in node.inputs}
        for node in self.nodes[:-1]:
            if node.name not in used:
                raise ConfigError("its output is never used", where=f"node {node.name!r}")
        if self.params > MOST_PARAMS:
            raise ConfigError(f"a network has at most {MOST_PARAMS} parameters", got=self.params)

    @cached_property
    def _measures(self) -> dict[str, Measure]:
        shapes = {INPUT: self.input_shape}
        measures: dict[str, Measure] = {}
        for node in self.nodes:
            measures[node.name] = node.measure(shapes)
            shapes[node.name] = measures[node.name].shape
        return measures

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Output shape of every node, without the batch."""
        return {name: measured.shape for name, measured in self._measures.items()}

    @property
    def outputs(self) -> tuple[int, ...]:
        """Shape of the result for one example."""
        return self.shapes[self.nodes[-1].name]

    @cached_property
    def node_costs(self) -> dict[str, tuple[int, int]]:
        """Parameters and MACs of every node."""
        return {name: (measured.params, measured.macs) for name, measured in self._measures.items()}

    @cached_property
    def params(self) -> int:
        """Trained scalars."""
        return sum(params for params, _ in self.node_costs.values())

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one example's forward pass (see `ops`)."""
        return sum(macs for _, macs in self.node_costs.values())

    @property
    def bytes_per_round(self) -> int:
        """Bytes that one client moves in one round, down and up, before framing."""
        return 2 * 4 * self.layout.size

    @property
    def costs(self) -> dict[str, float]:
        """What constraints are checked against: `params`, `macs`, `bytes_per_round`."""
        return {
            "params": self.params,
            "macs": self.macs,
            "bytes_per_round": self.bytes_per_round,
        }

    @cached_property
    def starts(self) -> dict[str, tuple[float, float]]:
        """How each tensor begins: standard deviation of a random start, or 0 and its fill."""
        return {
            f"{name}.{state.suffix}": (state.spread, state.fill)
            for name, measured in self._measures.items()
            for state in measured.states
        }

    @cached_property
    def layout(self) -> Layout:
        """Which tensor lies where; the names equal those of the torch module's state."""
        return Layout.of(
            Leaf(f"{name}.{state.suffix}", state.shape, state.group)
            for name, measured in self._measures.items()
            for state in measured.states
        )

    @cached_property
    def key(self) -> str:
        """Name of the computed function's form: node names and neutral nodes do not matter.

        Equal keys mean the same network up to the names of its tensors.
        """
        numbers = {INPUT: 0}
        lines: list[tuple[object, ...]] = []
        for node in self.nodes:
            settings = node.settings
            inputs = tuple(numbers[name] for name in node.inputs)
            if _neutral(node.op, settings, len(inputs)):
                numbers[node.name] = inputs[0]
                continue
            if node.op == "norm" and settings["style"] != "group":
                # Layer norm is group norm with one group.
                style = "group" if settings["style"] == "layer" else settings["style"]
                settings = {**settings, "style": style, "groups": 1}
            if node.op in ("maxpool", "avgpool"):
                settings = {**settings, "stride": settings["stride"] or settings["kernel"]}
            lines.append((node.op, inputs, sorted(settings.items())))
            numbers[node.name] = len(lines)
        text = repr((self.input_shape, lines, numbers[self.nodes[-1].name]))
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return {
            "format": 1,
            "input_shape": list(self.input_shape),
            "nodes": [
                {"name": n.name, "op": n.op, "inputs": list(n.inputs), "attrs": dict(n.attrs)}
                for n in self.nodes
            ],
        }

    @classmethod
    def from_json(cls, data: object) -> "Graph":
        """Rebuild what `to_json` wrote. Nothing in `data` is trusted, and nothing is executed.

        Raises:
            ConfigError: naming the node at fault.
        """
        match data:
            case {"format": 1, "input_shape": list(shape), "nodes": list(nodes), **rest} if (
                not rest
            ):
                if len(nodes) > MOST_NODES:
                    raise ConfigError(f"a network has 1 to {MOST_NODES} nodes", got=len(nodes))
                return cls(tuple(shape), tuple(_read(nodes)))
            case {"format": int(other)} if other != 1:
                raise ConfigError(
                    "this network was written in a format that this version does not know",
                    got=other,
                    fix="install a newer archipelago-nas",
                )
            case _:
                raise ConfigError("a network is an object of format, input_shape and nodes")


def _neutral(op: str, settings: Mapping[str, Value], inputs: int) -> bool:
    return (
        op == "identity"
        or (op == "dropout" and settings["rate"] == 0)
        or (op == "norm" and settings["style"] == "none")
        or (op in ("add", "concat") and inputs == 1)
    )


def _read(nodes: list[Any]) -> Iterator[Node]:
    for place, entry in enumerate(nodes):
        match entry:
            case {
                "name": str(name),
                "op": str(op),
                "inputs": list(inputs),
                "attrs": dict(attrs),
                **rest,
            } if not rest and all(isinstance(text, str) for text in (*inputs, *attrs)):
                yield Node(name[:100], op[:100], tuple(inputs), tuple(attrs.items()))
            case _:
                raise ConfigError(
                    "a node is an object of name, op, inputs and attrs", where=f"node {place}"
                )
