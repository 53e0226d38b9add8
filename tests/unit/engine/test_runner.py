"""The runner between executor and log: what is durable when, late reports, and a log that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

import pytest

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage
from flowmason_ray.engine.events import Event, RunFailed, StageFailed, StageLogged, StageStopped, StageSucceeded
from flowmason_ray.engine.executor import Deliver, RunInfo
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.run_log import Request
from flowmason_ray.engine.runner import Durability, Ended, Runner
from flowmason_ray.errors import Failure, FlowMasonError, StoreUnavailable
from tests.engine_kit import plan_of, stage

INFO = RunInfo(run_id="r", pipeline="p", version="1", started_at=1.0, seed=1, input={})


class Log:
    """A log whose flushes are slow, or fail; it notes when it was flushed, between the events."""

    durable = True
    remembers = False
    epoch = 1
    asked_before = 0

    def __init__(self, *, fails: bool = False, slow_s: float = 0.0) -> None:
        self.story: list[str] = []
        self.closed = False
        self._fails = fails
        self._slow_s = slow_s

    def append(self, event: Event) -> None:
        path = getattr(event, "path", "")
        self.story.append(f"{event.kind} {path}".strip())

    async def flush(self) -> None:
        await asyncio.sleep(self._slow_s)
        if self._fails:
            raise StoreUnavailable("The disk is full.")
        self.story.append("flushed")

    def say(self, said: StageLogged) -> None:
        raise AssertionError("no stage here says anything")

    def check_lease(self) -> None:
        """Nobody else wants the run."""

    def keep_result(self, fingerprint: str, event: StageSucceeded, *, ttl_s: float | None) -> None:
        raise AssertionError("no stage here is cached")

    async def kept_result(self, fingerprint: str) -> None:
        raise AssertionError("no stage here is cached")

    async def requests(self, *, after: int) -> Sequence[Request]:
        return ()

    async def close(self) -> None:
        self.closed = True


class Scripted:
    """An executor that answers as `answer(command, deliver)` says."""

    tells_beginning = False

    def __init__(self, log: Log, answer: Callable[[StartStage, Deliver], Event | None] | None = None) -> None:
        self._log = log
        self._answer = answer
        self.open_now = False

    async def __aenter__(self) -> Self:
        self.open_now = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.open_now = False

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        self._deliver = deliver

    def start(self, command: StartStage) -> Event | None:
        self._log.story.append(f"begin {command.path}")
        return ok(command) if self._answer is None else self._answer(command, self._deliver)

    def gather(self, command: GatherResults) -> Event | None:
        return StageSucceeded(path=command.path, attempt=command.attempt, value={**command.head, **command.parts})

    def cancel(self, command: CancelStage) -> None:
        self._log.story.append(f"stop {command.path}")
        self._deliver(StageStopped(path=command.path, attempt=command.attempt))

    async def fetch(self, handle: Any) -> Any:
        if isinstance(handle, FlowMasonError):
            raise handle
        return handle


def ok(command: StartStage, value: Any = None) -> StageSucceeded:
    return StageSucceeded(path=command.path, attempt=command.attempt, value=value or {})


def go(plan: Plan, log: Log, executor: Scripted | None = None, *, durability: Durability = "run") -> Ended:
    made = executor or Scripted(log)
    try:
        return asyncio.run(Runner(plan, made, log, INFO, durability=durability).run())
    finally:
        assert log.closed, "whatever happens"
        assert not made.open_now


EFFECTS = (stage("a"), stage("b", after="a", effect="idempotent"), stage("c", after="b"))


def test_everything_is_durable_before_an_effect_and_pure_stages_never_wait() -> None:
    log = Log()
    go(plan_of(*EFFECTS), log)
    assert log.story == [
        "run_created",
        "stage_started a",
        "begin a",
        "stage_succeeded a",
        "stage_started b",
        "flushed",
        "begin b",
        "stage_succeeded b",
        "stage_started c",
        "begin c",
        "stage_succeeded c",
        "run_succeeded",
        "flushed",
    ]


@pytest.mark.parametrize(("durability", "flushes"), [("none", 1), ("run", 2), ("stage", 4)])
def test_how_often_is_flushed(durability: Durability, flushes: int) -> None:
    log = Log()
    go(plan_of(*EFFECTS), log, durability=durability)
    assert log.story.count("flushed") == flushes
    assert log.story[-1] == "flushed", "a run is over when its end is durable"


def test_effects_that_start_together_share_a_flush() -> None:
    log = Log(slow_s=0.01)
    go(plan_of(*(stage(f"s{i}", effect="effectful") for i in range(5)), output=1), log)
    assert log.story.count("flushed") == 2


async def cancelled_in_flush(log: Log, turns: int) -> Ended:
    """Run one effect, and cancel the run while its start is being written: so many turns of the loop, and one, before that is over."""
    runner = Runner(plan_of(stage("a", effect="effectful")), Scripted(log), log, INFO)
    flush = log.flush

    async def cancelling() -> None:
        runner.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        await flush()

    log.flush = cancelling
    return await runner.run()


def test_an_effect_does_not_begin_that_was_cancelled_just_before() -> None:
    ended = asyncio.run(cancelled_in_flush(log := Log(), turns=0))
    assert ended.event.kind == "run_cancelled"
    assert "begin a" not in log.story


def test_an_effect_that_waits_for_the_disk_can_be_cancelled_and_never_begins() -> None:
    ended = asyncio.run(cancelled_in_flush(log := Log(), turns=10))
    assert ended.event.kind == "run_cancelled"
    assert "begin a" not in log.story


def test_a_log_that_cannot_be_written_ends_the_run_before_the_effect() -> None:
    log = Log(fails=True)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        go(plan_of(*EFFECTS), log)
    assert "begin b" not in log.story


def test_a_log_that_cannot_record_the_end_is_an_error() -> None:
    with pytest.raises(StoreUnavailable):
        go(plan_of(stage("a")), Log(fails=True))


def test_a_late_report_does_not_take_away_the_next_attempts_deadline() -> None:
    log = Log()

    def answer(command: StartStage, deliver: Deliver) -> Event | None:
        if command.attempt == 1:
            return StageFailed(path="a", attempt=1, failure=Failure(code="x", message="m"))
        deliver(StageFailed(path="a", attempt=1, failure=Failure(code="late", message="m")))
        return None  # the second attempt never ends by itself

    retry = {"max_attempts": 2, "initial_delay_ms": 1}
    ended = go(plan_of(stage("a", retry=retry, timeout_ms=30)), log, Scripted(log, answer))
    assert isinstance(ended.event, RunFailed)
    assert ended.event.failure.code == "timeout"
    assert "stop a" in log.story


def test_a_result_that_cannot_be_fetched_fails_the_run() -> None:
    log = Log()
    lost = StoreUnavailable("The node has gone.")
    ended = go(plan_of(stage("a")), log, Scripted(log, lambda command, deliver: ok(command, lost)))
    assert isinstance(ended.event, RunFailed)
    assert ended.event.failure.code == "store_unavailable"
    assert log.story[-2:] == ["run_failed", "flushed"]


def test_ten_thousand_reports_at_once_leave_room_for_others() -> None:
    log = Log()
    n = 10_000
    ticks = 0

    async def work() -> Ended:
        nonlocal ticks

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(tick())
        plan = plan_of(*(stage(f"s{i}", after=f"s{i - 1}" if i else "") for i in range(n)))
        ended = await Runner(plan, Scripted(log), log, INFO).run()
        other.cancel()
        return ended

    assert asyncio.run(work()).event.kind == "run_succeeded"
    assert ticks > 3
    assert sum(line.startswith("begin") for line in log.story) == n


def test_cancelling_a_run_that_is_over_does_nothing() -> None:
    log = Log()
    runner = Runner(plan_of(stage("a")), Scripted(log), log, INFO)
    asyncio.run(runner.run())
    runner.cancel()
    assert "run_cancelled" not in log.story
