"""What the views count is what happened: against the summary that the run itself makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.cli.tally import Tally
from flowmason_ray.components.registry import load_project_module
from flowmason_ray.engine.events import ApprovalRequested, Event, RunResumed, StageEnded, StageStarted, StageSucceeded
from flowmason_ray.engine.summary import Summary
from tests.cli_kit import add_nap, pipeline, stage


class Watching:
    """Hands events to a tally that is made when the plan is known."""

    tally: Tally

    def __call__(self, event: Event) -> None:
        self.tally(event)


@pytest.fixture
def nap(tmp_path: Path) -> type:
    add_nap(tmp_path)
    return vars(load_project_module(tmp_path / "components" / "nap.py"))["Nap"]


async def watched(spec: dict[str, Any], nap: type, **input: Any) -> tuple[Tally, RunResult, list[str]]:
    watching = Watching()
    prepared = PreparedRun(spec, input, components=[nap], observers=[watching])
    watching.tally = Tally(prepared.plan)
    ended: list[str] = []
    watching.tally.on_ended = lambda row, path, status, event: ended.append(f"{path} {status}")
    return watching.tally, await prepared.run(), ended


BUSY = pipeline(
    stage("each", "foreach", config={"items": "{{ input.items }}", "loop_stages": ["try", "gate"], "break_on_error": False, "max_parallel": 3}),
    stage("try", config={"failures": "{{ item }}"}, retry={"max_attempts": 2, "initial_delay_ms": 1}),
    stage("gate", "conditional", ["try"], config={"condition": "{{ item > 0 }}", "true_branch_stages": ["yes"], "false_branch_stages": ["no"]}),
    stage("yes"),
    stage("no"),
    stage("weak", config={"raises": "x"}, on_error="continue"),
    stage("spare", config={"raises": "x"}, on_error="fallback", fallback_output={"attempt": 0}),
    stage("off", enabled=False),
    stage("unwanted", when="false"),
    output={"n": 1},
)  # fmt: skip


def test_the_rows_agree_with_the_summary(nap: type) -> None:
    import asyncio

    tally, result, ended = asyncio.run(watched(BUSY, nap, items=[0, 1, 2, 3]))
    assert result.status == "succeeded"
    expected: dict[str, dict[str, int]] = {}
    for path, stage_summary in result.stages.items():
        row = tally.row(path)
        assert row is not None
        counts = expected.setdefault(row.key, {})
        counts[stage_summary.status] = counts.get(stage_summary.status, 0) + 1
    assert {key: row.ended for key, row in tally.rows.items() if row.ended} == expected
    assert sorted(ended) == sorted(f"{path} {s.status}" for path, s in result.stages.items())
    assert (tally.rows["each"].items, tally.rows["each"].items_done, tally.rows["each"].items_failed) == (4, 4, 2)
    assert (tally.done, tally.total) == (5, 5)


def test_nothing_is_under_way_when_it_is_over(nap: type) -> None:
    import asyncio

    tally, _, _ = asyncio.run(watched(BUSY, nap, items=[0, 2]))
    assert tally.busy == {}
    assert all(row.running == 0 and not row.retrying for row in tally.rows.values())


def test_a_failure_that_ends_the_run_leaves_nothing_running(nap: type) -> None:
    import asyncio

    spec = pipeline(
        stage("long", config={"seconds": 5}),
        stage("waits", config={"failures": 1}, retry={"max_attempts": 2, "initial_delay_ms": 5000}),
        stage("bad", config={"raises": "x", "seconds": 0.05}),
    )
    tally, result, _ = asyncio.run(watched(spec, nap))
    assert result.status == "failed"
    assert {key: row.status() for key, row in tally.rows.items()} == {
        "long": "cancelled",
        "waits": "cancelled",
        "bad": "failed",
    }
    assert tally.busy == {}


LOOP = pipeline(
    stage("each", "foreach", config={"items": [1, 2, 3], "loop_stages": ["one"], "max_parallel": 1}), stage("one")
)
ASKING = pipeline(stage("ok", "wait_for_approval", config={"message": "Go?"}))


async def seen(spec: dict[str, Any], nap: type) -> tuple[PreparedRun, list[Event]]:
    """Return a run's events; one that asks is cancelled then."""
    events: list[Event] = []

    def see(event: Event) -> None:
        events.append(event)
        if isinstance(event, ApprovalRequested):
            prepared.cancel()

    prepared = PreparedRun(spec, components=[nap], observers=[see])
    await prepared.run()
    return prepared, events


def position(events: list[Event], kind: type[Event], path: str) -> int:
    return next(n for n, event in enumerate(events) if isinstance(event, kind) and getattr(event, "path", "") == path)


def test_a_resumed_run_counts_what_was_done_before(nap: type) -> None:
    import asyncio

    prepared, events = asyncio.run(seen(LOOP, nap))
    cut = position(events, StageSucceeded, "each[1]/one")  # the process dies while each[1]/one is under way
    tally, told = Tally(prepared.plan), list[str]()
    tally.catch_up(events[:cut])
    tally.on_ended = lambda row, path, status, event: told.append(path)
    assert tally.rows["each/one"].running == 0
    assert tally.rows["each"].running == 1, "it is open"

    tally(RunResumed(at=1))
    for path in {e.path for e in events[:cut] if isinstance(e, StageStarted)} - {"each", "each[0]/one"}:
        tally(StageStarted(at=1, path=path, attempt=1))
    for event in events[cut:]:
        tally(event)

    assert (tally.rows["each"].items, tally.rows["each"].items_done) == (3, 3)
    assert (tally.done, tally.total) == (1, 1)
    assert tally.busy == {}
    assert "each[0]/one" not in told, "that was told when it happened"


def test_a_question_of_before_still_stands(nap: type) -> None:
    import asyncio

    prepared, events = asyncio.run(seen(ASKING, nap))
    tally = Tally(prepared.plan)
    tally.catch_up(events[: position(events, ApprovalRequested, "ok") + 1])
    assert [each.message for each in tally.asking.values()] == ["Go?"]
    assert tally.rows["ok"].asks == "Go?"
    for event in events[position(events, StageEnded, "ok") :]:
        tally(event)
    assert tally.asking == {}


def test_what_is_open_has_not_succeeded(nap: type) -> None:
    import asyncio

    _, events = asyncio.run(seen(LOOP, nap))
    summary = Summary()
    for event in events[: position(events, StageSucceeded, "each[1]/one")]:
        summary(event)
    assert {summary.stages[path].status for path in ("each", "each[1]/one")} == {"running"}
    assert summary.stages["each[0]/one"].status == "succeeded"
    summary.stand_still("interrupted")
    assert {summary.stages[path].status for path in ("each", "each[1]/one")} == {"interrupted"}
    assert summary.stages["each[0]/one"].status == "succeeded"
