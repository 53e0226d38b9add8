"""Pausing, and what a replay makes of it."""

from __future__ import annotations

import pytest

from flowmason_ray.engine.commands import CancelStage, StartStage
from flowmason_ray.engine.events import (
    Event,
    RunCreated,
    RunPaused,
    RunResumed,
    StageStopped,
    StageSucceeded,
)
from flowmason_ray.engine.pausing import Pause
from flowmason_ray.engine.replay import replay
from flowmason_ray.engine.run_state import RunState
from tests.engine_kit import plan_of, stage

PLAN = plan_of(stage("pure"), stage("keyed", effect="idempotent"), stage("pay", effect="effectful"))
CREATED = RunCreated(at=1, run_id="r", pipeline="p", version="1", plan_digest=PLAN.digest, input={}, seed=1)


def begun() -> dict[str, StartStage]:
    return {c.path: c for c in RunState(PLAN).handle(CREATED) if isinstance(c, StartStage)}


def paused() -> tuple[Pause, list[CancelStage]]:
    """Return a pause that was asked for while all three stages were under way, and what was told to stop."""
    told: list[CancelStage] = []
    pause = Pause(told.append)
    for command in begun().values():
        pause.began(command)
    pause.ask("me")
    return pause, told


def test_what_can_be_repeated_is_stopped_and_the_rest_is_waited_for() -> None:
    pause, told = paused()
    assert [each.path for each in told] == ["pure", "keyed"]
    assert pause.waits_for == ["pay"]
    assert not pause.complete
    assert pause.takes(StageStopped(path="pure", attempt=1))
    assert pause.takes(StageStopped(path="keyed", attempt=1))
    assert not pause.complete
    assert not pause.takes(StageSucceeded(path="pay", attempt=1, value={})), "its outcome counts"
    assert pause.complete
    assert pause.stopped == ("keyed", "pure")


def test_what_succeeds_although_it_was_told_to_stop_has_succeeded() -> None:
    pause, _ = paused()
    assert not pause.takes(StageSucceeded(path="pure", attempt=1, value={}))
    assert "pure" not in pause.stopped


def test_reports_of_others_are_left_alone() -> None:
    pause, _ = paused()
    assert not pause.takes(StageStopped(path="pure", attempt=2))
    assert not pause.takes(StageStopped(path="other", attempt=1))
    assert not pause.takes(CREATED)


def test_a_cancellation_is_answered_for_what_is_not_under_way() -> None:
    pause, _ = paused()
    assert pause.takes(StageStopped(path="pure", attempt=1))
    assert pause.cancelled(CancelStage(path="pure", attempt=1)) == StageStopped(path="pure", attempt=1)
    assert pause.cancelled(CancelStage(path="keyed", attempt=1)) is None, "the executor's answer is on its way"
    assert not pause.takes(StageStopped(path="keyed", attempt=1)), "and counts now"


@pytest.mark.parametrize(
    ("after", "repeated", "doubtful"),
    [
        ([], ["keyed", "pure"], ["pay"]),
        ([RunPaused(at=2)], ["keyed", "pay", "pure"], []),
        ([RunPaused(at=2), RunResumed(at=3)], ["keyed", "pure"], ["pay"]),
        ([RunPaused(at=2), RunResumed(at=3), RunPaused(at=4)], ["keyed", "pay", "pure"], []),
        ([StageSucceeded(at=2, path="pay", attempt=1, value={}), RunPaused(at=3)], ["keyed", "pure"], []),
    ],
    ids=["killed", "paused", "resumed, then killed", "paused twice", "the effect was waited for"],
)
def test_nothing_that_was_paused_is_in_doubt(after: list[Event], repeated: list[str], doubtful: list[str]) -> None:
    left = replay(PLAN, [CREATED, *after]).outstanding
    assert sorted(command.path for command in left.repeat) == repeated
    assert [command.path for command in left.in_doubt] == doubtful
