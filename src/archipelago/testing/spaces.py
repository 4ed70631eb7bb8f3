"""What holds of every space: its points, their networks, and what those cost."""

from collections.abc import Iterator
from random import Random
from typing import Any

import torch

from archipelago.core.errors import IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.nn.model import Model
from archipelago.space.graph import Graph

__all__ = ["CONTRACTS"]

_SHAPES = ((3, 32, 32), (9, 128), (13,))
"""An image, a series, a table: a space is tried on the first that it takes."""
_OUTPUTS = 5


def _world(part: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the space over the first kind of data that it takes, and that shape."""
    for shape in _SHAPES:
        try:
            return part.space(shape, _OUTPUTS), shape
        except IncompatibleParts:
            continue
    raise AssertionError("it takes neither images, series nor tables")


def _members(part: Any, count: int) -> Iterator[tuple[dict[str, Any], tuple[int, ...], Any]]:
    space, shape = _world(part)
    dice = Random(3)
    for _ in range(count):
        yield space.sample(dice), shape, space


def samples_are_members(part: Any) -> None:
    """What is drawn, mutated or crossed lies in the space."""
    dice = Random(5)
    for arch, _, space in _members(part, 5):
        assert arch in space
        assert space.mutate(arch, dice) in space
        assert space.crossover(arch, space.sample(dice), dice) in space


def a_point_survives_its_encoding(part: Any) -> None:
    """`decode(encode(arch))` is the same point."""
    for arch, _, space in _members(part, 5):
        assert space.decode(space.encode(arch)) == arch


def equal_keys_are_equal_costs(part: Any) -> None:
    """Points that share a canonical key cost the same: strategies try only one of them."""
    known: dict[str, Any] = {}
    for arch, shape, space in _members(part, 12):
        costs = part.graph(arch, shape, _OUTPUTS).costs
        assert known.setdefault(space.canonical(arch), costs) == costs


def networks_are_as_large_as_they_say(part: Any) -> None:
    """A member builds, answers `[rows, outputs]`, has a gradient, and the parameters it claims."""
    for arch, shape, _ in _members(part, 1):
        _fits(part.graph(arch, shape, _OUTPUTS), shape)


def the_baseline_is_a_network_too(part: Any) -> None:
    """The hand-made network that a search is compared with builds as well."""
    _, shape = _world(part)
    _fits(part.baseline(shape, _OUTPUTS), shape)


def _fits(graph: Graph, shape: tuple[int, ...]) -> None:
    assert Graph.from_json(graph.to_json()) == graph
    model = Model.of_graph(graph, Seed(0)).train()
    assert sum(p.numel() for p in model.module.parameters()) == graph.params
    out = model(torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)))
    assert out.shape == (2, _OUTPUTS)
    out.square().mean().backward()
    assert model.grad.isfinite().all()
    assert model.grad.any()


CONTRACTS = (
    samples_are_members,
    a_point_survives_its_encoding,
    equal_keys_are_equal_costs,
    networks_are_as_large_as_they_say,
    the_baseline_is_a_network_too,
)
