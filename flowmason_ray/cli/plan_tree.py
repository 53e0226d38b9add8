"""A plan as people see it: stages in topological order, each construct with its bodies below it.

`fm plan` prints and draws this tree, the live view shows a run along it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowmason_ray.engine.control_flow.subpipeline import CallOptions

if TYPE_CHECKING:
    from flowmason_ray.engine.fusion import Fused
    from flowmason_ray.engine.pacing import Pacing
    from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyView:
    """Stages that share a border: the pipeline itself, a branch, or the body of a loop."""

    name: str
    """The branch's name; "" for the pipeline and for loops."""
    loop: bool
    calls: bool
    """Whether it is another pipeline, from a file of its own."""
    called: str
    """What that pipeline is called, with its version; "" for all others."""
    variables: tuple[str, ...]
    stages: tuple[StageView, ...]
    """In topological order; stages that could come in any order stay as they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """A stage with what it waits for and what it owns."""

    stage: PlanStage
    key: str
    """The path of its instances without positions: `each/extract`."""
    layer: int
    """The longest chain of stages of the same body that come before it."""
    waits_for: tuple[str, ...]
    bodies: tuple[BodyView, ...]
    fused: Fused | None = None
    """How it runs on a cluster; None: nobody asked."""
    carrier: str | None = None
    """The stage of the same body that it rides with."""
    lasts_s: float | None = None
    """How long earlier runs took for it, typically; None: that is not known."""

    def walk(self, depth: int = 0) -> Iterator[tuple[int, StageView]]:
        """Yield this stage and everything inside it, with its depth."""
        yield depth, self
        for body in self.bodies:
            for stage in body.stages:
                yield from stage.walk(depth + 1)


def plan_tree(plan: Plan, pacing: Pacing | None = None) -> BodyView:
    """Return the plan's stages as a tree; with `pacing`, also how each runs on a cluster."""
    return _TreeMaker(plan, pacing).body(plan.root, 0, prefix="")


class _TreeMaker:
    def __init__(self, plan: Plan, pacing: Pacing | None) -> None:
        self._plan = plan
        self._pacing = pacing
        self._fusion: list[list[Fused]] | None = None
        if pacing is not None:
            from flowmason_ray.engine.fusion import fusion_of

            self._fusion = fusion_of(plan, pacing.pace, pacing.lasts_s)

    def body(self, scope: ScopePlan, region: int, *, prefix: str) -> BodyView:
        repeated = not region and scope.parent is not None
        layers = _layers(scope, region)
        members = sorted(layers, key=lambda index: (layers[index], index))
        return BodyView(
            name=scope.regions[region].name,
            loop=repeated and not scope.isolated,
            calls=repeated and scope.isolated,
            called=self._called(scope) if repeated and scope.isolated else "",
            variables=scope.variables if repeated else (),
            stages=tuple(self._stage(scope, index, layers[index], prefix) for index in members),
        )

    def _called(self, scope: ScopePlan) -> str:
        parent = self._plan.scopes[scope.parent] if scope.parent is not None else None
        options = parent.stages[scope.owner].options if parent is not None and scope.owner is not None else None
        return options.called if isinstance(options, CallOptions) else ""

    def _stage(self, scope: ScopePlan, index: int, layer: int, prefix: str) -> StageView:
        stage = scope.stages[index]
        key = prefix + stage.id
        bodies = [self.body(scope, region, prefix=prefix) for region in scope.nested[index]]
        if stage.body_scope is not None:
            inner = self._plan.scopes[stage.body_scope]
            bodies.append(self.body(inner, 0, prefix=f"{key}/"))
        fused = None if self._fusion is None else self._fusion[scope.index][index]
        return StageView(
            fused=fused,
            carrier=None if fused is None or fused.carrier is None else scope.stages[fused.carrier].id,
            lasts_s=None if self._pacing is None else self._pacing.lasts_s(stage),
            stage=stage,
            key=key,
            layer=layer,
            waits_for=tuple(scope.stages[above].id for above in stage.waits_for),
            bodies=tuple(body for body in bodies if body.stages),
        )


def _layers(scope: ScopePlan, region: int) -> dict[int, int]:
    """Return, for every member of a region, the length of the longest chain before it."""
    members = scope.regions[region].members
    waiting = {index: len(scope.stages[index].waits_for) for index in members}
    layers = dict.fromkeys(members, 0)
    ready = [index for index in members if not waiting[index]]
    for index in ready:  # grows while it is walked
        for below in scope.downstream[index]:
            layers[below] = max(layers[below], layers[index] + 1)
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)
    return layers
