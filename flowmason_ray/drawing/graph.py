"""What is drawn: boxes, arrows between them, and boxes that hold a graph of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A box with one or two lines of text; with `bodies`, a box around graphs of their own.

    An arrow joins nodes of the same graph only: what is inside a box is reached through the box.
    """

    id: str
    """Unique in the whole drawing."""
    label: str
    detail: str = ""
    """A second, smaller line."""
    kind: str = "plain"
    """Chooses the colours (`svg.PALETTE`)."""
    tooltip: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further attributes of the SVG group, `data-…` for scripts that find nodes again."""
    bodies: tuple[Body, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """An arrow from one node to another."""

    source: str
    target: str
    dashed: bool = False
    kind: str = "plain"
    """Chooses the colour (`svg.EDGE_COLOURS`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes and arrows; arrows must not form a ring."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A graph inside a node, under a label of its own (a branch, what a loop repeats)."""

    label: str
    graph: Graph
