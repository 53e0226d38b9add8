"""Which stages share a scope, at which position, and which of them makes the scope's value.

A run is a scope, and so is each iteration of a loop. Where no single stage has a scope's value, a hidden one is added that makes it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowmason_ray.engine.bodies import RegionNode
from flowmason_ray.engine.drafts import Draft, Report, parse_at
from flowmason_ray.engine.plan import Target
from flowmason_ray.engine.reachability import LOOP_EXITS
from flowmason_ray.errors import nearest
from flowmason_ray.spec.templates import Template, parse_template

if TYPE_CHECKING:
    from flowmason_ray.engine.bodies import Bodies
    from flowmason_ray.engine.edges import Edges
    from flowmason_ray.spec.pipeline import Pipeline

OUTPUT = "$output"
"""The hidden stage that makes the run's result. No written stage can be called so."""
COLLECT = "$collect"
"""The hidden stage that makes an iteration's result."""

EXITS = LOOP_EXITS | {"return"}
"""The components that leave a scope."""


@dataclass(slots=True)
class ScopeDraft:
    """A scope while positions are given out."""

    node: RegionNode
    index: int
    parent: ScopeDraft | None
    ids: list[str] = field(default_factory=list[str])
    regions: list[RegionNode] = field(default_factory=list[RegionNode])
    hidden: Draft | None = None
    result: str | None = None


class ScopeLayout:
    """The scopes of one pipeline whose drafts, bodies and edges are known."""

    def __init__(
        self, pipeline: Pipeline, drafts: Mapping[str, Draft], bodies: Bodies, edges: Edges, report: Report
    ) -> None:
        self._pipeline = pipeline
        self._drafts = drafts
        self._bodies = bodies
        self._edges = edges
        self._report = report
        self._position = {draft.id: i for i, draft in enumerate(drafts.values())}
        self.scopes: list[ScopeDraft] = []
        """The run's, then those within it."""
        self.body_scope: dict[str, int] = {}
        """From a loop to the index of its iterations' scope."""
        self.place: dict[str, tuple[ScopeDraft, int]] = {}
        """From a stage to its scope and its position there."""

    def lay_out(self) -> None:
        """Give every stage its scope and position, and every scope what makes its value."""
        by_node: dict[int, ScopeDraft] = {}
        for node in self._bodies.scopes():
            around = by_node[id(node.parent.scope)] if node.parent else None
            scope = by_node[id(node)] = ScopeDraft(node, len(self.scopes), around)
            self.scopes.append(scope)
            if node.owner is not None:
                self.body_scope[node.owner] = scope.index
            stack = deque([node])
            while stack:
                region = stack.popleft()
                scope.regions.append(region)
                scope.ids.extend(region.members)
                stack.extend(child for child in region.children if not child.begins_scope)
            scope.ids.sort(key=self._position.__getitem__)
            for position, stage in enumerate(scope.ids):
                self.place[stage] = (scope, position)
        for scope in self.scopes:
            if scope.parent is None:
                self._result_of_run(scope)
            else:
                self._result_of_iteration(scope)
            if scope.hidden is not None:
                key = self._key(scope.hidden, scope)
                self.place[key] = (scope, len(scope.ids))
                self._bodies.home[key] = scope.node
                scope.ids.append(key)

    @staticmethod
    def _key(hidden: Draft, scope: ScopeDraft) -> str:
        hidden.id = hidden.id if scope.parent is None else f"{COLLECT}:{scope.index}"
        return hidden.id

    def terminals(self, node: RegionNode) -> list[str]:
        """Return the members of a region that have its result: no other waits for them. What only leaves has none."""
        members = list(node.members)
        while True:
            awaited = {above for stage in members for above in self._edges.waits.get(stage, ())}
            leaving = {stage for stage in members if stage not in awaited and self._leaves(stage)}
            if not leaving:
                return [stage for stage in members if stage not in awaited]
            members = [stage for stage in members if stage not in leaving]

    def _leaves(self, stage: str) -> bool:
        component = self._drafts[stage].component
        return component is not None and component.name in EXITS

    def _result_of_run(self, scope: ScopeDraft) -> None:
        pipeline = self._pipeline
        if not self._drafts:
            if not (pipeline.extends or pipeline.abstract):
                self._report("no_stages", "The pipeline has no stages: there is nothing to run.", "/stages")
            return
        if pipeline.output_stage_id is not None and pipeline.output is not None:
            self._report(
                "conflicting_keys", "'output_stage_id' and 'output' both say what the result is; keep one.", "/output"
            )
        pointer, template = "/output", None
        if pipeline.output_stage_id is not None:
            pointer = "/output_stage_id"
            self._result_stage(scope, pipeline.output_stage_id, pointer)
        elif pipeline.output is not None:
            template = parse_at(pipeline.output, pointer, self._report, parse_template)
        else:
            pointer = ""
            terminals = self.terminals(scope.node)
            if len(terminals) == 1:
                scope.result = terminals[0]
            else:
                template = _object_of(terminals)
        if template is None and pipeline.output_schema is not None and scope.result is not None:
            template = parse_template(_reference(scope.result))
        if template is not None:
            scope.hidden = Draft(id=OUTPUT, pointer=pointer, called="The pipeline's output", template=template)

    def _result_stage(self, scope: ScopeDraft, name: str, pointer: str) -> None:
        if name not in self._drafts:
            message = f"The result is said to be the output of stage {name!r}, which is not in the pipeline."
            self._report("unknown_stage", message, pointer, found=name, nearest=nearest(name, self._drafts))
        elif self.place[name][0] is not scope:
            owner = self.place[name][0].node.owner
            message = (
                f"Stage {name!r} runs once per item of {owner!r}, so it cannot be the result; take {owner!r} itself."
            )
            self._report("border_crossing", message, pointer)
        else:
            scope.result = name

    def _result_of_iteration(self, scope: ScopeDraft) -> None:
        owner = self._drafts[scope.node.owner or ""]
        collect = owner.late.get("collect")
        if not scope.node.members:
            message = f"The body of {owner.id!r} is empty: name at least one stage in 'loop_stages'."
            self._report("empty_body", message, f"{owner.pointer}/config")
            return
        terminals = self.terminals(scope.node)
        if collect is None and len(terminals) == 1:
            scope.result = terminals[0]
        else:
            template = collect if collect is not None else _object_of(terminals)
            scope.hidden = Draft(
                id=COLLECT,
                pointer=f"{owner.pointer}/config/collect",
                called=f"'collect' of stage {owner.id!r}",
                template=template,
            )

    def target(self, name: str, scope: ScopeDraft) -> Target:
        """Return where a stage is, seen from a scope at or within its own."""
        goal, index = self.place[name]
        levels = 0
        around: ScopeDraft | None = scope
        while around is not goal and around is not None:
            levels += 1
            around = around.parent
        return Target(levels, index)


_PLAIN_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(-+[A-Za-z0-9_]+)*")
"""Ids that can follow a dot: that spelling is parsed ten times as fast, which ten thousand terminal stages notice."""


def _reference(stage: str) -> str:
    return "{{ stages." + stage + " }}" if _PLAIN_ID.fullmatch(stage) else "{{ stages['" + stage + "'] }}"


def _object_of(stages: list[str]) -> Template:
    return parse_template({stage: _reference(stage) for stage in stages})
