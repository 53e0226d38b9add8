"""Compiles a loaded pipeline into a `Plan`, or says everything that is wrong with it.

The steps, each in its own module: every stage by itself (`drafts`), which body it belongs to (`bodies`), which stage waits
for which (`edges`), whether what is read fits what it is read into (`type_check`). What is left to do here is to give
everything its position and to add the hidden stages that make a scope's value.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import orjson

from flowmason_ray.engine.bodies import Bodies, RegionNode, find_bodies
from flowmason_ray.engine.caching import check_default_cache, plan_cache
from flowmason_ray.engine.calling import PipelineFinder, embedded, identity, plan_calls
from flowmason_ray.engine.component import Catalogue, ComponentSpec, Cost, Effect, Kind
from flowmason_ray.engine.composing import draft_compositions, mapping_scope, written_pointer
from flowmason_ray.engine.drafts import Draft, Report, draft_stages, parse_at, problem_sink
from flowmason_ray.engine.edges import EdgeFinder, Edges, Names, find_cycle
from flowmason_ray.engine.fusion import check_fusion
from flowmason_ray.engine.placing import Placing, check_labels
from flowmason_ray.engine.plan import Plan, PlanStage, Region, ScopePlan, Target
from flowmason_ray.engine.reachability import LOOP_EXITS, check_reachability
from flowmason_ray.engine.retry import RetryPolicy
from flowmason_ray.engine.type_check import check_types
from flowmason_ray.errors import InvalidPipeline, Problem, nearest
from flowmason_ray.spec.input_schema import InputSchema, check_schema
from flowmason_ray.spec.templates import Template, parse_template

if TYPE_CHECKING:
    from flowmason_ray.spec.loader import LoadedPipeline
    from flowmason_ray.spec.pipeline import Pipeline
    from flowmason_ray.spec.pipeline import Retry as RetrySpec

ModelChoice = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
"""From what the pipeline and the stage say (`llm_settings`, the weaker first), which settings hold: what neither says comes
from the project and the environment. Raises `InvalidPipeline` for what cannot be."""

PromptChoice = Callable[[Sequence[str], "str | None"], Mapping[str, Any]]
"""From the prompts that a component asks with, and the version that a stage wants, what its plan keeps: name → `version` and
`text`. Raises `InvalidPipeline` for what cannot be."""

ConfigCheck = Callable[["ComponentSpec", Mapping[str, Any]], Iterable["tuple[str, str, str, str | None]"]]
"""From a component and the config of a stage as it is written, what is wrong with it beside its shape: code, message, pointer within
the config, and the nearest of what it could have said."""

OUTPUT = "$output"
"""The hidden stage that makes the run's result. No written stage can be called so."""
COLLECT = "$collect"
"""The hidden stage that makes an iteration's result."""

EXITS = LOOP_EXITS | {"return"}
"""The components that leave a scope."""

MOST_NAMES = 100
"""How many stages of a cycle are named: enough for any that somebody wrote by hand."""


def make_plan(
    loaded: LoadedPipeline,
    catalogue: Catalogue,
    *,
    env: Collection[str] = (),
    secrets: Collection[str] = (),
    pipelines: PipelineFinder | None = None,
    datasets: Mapping[str, str | None] | None = None,
) -> Plan:
    """Compile a pipeline.

    Args:
        loaded: The pipeline with its source, so that problems can be placed.
        catalogue: Where its components are looked up.
        env: The environment variables that templates may read.
        secrets: The secrets that templates may read.
        pipelines: How pipelines that it calls are found.
        datasets: What stages may be near of besides stages: names, each with its path if it has one.

    Raises:
        InvalidPipeline: it cannot be run; `problems` holds everything that was found.
    """
    plan, problems = try_plan(loaded, catalogue, env=env, secrets=secrets, pipelines=pipelines, datasets=datasets)
    if plan is None:
        raise InvalidPipeline([p for p in problems if p.severity == "error"])
    return plan


def try_plan(
    loaded: LoadedPipeline,
    catalogue: Catalogue,
    *,
    env: Collection[str] = (),
    secrets: Collection[str] = (),
    pipelines: PipelineFinder | None = None,
    datasets: Mapping[str, str | None] | None = None,
    models: ModelChoice | None = None,
    prompts: PromptChoice | None = None,
    configured: ConfigCheck | None = None,
    within: Sequence[str] = (),
    sealed: bool = False,
) -> tuple[Plan | None, list[Problem]]:
    """Compile a pipeline; return the plan, or None when there are errors, and every problem including warnings.

    Args and more as for `make_plan`; `within` names the pipelines that this one is called from, itself included; `sealed`
    tells that it is composed, or called by one that is: no secret is to be read then but those that it is handed.
    """
    problems: list[Problem] = []

    def placed(code: str, message: str, pointer: str, **facts: Any) -> Problem:
        return loaded.problem(code, message, written_pointer(pointer), **facts)

    report = problem_sink(problems, placed)
    pipeline = loaded.pipeline
    _refuse_what_is_not_built(pipeline, report)
    check_default_cache(pipeline, report)
    if pipeline.defaults.resources is not None:
        check_labels(pipeline.defaults.resources.labels, "/defaults/resources/labels", report)
    drafts = draft_stages(pipeline.stages, catalogue, report)
    if configured is not None:
        _check_configs(drafts, configured, report)
    drafts |= draft_compositions(pipeline.compositions, catalogue, report)

    def plan_callee(callee: LoadedPipeline, chain: Sequence[str], composed: bool) -> tuple[Plan | None, list[Problem]]:
        return try_plan(
            callee,
            catalogue,
            env=env,
            secrets=secrets,
            pipelines=pipelines,
            datasets=datasets,
            models=models,
            prompts=prompts,
            configured=configured,
            within=chain,
            sealed=sealed or composed,
        )

    plan_calls(drafts, loaded, pipelines, plan_callee, within or [identity(loaded)], problems, report)
    bodies = find_bodies(drafts, report)
    plan: Plan | None = None
    if bodies is not None:
        names = _names(pipeline, env, secrets, sealed=sealed)
        planner = _Planner(loaded, drafts, bodies, names, report, models, prompts)
        planner.datasets = datasets or {}
        plan = planner.plan()
    if any(p.severity == "error" for p in problems):
        plan = None
    refused = tuple(p.path for p in problems if p.code == "invalid_config")
    # What a construct has refused, its component's Input refuses too, or something inside of it: once is enough.
    problems = [p for p in problems if p.code != "invalid_value" or not _lies_in(p.path, refused)]
    problems = list(dict.fromkeys(problems))  # a default that is wrong is wrong for every stage
    problems.sort(key=lambda p: (p.line or 0, p.column or 0, p.path))
    return plan, problems


def _check_configs(drafts: Mapping[str, Draft], configured: ConfigCheck, report: Report) -> None:
    for draft in drafts.values():
        if draft.component is not None and draft.spec is not None and draft.spec.config:
            for code, message, pointer, near in configured(draft.component, draft.spec.config):
                report(code, message, f"{draft.pointer}/config{pointer}", nearest=near)


def _lies_in(pointer: str, others: tuple[str, ...]) -> bool:
    return any(pointer == other or pointer.startswith(f"{other}/") for other in others)


def _names(pipeline: Pipeline, env: Collection[str], secrets: Collection[str], *, sealed: bool) -> Names:
    schema = pipeline.input_schema
    properties: Any = schema.get("properties") if schema else None
    return Names(
        input_properties=frozenset(cast("Mapping[str, Any]", properties)) if isinstance(properties, Mapping) else None,
        input_closed=bool(schema) and schema.get("additionalProperties") is False,
        env=frozenset(env),
        secrets=frozenset(secrets),
        sealed=sealed,
    )


def _refuse_what_is_not_built(pipeline: Pipeline, report: Report) -> None:
    def refuse(what: str, pointer: str) -> None:
        message = f"{what} cannot be run by this version of FlowMason yet; nothing is done rather than something else."
        report("not_supported", message, pointer)

    if pipeline.abstract:
        report("abstract_pipeline", "The pipeline is abstract: it is there to be extended, not to be run.", "/abstract")
    if pipeline.extends or pipeline.overrides:
        message = (
            "What the pipeline inherits is not looked up here; load it with 'flowmason_ray.load_pipeline', which does."
        )
        report("not_found", message, "/extends" if pipeline.extends else "/overrides")
    if pipeline.federation:
        refuse("Federation", "/federation")
    for i, stage in enumerate(pipeline.stages):
        if stage.federation:
            refuse(f"Federation of stage {stage.id!r}", f"/stages/{i}/federation")


@dataclass(slots=True)
class _ScopeDraft:
    """A scope while positions are given out."""

    node: RegionNode
    index: int
    parent: _ScopeDraft | None
    ids: list[str] = field(default_factory=list[str])
    regions: list[RegionNode] = field(default_factory=list[RegionNode])
    hidden: Draft | None = None
    result: str | None = None


class _Planner:
    """Gives positions to the stages of one pipeline whose drafts, bodies and edges are known."""

    def __init__(
        self,
        loaded: LoadedPipeline,
        drafts: dict[str, Draft],
        bodies: Bodies,
        names: Names,
        report: Report,
        models: ModelChoice | None,
        prompts: PromptChoice | None,
    ) -> None:
        self._loaded = loaded
        self._models = models
        self._prompts = prompts
        self._pipeline = loaded.pipeline
        self._drafts = drafts
        self._bodies = bodies
        self._report = report
        self._finder = EdgeFinder(drafts, bodies, names, report)
        self._scopes: list[_ScopeDraft] = []
        self._body_scope: dict[str, int] = {}
        self._callee_scope: dict[str, int] = {}
        self._place: dict[str, tuple[_ScopeDraft, int]] = {}
        self._position = {draft.id: i for i, draft in enumerate(drafts.values())}
        self.datasets: Mapping[str, str | None] = {}
        """What stages may be near of besides stages."""

    @property
    def _edges(self) -> Edges:
        return self._finder.edges

    def plan(self) -> Plan | None:
        """Return the plan; None when what was found makes positions meaningless (a cycle)."""
        for draft in self._drafts.values():
            self._finder.add(draft)
        self._finder.order_setters(self._drafts.values())
        self._finder.add_variables(self._drafts.values())
        self._lay_out_scopes()
        hidden = [scope.hidden for scope in self._scopes if scope.hidden is not None]
        for draft in hidden:
            self._finder.add(draft)
        self._finder.add_variables(hidden)
        self._check_cycles()
        check_reachability(self._drafts, self._bodies, self._edges, self._report)
        check_types(self._pipeline, self._drafts, self._bodies, hidden, self._report)
        input_schema = self._schema(self._pipeline.input_schema, "/input_schema")
        self._place_callees()
        self._placing = Placing(self._drafts, self._bodies, self._edges, self.datasets, self._report)
        scopes = [self._scope_plan(scope) for scope in self._scopes]
        check_fusion((stage for scope in scopes for stage in scope.stages), self._report)
        for name, offset in self._callee_scope.items():
            draft = self._drafts[name]
            assert draft.callee is not None
            around, owner = self._place[name]
            scopes.extend(embedded(draft.callee, offset, around.index, owner))
            if draft.mapping is not None:
                scopes.append(mapping_scope(draft, draft.mapping, len(scopes), parent=around.index, owner=owner))
        pipeline = self._pipeline
        return Plan(
            name=pipeline.name,
            version=pipeline.version,
            digest=_digest(self._loaded.data, self._drafts),
            scopes=tuple(scopes),
            timeout_s=None if pipeline.timeout_ms is None else pipeline.timeout_ms / 1000,
            max_parallel=pipeline.max_parallel,
            input_schema=input_schema,
            budget=None
            if pipeline.budget is None
            else pipeline.budget.model_dump(exclude_none=True, exclude={"extensions"}),
            file=self._loaded.source.file,
        )

    # -- scopes and their results -------------------------------------------------------------------------------------

    def _lay_out_scopes(self) -> None:
        by_node: dict[int, _ScopeDraft] = {}
        for node in self._bodies.scopes():
            around = by_node[id(node.parent.scope)] if node.parent else None
            scope = by_node[id(node)] = _ScopeDraft(node, len(self._scopes), around)
            self._scopes.append(scope)
            if node.owner is not None:
                self._body_scope[node.owner] = scope.index
            stack = deque([node])
            while stack:
                region = stack.popleft()
                scope.regions.append(region)
                scope.ids.extend(region.members)
                stack.extend(child for child in region.children if not child.begins_scope)
            scope.ids.sort(key=self._position.__getitem__)
            for position, stage in enumerate(scope.ids):
                self._place[stage] = (scope, position)
        for scope in self._scopes:
            if scope.parent is None:
                self._result_of_run(scope)
            else:
                self._result_of_iteration(scope)
            if scope.hidden is not None:
                key = self._key(scope.hidden, scope)
                self._place[key] = (scope, len(scope.ids))
                self._bodies.home[key] = scope.node
                scope.ids.append(key)

    @staticmethod
    def _key(hidden: Draft, scope: _ScopeDraft) -> str:
        hidden.id = hidden.id if scope.parent is None else f"{COLLECT}:{scope.index}"
        return hidden.id

    def _terminals(self, node: RegionNode) -> list[str]:
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

    def _result_of_run(self, scope: _ScopeDraft) -> None:
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
            terminals = self._terminals(scope.node)
            if len(terminals) == 1:
                scope.result = terminals[0]
            else:
                template = _object_of(terminals)
        if template is None and pipeline.output_schema is not None and scope.result is not None:
            template = parse_template(_reference(scope.result))
        if template is not None:
            scope.hidden = Draft(id=OUTPUT, pointer=pointer, called="The pipeline's output", template=template)

    def _result_stage(self, scope: _ScopeDraft, name: str, pointer: str) -> None:
        if name not in self._drafts:
            message = f"The result is said to be the output of stage {name!r}, which is not in the pipeline."
            self._report("unknown_stage", message, pointer, found=name, nearest=nearest(name, self._drafts))
        elif self._place[name][0] is not scope:
            owner = self._place[name][0].node.owner
            message = (
                f"Stage {name!r} runs once per item of {owner!r}, so it cannot be the result; take {owner!r} itself."
            )
            self._report("border_crossing", message, pointer)
        else:
            scope.result = name

    def _result_of_iteration(self, scope: _ScopeDraft) -> None:
        owner = self._drafts[scope.node.owner or ""]
        collect = owner.late.get("collect")
        if not scope.node.members:
            message = f"The body of {owner.id!r} is empty: name at least one stage in 'loop_stages'."
            self._report("empty_body", message, f"{owner.pointer}/config")
            return
        terminals = self._terminals(scope.node)
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

    def _place_callees(self) -> None:
        """Give the called pipelines' scopes their positions, behind the scopes of this one."""
        position = len(self._scopes)
        for draft in self._drafts.values():
            if draft.callee is not None:
                self._callee_scope[draft.id] = position
                position += len(draft.callee.scopes) + (draft.mapping is not None)

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check_cycles(self) -> None:
        for scope in self._scopes:
            for region in scope.regions:
                ring = find_cycle(region.members, self._edges.waits)
                if ring is None:
                    continue
                pointer = self._edges.waits[ring[0]][ring[1]]
                words = " → ".join(ring if len(ring) <= MOST_NAMES else [*ring[:MOST_NAMES], "…", ring[-1]])
                message = f"These stages wait for each other: {words} (each for the next)."
                self._report("cycle", message, pointer, found=words)

    def _schema(self, schema: Mapping[str, Any] | None, pointer: str) -> InputSchema | None:
        if schema is None:
            return None
        problems = check_schema(schema)
        for problem in problems:
            self._report(
                problem.code, problem.message, pointer + problem.path, expected=problem.expected, hint=problem.hint
            )
        return None if problems else InputSchema(schema)

    # -- the plan itself ----------------------------------------------------------------------------------------------

    def _scope_plan(self, scope: _ScopeDraft) -> ScopePlan:
        region_index = {id(node): i for i, node in enumerate(scope.regions)}
        bodies: dict[str, dict[str, int]] = defaultdict(dict)
        for node in scope.regions:
            if node is not scope.node and node.owner is not None and node.body is not None:
                bodies[node.owner][node.body.name] = region_index[id(node)]
        stages = tuple(self._plan_stage(scope, name, i, region_index, bodies) for i, name in enumerate(scope.ids))
        downstream: list[list[int]] = [[] for _ in stages]
        for stage in stages:
            for above in stage.waits_for:
                downstream[above].append(stage.index)
        regions = tuple(
            Region(
                name=node.body.name if node.body and node is not scope.node else "",
                owner=None if node is scope.node else self._place[node.owner or ""][1],
                members=tuple(sorted(self._place[m][1] for m in node.members)),
                terminals=tuple(sorted(self._place[m][1] for m in self._terminals(node))),
            )
            for node in scope.regions
        )
        nested: list[list[int]] = [[] for _ in stages]
        for i, region in enumerate(regions):
            if region.owner is not None:
                nested[region.owner].append(i)
        hidden = len(scope.ids) - 1 if scope.hidden is not None else None
        result = hidden if hidden is not None else self._place[scope.result][1] if scope.result is not None else None
        return ScopePlan(
            index=scope.index,
            parent=scope.parent.index if scope.parent else None,
            owner=self._place[scope.node.owner][1] if scope.node.owner else None,
            stages=stages,
            regions=regions,
            downstream=tuple(tuple(d) for d in downstream),
            waiting=tuple(len(stage.waits_for) for stage in stages),
            nested=tuple(tuple(n) for n in nested),
            remaining=tuple(len(region.members) for region in regions),
            variables=scope.node.body.variables if scope.node.body else (),
            result=result,
            result_hidden=hidden is not None,
            isolated=scope.parent is None,
        )

    def _plan_stage(
        self,
        scope: _ScopeDraft,
        name: str,
        index: int,
        region_index: Mapping[int, int],
        bodies: Mapping[str, Mapping[str, int]],
    ) -> PlanStage:
        hidden = scope.hidden if scope.hidden is not None and scope.hidden.id == name else None
        if hidden is not None:
            root = scope.parent is None
            return PlanStage(
                id=OUTPUT if root else COLLECT,
                index=index,
                region=-1,
                component=None,
                template=hidden.template,
                targets=self._targets(hidden, scope),
                roots=frozenset(self._edges.roots[name]),
                schema=self._output_schema if root else None,
                pointer=hidden.pointer,
            )
        draft = self._drafts[name]
        waits = self._edges.waits.get(name, {})
        return PlanStage(
            id=name,
            index=index,
            region=region_index[id(self._bodies.home[name])],
            template=draft.template,
            fixed=draft.fixed,
            when=draft.when,
            targets=self._targets(draft, scope),
            roots=frozenset(self._edges.roots[name]),
            upstreams=tuple(self._target(u, scope) for u in self._edges.upstreams.get(name, ())),
            waits_for=tuple(sorted(self._place[above][1] for above in waits)),
            construct=draft.construct,
            bodies={b.name: bodies[name][b.name] for b in draft.shape.bodies if not b.loop},  # in the order written
            body_scope=self._body_scope.get(name, self._callee_scope.get(name)),
            schema=self._checked_by(draft),
            options=draft.shape.options,
            pointer=draft.pointer,
            **self._placement(draft, scope),
            llm=_with_prompts(
                _model_settings(draft, self._pipeline, self._models, self._report), draft, self._prompts, self._report
            ),
            **_execution(draft, self._pipeline, self._report),
        )

    def _placement(self, draft: Draft, scope: _ScopeDraft) -> dict[str, Any]:
        said = draft.spec.placement if draft.spec else None
        if draft.spec is not None and draft.spec.resources is not None:
            check_labels(draft.spec.resources.labels, f"{draft.pointer}/resources/labels", self._report)
        if said is None:
            return {}
        near = None if said.near is None else self._placing.near(draft, said.near)
        self._placing.check(draft, said)
        return {
            "near": self._target(near.stage, scope) if near and near.stage else near.dataset if near else None,
            "strategy": said.strategy,
            "gang": said.gang,
            "fuse": said.fuse,
        }

    def _checked_by(self, draft: Draft) -> InputSchema | None:
        """Return what the stage's own value must satisfy: a call's input, a `return`'s output."""
        if draft.callee is not None:
            return draft.callee.input_schema
        returns = draft.component is not None and draft.component.name == "return"
        return self._output_schema if returns else None

    @cached_property
    def _output_schema(self) -> InputSchema | None:
        return self._schema(self._pipeline.output_schema, "/output_schema")

    def _targets(self, draft: Draft, scope: _ScopeDraft) -> dict[str, Target]:
        names = {str(r.path[0]) for _, r in draft.references() if r.root == "stages" and r.path}
        return {name: self._target(name, scope) for name in names if name in self._place}

    def _target(self, name: str, scope: _ScopeDraft) -> Target:
        goal, index = self._place[name]
        levels = 0
        around: _ScopeDraft | None = scope
        while around is not goal and around is not None:
            levels += 1
            around = around.parent
        return Target(levels, index)


def _execution(draft: Draft, pipeline: Pipeline, report: Report) -> dict[str, Any]:
    """Return how a stage is run: what it says itself, else the pipeline's defaults, else the component's."""
    spec, component, defaults = draft.spec, draft.component, pipeline.defaults
    assert spec is not None
    timeout_ms = spec.timeout_ms or defaults.timeout_ms
    resources: dict[str, Any] = {**(component.resources if component else {})}
    for said in (defaults.resources, spec.resources):
        if said is not None:
            resources.update(said.model_dump(exclude_unset=True))
    effect = Effect(spec.effect) if spec.effect else component.effect if component else Effect.PURE
    return {
        "component": component,
        "enabled": spec.enabled,
        "retry": _retry(spec.retry or defaults.retry),
        "timeout_s": None if timeout_ms is None else timeout_ms / 1000,
        "on_error": spec.on_error,
        "fallback_output": spec.fallback_output,
        "effect": effect,
        "cache": plan_cache(draft, effect, pipeline, report),
        "cost": component.cost if component else Cost.TRIVIAL,
        "resources": resources,
    }


def _model_settings(
    draft: Draft, pipeline: Pipeline, choose: ModelChoice | None, report: Report
) -> Mapping[str, Any] | None:
    """Return a stage's effective `llm_settings`; None when it is not known to use models."""
    spec, component = draft.spec, draft.component
    assert spec is not None
    if spec.llm_settings is None and (component is None or component.kind is not Kind.NODE):
        return None
    layers: list[Mapping[str, Any]] = []
    said = ((pipeline.defaults.llm_settings, "/defaults"), (spec.llm_settings, draft.pointer))
    for settings, pointer in said:
        if settings is None:
            continue
        layers.append(settings.model_dump(exclude_none=True, exclude={"extensions"}))
        if choose is None:
            continue
        try:
            choose(layers)
        except InvalidPipeline as exc:
            for problem in exc.problems:
                where = f"{pointer}/llm_settings{problem.path}"
                report(problem.code, problem.message, where, nearest=problem.nearest, hint=problem.hint)
            return None  # the pipeline's own mistake is reported for each stage, and kept once (`try_plan`)
    if choose is not None:
        return choose(layers)
    return {name: value for layer in layers for name, value in layer.items()}


def _with_prompts(
    settings: Mapping[str, Any] | None, draft: Draft, choose: PromptChoice | None, report: Report
) -> Mapping[str, Any] | None:
    """Return a stage's model settings with the text of its prompts, so that the text goes where the stage goes."""
    if choose is None or draft.component is None or not draft.component.prompts:
        return settings
    version = draft.fixed.get("prompt_version")
    try:
        found = choose(draft.component.prompts, None if version is None else str(version))
    except InvalidPipeline as exc:
        said = "prompt_version" in draft.fixed
        for problem in exc.problems:
            where = f"{draft.pointer}/config/prompt_version" if said else draft.pointer
            # The pipeline is where it is told; the prompt's own file, if that is what is wrong, stands in the message.
            message = f"{problem.message} ({problem.file})" if problem.file else problem.message
            report(problem.code, message, where, nearest=problem.nearest, hint=problem.hint)
        return settings
    return {**(settings or {}), "prompts": found}


_ONCE = RetryPolicy()


def _retry(retry: RetrySpec | None) -> RetryPolicy:
    if retry is None:
        return _ONCE
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_delay_s=retry.initial_delay_ms / 1000,
        max_delay_s=retry.max_delay_ms / 1000,
        backoff_multiplier=retry.backoff_multiplier,
        jitter=retry.jitter,
        retry_on=frozenset(retry.retry_on),
    )


_PLAIN_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(-+[A-Za-z0-9_]+)*")
"""Ids that can follow a dot: that spelling is parsed ten times as fast, which ten thousand terminal stages notice."""


def _reference(stage: str) -> str:
    return "{{ stages." + stage + " }}" if _PLAIN_ID.fullmatch(stage) else "{{ stages['" + stage + "'] }}"


def _object_of(stages: list[str]) -> Template:
    return parse_template({stage: _reference(stage) for stage in stages})


_NO_MEANING = ("$schema", "description", "tags", "category", "metadata", "sample_input", "triggers")
_NO_MEANING_IN_STAGE = ("name", "description", "position", "metadata")


def _digest(data: Mapping[str, Any], drafts: Mapping[str, Draft]) -> str:
    def written(item: Mapping[str, Any], without: tuple[str, ...]) -> dict[str, Any]:
        return {k: v for k, v in item.items() if k not in without and not k.startswith("x-")}

    stages: list[dict[str, Any]] = list(data.get("stages", ()))
    meaning = written(data, (*_NO_MEANING, "stages"))
    meaning["stages"] = sorted((written(s, _NO_MEANING_IN_STAGE) for s in stages), key=lambda s: str(s.get("id")))
    composed: list[dict[str, Any]] = list(data.get("compositions", ()))
    if composed:
        meaning["compositions"] = sorted(composed, key=lambda c: str(c.get("id")))
    meaning["calls"] = sorted({d.callee.digest for d in drafts.values() if d.callee})
    meaning["components"] = sorted({(d.component.name, d.component.version) for d in drafts.values() if d.component})
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return sha256(orjson.dumps(meaning, option=options, default=str)).hexdigest()
