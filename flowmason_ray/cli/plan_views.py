"""A plan as text, JSON, Mermaid and SVG. All four show the same tree (`plan_tree`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.plan_tree import BodyView, StageView, plan_tree
from flowmason_ray.cli.words import counted, duration
from flowmason_ray.engine.pacing import Pacing
from flowmason_ray.spec.source import Location

if TYPE_CHECKING:
    from flowmason_ray.cli.terminal import Paint
    from flowmason_ray.drawing.graph import Graph, Node
    from flowmason_ray.engine.plan import Plan
    from flowmason_ray.spec.loader import LoadedPipeline

PLAN_VERSION = 1
"""The version of the JSON form: raised when something in it changes its meaning or goes away."""


def component_of(view: StageView) -> str:
    """Return the name of a stage's component."""
    return view.stage.component.name if view.stage.component is not None else ""


# -- text --------------------------------------------------------------------------------------------------------------


def as_text(plan: Plan, paint: Paint, pacing: Pacing | None = None) -> str:
    """Return the plan for people: a line per stage, what is in a body under its owner."""
    root = plan_tree(plan, pacing or Pacing(plan))
    every = [pair for stage in root.stages for pair in stage.walk()]
    about = [counted(len(every), "stage")]
    about += [f"at most {plan.max_parallel} at a time"] if plan.max_parallel is not None else []
    about += [f"at most {duration(plan.timeout_s)} in all"] if plan.timeout_s is not None else []
    lines = [f"{paint(f'{plan.name} {plan.version}', 'bold')}: {', '.join(about)}", f"plan {plan.digest[:16]}", ""]
    names = max((len(view.stage.id) + 4 * depth for depth, view in every), default=0)
    kinds = max((len(component_of(view)) for _, view in every), default=0)
    lines += _body_text(root, 0, min(names, 60), min(kinds, 40), paint)
    result = plan.root.result
    if result is not None:
        stage = plan.root.stages[result]
        what = "made by templates" if plan.root.result_hidden else f"the output of {stage.id}"
        lines += ["", f"result: {what}"]
    return "\n".join(lines) + "\n"


def _body_text(body: BodyView, depth: int, names: int, kinds: int, paint: Paint) -> Iterator[str]:
    indent = "  " * depth
    for view in body.stages:
        stage = view.stage
        name = f"{indent}{stage.id}".ljust(names)
        waits = f"after {', '.join(view.waits_for)}" if view.waits_for else "at once"
        about = [f"{stage.effect.value}, {stage.cost.value}", waits, *_options(view)]
        component = component_of(view).ljust(kinds)
        ray = f"; on Ray {view.fused.why}" if view.fused is not None else ""
        yield f"{paint(name, 'bold')}  {paint(component, 'cyan')}  {'; '.join(about)}{paint(ray, 'dim')}"
        for inner in view.bodies:
            label = body_label(inner)
            yield f"{indent}  {paint(f'{label}:', 'dim')}"
            yield from _body_text(inner, depth + 2, names, kinds, paint)


def body_label(body: BodyView) -> str:
    """Return what a body is called: `for each item`, `branch true`."""
    if body.calls:
        return f"the pipeline {body.called}" if body.called else "the pipeline that it calls"
    if body.loop:
        return f"for each {body.variables[0]}" if body.variables else "for each"
    return f"branch {body.name}"


def _options(view: StageView) -> list[str]:
    stage = view.stage
    told: list[str] = []
    if not stage.enabled:
        told.append("disabled")
    if stage.when is not None:
        told.append("has a 'when'")
    if stage.retry.max_attempts > 1:
        told.append(f"up to {stage.retry.max_attempts} attempts")
    if stage.timeout_s is not None:
        told.append(f"{duration(stage.timeout_s)} each")
    if stage.on_error != "fail":
        told.append(f"on error: {stage.on_error}")
    if stage.fuse != "auto":
        told.append(f"fuse: {stage.fuse}")
    if view.lasts_s is not None:
        told.append(f"took {duration(view.lasts_s)} before")
    return told


# -- JSON --------------------------------------------------------------------------------------------------------------


def as_json(plan: Plan, loaded: LoadedPipeline, pacing: Pacing | None = None) -> dict[str, Any]:
    """Return the plan for programs. docs/guide/cli.md describes the form."""
    stages: list[dict[str, Any]] = []
    for view in plan_tree(plan, pacing or Pacing(plan)).stages:
        _add_json(stages, view, None, None, loaded)
    root = plan.root
    result = None if root.result is None or root.result_hidden else root.stages[root.result].id
    return {
        "plan_version": PLAN_VERSION,
        "name": plan.name,
        "version": plan.version,
        "file": plan.file,
        "digest": plan.digest,
        "max_parallel": plan.max_parallel,
        "timeout_s": plan.timeout_s,
        "result_stage": result,
        "stages": stages,
    }


def _add_json(
    stages: list[dict[str, Any]],
    view: StageView,
    owner: str | None,
    body: BodyView | None,
    loaded: LoadedPipeline | None,
) -> None:
    """Add a stage and what is inside it. `loaded` is None for stages of another file."""
    stage, component = view.stage, view.stage.component
    place = loaded.locate(stage.pointer) if loaded is not None else Location()
    stages.append(
        {
            "id": stage.id,
            "path": view.key,
            "component": component_of(view),
            "component_version": component.version if component else None,
            "kind": component.kind.value if component else None,
            "effect": stage.effect.value,
            "cost": stage.cost.value,
            "layer": view.layer,
            "waits_for": list(view.waits_for),
            "reads": sorted(stage.targets),
            "owner": owner,
            "body": None if body is None else _body_json(body),
            "enabled": stage.enabled,
            "when": stage.when is not None,
            "retry": {
                "max_attempts": stage.retry.max_attempts,
                "initial_delay_s": stage.retry.initial_delay_s,
                "max_delay_s": stage.retry.max_delay_s,
                "backoff_multiplier": stage.retry.backoff_multiplier,
                "jitter": stage.retry.jitter,
                "retry_on": sorted(stage.retry.retry_on),
            },
            "timeout_s": stage.timeout_s,
            "on_error": stage.on_error,
            "resources": dict(stage.resources),
            "fuse": stage.fuse,
            "fusion": _fusion_json(view),
            "typical_ms": None if view.lasts_s is None else round(view.lasts_s * 1000, 3),
            "pointer": stage.pointer,
            "file": place.file,
            "line": place.line,
            "column": place.column,
        }
    )
    for inner in view.bodies:
        for each in inner.stages:
            _add_json(stages, each, stage.id, inner, None if inner.calls else loaded)


def _fusion_json(view: StageView) -> dict[str, Any]:
    fused = view.fused
    assert fused is not None
    return {"way": fused.way.value, "why": fused.why, "carrier": view.carrier}


def _body_json(body: BodyView) -> dict[str, Any]:
    kind = "loop" if body.loop else "pipeline" if body.calls else "branch"
    return {"kind": kind, "name": body.name, "variables": list(body.variables)}


# -- Mermaid -----------------------------------------------------------------------------------------------------------


def as_mermaid(plan: Plan, pacing: Pacing | None = None) -> str:
    """Return the plan as a Mermaid flowchart; bodies are subgraphs, and what rides in a call hangs on a thick arrow."""
    lines = ["flowchart TD"]
    numbers: dict[str, str] = {}
    body = plan_tree(plan, pacing or Pacing(plan))
    for stage in body.stages:
        for _, view in stage.walk():
            numbers[view.key] = f"s{len(numbers)}"
    lines += _mermaid_body(body, "  ", numbers)
    return "\n".join(lines) + "\n"


def _mermaid_body(body: BodyView, indent: str, numbers: dict[str, str]) -> Iterator[str]:
    for view in body.stages:
        number = numbers[view.key]
        label = f"{_mermaid_text(view.stage.id)}<br/><small>{_mermaid_text(component_of(view))}</small>"
        shape = ('{{"', '"}}') if view.bodies else ('["', '"]')
        yield f"{indent}{number}{shape[0]}{label}{shape[1]}"
        for n, inner in enumerate(view.bodies):
            group = f"{number}b{n}"
            yield f'{indent}subgraph {group}["{_mermaid_text(body_label(inner))}"]'
            yield from _mermaid_body(inner, indent + "  ", numbers)
            yield f"{indent}end"
            yield f"{indent}{number} -.-> {group}"
    of = {view.stage.id: numbers[view.key] for view in body.stages}
    for view, above, rides in _arrows(body):
        yield f"{indent}{of[above]} {'==>' if rides else '-->'} {numbers[view.key]}"


def _mermaid_text(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


# -- SVG ---------------------------------------------------------------------------------------------------------------

LEGEND = (
    ("control", "control flow"),
    ("trivial", "trivial"),
    ("cpu", "computes"),
    ("io", "waits"),
    ("gpu", "GPU"),
    ("rides", "in one call on Ray"),
)


def as_svg(plan: Plan, pacing: Pacing | None = None) -> str:
    """Return the plan as a drawing."""
    from flowmason_ray.drawing.svg import draw

    root = plan_tree(plan, pacing or Pacing(plan))
    used = {_kind(view) for stage in root.stages for _, view in stage.walk()}
    used |= {"rides" for stage in root.stages for _, view in stage.walk() if view.carrier is not None}
    legend = tuple((kind, meaning) for kind, meaning in LEGEND if kind in used)
    return draw(graph_of(root), title=f"{plan.name} {plan.version}", legend=legend)


def graph_of(body: BodyView) -> Graph:
    """Return a body as what `flowmason_ray.drawing` draws."""
    from flowmason_ray.drawing.graph import Edge, Graph

    keys = {view.stage.id: view.key for view in body.stages}
    edges = tuple(
        Edge(source=keys[above], target=view.key, kind="rides" if rides else "plain")
        for view, above, rides in _arrows(body)
    )
    return Graph(nodes=tuple(_node(view) for view in body.stages), edges=edges)


def _arrows(body: BodyView) -> Iterator[tuple[StageView, str, bool]]:
    """Yield each stage with a stage that it waits for, and whether both run in the same call."""
    calls = {view.stage.id: view.carrier or view.stage.id for view in body.stages}
    for view in body.stages:
        for above in view.waits_for:
            yield view, above, view.carrier is not None and calls[above] == view.carrier


def _node(view: StageView) -> Node:
    from flowmason_ray.drawing.graph import Body, Node

    stage = view.stage
    about = [component_of(view), f"{stage.effect.value}, {stage.cost.value}", *_options(view)]
    about += [f"on Ray {view.fused.why}"] if view.fused is not None else []
    return Node(
        id=view.key,
        label=stage.id,
        detail=component_of(view),
        kind=_kind(view),
        tooltip=f"{stage.id}: {'; '.join(about)}",
        attributes={"data-path": view.key, **({"data-way": view.fused.way.value} if view.fused is not None else {})},
        bodies=tuple(Body(label=body_label(body), graph=graph_of(body)) for body in view.bodies),
    )


def _kind(view: StageView) -> str:
    component = view.stage.component
    return "control" if component is not None and component.kind == "control_flow" else view.stage.cost.value
