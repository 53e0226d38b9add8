"""The plan: a pipeline compiled into what the state machine and the executors need, immutable and complete.

A plan is a tree of *scopes*. The root scope holds the pipeline's own stages; every loop and every subpipeline has a scope
for its body, of which a run makes an instance per iteration. Within a scope, *regions* are the bodies that run at most once
(the branches of a conditional, the parts of a trycatch) plus region 0, the scope's own top level. All numbers are
positions: a stage's `index` in its scope, a region's in `ScopePlan.regions`, a scope's in `Plan.scopes`.

Order edges join stages of one region only. An edge that comes from further out is hoisted to the owner of the body it
enters, one that leaves a branch starts at the branch's owner; so a region is an ordinary DAG of its own, and a body can be
opened, aborted or repeated as a whole.

Made by `engine.planning`; nothing here looks at a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from flowmason_ray.engine.component import ComponentSpec, Cost, Effect
from flowmason_ray.engine.retry import RetryPolicy

if TYPE_CHECKING:
    from flowmason_ray.engine.control_flow.base import Construct
    from flowmason_ray.spec.expressions import Expression
    from flowmason_ray.spec.input_schema import InputSchema
    from flowmason_ray.spec.templates import Template


@dataclass(frozen=True, slots=True)
class Target:
    """Where a referenced stage lies, seen from the reader: `levels` scopes up, at position `index` there."""

    levels: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """That later runs may reuse a stage's result."""

    ttl_s: float | None = None
    """For how long; None: without limit."""
    key: Template | None = None
    """What identifies the result besides the component; None: everything that the stage is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStage:
    """A stage, ready to run."""

    id: str
    index: int
    region: int
    component: ComponentSpec | None
    """None for the hidden stages (`$output`, `$collect`) whose value is the rendered template itself."""
    template: Template
    """The config without what the component declares as raw or as expressions."""
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The config's fields that are not rendered: raw ones and expressions."""
    when: Expression | None = None
    enabled: bool = True
    targets: Mapping[str, Target] = field(default_factory=dict[str, Target])
    """Every stage that the template or `when` refers to."""
    roots: frozenset[str] = frozenset()
    """The roots that the template or `when` refer to: `input`, `stages`, `vars`, loop variables, …"""
    upstreams: tuple[Target, ...] = ()
    """What the skip rule looks at: every stage that is referred to or depended on, wherever it lies."""
    waits_for: tuple[int, ...] = ()
    """The stages of the same region that must have ended first."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_s: float | None = None
    on_error: Literal["fail", "continue", "fallback"] = "fail"
    fallback_output: Any = None
    effect: Effect = Effect.PURE
    cost: Cost = Cost.TRIVIAL
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fuse: Literal["auto", "never", "always"] = "auto"
    near: Target | str | None = None
    """What it runs next to: a stage, or a dataset by its name."""
    strategy: Literal["pack", "spread"] | None = None
    """Whether its instances sit close together or apart; of a gang, those of its bodies."""
    gang: bool = False
    """Whether room for all that runs of its bodies at a time is reserved before any of it begins."""
    cache: CachePolicy | None = None
    llm: Mapping[str, Any] | None = None
    """The effective `llm_settings` (`engine.stage_settings.ModelChoice`); None: it is not known to use models."""
    construct: Construct | None = None
    bodies: Mapping[str, int] = field(default_factory=dict[str, int])
    """The construct's bodies: name → region of the same scope, or for `loop_scope` constructs nothing."""
    body_scope: int | None = None
    """The scope of the construct's repeated body (loops), or of its subpipeline."""
    options: Any = None
    """What the construct read from the config when the plan was made."""
    schema: InputSchema | None = None
    """What the value must satisfy (`$output` only)."""
    pointer: str = ""
    """JSON pointer to the stage in the pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A body that runs at most once in its scope. Region 0 is the scope's top level and has no owner."""

    name: str
    owner: int | None
    members: tuple[int, ...]
    terminals: tuple[int, ...] = ()
    """Those members that no other member waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopePlan:
    """The stages that share one namespace and one lifetime."""

    index: int
    parent: int | None
    owner: int | None
    """The loop or subpipeline in the parent scope whose body this is."""
    stages: tuple[PlanStage, ...]
    regions: tuple[Region, ...]
    downstream: tuple[tuple[int, ...], ...]
    """Per stage: the stages of the same region that wait for it."""
    waiting: tuple[int, ...]
    """Per stage: for how many stages of its region it waits."""
    nested: tuple[tuple[int, ...], ...]
    """Per stage: the regions it owns."""
    remaining: tuple[int, ...]
    """Per region: how many members it has."""
    variables: tuple[str, ...] = ()
    """The loop variables: item and index; empty for the root and for subpipelines."""
    result: int | None = None
    """The stage whose value is the scope's; the hidden stage if `result_hidden`. None: the value is null."""
    result_hidden: bool = False
    isolated: bool = True
    """Whether references stop here: true for pipelines, false for the bodies of loops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole pipeline, ready to run any number of times."""

    name: str
    version: str
    digest: str
    """SHA-256 over the pipeline's meaning and the versions of its components."""
    scopes: tuple[ScopePlan, ...]
    timeout_s: float | None = None
    max_parallel: int | None = None
    input_schema: InputSchema | None = None
    budget: Mapping[str, Any] | None = None
    """What a run may spend on models, if the pipeline says so (`engine.usage.Budget`)."""
    file: str | None = None

    @property
    def root(self) -> ScopePlan:
        """The scope of the pipeline itself."""
        return self.scopes[0]

    def stages(self) -> list[tuple[ScopePlan, PlanStage]]:
        """Return every written stage with its scope, in the order of the scopes."""
        return [(scope, stage) for scope in self.scopes for stage in scope.stages if not stage.id.startswith("$")]
