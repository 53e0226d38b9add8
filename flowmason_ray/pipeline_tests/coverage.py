"""Which stages and branches of a pipeline its tests have run: a reader of the events of their runs.

A stage counts as run when an attempt of it ended, mocked or not; skipped stages do not. Branches are what may go either way:
`when`, the bodies of constructs, a loop over no item, one or several, `return`, `break_loop` and `continue_loop` with a
condition, and a failure that the stage's `on_error` lets pass. Stages that are switched off do not count, and those of called
pipelines count where these have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flowmason_ray.engine.events import (
    BranchTaken,
    Event,
    LoopExpanded,
    SkipReason,
    StageEnded,
    StageFailed,
    StageReused,
    StageSkipped,
    StageSucceeded,
    Success,
)
from flowmason_ray.engine.plan import Plan, PlanStage, Region, ScopePlan
from flowmason_ray.pipeline_tests.stage_paths import PlannedStage, is_hidden, planned_stages, without_positions

LOOPS = ("no items", "one item", "several items")
_LEAVING = {"return": "returns", "break_loop": "taken", "continue_loop": "taken"}
"""Constructs that leave their scope: the fact of their decision that says whether they do."""
NO_BRANCH = "no branch"
"""A decision for none of the bodies."""


@dataclass(slots=True, kw_only=True)
class StageCoverage:
    """One stage of a pipeline."""

    path: str
    component: str
    line: int | None
    construct: bool = False
    """Whether it decides about other stages."""
    runs: int = 0
    """How many attempts ended, in all cases."""
    mocked: int = 0
    """How many of them a mock answered."""
    branches: dict[str, int] = field(default_factory=dict[str, int])
    """How often each branch was taken."""


@dataclass(slots=True, kw_only=True)
class PipelineCoverage:
    """One pipeline."""

    file: str
    name: str
    stages: dict[str, StageCoverage]
    """By path without positions."""

    @property
    def covered(self) -> int:
        """How many stages were run."""
        return sum(stage.runs > 0 for stage in self.stages.values())

    def branches(self) -> Iterator[tuple[StageCoverage, str, int]]:
        """Yield every branch: its stage, its name, how often it was taken."""
        for stage in self.stages.values():
            for name, taken in stage.branches.items():
                yield stage, name, taken


def percent(covered: int, total: int) -> float:
    """Return a share in percent, rounded down to a tenth so that 100 means all; 100 of nothing."""
    return 100.0 if total == 0 else (covered * 1000 // total) / 10


def stage_percent(coverage: Sequence[PipelineCoverage]) -> float:
    """Return how many percent of all stages of these pipelines were run."""
    return percent(sum(each.covered for each in coverage), sum(len(each.stages) for each in coverage))


def empty_coverage(plan: Plan, file: str, line_of: Callable[[str], int | None]) -> PipelineCoverage:
    """Return the coverage of a pipeline before its first test.

    Args:
        plan: The pipeline.
        file: Its file.
        line_of: Returns the line of a JSON pointer in it.
    """
    stages = {
        found.path: StageCoverage(
            path=found.path,
            component=found.stage.component.name if found.stage.component else "",
            line=line_of(found.stage.pointer),
            construct=found.stage.construct is not None,
            branches=dict.fromkeys(_branches_of(plan, found), 0),
        )
        for found in planned_stages(plan).values()
        if found.own and found.stage.enabled
    }
    return PipelineCoverage(file=file, name=plan.name, stages=stages)


def _branches_of(plan: Plan, found: PlannedStage) -> Iterator[str]:
    stage = found.stage
    name = stage.component.name if stage.component else ""
    if stage.when is not None:
        yield from ("when: true", "when: false")
    if stage.body_scope is not None and not plan.scopes[stage.body_scope].isolated:
        yield from LOOPS
    yield from _bodies(_scope_with(plan, stage), stage, name)
    if name in _LEAVING and _has_condition(stage):
        yield from ("leaves", "stays")
    if stage.on_error != "fail":
        yield "error"


def _bodies(scope: ScopePlan, stage: PlanStage, name: str) -> Iterator[str]:
    """Yield the bodies that have stages; of a decision also those without, because deciding for them is a case as well."""
    decides = name not in ("trycatch", "parallel")
    for body, region in stage.bodies.items():
        members: Region = scope.regions[region]
        if members.members or (decides and body != "default"):
            yield body
    if decides and stage.bodies and name != "conditional" and not _has_default(scope, stage):
        yield NO_BRANCH


def _has_default(scope: ScopePlan, stage: PlanStage) -> bool:
    return "default" in stage.bodies and bool(scope.regions[stage.bodies["default"]].members)


def _scope_with(plan: Plan, stage: PlanStage) -> ScopePlan:
    return next(scope for scope in plan.scopes if any(each is stage for each in scope.stages))


def _has_condition(stage: PlanStage) -> bool:
    written: Mapping[str, object] = {**stage.template.source, **stage.fixed}
    return any(key in written for key in ("condition", "condition_expression"))


class CoverageObserver:
    """Counts what one run runs, into the coverage of its pipeline."""

    def __init__(self, coverage: PipelineCoverage, mocked: set[str]) -> None:
        self._stages = coverage.stages
        self._mocked = mocked
        """The paths that mocks answered, so far."""

    def __call__(self, event: Event) -> None:
        """Take one event."""
        path: str | None = getattr(event, "path", None)
        if path is None or is_hidden(path):
            return
        stage = self._stages.get(without_positions(path))
        if stage is None:
            return
        if isinstance(event, (StageSucceeded, StageReused, StageFailed)):
            self._ran(stage, path, event)
        elif isinstance(event, StageSkipped):
            if event.reason is SkipReason.WHEN:
                _take(stage, "when: false")
        elif isinstance(event, BranchTaken):
            _take(stage, NO_BRANCH if event.branch is None else event.branch)
        elif isinstance(event, LoopExpanded):
            _take(stage, LOOPS[min(event.count, 2)])
        elif isinstance(event, StageEnded) and event.failure is not None and event.status in ("failed", "fallback"):
            _take(stage, "error")

    def _ran(self, stage: StageCoverage, path: str, event: Success | StageFailed) -> None:
        if stage.construct and not isinstance(event, StageFailed) and event.decision is None:
            return  # a construct reports twice: when it has decided, and when its value is there
        stage.runs += 1
        stage.mocked += path in self._mocked
        _take(stage, "when: true")
        if not isinstance(event, StageFailed) and stage.component in _LEAVING and event.decision is not None:
            _take(stage, "leaves" if event.decision.get(_LEAVING[stage.component]) else "stays")


def _take(stage: StageCoverage, branch: str) -> None:
    if branch in stage.branches:
        stage.branches[branch] += 1
