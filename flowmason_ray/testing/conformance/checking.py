"""What a scenario is, and how it is held against an executor: by the engine's own runner, with a log in memory."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from time import monotonic, time
from typing import Any

from flowmason_ray.engine.events import Event, RunCancelled, RunSucceeded, StageFailed, StageLogged, StageStarted
from flowmason_ray.engine.executor import Executor, RunInfo
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.planning import make_plan
from flowmason_ray.engine.run_log import RunRecord
from flowmason_ray.engine.runner import Runner
from flowmason_ray.engine.secrecy import Secret
from flowmason_ray.engine.summary import StageSummary, Summary
from flowmason_ray.errors import Failure
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.spec.loader import load_pipeline_data
from flowmason_ray.stores.memory import MemoryRunStore
from flowmason_ray.testing.conformance.components import catalogue

RUN_ID = "r_conformance"
SEED = 20_240_102
PASSWORD = "correct horse"
REGION = "eu-north-1"
LONGEST_S = 120.0
"""After this a scenario has not ended: generous, because an executor may have to start workers."""
TRIES = 5
"""How often a scenario is run that took too long: a busy machine may hold up any of them, but an executor that is slow always is."""


class Capability(StrEnum):
    """What an executor need not have. Everything else is required of all."""

    FRAMES = "frames"
    """Carries polars frames (polars and pyarrow are installed)."""
    SURVIVES_EXIT = "survives_exit"
    """A component that ends its process ends one attempt, not the run."""
    ENDS_C_CALLS = "ends_c_calls"
    """Stops a call that Python cannot interrupt for real."""


class TooSlow(AssertionError):
    """A scenario took longer than it may: raised by its judge before anything else is judged. It is tried again (`TRIES`)."""


class NotCapable(Exception):
    """The scenario needs what the executor need not have; a suite skips it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a scenario's run."""

    status: str
    output: Any
    failure: Failure | None
    stages: Mapping[str, StageSummary]
    events: Sequence[Event]
    """Everything that was recorded, and what was live."""
    duration_s: float
    """From the first start of an attempt to the end of the run; 0 when none was started."""
    after_cancel_s: float
    """From the request to cancel to the end of the run; 0 when nobody cancelled."""
    project_dir: Path

    def statuses(self) -> dict[str, str]:
        """Return how each stage instance ended."""
        return {path: summary.status for path, summary in self.stages.items()}

    def failures(self, path: str) -> list[Failure]:
        """Return how the attempts of an instance failed, in order."""
        return [e.failure for e in self.events if isinstance(e, StageFailed) and e.path == path]

    def logged(self, path: str) -> list[tuple[str, str]]:
        """Return what an instance logged: (level, message)."""
        return [(e.level, e.message) for e in self.events if isinstance(e, StageLogged) and e.path == path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A pipeline and what must come of it, wherever it runs."""

    name: str
    pipeline: Mapping[str, Any]
    judge: Callable[[Outcome], None]
    """Raises AssertionError; `TooSlow` when nothing but the time that it took is wrong, as far as it has looked."""
    input: Mapping[str, Any] = field(default_factory=dict[str, Any])
    needs: frozenset[Capability] = frozenset()
    cancel_when: Callable[[Event], bool] | None = None
    """The run is cancelled as soon as an event is like this."""

    def fused(self, fuse: str) -> Scenario:
        """Return the scenario with `placement.fuse` on every stage; it must come to the same."""
        pipeline = copy.deepcopy(dict(self.pipeline))
        for stage in pipeline["stages"]:
            stage["placement"] = {"fuse": fuse}
        return replace(self, name=f"{self.name}-fuse-{fuse}", pipeline=pipeline)


def plan_of(scenario: Scenario) -> Plan:
    """Return the plan of a scenario."""
    return make_plan(load_pipeline_data(scenario.pipeline), catalogue(), env=["REGION"], secrets=["PASSWORD"])


async def run_scenario(scenario: Scenario, make_executor: Callable[[], Executor], project_dir: Path) -> Outcome:
    """Run a scenario and return what came of it."""
    plan = plan_of(scenario)
    run = RunInfo(
        run_id=RUN_ID,
        pipeline=plan.name,
        version=plan.version,
        started_at=time(),
        seed=SEED,
        input=dict(scenario.input),
        project_dir=project_dir,
        settings=ProjectSettings(name="conformance"),
        env={"REGION": REGION},
        secrets={"PASSWORD": Secret(PASSWORD)},
    )
    record = RunRecord(
        run_id=RUN_ID, pipeline=plan.name, version=plan.version, status="running", created_at=run.started_at
    )
    summary, events = Summary(), list[Event]()
    started = cancelled = 0.0

    def follow(event: Event) -> None:
        nonlocal started, cancelled
        events.append(event)
        if not started and isinstance(event, StageStarted):
            started = monotonic()
        if scenario.cancel_when is not None and not cancelled and scenario.cancel_when(event):
            cancelled = monotonic()
            runner.cancel()

    log = MemoryRunStore().create(record)
    runner = Runner(plan, make_executor(), log, run, observers=[summary, follow])
    async with asyncio.timeout(LONGEST_S):
        ended = await runner.run()
    now = monotonic()
    succeeded = isinstance(ended.event, RunSucceeded)
    return Outcome(
        status="succeeded" if succeeded else "cancelled" if isinstance(ended.event, RunCancelled) else "failed",
        output=ended.value,
        failure=None if succeeded else getattr(ended.event, "failure", None),
        stages=summary.stages,
        events=events,
        duration_s=now - started if started else 0.0,
        after_cancel_s=now - cancelled if cancelled else 0.0,
        project_dir=project_dir,
    )


async def check(
    scenario: Scenario,
    make_executor: Callable[[], Executor],
    *,
    project_dir: Path,
    capabilities: frozenset[Capability] = frozenset(),
) -> None:
    """Hold one scenario against an executor.

    Args:
        scenario: One of `scenarios()`.
        make_executor: Makes a new executor for one run.
        project_dir: An empty directory that the executor's workers can write to.
        capabilities: What the executor has besides what is required.

    Raises:
        AssertionError: the executor does something else than the scenario says.
        NotCapable: the scenario needs a capability that is not among `capabilities`.
    """
    missing = scenario.needs - capabilities
    if missing:
        raise NotCapable(f"{scenario.name} needs: {', '.join(sorted(missing))}")
    for again in range(1, TRIES + 1):
        outcome = await run_scenario(scenario, make_executor, project_dir)
        try:
            scenario.judge(outcome)
            return
        except AssertionError as exc:
            if not isinstance(exc, TooSlow) or again == TRIES:
                said = (
                    f"{outcome.status}, output {outcome.output!r:.500}, failure {outcome.failure}, {outcome.statuses()}"
                )
                raise AssertionError(f"{scenario.name}: {exc}\nThe run: {said}") from exc
        project_dir = project_dir / "again"  # marks of a run that was stopped late shall not be found by the next
        project_dir.mkdir()


async def check_nothing_is_left(make_executor: Callable[[], Executor], *, project_dir: Path, rounds: int = 5) -> None:
    """Run a pipeline several times, and a cancelled one, and see that threads and tasks do not add up.

    Raises:
        AssertionError: there are more of them than after the first run.
    """
    from flowmason_ray.testing.conformance.scenarios import scenarios

    chosen = [s for s in scenarios() if s.name in ("fan_out_and_in", "a_cancelled_run_ends_within_a_second")]
    for scenario in chosen:
        await run_scenario(scenario, make_executor, project_dir)
    before = await _settled(0, within_s=2)
    for _ in range(rounds):
        for scenario in chosen:
            await run_scenario(scenario, make_executor, project_dir)
    after = await _settled(before, within_s=60)
    assert after <= before, f"{after} threads and tasks after {rounds} more runs, {before} before them"


async def _settled(goal: int, *, within_s: float) -> int:
    """Return how many threads and tasks there are, once they are as few as `goal` or the time has passed."""
    until = monotonic() + within_s
    while True:
        count = threading.active_count() + len(asyncio.all_tasks())
        if count <= goal or monotonic() > until:
            return count
        await asyncio.sleep(0.05)
