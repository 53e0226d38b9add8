"""The end of a run that did not succeed, in one block: which stage, why, where it is written, and what to do next."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowmason_ray.cli.problem_report import ProblemReport, shown_place
from flowmason_ray.cli.terminal import note, painter
from flowmason_ray.errors import InvalidPipeline, place_of

if TYPE_CHECKING:
    from flowmason_ray.api import RunResult
    from flowmason_ray.engine.plan import Plan, PlanStage
    from flowmason_ray.errors import Failure
    from flowmason_ray.spec.loader import LoadedPipeline

_POSITION = re.compile(r"\[\d+\]")
MOST_TRACEBACK_LINES = 20


def print_failure(result: RunResult, plan: Plan, loaded: LoadedPipeline, *, stored: bool) -> None:
    """Write the block to stderr."""
    failure = result.failure
    assert failure is not None
    if result.status == "cancelled":
        note(failure.message)
        return
    note()
    note(_headed(failure, plan, loaded))
    paint = painter(sys.stderr)
    if failure.traceback:
        note(paint("   In the component:", "dim"))
        lines = failure.traceback.rstrip().splitlines()
        if len(lines) > MOST_TRACEBACK_LINES:
            lines = [f"  … {len(lines) - MOST_TRACEBACK_LINES} lines", *lines[-MOST_TRACEBACK_LINES:]]
        note("\n".join(f"   {line}" for line in lines))
    others = [
        path
        for path, stage in result.stages.items()
        # What failed only because this stage lies in it is no other failure.
        if stage.failure is not None and stage.status == "failed" and stage.failure.stage != failure.stage
    ]
    if others:
        note(f"   Also failed: {_listed(others)}.")
    if stored:
        words = ["fm", "runs", "story", result.run_id, *([failure.stage] if _is_written(failure.stage) else [])]
        note(f"   {paint('=', 'blue')} What happened, step by step: {paint(shlex.join(words), 'bold')}")
    note()


def _headed(failure: Failure, plan: Plan, loaded: LoadedPipeline) -> str:
    from flowmason_ray.errors import Problem

    stage = failure.stage
    written = written_at(plan, loaded, stage)
    place = written[-1][0].problem(failure.code, "", written[-1][1]) if written else None
    if _is_written(stage):
        after = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
        what = f"Stage {stage!r} failed{after}: {failure.message}"
    elif stage:
        result = place_of(stage)
        what = f"{result[0].upper()}{result[1:]} cannot be made: {failure.message}"
    else:
        what = failure.message
    message, _, more = what.partition("\n")
    problem = Problem(
        code=failure.code,
        message=message,
        file=place.file if place else loaded.source.file,
        line=place.line if place else None,
        column=place.column if place else None,
        chain=place.chain if place else None,
    )
    paint = painter(sys.stderr)
    text = ProblemReport(paint).text(problem)
    for caller, pointer in reversed(written[:-1]):
        call = caller.problem(failure.code, "", pointer)
        if call.file is not None:
            text += f"\n   {paint('=', 'blue')} called at {shown_place(f'{call.file}:{call.line}')}"
    return f"{text}\n{more.rstrip()}" if more.strip() else text


def _is_written(stage: str) -> bool:
    """Whether a path names a stage that somebody wrote, not one that only makes a result."""
    return bool(stage) and not stage.rpartition("/")[2].startswith("$")


def written_at(plan: Plan, loaded: LoadedPipeline, path: str) -> list[tuple[LoadedPipeline, str]]:
    """Return the pipeline, and the JSON pointer in it, of the stage that a path is an instance of; nothing if it cannot be told.

    A stage of a composed or called pipeline lies in that one; before it come the stages that call, from the outside in. Where
    a called pipeline can no longer be found, the stage that calls it is the last.
    """
    scope, here = plan.root, loaded
    calls: list[tuple[LoadedPipeline, str]] = []
    found: list[tuple[LoadedPipeline, str]] = []
    for name in _POSITION.sub("", path).split("/"):
        stage = next((stage for stage in scope.stages if stage.id == name), None)
        if stage is None:
            return found
        found = [*calls, (here, stage.pointer)]
        if stage.body_scope is not None:
            scope = plan.scopes[stage.body_scope]
            if scope.isolated:
                callee = _called(stage, here)
                if callee is None:
                    return found
                calls.append(found[-1])
                here = callee
    return found


def _called(stage: PlanStage, caller: LoadedPipeline) -> LoadedPipeline | None:
    """Return the pipeline that a stage calls, as long as it is the one that was planned."""
    from flowmason_ray.engine.control_flow.subpipeline import CallOptions
    from flowmason_ray.settings import find_project
    from flowmason_ray.wiring import library_of

    options, file = stage.options, caller.source.file
    if not isinstance(options, CallOptions):
        return None
    try:
        callee = library_of(find_project(Path(file) if file else Path.cwd()))(options.pipeline, file)
    except InvalidPipeline:
        return None
    same = f"{callee.pipeline.name}@{callee.pipeline.version}" == options.called
    return callee if same else None


def _listed(paths: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(paths[:most])
    return f"{shown} and {len(paths) - most:,} more" if len(paths) > most else shown
