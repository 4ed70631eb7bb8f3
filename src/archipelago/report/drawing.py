"""A network as an SVG picture: a layered drawing of its graph, longest path first.

Normalisation, activation and the like are written into the block that they follow, so that a
block is what a person would call a layer. Edges between neighbouring layers run straight; longer
ones (skips) take a lane of their own to the right of the blocks.

References:
    Sugiyama, Tagawa and Toda 1981, "Methods for visual understanding of hierarchical system
    structures" (layers by longest path, order by barycentre).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archipelago.report.findings import Network, NetworkNode
from archipelago.report.text import amount, clip, count, html

__all__ = ["draw"]

_FOLDED = frozenset({"norm", "act", "identity", "dropout", "flatten"})
_WIDTH, _GAP_X, _GAP_Y, _LANE, _MARGIN = 252.0, 20.0, 24.0, 16.0, 8.0
_LINE = 17.0


@dataclass(frozen=True, slots=True)
class _Block:
    """Nodes drawn as one box; `inputs` are indices of earlier blocks. Block 0 is the input."""

    lines: tuple[str, ...]
    tip: str
    inputs: tuple[int, ...]

    @property
    def height(self) -> float:
        return _LINE * len(self.lines) + 13


def _title(node: NetworkNode) -> str:
    return clip(f"{node.op} {node.attrs}".strip(), 34)


def _blocks(network: Network) -> list[_Block]:
    """Fold element-wise nodes into the block that they follow, where nothing else reads it."""
    readers: dict[str, int] = {}
    for node in network.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    groups: list[list[NetworkNode]] = []
    home: dict[str, int] = {"input": -1}
    for node in network.nodes:
        source = node.inputs[0] if node.inputs else "input"
        alone = len(node.inputs) == 1 and readers.get(source) == 1 and source != "input"
        if node.op in _FOLDED and alone:
            home[node.name] = home[source]
            groups[home[source]].append(node)
        else:
            home[node.name] = len(groups)
            groups.append([node])
    blocks = [_Block(("input", f"[{clip(network.input_shape.strip('[]()'), 30)}]"), "input", ())]
    for group in groups:
        params, macs = sum(n.params for n in group), sum(n.macs for n in group)
        folded = " · ".join(clip(n.attrs or n.op, 14) for n in group[1:])
        shape = group[-1].shape
        facts = [clip(shape, 20)] if shape else []
        facts += [f"{amount(params)} params"] if params else []
        lines = [_title(group[0]), *([clip(folded, 38)] if folded else []), " · ".join(facts)]
        tip = "; ".join(f"{n.name}: {n.op} {n.attrs} → {n.shape}" for n in group)
        blocks.append(
            _Block(
                tuple(line for line in lines if line),
                f"{tip}; {count(params)} parameters, {count(macs)} MACs",
                tuple(home[name] + 1 for name in group[0].inputs),
            )
        )
    return blocks


def _layers(blocks: Sequence[_Block]) -> list[list[int]]:
    """Return block indices by layer, ordered within a layer by the mean place of the inputs."""
    level: list[int] = []
    for block in blocks:
        level.append(1 + max((level[i] for i in block.inputs), default=-1))
    layers: list[list[int]] = [[] for _ in range(max(level) + 1)]
    place: dict[int, float] = {}
    for depth, layer in enumerate(layers):
        layer.extend(i for i, own in enumerate(level) if own == depth)
        centre = {
            i: sum(place[k] for k in blocks[i].inputs) / max(1, len(blocks[i].inputs))
            for i in layer
        }
        layer.sort(key=lambda i: (centre[i], i))
        place.update({i: k - (len(layer) - 1) / 2 for k, i in enumerate(layer)})
    return layers


def _lanes(edges: Sequence[tuple[int, int]], level: Mapping[int, int]) -> list[int]:
    """Give each long edge the innermost lane that is free along its way; short ones first."""
    taken: list[list[tuple[int, int]]] = []
    lane = [0] * len(edges)
    by_length = sorted(
        range(len(edges)), key=lambda e: (level[edges[e][1]] - level[edges[e][0]], edges[e])
    )
    for e in by_length:
        start, end = level[edges[e][0]], level[edges[e][1]]
        free = (k for k, used in enumerate(taken) if all(end <= a or b <= start for a, b in used))
        lane[e] = next(free, len(taken))
        if lane[e] == len(taken):
            taken.append([])
        taken[lane[e]].append((start, end))
    return lane


def draw(network: Network, *, ident: str) -> str:
    """Return `<svg>` of `network`: blocks with operation, output shape and parameters.

    Args:
        network: what to draw.
        ident: prefix of the ids inside, different for each drawing of a page.
    """
    blocks = _blocks(network)
    layers = _layers(blocks)
    level = {i: depth for depth, layer in enumerate(layers) for i in layer}
    widest = max(map(len, layers))
    span = widest * _WIDTH + (widest - 1) * _GAP_X
    x: dict[int, float] = {}
    y: dict[int, float] = {}
    top = _MARGIN
    for layer in layers:
        used = len(layer) * _WIDTH + (len(layer) - 1) * _GAP_X
        for k, i in enumerate(layer):
            x[i] = _MARGIN + (span - used) / 2 + k * (_WIDTH + _GAP_X)
            y[i] = top
        top += max(blocks[i].height for i in layer) + _GAP_Y
    edges = [(source, i) for i, block in enumerate(blocks) for source in block.inputs]
    short = [e for e in edges if level[e[1]] - level[e[0]] == 1]
    long = [e for e in edges if level[e[1]] - level[e[0]] > 1]
    lanes = _lanes(long, level)
    right = _MARGIN + span
    width = right + (_LANE * (max(lanes) + 1) + 10 if long else 0) + _MARGIN
    height = top - _GAP_Y + _MARGIN
    parts = [_arrow(ident)]
    for a, b in short:
        x0, y0 = x[a] + _WIDTH / 2, y[a] + blocks[a].height
        x1, y1 = x[b] + _WIDTH / 2, y[b] - 2
        middle = (y0 + y1) / 2
        parts.append(
            _edge(ident, f"M{x0:g} {y0:g}C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}")
        )
    for (a, b), lane in zip(long, lanes, strict=True):
        far = right + 10 + _LANE * lane
        x0, y0 = x[a] + _WIDTH, y[a] + blocks[a].height * 0.68
        x1, y1 = x[b] + _WIDTH + 2, y[b] + blocks[b].height * 0.32
        path = (
            f"M{x0:g} {y0:g}H{far - 8:g}Q{far:g} {y0:g} {far:g} {y0 + 8:g}"
            f"V{y1 - 8:g}Q{far:g} {y1:g} {far - 8:g} {y1:g}H{x1:g}"
        )
        parts.append(_edge(ident, path, "edge skip"))
    parts += [_box(block, x[i], y[i], first=i == 0) for i, block in enumerate(blocks)]
    label = html(
        f"{network.name}: {len(blocks) - 1} blocks, {count(network.params)} parameters, "
        f"{count(network.macs)} multiply-accumulates"
    )
    return (
        f'<svg class="network" role="img" aria-label="{label}" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}">{"".join(parts)}</svg>'
    )


def _arrow(ident: str) -> str:
    return (
        f'<defs><marker id="{ident}-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0.8L7 4L0 7.2z" class="arrow"/></marker></defs>'
    )


def _edge(ident: str, path: str, style: str = "edge") -> str:
    return f'<path class="{style}" d="{path}" marker-end="url(#{ident}-arrow)"/>'


def _box(block: _Block, left: float, top: float, *, first: bool) -> str:
    lines = [
        f'<text x="{left + _WIDTH / 2:g}" y="{top + 18 + _LINE * k:g}" '
        f'class="{"op" if k == 0 else "fact"}">{html(line)}</text>'
        for k, line in enumerate(block.lines)
    ]
    return (
        f'<g class="block{" first" if first else ""}"><title>{html(block.tip)}</title>'
        f'<rect x="{left:g}" y="{top:g}" width="{_WIDTH:g}" height="{block.height:g}" rx="7"/>'
        f"{''.join(lines)}</g>"
    )
