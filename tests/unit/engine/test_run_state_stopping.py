"""What the simulator found in the state machine, each as the shortest case: stopping, late reports, and what is left behind."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason_ray.engine.events import (
    ApprovalAnswered,
    CancelRequested,
    Event,
    RunCancelled,
    RunCreated,
    StageFailed,
    StageStopped,
    StageSucceeded,
    TimerFired,
)
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.replay import replay
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.errors import Failure
from tests.engine_kit import Player, conditional, foreach, plan_of, problems_of, stage

RETRY = {"max_attempts": 2, "initial_delay_ms": 10}
APPROVAL = {"message": "May it?", "timeout_ms": 1000}


def player(*stages: dict[str, Any], **keys: Any) -> Player:
    run = Player(plan_of(*stages, **keys))
    run.create()
    return run


def parallel(id: str, branches: Any, wait_for: Any = "all", **keys: Any) -> dict[str, Any]:
    return stage(id, "parallel", config={"branches": branches, "wait_for": wait_for}, **keys)


@pytest.mark.parametrize(
    "late",
    [
        StageSucceeded(path="each", attempt=1, value="late", decision={"count": 3}),
        StageFailed(path="each", attempt=1, failure=Failure(code="late", message="late")),
        StageStopped(path="each", attempt=1),
    ],
    ids=lambda event: event.kind,
)
def test_a_doubled_report_of_a_constructs_attempt_is_not_taken_for_its_gathering(late: Any) -> None:
    run = player(foreach("each", "body"), stage("body"))
    run.loop("each", 0)
    assert run.send(late) == []
    assert run.gathered("each") == ["end each succeeded", "run_succeeded"]


def test_a_conditional_whose_branch_failed_reads_as_null() -> None:
    run = player(
        conditional("outer", "inner", on_error="continue"),
        conditional("inner", "bad"),
        stage("bad"),
        stage("after", config={"value": "{{ stages.inner }}"}),
    )
    run.succeed("outer", branch="true")
    run.succeed("inner", value={"branch_taken": "true"}, branch="true")
    run.fail("bad")
    assert "after" in run.pending
    assert run.state.root is not None
    scope = run.state.root
    inner = next(s.index for s in scope.plan.stages if s.id == "inner")
    assert scope.values[inner] is None


def test_constructs_inside_stopped_iterations_end_too() -> None:
    run = player(foreach("each", "choose"), conditional("choose", "yes"), stage("yes"))
    run.loop("each", 1)
    run.succeed("each[0]/choose", branch="true")
    assert run.cancel() == [
        "cancel each[0]/yes",
        "end each[0]/yes cancelled",
        "end each[0]/choose cancelled",
        "end each cancelled",
    ]


def test_a_repetition_that_waits_for_a_free_place_ends_when_it_is_stopped() -> None:
    run = player(stage("a", retry=RETRY), stage("b"), stage("c"), max_parallel=2)
    run.fail("a")
    assert run.fire("a") == []
    assert "end a cancelled" in run.cancel()


def test_stages_that_a_stopped_construct_never_opened_are_cancelled() -> None:
    run = player(
        conditional("outer", "inner", on_error="continue"),
        conditional("inner", "never"),
        stage("never"),
        stage("after", config={"value": "{{ stages.never.status }}"}),
    )
    run.succeed("outer", branch="true")
    run.succeed("inner", branch="nowhere")
    scope = run.state.root
    assert scope is not None
    status = {s.id: scope.status[s.index] for s in scope.plan.stages}
    assert status["never"] == 9, "it read as waiting, though it never can run"


def test_a_run_that_was_cancelled_first_does_not_start() -> None:
    state = RunState(plan_of(stage("a")))
    assert [type(event) for event in state.handle(CancelRequested())] == [RunCancelled]
    created = RunCreated(run_id="r", pipeline="p", version="1", plan_digest="", input={}, seed=0)
    assert state.handle(created) == []


def test_the_late_timer_of_a_retry_does_not_end_the_time_for_an_answer() -> None:
    run = player(stage("ask", "wait_for_approval", config=APPROVAL, retry=RETRY))
    run.fail("ask")
    run.fire("ask")
    run.succeed("ask", message="May it?")
    assert run.send(TimerFired(path="ask", attempt=1)) == []
    assert run.state.asked
    assert run.fire("ask") == ["end ask failed", "run_failed timeout ask"]


def test_nobody_is_asked_any_more_when_a_question_has_ended() -> None:
    run = player(stage("ask", "wait_for_approval", config={**APPROVAL, "on_timeout": "continue"}), stage("b"))
    run.succeed("ask", message="May it?")
    run.fire("ask")
    assert not run.state.asked
    assert run.send(ApprovalAnswered(path="ask", data="late")) == []


def test_nobody_is_asked_any_more_when_the_run_was_cancelled() -> None:
    run = player(stage("ask", "wait_for_approval", config=APPROVAL))
    run.succeed("ask", message="May it?")
    assert run.cancel() == ["end ask cancelled", "run_cancelled cancelled"]
    assert not run.state.asked
    assert not run.state.timed


def test_the_results_of_branches_keep_the_order_in_which_they_are_written() -> None:
    plan = plan_of(stage("late"), stage("early"), parallel("race", {"first": ["early"], "none": [], "last": ["late"]}))
    (race,) = (s for s in plan.root.stages if s.id == "race")
    assert list(race.bodies) == ["first", "none", "last"]


def test_a_branch_that_is_not_opened_is_not_told_to_be_taken() -> None:
    run = player(parallel("race", {"none": [], "a": ["a"]}, "any"), stage("a"))
    assert [line for line in run.succeed("race") if line.startswith("branch")] == ["branch race none"]


def test_variables_that_race_in_parallel_branches_are_refused() -> None:
    def setter(id: str) -> dict[str, Any]:
        return stage(id, "variable_set", config={"name": "x", "value": 1})

    both = problems_of(parallel("race", [["a"], ["b"]]), setter("a"), setter("b"))
    assert [p.code for p in both] == ["ambiguous_order"]
    reader = stage("b", config={"value": "{{ vars.x | default(none) }}"})
    read = problems_of(parallel("race", [["a"], ["b"]]), setter("a"), reader)
    assert [p.code for p in read] == ["ambiguous_order"]
    assert problems_of(conditional("choose", "a", "b"), setter("a"), setter("b")) == []


# -- replay -----------------------------------------------------------------------------------------------------------------


def _outstanding(plan: Plan, run: Player) -> dict[str, list[str]]:
    outstanding = replay(plan, run.stimuli).outstanding
    return {
        name: [command.path for command in getattr(outstanding, name)]
        for name in ("repeat", "in_doubt", "stopped", "timers")
    }


def test_replay_says_what_was_under_way() -> None:
    run = player(
        stage("done"),
        stage("pure"),
        stage("effect", effect="effectful"),
        stage("delayed", retry=RETRY),
        stage("again", retry=RETRY),
        foreach("each", "body"),
        stage("body"),
    )
    run.succeed("done")
    run.fail("delayed")
    run.fail("again")
    run.fire("again")
    run.loop("each", 0)
    assert _outstanding(run.plan, run) == {
        "repeat": ["pure", "again", "each"],
        "in_doubt": ["effect"],
        "stopped": [],
        "timers": ["delayed"],
    }


def test_replay_says_what_was_being_stopped() -> None:
    run = player(stage("bad"), stage("slow"), stage("effect", effect="effectful"))
    run.fail("bad")
    found = _outstanding(run.plan, run)
    assert found == {"repeat": [], "in_doubt": [], "stopped": ["slow", "effect"], "timers": []}


def test_replay_keeps_the_time_for_an_answer() -> None:
    run = player(stage("ask", "wait_for_approval", config=APPROVAL))
    run.succeed("ask", message="May it?")
    replayed = replay(run.plan, run.stimuli)
    assert list(replayed.state.asked) == ["ask"]
    assert [timer.path for timer in replayed.outstanding.timers] == ["ask"]
    assert replayed.outstanding.due_at == [run.stimuli[-1].at + 1.0]


def test_replay_after_the_end_has_nothing_outstanding() -> None:
    run = player(stage("a"))
    run.succeed("a")
    told = [output for output in run.outputs if isinstance(output, Event)]
    replayed = replay(run.plan, [*told, *run.stimuli])  # what is no stimulus is passed over
    assert replayed.state.ended
    assert _outstanding(run.plan, run) == {"repeat": [], "in_doubt": [], "stopped": [], "timers": []}
