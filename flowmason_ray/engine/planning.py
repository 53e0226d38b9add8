"""Compiles a loaded pipeline into a `Plan`, or says everything that is wrong with it.

The steps, each in its own module: every stage by itself (`drafts`), which body it belongs to (`bodies`), which stage waits
for which (`edges`), whether what is read fits what it is read into (`type_check`), which position it has and what makes its
scope's value (`scopes`), with what it is run (`stage_settings`, `placing`). Here they are called, in this order, and what
they found is put together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from flowmason_ray.engine.bodies import Bodies, find_bodies
from flowmason_ray.engine.caching import check_default_cache
from flowmason_ray.engine.calling import PipelineFinder, embedded, identity, plan_calls
from flowmason_ray.engine.component import Catalogue, ComponentSpec
from flowmason_ray.engine.composing import draft_compositions, mapping_scope, written_pointer
from flowmason_ray.engine.drafts import Draft, Report, draft_stages, problem_sink
from flowmason_ray.engine.edges import EdgeFinder, Edges, Names, find_cycle
from flowmason_ray.engine.fusion import check_fusion
from flowmason_ray.engine.placing import Placing, check_labels
from flowmason_ray.engine.plan import Plan, PlanStage, Region, ScopePlan, Target
from flowmason_ray.engine.plan_digest import digest
from flowmason_ray.engine.reachability import check_reachability
from flowmason_ray.engine.scopes import COLLECT, OUTPUT, ScopeDraft, ScopeLayout
from flowmason_ray.engine.stage_settings import ModelChoice, PromptChoice, execution, model_settings, with_prompts
from flowmason_ray.engine.type_check import check_types
from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.input_schema import InputSchema, check_schema

if TYPE_CHECKING:
    from flowmason_ray.spec.loader import LoadedPipeline
    from flowmason_ray.spec.pipeline import Pipeline

ConfigCheck = Callable[["ComponentSpec", Mapping[str, Any]], Iterable["tuple[str, str, str, str | None]"]]
"""From a component and the config of a stage as it is written, what is wrong with it beside its shape: code, message, pointer within
the config, and the nearest of what it could have said."""

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


class _Planner:
    """Puts the plan of one pipeline together whose drafts and bodies are known."""

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
        self._layout = ScopeLayout(self._pipeline, drafts, bodies, self._finder.edges, report)
        self._callee_scope: dict[str, int] = {}
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
        self._layout.lay_out()
        hidden = [scope.hidden for scope in self._layout.scopes if scope.hidden is not None]
        for draft in hidden:
            self._finder.add(draft)
        self._finder.add_variables(hidden)
        self._check_cycles()
        check_reachability(self._drafts, self._bodies, self._edges, self._report)
        check_types(self._pipeline, self._drafts, self._bodies, hidden, self._report)
        input_schema = self._schema(self._pipeline.input_schema, "/input_schema")
        self._place_callees()
        self._placing = Placing(self._drafts, self._bodies, self._edges, self.datasets, self._report)
        scopes = [self._scope_plan(scope) for scope in self._layout.scopes]
        check_fusion((stage for scope in scopes for stage in scope.stages), self._report)
        for name, offset in self._callee_scope.items():
            draft = self._drafts[name]
            assert draft.callee is not None
            around, owner = self._layout.place[name]
            scopes.extend(embedded(draft.callee, offset, around.index, owner))
            if draft.mapping is not None:
                scopes.append(mapping_scope(draft, draft.mapping, len(scopes), parent=around.index, owner=owner))
        pipeline = self._pipeline
        return Plan(
            name=pipeline.name,
            version=pipeline.version,
            digest=digest(self._loaded.data, self._drafts),
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

    def _place_callees(self) -> None:
        """Give the called pipelines' scopes their positions, behind the scopes of this one."""
        position = len(self._layout.scopes)
        for draft in self._drafts.values():
            if draft.callee is not None:
                self._callee_scope[draft.id] = position
                position += len(draft.callee.scopes) + (draft.mapping is not None)

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check_cycles(self) -> None:
        for scope in self._layout.scopes:
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
                problem.code,
                problem.message,
                pointer + problem.path,
                expected=problem.expected,
                hint=problem.hint,
                nearest=problem.nearest,
                severity=problem.severity,
            )
        return None if any(problem.severity == "error" for problem in problems) else InputSchema(schema)

    # -- the plan itself ----------------------------------------------------------------------------------------------

    def _scope_plan(self, scope: ScopeDraft) -> ScopePlan:
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
                owner=None if node is scope.node else self._layout.place[node.owner or ""][1],
                members=tuple(sorted(self._layout.place[m][1] for m in node.members)),
                terminals=tuple(sorted(self._layout.place[m][1] for m in self._layout.terminals(node))),
            )
            for node in scope.regions
        )
        nested: list[list[int]] = [[] for _ in stages]
        for i, region in enumerate(regions):
            if region.owner is not None:
                nested[region.owner].append(i)
        hidden = len(scope.ids) - 1 if scope.hidden is not None else None
        result = (
            hidden if hidden is not None else self._layout.place[scope.result][1] if scope.result is not None else None
        )
        return ScopePlan(
            index=scope.index,
            parent=scope.parent.index if scope.parent else None,
            owner=self._layout.place[scope.node.owner][1] if scope.node.owner else None,
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
        scope: ScopeDraft,
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
            upstreams=tuple(self._layout.target(u, scope) for u in self._edges.upstreams.get(name, ())),
            waits_for=tuple(sorted(self._layout.place[above][1] for above in waits)),
            construct=draft.construct,
            bodies={b.name: bodies[name][b.name] for b in draft.shape.bodies if not b.loop},  # in the order written
            body_scope=self._layout.body_scope.get(name, self._callee_scope.get(name)),
            schema=self._checked_by(draft),
            options=draft.shape.options,
            pointer=draft.pointer,
            **self._placement(draft, scope),
            llm=with_prompts(
                model_settings(draft, self._pipeline, self._models, self._report), draft, self._prompts, self._report
            ),
            **execution(draft, self._pipeline, self._report),
        )

    def _placement(self, draft: Draft, scope: ScopeDraft) -> dict[str, Any]:
        said = draft.spec.placement if draft.spec else None
        if draft.spec is not None and draft.spec.resources is not None:
            check_labels(draft.spec.resources.labels, f"{draft.pointer}/resources/labels", self._report)
        if said is None:
            return {}
        near = None if said.near is None else self._placing.near(draft, said.near)
        self._placing.check(draft, said)
        return {
            "near": self._layout.target(near.stage, scope) if near and near.stage else near.dataset if near else None,
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

    def _targets(self, draft: Draft, scope: ScopeDraft) -> dict[str, Target]:
        names = {str(r.path[0]) for _, r in draft.references() if r.root == "stages" and r.path}
        return {name: self._layout.target(name, scope) for name in names if name in self._layout.place}
