"""The cell of NAS-Bench-201 as choices: four nodes, one operation on each of six edges.

Choices, keys and features only; the network is another file's business.
"""

from collections.abc import Iterator
from itertools import pairwise

from archipelago.core.errors import ConfigError
from archipelago.core.trial import Arch, Value
from archipelago.space.dims import Choice
from archipelago.space.space import Space

__all__ = ["EDGES", "OPS", "arch_of", "cell_features", "cell_key", "cell_space", "cell_string"]

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Edges from node to node, in the order of the published tables."""

NAMES = tuple(f"edge{a}{b}" for a, b in EDGES)
_ROUTES = ((0, 1, 2, 3), (0, 1, 3), (0, 2, 3), (0, 3))
_KEPT = OPS[2:]


def cell_space() -> Space:
    """Return the 15,625 cells, of which 6,466 are different networks.

    References:
        Dong and Yang 2020, arXiv:2001.00326; Dong et al. 2021, arXiv:2009.00437 (topology space).
    """
    return Space(dict.fromkeys(NAMES, Choice(OPS)), canonicaliser=cell_key, features=cell_features)


def cell_string(arch: Arch) -> str:
    """Return the published spelling `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
    nodes = [
        "|" + "|".join(f"{arch[f'edge{a}{b}']}~{a}" for a, b in EDGES if b == node) + "|"
        for node in (1, 2, 3)
    ]
    return "+".join(nodes)


def arch_of(text: str) -> dict[str, Value]:
    """Read the published spelling; the inverse of `cell_string`.

    Raises:
        ConfigError: not such a string.
    """
    words = [w for node in text.split("+") for w in node.strip("|").split("|")]
    pairs = [word.rpartition("~") for word in words]
    arch: dict[str, Value] = {
        name: op for name, (op, _, _) in zip(NAMES, pairs, strict=False) if op in OPS
    }
    if len(arch) != len(EDGES) or cell_string(arch) != text:
        raise ConfigError(
            "not a cell of NAS-Bench-201",
            got=text,
            fix="write |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with op one of " + ", ".join(OPS),
        )
    return arch


def cell_key(arch: Arch, *, zero: bool = True) -> str:
    """Return a key that isomorphic cells share.

    A skip is its source; with `zero`, an edge that carries nothing (no operation, or an operation
    on nothing) is `#`; any other edge is `(source)@operation`; a node is its sorted inputs.

    References:
        Dong and Yang 2020, the released code's `to_unique_str`.
    """
    nodes = ["0"]
    for node in (1, 2, 3):
        inputs: list[str] = []
        for source, target in EDGES:
            if target == node:
                op = arch[f"edge{source}{target}"]
                if zero and (op == "none" or nodes[source] == "#"):
                    inputs.append("#")
                elif op == "skip_connect":
                    inputs.append(nodes[source])
                else:
                    inputs.append(f"({nodes[source]})@{op}")
        nodes.append("+".join(sorted(inputs)))
    return nodes[-1]


def cell_features(arch: Arch) -> tuple[list[float], list[float]]:
    """Return two views: the pruned operations one-hot, and how many paths there are of each kind.

    Pruned: an edge on no route from input to output counts as `none`. A path's kind is how often
    each of the three operations with arithmetic occurs on it.

    References:
        White et al. 2021, BANANAS, arXiv:1910.11858, section 3 (path encoding).
    """
    return list(_pruned(arch)), _paths(arch)


def _pruned(arch: Arch) -> Iterator[float]:
    open_ = [r for r in _ROUTES if all(op != "none" for op in _along(arch, r))]
    live = {pair for route in open_ for pair in pairwise(route)}
    for edge, name in zip(EDGES, NAMES, strict=True):
        op = arch[name] if edge in live else "none"
        yield from ((op == other) / len(EDGES) for other in OPS)


def _paths(arch: Arch) -> list[float]:
    counts = [0.0] * len(_KINDS)
    for route in _ROUTES:
        ops = _along(arch, route)
        if "none" not in ops:
            counts[_KINDS[tuple(ops.count(op) for op in _KEPT)]] += 1 / len(_ROUTES)
    return counts


def _along(arch: Arch, route: tuple[int, ...]) -> list[Value]:
    return [arch[f"edge{a}{b}"] for a, b in pairwise(route)]


_KINDS: dict[tuple[int, ...], int] = {
    kind: index
    for index, kind in enumerate(
        (a, b, c) for a in range(4) for b in range(4 - a) for c in range(4 - a - b)
    )
}
