"""The oracle's own reading of a pipeline's data: bodies, references, order. It shares nothing with the planner.

Only the forms that `pipelines` writes are understood; that is what makes it short enough to be believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmason_ray.testing.simulation.pipelines import LEAVING, Generated

_STAGE = re.compile(r"stages\.(\w+)")
_VARIABLE = re.compile(r"vars\.(\w+)")


@dataclass(slots=True, eq=False)
class Body:
    """A list of stages that run together: a branch, a loop's body, a whole pipeline."""

    name: str
    owner: Stage | None
    members: list[Stage] = field(default_factory=list["Stage"])
    begins_scope: bool = False
    """Whether it has a scope of its own: loops' bodies and pipelines."""
    pipeline: Mapping[str, Any] | None = None
    """The pipeline's data, if it is one."""

    def up(self) -> Iterator[Body]:
        """Yield this body and all around it, in other pipelines too."""
        body: Body | None = self
        while body is not None:
            yield body
            body = body.owner.body if body.owner is not None else None

    @property
    def scope(self) -> Body:
        """The body of the loop, or the pipeline, that this one belongs to."""
        return next(body for body in self.up() if body.begins_scope)

    @property
    def whole(self) -> Body:
        """The pipeline that this body belongs to."""
        return next(body for body in self.up() if body.pipeline is not None)


@dataclass(slots=True, eq=False)
class Stage:
    """A stage as it is written."""

    id: str
    kind: str
    data: Mapping[str, Any]
    config: Mapping[str, Any]
    body: Body
    bodies: dict[str, Body] = field(default_factory=dict[str, Body])
    reads: set[str] = field(default_factory=set[str])
    """The ids of the stages that it names."""
    waits: set[Stage] = field(default_factory=set["Stage"])
    """The stages of its own body that must have ended before it."""

    @property
    def on_error(self) -> str:
        """What follows from a failure."""
        return self.data.get("on_error", "fail")

    @property
    def sets(self) -> str | None:
        """The variable that it sets."""
        return self.config["name"] if self.kind == "variable_set" else None

    @property
    def closed(self) -> Iterator[Body]:
        """Its bodies that share its scope: what is not opened there is skipped."""
        return (body for body in self.bodies.values() if not body.begins_scope)


@dataclass(slots=True)
class Shape:
    """A pipeline and all that it calls. Ids are unique over all of them."""

    root: Body
    stages: dict[str, Stage]
    order: dict[str, int]
    """The position of each stage in its file."""

    def terminals(self, body: Body) -> list[Stage]:
        """Return the members that have the body's result, in the order of the file.

        They are those for which no other waits; a stage that only leaves has no result, and then those before it have.
        """
        members = sorted(body.members, key=lambda stage: self.order[stage.id])
        while True:
            awaited = {above for stage in members for above in stage.waits}
            ends = [stage for stage in members if stage not in awaited]
            if all(stage.kind not in LEAVING for stage in ends):
                return ends
            members = [stage for stage in members if stage in awaited or stage.kind not in LEAVING]

    def setters(self, name: str) -> list[Stage]:
        """Return the stages that set a variable."""
        return [stage for stage in self.stages.values() if stage.sets == name]


def bodies_of(kind: str, config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the bodies that a stage's config names, by name."""
    if kind == "conditional":
        yield "true", config["true_branch_stages"]
        yield "false", config["false_branch_stages"]
    elif kind == "sim_switch":
        yield "left", config["left_stages"]
        yield "middle", config["middle_stages"]
        yield from config["branches"].items()
    elif kind == "router":
        for name, ids in config["routes"].items():
            yield f"route:{name}", ids
        yield "default", config["default_route"]
    elif kind == "trycatch":
        for name in ("try", "catch", "finally"):
            yield name, config[f"{name}_stages"]
    elif kind == "parallel":
        branches = config["branches"]
        yield from branches.items() if isinstance(branches, Mapping) else ((str(i), b) for i, b in enumerate(branches))
    elif kind == "foreach":
        yield "loop", config["loop_stages"]


def read_shape(generated: Generated) -> Shape:
    """Read a generated pipeline."""
    shape = Shape(Body("", None, begins_scope=True, pipeline=generated.data), {}, {})
    _read_pipeline(shape, shape.root, generated)
    for stage in shape.stages.values():
        _connect(shape, stage)
    return shape


def _read_pipeline(shape: Shape, root: Body, generated: Generated) -> None:
    assert root.pipeline is not None
    written = {stage["id"]: stage for stage in root.pipeline["stages"]}
    shape.order.update({name: i for i, name in enumerate(written)})
    owned = {each for s in written.values() for _, ids in bodies_of(s["component_type"], s["config"]) for each in ids}

    def build(name: str, body: Body) -> None:
        data = written[name]
        config = data["config"]
        stage = shape.stages[name] = Stage(name, data["component_type"], data, config, body)
        body.members.append(stage)
        for inner_name, ids in bodies_of(stage.kind, config):
            inner = stage.bodies[inner_name] = Body(inner_name, stage, begins_scope=stage.kind == "foreach")
            for each in ids:
                build(each, inner)
        if stage.kind == "subpipeline":
            called = generated.callees[config["pipeline"]]
            callee = stage.bodies["call"] = Body("call", stage, begins_scope=True, pipeline=called)
            _read_pipeline(shape, callee, generated)

    for name in written:
        if name not in owned:
            build(name, root)


def _connect(shape: Shape, stage: Stage) -> None:
    read = {**stage.config, "collect": None}
    text = f"{read} {stage.data.get('when', '')}"
    stage.reads = {*_STAGE.findall(text), *stage.data.get("depends_on", ())}
    for name in stage.reads:
        _wait(stage, shape.stages[name])
    for variable in _VARIABLE.findall(text):
        for setter in shape.setters(variable):
            if setter is not stage and setter.body.scope in stage.body.up():
                _wait(stage, setter)


def _wait(reader: Stage, above: Stage) -> None:
    """Join a reader and what it reads in the innermost body that holds them both, each there by itself or its owner."""
    around = list(reader.body.up())
    inner, target = above.body, above
    while inner not in around:
        assert inner.owner is not None
        target, inner = inner.owner, inner.owner.body
    lifted = reader
    while lifted.body is not inner:
        assert lifted.body.owner is not None
        lifted = lifted.body.owner
    if lifted is not target:
        lifted.waits.add(target)
