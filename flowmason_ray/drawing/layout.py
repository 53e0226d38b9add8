"""Where everything goes: sizes from the inside out, then positions from the outside in.

Each graph is laid out by itself, top to bottom; a node with bodies is as large as they need, and a plain box to the graph
around it. Units are SVG's user units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from flowmason_ray.drawing.graph import Edge, Graph, Node
from flowmason_ray.drawing.layering import Layered, arrange
from flowmason_ray.drawing.placing import spread

NODE_HEIGHT = 44.0
LEAST_WIDTH, MOST_WIDTH = 96.0, 260.0
ACROSS, DOWN = 28.0, 40.0
"""Between the nodes of a layer; between layers."""
DUMMY_WIDTH = 8.0
PADDING, HEADER, LABEL = 14.0, 46.0, 20.0
"""Inside a box with bodies: around them, above them for the node's own text, and for a body's label."""
PASSES = 24
LABEL_CHAR, DETAIL_CHAR = 7.4, 6.0
"""Average widths of a character at 13 and 11 px in the usual sans-serif fonts, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedNode:
    """A node and its box."""

    node: Node
    x: float
    y: float
    width: float
    height: float
    bodies: tuple[PlacedBody, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedEdge:
    """An arrow and the points that it passes."""

    edge: Edge
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBody:
    """A body's frame and what is in it."""

    label: str
    x: float
    y: float
    width: float
    height: float
    drawing: Drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A graph with every position known."""

    width: float
    height: float
    nodes: tuple[PlacedNode, ...] = field(default=())
    edges: tuple[PlacedEdge, ...] = field(default=())


@dataclass(slots=True)
class _Sized:
    """A graph whose own measures are known, relative to its top left corner."""

    graph: Graph
    width: float
    height: float
    boxes: list[_Box]
    lefts: list[float]
    tops: list[float]
    paths: list[list[tuple[float, float]]]


@dataclass(slots=True)
class _Box:
    width: float
    height: float
    bodies: list[_Sized]


def lay_out(graph: Graph) -> Drawing:
    """Return the graph with every position.

    Raises:
        ValueError: the arrows form a ring, or name a node that is not in the same graph.
    """
    return _placed(_sized(graph), 0.0, 0.0)


def _sized(graph: Graph) -> _Sized:
    boxes = [_box(node) for node in graph.nodes]
    number = {node.id: n for n, node in enumerate(graph.nodes)}
    try:
        pairs = [(number[edge.source], number[edge.target]) for edge in graph.edges]
    except KeyError as exc:
        raise ValueError(f"an arrow names {exc.args[0]!r}, which is not in its graph") from None
    layered = arrange(len(boxes), pairs)
    widths = [box.width for box in boxes] + [DUMMY_WIDTH] * (len(layered.above) - len(boxes))
    centres = _centres(layered, widths)
    left = min((centres[n] - widths[n] / 2 for n in range(len(widths))), default=0.0)
    centres = [centre - left for centre in centres]
    right = max((centres[n] + widths[n] / 2 for n in range(len(widths))), default=0.0)
    tops, bottoms, height = _rows(layered, boxes)
    paths = [_path(chain, centres, tops, bottoms, boxes) for chain in layered.chains]
    lefts = [centres[n] - boxes[n].width / 2 for n in range(len(boxes))]
    return _Sized(graph, right, height, boxes, lefts, tops[: len(boxes)], paths)


def _box(node: Node) -> _Box:
    text = max(len(node.label) * LABEL_CHAR, len(node.detail) * DETAIL_CHAR) + 2 * PADDING
    width = min(MOST_WIDTH, max(LEAST_WIDTH, text))
    bodies = [_sized(body.graph) for body in node.bodies]
    if not bodies:
        return _Box(width, NODE_HEIGHT, bodies)
    labels = [len(body.label) * DETAIL_CHAR + 2 * PADDING for body in node.bodies]
    inner = sum(max(b.width + 2 * PADDING, label) for b, label in zip(bodies, labels, strict=True))
    inner += PADDING * (len(bodies) + 1)
    height = HEADER + max(b.height for b in bodies) + LABEL + 2 * PADDING + PADDING
    return _Box(max(width, inner), height, bodies)


def _centres(layered: Layered, widths: list[float]) -> list[float]:
    """Return the middle of every node: near its neighbours' middles, dummies most of all, so that long arrows run straight."""
    centres = [0.0] * len(widths)
    gaps: list[list[float]] = []
    for layer in layered.layers:
        gaps.append([(widths[a] + widths[b]) / 2 + ACROSS for a, b in pairwise(layer)])
        at = 0.0
        for n, node in enumerate(layer):
            at += gaps[-1][n - 1] if n else 0.0
            centres[node] = at
        middle = at / 2
        for node in layer:
            centres[node] -= middle
    for turn in range(PASSES):
        rows = list(range(len(layered.layers)))
        for row in rows if turn % 2 == 0 else reversed(rows):
            layer = layered.layers[row]
            wanted: list[float] = []
            weights: list[float] = []
            for node in layer:
                # At first one side only, which brings the layers together; then both, which straightens.
                near = layered.above[node] if turn % 2 == 0 else layered.below[node]
                if turn >= PASSES // 3:
                    near = layered.above[node] + layered.below[node]
                # A piece of a long arrow pulls more than a short one (Gansner et al. 1993, §4.2: 1, 2 and 8).
                pulls = [(1, 2, 8)[(node >= layered.real) + (n >= layered.real)] for n in near]
                total = sum(pulls)
                pulled = sum(pull * centres[n] for pull, n in zip(pulls, near, strict=True))
                wanted.append(pulled / total if near else centres[node])
                weights.append(float(total) if near else 0.1)
            for node, x in zip(layer, spread(wanted, weights, gaps[row]), strict=True):
                centres[node] = x
    return centres


def _rows(layered: Layered, boxes: list[_Box]) -> tuple[list[float], list[float], float]:
    """Return the top and the bottom of every node (dummies: of their layer), and the height of all."""
    tops = [0.0] * len(layered.above)
    bottoms = [0.0] * len(layered.above)
    y = 0.0
    for layer in layered.layers:
        height = max((boxes[n].height for n in layer if n < layered.real), default=0.0)
        for node in layer:
            if node < layered.real:
                tops[node] = y + (height - boxes[node].height) / 2
                bottoms[node] = tops[node] + boxes[node].height
            else:
                tops[node], bottoms[node] = y, y + height
        y += height + DOWN
    return tops, bottoms, max(0.0, y - DOWN)


def _path(
    chain: list[int], centres: list[float], tops: list[float], bottoms: list[float], boxes: list[_Box]
) -> list[tuple[float, float]]:
    source, target = chain[0], chain[-1]
    points = [(centres[source], bottoms[source])]
    for node in chain[1:-1]:
        points += [(centres[node], tops[node]), (centres[node], bottoms[node])]
    points.append((centres[target], tops[target]))
    return points


def _placed(sized: _Sized, x: float, y: float) -> Drawing:
    nodes: list[PlacedNode] = []
    for node, box, left, top in zip(sized.graph.nodes, sized.boxes, sized.lefts, sized.tops, strict=True):
        nodes.append(
            PlacedNode(
                node=node,
                x=x + left,
                y=y + top,
                width=box.width,
                height=box.height,
                bodies=_placed_bodies(node, box, x + left, y + top),
            )
        )
    edges = tuple(
        PlacedEdge(edge=edge, points=tuple((x + px, y + py) for px, py in path))
        for edge, path in zip(sized.graph.edges, sized.paths, strict=True)
    )
    return Drawing(width=sized.width, height=sized.height, nodes=tuple(nodes), edges=edges)


def _placed_bodies(node: Node, box: _Box, x: float, y: float) -> tuple[PlacedBody, ...]:
    needed = [
        max(body.width + 2 * PADDING, len(each.label) * DETAIL_CHAR + 2 * PADDING)
        for each, body in zip(node.bodies, box.bodies, strict=True)
    ]
    spare = (box.width - sum(needed) - PADDING * (len(needed) + 1)) / max(1, len(needed))
    frames: list[PlacedBody] = []
    at = x + PADDING
    for each, body, least in zip(node.bodies, box.bodies, needed, strict=True):
        width = least + spare
        height = box.height - HEADER - PADDING
        inside = _placed(body, at + (width - body.width) / 2, y + HEADER + LABEL + PADDING)
        frames.append(PlacedBody(label=each.label, x=at, y=y + HEADER, width=width, height=height, drawing=inside))
        at += width + PADDING
    return tuple(frames)
