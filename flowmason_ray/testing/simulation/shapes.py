"""The oracle's own reading of a pipeline's data: bodies, references, order. It shares nothing with the planner.

Only the forms that `pipelines` writes are understood; that is what makes it short enough to be believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_STAGE = re.compile(r"stages\.(\w+)")
_VARIABLE = re.compile(r"vars\.(\w+)")


@dataclass(slots=True, eq=False)
class Body:
    """A list of stages that run together: a branch, a loop's body, the pipeline itself."""

    name: str
    owner: Stage | None
    members: list[Stage] = field(default_factory=list["Stage"])
    loop: bool = False

    def up(self) -> Iterator[Body]:
        """Yield this body and all around it."""
        body: Body | None = self
        while body is not None:
            yield body
            body = body.owner.body if body.owner is not None else None

    @property
    def scope(self) -> Body:
        """The body of the loop, or the pipeline, that this one belongs to."""
        return next(body for body in self.up() if body.loop or body.owner is None)


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
    sets: tuple[str, ...] = ()

    @property
    def on_error(self) -> str:
        """What follows from a failure."""
        return self.data.get("on_error", "fail")


@dataclass(slots=True)
class Shape:
    """A whole pipeline."""

    root: Body
    stages: dict[str, Stage]
    order: dict[str, int]
    """The position of each stage in the file."""
    data: Mapping[str, Any]

    def terminals(self, body: Body) -> list[Stage]:
        """Return the members for which no other member waits, in the order of the file."""
        awaited = {above for stage in body.members for above in stage.waits}
        return sorted((s for s in body.members if s not in awaited), key=lambda s: self.order[s.id])

    def setters(self, name: str) -> list[Stage]:
        """Return the stages that set a variable."""
        return [stage for stage in self.stages.values() if name in stage.sets]


def bodies_of(kind: str, config: Mapping[str, Any]) -> Iterator[tuple[str, list[str], bool]]:
    """Yield the bodies that a stage's config names: (name, ids, whether it is a loop's)."""
    if kind == "conditional":
        yield "true", config.get("true_branch_stages", []), False
        yield "false", config.get("false_branch_stages", []), False
    elif kind == "sim_switch":
        yield "left", config.get("left_stages", []), False
        yield "middle", config.get("middle_stages", []), False
        for name, ids in config.get("branches", {}).items():
            yield name, ids, False
    elif kind == "foreach":
        yield "loop", config["loop_stages"], True


def read_shape(data: Mapping[str, Any]) -> Shape:
    """Read a generated pipeline."""
    written = {stage["id"]: stage for stage in data["stages"]}
    owners: dict[str, tuple[str, str]] = {}
    for name, stage in written.items():
        for body, ids, _ in bodies_of(stage["component_type"], stage.get("config", {})):
            owners.update(dict.fromkeys(ids, (name, body)))
    root = Body("", None)
    stages: dict[str, Stage] = {}

    def build(name: str, body: Body) -> None:
        config = written[name].get("config", {})
        stage = stages[name] = Stage(name, written[name]["component_type"], written[name], config, body)
        body.members.append(stage)
        if stage.kind == "variable_set":
            stage.sets = (config["name"],)
        for inner_name, ids, loop in bodies_of(stage.kind, config):
            inner = stage.bodies[inner_name] = Body(inner_name, stage, loop=loop)
            for each in ids:
                build(each, inner)

    for name in written:
        if name not in owners:
            build(name, root)
    shape = Shape(root, stages, {name: i for i, name in enumerate(written)}, data)
    for stage in stages.values():
        _connect(shape, stage)
    return shape


def _connect(shape: Shape, stage: Stage) -> None:
    read = {**stage.config, "collect": None}
    text = f"{read} {stage.data.get('when', '')}"
    stage.reads = {*_STAGE.findall(text), *stage.data.get("depends_on", ())}
    for name in stage.reads:
        _wait(stage.body, stage, shape.stages[name])
    collect = str(stage.config.get("collect") or "")
    for variable in _VARIABLE.findall(text):
        for setter in shape.setters(variable):
            if setter is not stage and setter.body.scope in stage.body.up():
                _wait(stage.body, stage, setter)
    for name in _STAGE.findall(collect):
        _wait(stage.bodies["loop"], None, shape.stages[name])


def _wait(body: Body, reader: Stage | None, above: Stage) -> None:
    """Join a reader and what it reads in the innermost body that holds them both, each there by itself or its owner.

    A reader that is None stands at the end of `body` (a loop's `collect`): what it reads inside has ended by then.
    """
    around = list(body.up())
    inner = above.body
    target = above
    while inner not in around:
        assert inner.owner is not None
        target, inner = inner.owner, inner.owner.body
    lifted = reader
    for each in around:
        if each is inner:
            break
        lifted = each.owner
    if lifted is not None and lifted is not target:
        lifted.waits.add(target)
