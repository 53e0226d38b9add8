"""How a drawing looks: a standalone SVG, readable on white and by programs without style sheets of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from flowmason_ray.drawing.graph import Graph
from flowmason_ray.drawing.layout import (
    DETAIL_CHAR,
    HEADER,
    LABEL_CHAR,
    PADDING,
    Drawing,
    PlacedEdge,
    PlacedNode,
    lay_out,
)

PALETTE: dict[str, tuple[str, str]] = {
    "plain": ("#f6f8fa", "#8c959f"),
    "trivial": ("#f6f8fa", "#8c959f"),
    "cpu": ("#ddf4ff", "#218bff"),
    "io": ("#dafbe1", "#2da44e"),
    "gpu": ("#fbefff", "#a475f9"),
    "control": ("#fff8c5", "#bf8700"),
    "failed": ("#ffebe9", "#cf222e"),
    "muted": ("#ffffff", "#d0d7de"),
    "added": ("#dafbe1", "#1a7f37"),
    "removed": ("#ffebe9", "#cf222e"),
    "changed": ("#fff8c5", "#bf8700"),
    "renamed": ("#ddf4ff", "#218bff"),
}
"""Fill and border of each kind of node. Text on all of them has a contrast above 7:1."""

EDGE_COLOURS: dict[str, str] = {"plain": "#57606a", "added": "#1a7f37", "removed": "#cf222e", "rides": "#8250df"}
"""The colour of each kind of arrow."""

MARGIN = 20.0
TITLE = 34.0
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_UNPRINTABLE = re.compile(r"[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow, and line breaks, which a label does not have."""


def draw(graph: Graph, *, title: str = "", legend: tuple[tuple[str, str], ...] = ()) -> str:
    """Return the graph as an SVG document.

    Args:
        graph: What to draw.
        title: A heading.
        legend: (kind of node or edge, meaning) pairs that are explained beside the heading.

    Raises:
        ValueError: the graph cannot be laid out (`layout.lay_out`).
    """
    drawing = lay_out(graph)
    heading = TITLE if title or legend else 0.0
    explained = sum(len(meaning) * DETAIL_CHAR + 34 for _, meaning in legend)
    least = len(title) * LABEL_CHAR * 1.2 + explained + 24
    width = max(drawing.width, least if heading else 0.0) + 2 * MARGIN
    height = drawing.height + heading + 2 * MARGIN
    left = (width - drawing.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" font-family="{FONT}" font-size="13">',
        f"<title>{_text(title)}</title>" if title else "",
        f"<defs>{''.join(_marker(kind) for kind in sorted({'plain', *_edge_kinds(graph)}))}</defs>",
        f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>',
        *_heading(title, legend, width),
        f'<g transform="translate({_n(left)} {_n(MARGIN + heading)})">',
        *_drawing(drawing),
        "</g>",
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _edge_kinds(graph: Graph) -> Iterator[str]:
    for edge in graph.edges:
        yield edge.kind
    for node in graph.nodes:
        for body in node.bodies:
            yield from _edge_kinds(body.graph)


def _marker_id(kind: str) -> str:
    return "arrow" if kind == "plain" else f"arrow-{kind}"


def _marker(kind: str) -> str:
    return (
        f'<marker id="{_marker_id(kind)}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0.5 L7.5 4 L0 7.5 z" fill="{EDGE_COLOURS[kind]}"/></marker>'
    )


def _heading(title: str, legend: tuple[tuple[str, str], ...], width: float) -> Iterator[str]:
    if title:
        yield (
            f'<text x="{_n(MARGIN)}" y="{_n(MARGIN + 8)}" font-size="16" font-weight="600" fill="#1f2328">'
            f"{_text(title)}</text>"
        )
    x = width - MARGIN - sum(len(meaning) * DETAIL_CHAR + 34 for _, meaning in legend)
    for kind, meaning in legend:
        if kind in PALETTE:
            fill, border = PALETTE[kind]
            box = f'x="{_n(x)}" y="{_n(MARGIN - 4)}" width="14" height="14"'
            yield f'<rect {box} rx="3" fill="{fill}" stroke="{border}"/>'
        else:
            line = f"M{_n(x)} {_n(MARGIN + 3)} h14"
            yield f'<path d="{line}" stroke="{EDGE_COLOURS[kind]}" stroke-width="2"/>'
        yield f'<text x="{_n(x + 19)}" y="{_n(MARGIN + 7)}" font-size="11" fill="#57606a">{_text(meaning)}</text>'
        x += len(meaning) * DETAIL_CHAR + 34


def _drawing(drawing: Drawing) -> Iterator[str]:
    for edge in drawing.edges:
        yield _edge(edge)
    for node in drawing.nodes:
        yield from _node(node)


def _edge(placed: PlacedEdge) -> str:
    points = placed.points
    data = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 == x1:
            data.append(f"L{_n(x1)} {_n(y1)}")
        else:  # leave and arrive straight down
            bend = max(12.0, (y1 - y0) / 2)
            data.append(f"C{_n(x0)} {_n(y0 + bend)} {_n(x1)} {_n(y1 - bend)} {_n(x1)} {_n(y1)}")
    dashes = ' stroke-dasharray="5 4"' if placed.edge.dashed else ""
    kind = placed.edge.kind
    width = 1.3 if kind == "plain" else 2
    return (
        f'<path d="{" ".join(data)}" fill="none" stroke="{EDGE_COLOURS[kind]}" stroke-width="{width}"{dashes} '
        f'marker-end="url(#{_marker_id(kind)})"/>'
    )


def _node(placed: PlacedNode) -> Iterator[str]:
    node = placed.node
    fill, border = PALETTE[node.kind]
    attributes = "".join(f" {name}={quoteattr(_clean(value))}" for name, value in node.attributes.items())
    yield f"<g{attributes}>"
    tooltip = node.tooltip or (f"{node.label}: {node.detail}" if node.detail else node.label)
    yield f"<title>{_text(tooltip)}</title>"
    box = f'x="{_n(placed.x)}" y="{_n(placed.y)}" width="{_n(placed.width)}" height="{_n(placed.height)}"'
    yield f'<rect {box} rx="7" fill="{fill}" stroke="{border}" stroke-width="1.3"/>'
    middle = placed.x + placed.width / 2
    room = placed.width - 2 * PADDING + 6
    centre = placed.y + (HEADER if node.bodies else placed.height) / 2
    first = centre - 3 if node.detail else centre + 4.5
    label = _shortened(node.label, room / LABEL_CHAR)
    yield (
        f'<text x="{_n(middle)}" y="{_n(first)}" text-anchor="middle" font-weight="600" fill="#1f2328">'
        f"{_text(label)}</text>"
    )
    if node.detail:
        detail = _shortened(node.detail, room / DETAIL_CHAR)
        yield (
            f'<text x="{_n(middle)}" y="{_n(centre + 13)}" text-anchor="middle" font-size="11" fill="#424a53">'
            f"{_text(detail)}</text>"
        )
    for body in placed.bodies:
        frame = f'x="{_n(body.x)}" y="{_n(body.y)}" width="{_n(body.width)}" height="{_n(body.height)}"'
        yield f'<rect {frame} rx="6" fill="#ffffff" stroke="{border}" stroke-dasharray="3 3"/>'
        yield (
            f'<text x="{_n(body.x + 10)}" y="{_n(body.y + 15)}" font-size="11" font-style="italic" fill="#57606a">'
            f"{_text(body.label)}</text>"
        )
        yield from _drawing(body.drawing)
    yield "</g>"


def _shortened(text: str, room: float) -> str:
    most = max(1, int(room))
    return text if len(text) <= most else text[: most - 1] + "…"


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text)


def _text(text: str) -> str:
    return escape(_clean(text))


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
