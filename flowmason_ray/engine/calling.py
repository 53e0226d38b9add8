"""Pipelines that call pipelines: the called one is planned by itself and becomes scopes of the caller's plan.

Each call has scopes of its own, so that a plan stays a tree; a chain of calls that comes back to itself is refused with the
chain named. What is wrong in a called pipeline is reported with its own file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flowmason_ray.engine.composing import describe_contract, settle_mapping
from flowmason_ray.engine.control_flow.subpipeline import CallOptions, Subpipeline
from flowmason_ray.engine.plan import Plan, ScopePlan
from flowmason_ray.errors import InvalidPipeline, Problem

if TYPE_CHECKING:
    from flowmason_ray.engine.drafts import Draft, Report
    from flowmason_ray.spec.loader import LoadedPipeline

MAX_DEPTH = 32
"""How deep calls may nest: each level is a copy of the called pipeline's plan."""


NOT_FOUND = frozenset({"pipeline_not_found", "ambiguous_pipeline", "invalid_range", "lock_mismatch"})
"""The codes of problems that lie in the reference, and not in the pipeline that was found."""


class PipelineFinder(Protocol):
    """Finds the pipeline that another one names."""

    def __call__(self, reference: str, from_file: str | None) -> LoadedPipeline:
        """Return the pipeline called `reference`: a name, `name@range`, or a path relative to `from_file`.

        Raises:
            InvalidPipeline: there is none, or it cannot be loaded.
        """
        ...


def plan_calls(
    drafts: Mapping[str, Draft],
    caller: LoadedPipeline,
    find: PipelineFinder | None,
    plan: Callable[[LoadedPipeline, Sequence[str], bool], tuple[Plan | None, list[Problem]]],
    within: Sequence[str],
    problems: list[Problem],
    report: Report,
) -> None:
    """Plan what every `subpipeline` stage and every composition calls, and put it into `draft.callee`.

    Args:
        drafts: The caller's stages.
        caller: The caller.
        find: How pipelines are found; None: they cannot be.
        plan: Plans a pipeline, given the names of those around it and whether it is composed.
        within: The names of the pipelines around the caller, itself included, from the outside in.
        problems: Takes what is wrong in the called pipelines.
        report: Takes what is wrong with the calls.
    """
    planned: dict[tuple[str, bool], Plan | None] = {}
    for draft in drafts.values():
        if not isinstance(draft.construct, Subpipeline):
            continue
        options: CallOptions | None = draft.shape.options
        if options is None:
            continue
        pointer = f"{draft.pointer}/config/pipeline"
        if find is None:
            report(
                "not_found", f"{draft.title} calls {options.pipeline!r}; here no pipeline can be looked up.", pointer
            )
            continue
        try:
            callee = find(options.pipeline, caller.source.file)
        except InvalidPipeline as exc:
            for problem in exc.problems:
                if problem.code in NOT_FOUND:
                    report(
                        problem.code,
                        f"{draft.title}: {problem.message}",
                        pointer,
                        found=problem.found,
                        nearest=problem.nearest,
                        hint=problem.hint,
                    )
                else:
                    problems.append(problem)
            continue
        name = identity(callee)
        if name in within:
            ring = " → ".join(map(_title, [*within[list(within).index(name) :], name]))
            report("recursive_pipeline", f"{draft.title} makes the pipeline call itself: {ring}.", pointer, found=ring)
            continue
        if len(within) >= MAX_DEPTH:
            report("nested_too_deeply", f"{draft.title} nests calls deeper than {MAX_DEPTH} levels.", pointer)
            continue
        if callee.pipeline.abstract:
            title = _title(name)
            message = f"{draft.title} runs {title}, which is abstract: it is there to be extended, not to be run."
            report("abstract_pipeline", message, pointer, found=title, hint="Name a pipeline that extends it.")
            continue
        composed = draft.composition is not None
        if (name, composed) not in planned:
            planned[name, composed], found = plan(callee, [*within, name], composed)
            problems.extend(found)
        draft.callee = planned[name, composed]
        if composed:
            describe_contract(draft, callee)
        if draft.callee is not None:
            called = f"{draft.callee.name}@{draft.callee.version}"
            limits = [limit for limit in (options.timeout_s, draft.callee.timeout_s) if limit is not None]
            options = replace(options, called=called, timeout_s=min(limits, default=None))
            draft.shape = replace(draft.shape, options=options)
            if composed:
                settle_mapping(draft, callee, draft.callee)


def identity(loaded: LoadedPipeline) -> str:
    """Return what tells one pipeline from another in a chain of calls: where it comes from, and what it is called."""
    file = str(Path(loaded.source.file).resolve()) if loaded.source.file else ""
    return f"{file}\n{loaded.pipeline.name}@{loaded.pipeline.version}"


def _title(name: str) -> str:
    return name.partition("\n")[2]


def embedded(callee: Plan, offset: int, parent: int, owner: int) -> tuple[ScopePlan, ...]:
    """Return a called plan's scopes as scopes of the caller: moved to `offset`, below stage `owner` of scope `parent`.

    The stages are copies, also where nothing moves: a pipeline may be called twice, and what belongs to a stage of one call (its
    path, what it reads) is kept by the stage's identity.
    """
    return tuple(
        replace(
            scope,
            index=scope.index + offset,
            parent=parent if scope.parent is None else scope.parent + offset,
            owner=owner if scope.parent is None else scope.owner,
            stages=tuple(
                replace(stage, body_scope=None if stage.body_scope is None else stage.body_scope + offset)
                for stage in scope.stages
            ),
        )
        for scope in callee.scopes
    )
