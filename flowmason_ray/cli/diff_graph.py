"""A diff as a graph: one that holds both versions, or each by itself, with what changed marked.

Of a large pipeline only what changed is drawn, with its neighbours and what is around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from flowmason_ray.drawing.graph import Body, Edge, Graph, Node
from flowmason_ray.spec.diff.structure import Home, find_cycle

if TYPE_CHECKING:
    from flowmason_ray.spec.diff.report import Report

LARGEST = 80
"""Stages that are all drawn. Of more, nobody would see what changed."""

LEGEND = (
    ("added", "added"),
    ("removed", "removed"),
    ("renamed", "renamed"),
    ("changed", "changed"),
    ("plain", "as it was"),
)

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Stages, bodies and edges, each with what happened to it."""

    kinds: Mapping[str, str]
    """Stage → `added`, `removed`, `renamed`, `changed` or `plain`."""
    homes: Mapping[str, Home]
    edges: Mapping[Pair, str]
    """(upstream, downstream) → `added`, `removed` or `plain`."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    components: Mapping[str, str] = field(default_factory=dict[str, str])
    left_out: int = 0
    """Stages that are not drawn, because nothing near them changed."""

    def graph(self) -> Graph:
        """Return what `flowmason_ray.drawing` draws."""
        inside: dict[Home | None, list[str]] = {}
        for name in self.kinds:
            inside.setdefault(self.homes.get(name), []).append(name)
        bodies: dict[str, list[Home]] = {}
        for home in inside:
            if home is not None:
                bodies.setdefault(home.owner, []).append(home)
        return self._graph(None, inside, bodies)

    def _graph(
        self, home: Home | None, inside: Mapping[Home | None, list[str]], bodies: Mapping[str, list[Home]]
    ) -> Graph:
        members = inside.get(home, [])
        here = set(members)
        edges = (
            Edge(source=above, target=below, kind=kind, dashed=kind == "removed")
            for (above, below), kind in self.edges.items()
            if above in here and below in here
        )
        nodes = (
            Node(
                id=name,
                label=self.labels.get(name, name),
                detail=self.components.get(name, ""),
                kind=self.kinds[name],
                attributes={"data-stage": name, "data-change": self.kinds[name]},
                bodies=tuple(
                    Body(label=each.body.replace("_", " "), graph=self._graph(each, inside, bodies))
                    for each in bodies.get(name, ())
                ),
            )
            for name in members
        )
        return Graph(nodes=tuple(nodes), edges=tuple(edges))


def both(report: Report) -> Marked:
    """Return the graph of both versions together."""
    kinds = _kinds(report, {**report.after.ids, **report.before.ids})
    homes = {**report.before.homes, **report.after.homes}
    for name in report.after.ids:
        if name not in report.after.homes:
            homes.pop(name, None)
    old, new = report.before.lifted(), report.after.lifted()
    edges: dict[Pair, str] = {pair: "plain" if pair in old else "added" for pair in new}
    edges |= {pair: "removed" for pair in old if pair not in new}
    labels = {stage.id: f"{stage.was} → {stage.id}" for stage in report.stages if stage.was}
    return _marked(report, kinds, homes, edges, labels)


def one(report: Report, *, after: bool) -> Marked:
    """Return the graph of one version, with what is not in the other one marked."""
    structure, other = (report.after, report.before) if after else (report.before, report.after)
    known = other.lifted()
    sign = "added" if after else "removed"
    edges = {pair: "plain" if pair in known else sign for pair in structure.lifted()}
    labels = {stage.id: stage.was for stage in report.stages if stage.was and not after}
    return _marked(report, _kinds(report, structure.ids), structure.homes, edges, labels)


def _kinds(report: Report, names: Iterable[str]) -> dict[str, str]:
    kinds = {stage.id: str(stage.status) for stage in report.stages}
    return {name: kinds.get(name, "plain") for name in names}


def _marked(
    report: Report,
    kinds: Mapping[str, str],
    homes: Mapping[str, Home],
    edges: Mapping[Pair, str],
    labels: Mapping[str, str],
) -> Marked:
    shown = set(kinds) if len(kinds) <= LARGEST else _near_changes(kinds, homes, edges)
    rooted = {name: home for name, home in homes.items() if name in kinds and _rooted(name, homes, kinds)}
    return Marked(
        kinds={name: kind for name, kind in kinds.items() if name in shown},
        homes=rooted,
        edges=_without_rings({p: k for p, k in edges.items() if p[0] in shown and p[1] in shown}),
        labels=labels,
        components=report.components,
        left_out=len(kinds) - len(shown),
    )


def _near_changes(kinds: Mapping[str, str], homes: Mapping[str, Home], edges: Mapping[Pair, str]) -> set[str]:
    changed = {name for name, kind in kinds.items() if kind != "plain"}
    changed |= {name for pair, kind in edges.items() if kind != "plain" for name in pair}
    near = changed | {name for pair in edges if changed & set(pair) for name in pair}
    for name in tuple(near):
        around = homes.get(name)
        while around is not None and around.owner not in near:
            near.add(around.owner)
            around = homes.get(around.owner)
    return near & set(kinds)


def _rooted(name: str, homes: Mapping[str, Home], kinds: Mapping[str, str]) -> bool:
    """Tell whether the owners around a stage are all there and end somewhere: a broken pipeline is drawn as well."""
    seen: set[str] = set()
    while (home := homes.get(name)) is not None:
        name = home.owner
        if name in seen or name not in kinds:
            return False
        seen.add(name)
    return True


def _without_rings(edges: dict[Pair, str]) -> dict[Pair, str]:
    """Return the edges without those that would close a ring; those that are gone are left out first."""
    made = dict(edges)
    while True:
        waits: dict[str, list[str]] = {}
        for above, below in made:
            waits.setdefault(below, []).append(above)
        ring = find_cycle(waits)
        if ring is None:
            return made
        pairs = list(_pairs(ring))
        del made[next((pair for pair in pairs if made[pair] == "removed"), pairs[-1])]


def _pairs(ring: list[str]) -> Iterator[Pair]:
    """Yield the edges of a ring of stages of which each waits for the next."""
    for below, above in pairwise(ring):
        yield above, below


# -- drawings ----------------------------------------------------------------------------------------------------------


def as_svg(marked: Marked, title: str = "") -> str:
    """Return a drawing."""
    from flowmason_ray.drawing.svg import draw

    used = set(marked.kinds.values())
    legend = tuple((kind, meaning) for kind, meaning in LEGEND if kind in used)
    if marked.left_out:
        title += f" ({marked.left_out:,} unchanged stages are not drawn)"
    return draw(marked.graph(), title=title, legend=legend)


_MERMAID_STYLES = {
    "added": "fill:#dafbe1,stroke:#1a7f37,color:#1f2328",
    "removed": "fill:#ffebe9,stroke:#cf222e,color:#1f2328,stroke-dasharray:4 3",
    "renamed": "fill:#ddf4ff,stroke:#218bff,color:#1f2328",
    "changed": "fill:#fff8c5,stroke:#bf8700,color:#1f2328",
}
_MERMAID_SIGNS = {"added": "+ ", "removed": "- ", "renamed": "", "changed": "~ ", "plain": ""}


def as_mermaid(marked: Marked) -> str:
    """Return a Mermaid flowchart."""
    numbers = {name: f"s{n}" for n, name in enumerate(marked.kinds)}
    links: list[str] = []
    lines = ["flowchart TD", *_mermaid(marked.graph(), "  ", numbers, links)]
    for kind, style in _MERMAID_STYLES.items():
        members = [numbers[name] for name, each in marked.kinds.items() if each == kind]
        if members:
            lines += [f"  classDef {kind} {style}", f"  class {','.join(members)} {kind}"]
    for kind, colour in (("added", "#1a7f37"), ("removed", "#cf222e")):
        places = [str(n) for n, each in enumerate(links) if each == kind]
        if places:
            lines.append(f"  linkStyle {','.join(places)} stroke:{colour},stroke-width:2px")
    return "\n".join(lines) + "\n"


def _mermaid(graph: Graph, indent: str, numbers: Mapping[str, str], links: list[str]) -> Iterator[str]:
    for node in graph.nodes:
        number = numbers[node.id]
        text = f"{_MERMAID_SIGNS[node.kind]}{_escaped(node.label)}<br/><small>{_escaped(node.detail)}</small>"
        begin, end = ('{{"', '"}}') if node.bodies else ('["', '"]')
        yield f"{indent}{number}{begin}{text}{end}"
        for n, body in enumerate(node.bodies):
            yield f'{indent}subgraph {number}b{n}["{_escaped(body.label)}"]'
            yield from _mermaid(body.graph, indent + "  ", numbers, links)
            yield f"{indent}end"
            links.append("plain")
            yield f"{indent}{number} -.-> {number}b{n}"
    for edge in graph.edges:
        links.append(edge.kind)
        arrow = "-.->" if edge.kind == "removed" else "==>" if edge.kind == "added" else "-->"
        yield f"{indent}{numbers[edge.source]} {arrow} {numbers[edge.target]}"


def _escaped(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
