"""The laws of a drawing: nothing overlaps, arrows point down, boxes hold what belongs to them, any text is well-formed."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.drawing.graph import Body, Edge, Graph, Node
from flowmason_ray.drawing.layering import arrange, crossings
from flowmason_ray.drawing.layout import Drawing, PlacedNode, lay_out
from flowmason_ray.drawing.placing import spread
from flowmason_ray.drawing.svg import draw


@st.composite
def dags(draw: st.DrawFn, most: int = 12) -> tuple[int, list[tuple[int, int]]]:
    count = draw(st.integers(0, most))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=20)) if pairs else []
    return count, chosen


@st.composite
def graphs(draw: st.DrawFn, prefix: str = "", depth: int = 2) -> Graph:
    count, pairs = draw(dags(6))
    nodes: list[Node] = []
    for n in range(count):
        name = f"{prefix}n{n}"
        bodies: list[Body] = []
        if depth and draw(st.booleans()):
            for b in range(draw(st.integers(1, 2))):
                inside = draw(graphs(prefix=f"{name}b{b}", depth=depth - 1))
                bodies.append(Body(label="for each", graph=inside))
        nodes.append(Node(id=name, label=name, detail="what it is", bodies=tuple(bodies)))
    edges = tuple(Edge(source=f"{prefix}n{a}", target=f"{prefix}n{b}") for a, b in pairs)
    return Graph(nodes=tuple(nodes), edges=edges)


@given(dags())
def test_layers_respect_the_arrows(dag: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = dag
    layered = arrange(count, edges)
    layer_of = {node: n for n, layer in enumerate(layered.layers) for node in layer}
    assert sorted(layer_of) == list(range(len(layered.above)))
    assert all(layer_of[b] == layer_of[a] + 1 for chain in layered.chains for a, b in pairwise(chain))
    assert [(chain[0], chain[-1]) for chain in layered.chains] == list(edges)
    for node in range(count):
        assert layer_of[node] == max((layer_of[n] + 1 for n in layered.above[node]), default=0)


def test_a_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="ring"):
        arrange(2, [(0, 1), (1, 0)])


def test_crossings_are_counted_and_avoided() -> None:
    assert crossings([[0, 1], [2, 3]], [[3], [2], [], []]) == 1
    twisted = arrange(6, [(0, 5), (1, 4), (2, 3)])
    assert crossings(twisted.layers, twisted.below) == 0


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.1, 10), st.floats(0, 50)), min_size=1, max_size=12))
def test_spreading_keeps_distances_and_balances(items: list[tuple[float, float, float]]) -> None:
    wanted, weights, gaps = ([item[i] for item in items] for i in range(3))
    placed = spread(wanted, weights, gaps[:-1])
    assert all(b - a >= gap - 1e-6 for (a, b), gap in zip(pairwise(placed), gaps[:-1], strict=True))
    # The least-squares solution is balanced: moving everything by the same amount cannot make it better.
    assert sum(w * (x - want) for x, want, w in zip(placed, wanted, weights, strict=True)) == pytest.approx(0, abs=1e-4)


def test_what_fits_stays_where_it_wants_to_be() -> None:
    assert spread([0, 10, 30], [1, 1, 1], [5, 5]) == [0, 10, 30]
    assert spread([10, 10], [1, 3], [4]) == [7, 11]


def inside(node: PlacedNode, drawing: Drawing, x: float, y: float, width: float, height: float) -> None:
    slack = 0.01
    assert node.x >= x - slack
    assert node.y >= y - slack
    assert node.x + node.width <= x + width + slack
    assert node.y + node.height <= y + height + slack
    frames = [(b.x, b.y, b.width, b.height) for b in node.bodies]
    for fx, fy, fw, fh in frames:
        assert fx >= node.x
        assert fx + fw <= node.x + node.width + slack
        assert fy + fh <= node.y + node.height + slack
    for left, right in pairwise(sorted(frames)):
        assert left[0] + left[2] <= right[0] + slack
    for body in node.bodies:
        check(body.drawing, body.x, body.y, body.width, body.height)


def check(drawing: Drawing, x: float, y: float, width: float, height: float) -> None:
    for node in drawing.nodes:
        inside(node, drawing, x, y, width, height)
    boxes = [(n.x, n.y, n.x + n.width, n.y + n.height) for n in drawing.nodes]
    for n, a in enumerate(boxes):
        for b in boxes[n + 1 :]:
            assert a[2] <= b[0] + 0.01 or b[2] <= a[0] + 0.01 or a[3] <= b[1] + 0.01 or b[3] <= a[1] + 0.01
    of = {n.node.id: n for n in drawing.nodes}
    for edge in drawing.edges:
        ys = [py for _, py in edge.points]
        assert ys == sorted(ys), "arrows point down"
        assert edge.points[0][1] == pytest.approx(of[edge.edge.source].y + of[edge.edge.source].height)
        assert edge.points[-1][1] == pytest.approx(of[edge.edge.target].y)


@settings(max_examples=60)
@given(graphs())
def test_nothing_overlaps_and_boxes_hold_what_is_theirs(graph: Graph) -> None:
    drawing = lay_out(graph)
    check(drawing, 0, 0, drawing.width, drawing.height)


@given(st.text(max_size=40), st.text(max_size=80))
def test_any_text_gives_well_formed_svg(label: str, detail: str) -> None:
    node = Node(id="a", label=label, detail=detail, tooltip=detail, attributes={"data-path": label})
    ElementTree.fromstring(draw(Graph(nodes=(node,)), title=label))


def test_an_arrow_out_of_its_graph_is_refused() -> None:
    graph = Graph(nodes=(Node(id="a", label="a"),), edges=(Edge(source="a", target="b"),))
    with pytest.raises(ValueError, match="'b'"):
        lay_out(graph)


@pytest.mark.parametrize("shape", ["chain", "fan", "none"])
def test_five_hundred_nodes_can_be_drawn(shape: str) -> None:
    nodes = tuple(Node(id=str(n), label=f"stage {n}") for n in range(500))
    pairs = {"chain": [(n, n + 1) for n in range(499)], "fan": [(0, n) for n in range(1, 500)], "none": []}[shape]
    svg = draw(Graph(nodes=nodes, edges=tuple(Edge(source=str(a), target=str(b)) for a, b in pairs)))
    assert svg.count("<g>") == 500
    assert svg.count("marker-end") == len(pairs)
