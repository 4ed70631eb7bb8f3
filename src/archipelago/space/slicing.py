"""Cut filters out of a network: the one primitive under pruning and weight inheritance.

Filters that must go together form a group: the terms of a residual sum, a depthwise convolution
and what feeds it, a norm and what it normalises, the features of a flatten. A slice says which
units of each group stay; it gives the smaller graph, and the places of its scalars in the large
flat vector, so that extracting and scattering weights is one indexing each.

A unit is the least that can be removed: one filter, or as many as a group norm averages together.
So each group of a group norm stays whole, and the sliced network computes exactly what the large
one does with the removed filters at zero. The two differ where a norm averages over all filters
(layer norm, a group norm of one group) and where a batch norm has no scale of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from math import gcd, prod

import numpy as np

from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.space.graph import INPUT, Graph, Node

__all__ = ["RULES", "Axis", "Group", "Rule", "Slice", "Walk", "groups", "narrow", "widths"]

Axis = tuple[tuple[str, int], ...]
"""What lies along one side of a tensor: `(group, scalars)` one after another; group "" is fixed."""

FIXED = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Filters that are removed together.

    Attributes:
        name: the first layer that makes them.
        filters: of that layer.
        units: the filters come in so many units of equal size; one is the least that can go.
        layers: all layers whose filters they are.
    """

    name: str
    filters: int
    units: int
    layers: tuple[str, ...]

    @property
    def unit(self) -> int:
        """Filters of `name` in one unit."""
        return self.filters // self.units


class Walk:
    """What the rules fill in on their way through a graph; changed in place.

    Attributes:
        leaves: tensor name -> the axis of each of its sides.
        made: layer -> the axis that it gives its output; its filters are counted there.
        ranked: group -> tensors whose first side holds the filters, for their norm.
    """

    def __init__(self) -> None:
        self.leaves: dict[str, tuple[Axis, ...]] = {}
        self.made: dict[str, Axis] = {}
        self.ranked: list[tuple[str, Axis]] = []
        self._units: dict[str, int] = {}
        self._same: dict[str, str] = {}

    def make(self, name: str, size: int) -> Axis:
        """Return the axis of `size` new filters, a group of their own so far."""
        self._units[name] = size
        self._same[name] = name
        return ((name, size),)

    def tie(self, a: Axis, b: Axis) -> None:
        """Let the filters along `a` and `b` stay or go together."""
        if len(a) != len(b):
            self.fix(a)
            self.fix(b)
            return
        for (one, size), (two, other) in zip(a, b, strict=True):
            if size != other or FIXED in (one, two):
                self.fix(((one, size),))
                self.fix(((two, other),))
            else:
                self._join(one, two)

    def whole(self, axis: Axis, blocks: int) -> None:
        """Let each of `blocks` equal pieces of `axis` stay or go as one."""
        if len(axis) != 1:
            self.fix(axis)
        elif axis[0][0] != FIXED:
            root = self.root(axis[0][0])
            if root != FIXED:
                self._units[root] = gcd(self._units[root], blocks)

    def fix(self, axis: Axis) -> None:
        """Let every filter along `axis` stay."""
        for name, _ in axis:
            if name != FIXED and self.root(name) != FIXED:
                self._same[self.root(name)] = FIXED

    def root(self, name: str) -> str:
        """Return the group that `name` has become part of; "" where it is fixed."""
        while name != FIXED and self._same[name] != name:
            name = self._same[name]
        return name

    def units(self, name: str) -> int:
        """Return the units of the group of `name`."""
        return self._units[self.root(name)]

    def _join(self, one: str, two: str) -> None:
        a, b = self.root(one), self.root(two)
        if FIXED in (a, b):
            self.fix(((one, 0), (two, 0)))
        elif a != b:
            # The earlier layer gives the name.
            first, second = sorted((a, b), key=list(self._same).index)
            self._same[second] = first
            self._units[first] = gcd(self._units[a], self._units[b])


Rule = Callable[[Walk, Node, Sequence[Axis], Sequence[tuple[int, ...]]], Axis]
"""From a node, the axes of its inputs' channels and their shapes to the axis of its output."""


def _conv(walk: Walk, node: Node, axes: Sequence[Axis], shapes: Sequence[tuple[int, ...]]) -> Axis:
    settings, (axis,) = node.settings, axes
    out = walk.make(node.name, int(settings["filters"]))
    blocks = int(settings["groups"])
    window: tuple[Axis, ...] = tuple(((FIXED, int(settings["kernel"])),) for _ in shapes[0][1:])
    if blocks > 1:
        walk.whole(out, blocks)
        walk.whole(axis, blocks)
        if len(axis) == 1 and walk.root(axis[0][0]) != FIXED:
            walk._join(node.name, axis[0][0])
        else:
            walk.fix(out)
        inner: Axis = ((FIXED, shapes[0][0] // blocks),)
    else:
        inner = axis
    walk.leaves[f"{node.name}.weight"] = (out, inner, *window)
    if settings["bias"]:
        walk.leaves[f"{node.name}.bias"] = (out,)
    walk.ranked.append((f"{node.name}.weight", out))
    walk.made[node.name] = out
    return out


def _linear(walk: Walk, node: Node, axes: Sequence[Axis], _: Sequence[tuple[int, ...]]) -> Axis:
    out = walk.make(node.name, int(node.settings["features"]))
    walk.leaves[f"{node.name}.weight"] = (out, axes[0])
    if node.settings["bias"]:
        walk.leaves[f"{node.name}.bias"] = (out,)
    walk.ranked.append((f"{node.name}.weight", out))
    walk.made[node.name] = out
    return out


def _norm(walk: Walk, node: Node, axes: Sequence[Axis], _: Sequence[tuple[int, ...]]) -> Axis:
    style, (axis,) = node.settings["style"], axes
    if style == "group" and int(node.settings["groups"]) > 1:
        walk.whole(axis, int(node.settings["groups"]))
    if style != "none":
        names = ("weight", "bias") if node.settings["affine"] else ()
        for suffix in (*names, "running_mean", "running_var") if style == "batch" else names:
            walk.leaves[f"{node.name}.{suffix}"] = (axis,)
    walk.made[node.name] = axis
    return axis


def _add(walk: Walk, _: Node, axes: Sequence[Axis], __: Sequence[tuple[int, ...]]) -> Axis:
    for other in axes[1:]:
        walk.tie(axes[0], other)
    return axes[0]


def _concat(_: Walk, __: Node, axes: Sequence[Axis], ___: Sequence[tuple[int, ...]]) -> Axis:
    return tuple(piece for axis in axes for piece in axis)


def _flatten(_: Walk, __: Node, axes: Sequence[Axis], shapes: Sequence[tuple[int, ...]]) -> Axis:
    # Channels lie outermost: a channel's pixels are neighbours among the features.
    pixels = prod(shapes[0][1:])
    return tuple((name, size * pixels) for name, size in axes[0])


def _gru(walk: Walk, node: Node, axes: Sequence[Axis], _: Sequence[tuple[int, ...]]) -> Axis:
    hidden = int(node.settings["hidden"])
    state = walk.make(node.name, hidden)
    endings = ("", "_reverse") if node.settings["bidirectional"] else ("",)
    for ending in endings:
        # Reset, update and new gate, one after another.
        walk.leaves[f"{node.name}.weight_ih_l0{ending}"] = (state * 3, axes[0])
        walk.leaves[f"{node.name}.weight_hh_l0{ending}"] = (state * 3, state)
        walk.leaves[f"{node.name}.bias_ih_l0{ending}"] = (state * 3,)
        walk.leaves[f"{node.name}.bias_hh_l0{ending}"] = (state * 3,)
        walk.ranked.append((f"{node.name}.weight_ih_l0{ending}", state * 3))
        walk.ranked.append((f"{node.name}.weight_hh_l0{ending}", state * 3))
    walk.made[node.name] = state
    return state * len(endings)


def _same(_: Walk, __: Node, axes: Sequence[Axis], ___: Sequence[tuple[int, ...]]) -> Axis:
    return axes[0]


RULES: Mapping[str, Rule] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "gru": _gru,
    "add": _add,
    "concat": _concat,
    "flatten": _flatten,
    **dict.fromkeys(
        (
            *("maxpool", "avgpool", "globalpool", "crop", "resize"),
            *("act", "dropout", "identity", "zero"),
        ),
        _same,
    ),
}
"""How each operation passes filters on. An operation that is not here cannot be sliced."""


@lru_cache(maxsize=256)
def _walked(graph: Graph) -> Walk:
    walk = Walk()
    channels = graph.input_shape[0]
    axes: dict[str, Axis] = {INPUT: ((FIXED, channels),)}
    shapes = {INPUT: graph.input_shape, **graph.shapes}
    for node in graph.nodes:
        if node.op not in RULES:
            raise ConfigError(
                "this layer's filters cannot be sliced: nothing says how it passes them on",
                got=node.op,
                where=f"node {node.name!r}",
                fix=f"add a rule for {node.op!r} to RULES in archipelago/space/slicing.py "
                f"(slicing knows {', '.join(sorted(RULES))}), or search without this layer",
            )
        axes[node.name] = RULES[node.op](
            walk, node, [axes[n] for n in node.inputs], [shapes[n] for n in node.inputs]
        )
    walk.fix(axes[graph.nodes[-1].name])
    return walk


def groups(graph: Graph) -> tuple[Group, ...]:
    """Return the groups of which something can be removed, in the order of their first layer.

    Raises:
        ConfigError: a layer is not known to the slicer; it says how to teach it.
    """
    walk = _walked(graph)
    members: dict[str, list[str]] = {}
    for layer, axis in walk.made.items():
        name = axis[0][0]
        if name == layer and walk.root(name) != FIXED:
            members.setdefault(walk.root(name), []).append(layer)
    return tuple(
        Group(name, walk.made[name][0][1], walk.units(name), tuple(layers))
        for name, layers in members.items()
        if walk.units(name) > 1
    )


def widths(graph: Graph) -> dict[str, int]:
    """Return the filters of every group of `graph`, by its name."""
    walk = _walked(graph)
    return {
        layer: axis[0][1]
        for layer, axis in walk.made.items()
        if axis[0][0] == layer and walk.root(layer) == layer
    }


def narrow(graph: Graph, wanted: Mapping[str, int]) -> Graph:
    """Return `graph` with `wanted` filters in the named groups; the others keep theirs.

    Raises:
        ConfigError: no such group, or not a whole number of its units.
    """
    return Slice.first(graph, wanted).graph


@dataclass(frozen=True)
class Slice:
    """Which units of a graph's groups stay.

    Attributes:
        source: the large network.
        kept: group -> the units that stay, ascending; a group that is not named stays whole.

    Example:
        >>> nodes = (Node("a", "linear", ("input",), (("features", 4),)),
        ...          Node("b", "linear", ("a",), (("features", 2),)))
        >>> cut = Slice.first(Graph((3,), nodes), {"a": 2})
        >>> cut.graph.params, len(cut.index)
        (14, 14)
    """

    source: Graph
    kept: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def first(cls, source: Graph, wanted: Mapping[str, int]) -> "Slice":
        """Keep the first units."""
        counts = _counts(source, wanted)
        return cls(source, tuple((name, tuple(range(count))) for name, count in counts.items()))

    @classmethod
    def largest(cls, source: Graph, flat: np.ndarray, wanted: Mapping[str, int]) -> "Slice":
        """Keep the units whose weights have the largest L2 norm; of equal ones, the first.

        Over a group with several layers the squares are summed.

        References:
            Yang et al. 2018, arXiv:1804.03230, section 3.3 ("choose which filters").
        """
        sizes = _norms(source, flat)
        kept: list[tuple[str, tuple[int, ...]]] = []
        for name, count in _counts(source, wanted).items():
            order = np.argsort(-sizes[name], kind="stable")[:count]
            kept.append((name, tuple(sorted(int(unit) for unit in order))))
        return cls(source, tuple(kept))

    @cached_property
    def graph(self) -> Graph:
        """The small network; its layers keep their names."""
        kept, walk = dict(self.kept), _walked(self.source)
        nodes: list[Node] = []
        for node in self.source.nodes:
            settings = node.settings
            attrs = dict(node.attrs)
            axis = walk.made.get(node.name)
            root = walk.root(axis[0][0]) if axis and len(axis) == 1 else FIXED
            if axis and root in kept:
                units = walk.units(root)
                share = len(kept[root])
                for name in ("filters", "features", "hidden", "groups"):
                    if name in settings and (name != "groups" or int(settings[name]) > 1):
                        attrs[name] = int(settings[name]) * share // units
            nodes.append(replace(node, attrs=tuple(attrs.items())))
        return Graph(self.source.input_shape, tuple(nodes))

    @cached_property
    def index(self) -> np.ndarray:
        """Where each scalar of the small network lies in the large one, int64 `[small]`."""
        walk, layout = _walked(self.source), self.source.layout
        pieces: list[np.ndarray] = []
        for leaf, offset in zip(layout.leaves, layout.offsets, strict=True):
            places = np.arange(offset, offset + leaf.size).reshape(leaf.shape)
            sides = [self._places(walk, axis) for axis in walk.leaves[leaf.name]]
            pieces.append(places[np.ix_(*sides)].ravel())
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)

    def extract(self, flat: np.ndarray) -> np.ndarray:
        """Return the small network's weights, shape `[small]`."""
        return np.ascontiguousarray(flat[self.index])

    def scatter(self, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights of the large network, zero where nothing is kept, and their coverage.

        Returns:
            Weights, shape `[large]`, and a mask of the scalars that `small` covers, bool `[large]`.
        """
        size = self.source.layout.size
        large, covered = np.zeros(size, small.dtype), np.zeros(size, bool)
        large[self.index] = small
        covered[self.index] = True
        return large, covered

    def _places(self, walk: Walk, axis: Axis) -> np.ndarray:
        kept = dict(self.kept)
        starts = accumulate((size for _, size in axis), initial=0)
        out: list[np.ndarray] = []
        for (name, size), start in zip(axis, starts, strict=False):
            root = walk.root(name)
            if root not in kept:
                out.append(np.arange(start, start + size))
                continue
            block = size // walk.units(root)
            units = np.asarray(kept[root])
            out.append((start + units[:, None] * block + np.arange(block)).ravel())
        return np.concatenate(out)


def _counts(graph: Graph, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the units to keep of each group of which some go."""
    known = {group.name: group for group in groups(graph)}
    counts: dict[str, int] = {}
    whole = widths(graph)
    for name, filters in wanted.items():
        if name not in known:
            if whole.get(name) == filters:
                continue
            raise ConfigError(
                "no such group of filters", got=name, fix=did_you_mean(name, known or whole)
            )
        group = known[name]
        if filters % group.unit or not 0 < filters <= group.filters:
            raise ConfigError(
                f"this group keeps {group.unit} to {group.filters} filters, "
                f"a multiple of {group.unit}",
                got=filters,
                where=f"group {name!r}",
            )
        if filters < group.filters:
            counts[name] = filters // group.unit
    return counts


def _norms(graph: Graph, flat: np.ndarray) -> dict[str, np.ndarray]:
    """Return the squared L2 norm of each unit's weights, by group."""
    walk = _walked(graph)
    views = graph.layout.views(np.asarray(flat, dtype=np.float64))
    sums = {group.name: np.zeros(group.units) for group in groups(graph)}
    for leaf, axis in walk.ranked:
        rows = (views[leaf].reshape(views[leaf].shape[0], -1) ** 2).sum(1)
        start = 0
        for name, size in axis:
            root = walk.root(name)
            if root in sums:
                sums[root] += rows[start : start + size].reshape(len(sums[root]), -1).sum(1)
            start += size
    return sums
