"""How the fingerprint of each stage is made: what can be said about it when the plan is there, before any run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.control_flow.approval import WaitForApproval
from flowmason_ray.engine.definitions import Definitions
from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan, Target
from flowmason_ray.spec.expressions import Reference

Output = tuple[int, int, "str | None", Any]
"""An output that is read: how many scopes up, at which position, which field, and the key under which its content is kept."""


class Recipe(NamedTuple):
    """One stage's."""

    path: str
    """The stage's path without positions."""
    looked_up: bool
    """Whether its attempts get fingerprints. Control flow is decided again instead, unless deciding is a person's affair, or is
    not pure."""
    asks: bool
    """Whether a person answers."""
    once: bool
    """Whether a result of it counts for one instance only: what has an effect has had it once."""
    draws: bool
    """Whether its templates draw a time or an identifier, so that its result belongs to its run."""
    definition: bytes
    outputs: tuple[Output, ...]
    others: tuple[Reference, ...]
    """What is read besides outputs, each thing once."""
    awaited: tuple[Target, ...]
    """What is waited for and not read."""


class Recipes:
    """Those of a plan's stages."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.definitions = Definitions(plan)
        self.scope_of: dict[int, ScopePlan] = {}
        self.by_stage: dict[int, Recipe] = {}
        """By `id` of the stage."""
        for scope, prefix in zip(plan.scopes, self.definitions.prefixes, strict=True):
            for stage in scope.stages:
                self.scope_of[id(stage)] = scope
                self.by_stage[id(stage)] = self._make(stage, prefix + stage.id)
        self.definitions_recorded = self.definitions.recorded()

    def _make(self, stage: PlanStage, path: str) -> Recipe:
        asks = isinstance(stage.construct, WaitForApproval)
        plain = stage.construct is None or asks or stage.effect is not Effect.PURE
        if stage.component is None or not plain:
            return _NOT_LOOKED_UP._replace(path=path)
        outputs, others = what_is_read(references_of(stage), stage)
        awaited: tuple[Target, ...] = ()
        if len(stage.upstreams) > len(stage.targets):
            read = {(target.levels, target.index) for target in stage.targets.values()}
            awaited = tuple(t for t in stage.upstreams if (t.levels, t.index) not in read)
        return Recipe(
            path=path,
            looked_up=True,
            asks=asks,
            once=asks or stage.effect is not Effect.PURE,
            draws=stage.template.draws or (stage.when is not None and stage.when.draws),
            definition=self.definitions.of(stage).digest,
            outputs=outputs,
            others=others,
            awaited=awaited,
        )


_NOT_LOOKED_UP = Recipe("", False, False, False, False, b"", (), (), ())


def what_is_read(references: Iterable[Reference], stage: PlanStage) -> tuple[tuple[Output, ...], tuple[Reference, ...]]:
    """Return the outputs that references read, and the references to anything else: each thing once, in order."""
    outputs: dict[Any, Output] = {}
    others: dict[Any, Reference] = {}
    for reference in references:
        root, path = reference.root, reference.path
        if root == "stages" and reference.aspect == "output":
            name = str(path[0])
            target = stage.targets[name]
            field = path[1] if len(path) > 1 and isinstance(path[1], str) else None
            outputs[name, field] = (target.levels, target.index, field, (target.index, field))
        else:
            others.setdefault((root, path, reference.aspect), reference)
    return tuple(outputs.values()), tuple(others.values())


def references_of(stage: PlanStage) -> Iterator[Reference]:
    """Yield what a stage's templates and its `when` read."""
    for _, reference in stage.template.references:
        yield reference
    if stage.when is not None:
        yield from stage.when.references
