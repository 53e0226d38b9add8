"""The state machine, one story at a time: events go in, commands and narration come out, in order."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray.components.base import control_flow
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.events import (
    CancelRequested,
    RunCreated,
    RunSucceeded,
    StageEnded,
    StageFailed,
    StageLogged,
    StageStopped,
    StageSucceeded,
    TimerFired,
)
from flowmason_ray.engine.planning import make_plan, try_plan
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.engine.scope import WORDS
from flowmason_ray.errors import Failure
from flowmason_ray.spec.loader import load_pipeline_data
from tests.engine_kit import Echo, Player, comparable, conditional, foreach, pipeline, plan_of, replay, stage


@control_flow(name="weekday")
class Weekday:
    class Input(BaseModel):
        early_stages: list[str] = []
        branches: dict[str, list[str]] = {}

    class Output(BaseModel):
        branch: str | None = None

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output()


def play(*stages: dict[str, Any], **keys: Any) -> Player:
    return Player(plan_of(*stages, **keys))


def status_of(player: Player, stage_id: str) -> str:
    root = player.state.root
    assert root is not None
    return WORDS[root.status[next(s.index for s in root.plan.stages if s.id == stage_id)]]


# -- order ------------------------------------------------------------------------------------------------------------


def test_a_chain_runs_one_by_one() -> None:
    run = play(stage("a"), stage("b", after="a"), stage("c", after="b"))
    assert run.create() == ["start a"]
    assert run.succeed("a", 1) == ["start b"]
    assert run.succeed("b", 2) == ["start c"]
    assert run.succeed("c", {"value": 3}) == ["run_succeeded"]
    last = run.outputs[-1]
    assert isinstance(last, RunSucceeded)
    assert last.value == {"value": 3}


def test_fan_out_starts_everything_at_once_and_fan_in_waits_for_all() -> None:
    run = play(stage("a"), *(stage(f"b{i}", after="a") for i in range(3)), stage("c", after="b0 b1 b2"))
    assert run.create() == ["start a"]
    assert run.succeed("a") == ["start b0", "start b1", "start b2"]
    assert run.succeed("b1") == []
    assert run.succeed("b0") == []
    assert run.succeed("b2") == ["start c"]


def test_a_stage_starts_as_soon_as_its_own_inputs_are_there() -> None:
    run = play(stage("slow"), stage("fast"), stage("next", after="fast"))
    run.create()
    assert run.succeed("fast") == ["start next"]


def test_the_order_in_the_file_carries_no_meaning() -> None:
    run = play(stage("b", after="a"), stage("a"))
    assert run.create() == ["start a"]
    assert run.succeed("a") == ["start b"]


def test_several_terminal_stages_make_an_object() -> None:
    run = play(stage("a"), stage("b"))
    run.create()
    run.succeed("a")
    assert run.succeed("b") == ["start $output"]
    assert run.succeed("$output", {"a": None, "b": None}) == ["run_succeeded"]


def test_a_result_that_cannot_be_assembled_fails_the_run() -> None:
    run = play(stage("a"), output={"x": "{{stages.a.value.y}}"})
    run.create()
    run.succeed("a")
    assert run.fail("$output", "missing_value") == [
        "end $output failed",
        "run_failed missing_value $output",
    ]


# -- skipping ---------------------------------------------------------------------------------------------------------


def test_a_disabled_stage_is_skipped_and_so_is_what_has_no_other_input() -> None:
    run = play(stage("a", enabled=False), stage("b", after="a"), stage("c"), stage("d", after="b c"))
    assert run.create() == ["skip a disabled", "start c", "skip b upstreams_skipped"]
    assert run.succeed("c") == ["start d"]


def test_a_stage_runs_when_at_least_one_input_was_not_skipped() -> None:
    run = play(stage("a", enabled=False), stage("b"), stage("c", after="a b"))
    run.create()
    assert run.succeed("b") == ["start c"]


def test_a_stage_whose_when_is_false_is_skipped() -> None:
    run = play(stage("a", when="input.go"), stage("b", after="a"))
    run.create()
    assert run.decline("a") == ["skip a when", "skip b upstreams_skipped", "run_succeeded"]


def test_when_false_is_written_out() -> None:
    run = play(stage("a", when=False), stage("b", when=True))
    assert run.create() == ["start a", "start b"]
    assert run.decline("a") == ["skip a when"]


def test_a_failed_stage_that_goes_on_counts_as_not_skipped() -> None:
    run = play(stage("a", on_error="continue"), stage("b", after="a"))
    run.create()
    assert run.fail("a") == ["end a failed", "start b"]


def test_a_stage_after_a_branch_runs_when_the_owner_was_not_skipped() -> None:
    run = play(
        conditional("choose", "yes", "no"),
        stage("yes"),
        stage("no"),
        stage("after", after="yes"),
        stage("end", after="choose"),
    )
    run.create()
    assert run.succeed("choose", branch="false") == [
        "branch choose false",
        "skip yes branch_not_taken",
        "start no",
    ]
    # `after` reads only what was skipped; `end` depends on the conditional itself, which ran.
    assert run.succeed("no") == ["end choose succeeded", "skip after upstreams_skipped", "start end"]


def test_a_stage_that_reads_both_branches_runs() -> None:
    run = play(conditional("choose", "yes", "no"), stage("yes"), stage("no"), stage("after", after="yes no"))
    run.create()
    run.succeed("choose", branch="true")
    assert run.succeed("yes") == ["end choose succeeded", "start after"]


def test_skipping_a_construct_skips_its_bodies_at_any_depth() -> None:
    run = play(
        conditional("outer", "inner", enabled=False),
        conditional("inner", "deep", "other"),
        stage("deep"),
        stage("other"),
    )
    assert run.create() == [
        "skip outer disabled",
        "skip inner upstreams_skipped",
        "skip deep upstreams_skipped",
        "skip other upstreams_skipped",
        "run_succeeded",
    ]


def test_a_declined_construct_skips_its_bodies() -> None:
    run = play(conditional("choose", "yes", when="input.go"), stage("yes"))
    run.create()
    assert run.decline("choose") == ["skip choose when", "skip yes upstreams_skipped", "run_succeeded"]


def test_a_declined_loop_has_no_iterations() -> None:
    run = play(foreach("each", "body", when="input.go"), stage("body"))
    run.create()
    assert run.decline("each") == ["skip each when", "run_succeeded"]


def test_a_long_chain_of_skipped_stages_needs_no_recursion() -> None:
    n = 3_000  # three times the stack
    run = play(stage("s0", enabled=False), *(stage(f"s{i}", after=f"s{i - 1}") for i in range(1, n)))
    lines = run.create()
    assert lines[0] == "skip s0 disabled"
    assert lines[-2:] == [f"skip s{n - 1} upstreams_skipped", "run_succeeded"]
    assert len(lines) == n + 1


def test_ten_thousand_loop_items_without_anything_to_run_need_no_recursion() -> None:
    run = play(foreach("each", "body", config={"collect": None}), stage("body", enabled=False))
    run.create()
    lines = run.loop("each", 10_000)
    assert lines[-1].startswith("gather each")
    assert sum(line.startswith("item") for line in lines) == 10_000


# -- failing ----------------------------------------------------------------------------------------------------------


def test_a_failure_stops_what_runs_and_names_the_stage() -> None:
    run = play(stage("a"), stage("b"), stage("c", after="a"))
    run.create()
    assert run.fail("a", "boom") == ["end a failed", "cancel b", "end b cancelled"]
    assert run.stop("b") == ["run_failed boom a"]
    assert status_of(run, "c") == "cancelled"


def test_a_run_that_is_being_aborted_ignores_how_the_others_end() -> None:
    run = play(stage("a"), stage("b"), stage("c"))
    run.create()
    run.fail("a", "first")
    assert run.fail("b", "second") == []
    assert run.succeed("c") == ["run_failed first a"]


def test_on_error_continue_reads_as_null() -> None:
    run = play(stage("a", on_error="continue"), stage("b", after="a"))
    run.create()
    assert run.fail("a", "boom") == ["end a failed", "start b"]
    root = run.state.root
    assert root is not None
    failure = root.failure(0)
    assert failure is not None
    assert (root.values[0], failure.code) == (None, "boom")
    assert root.failure(1) is None


def test_on_error_fallback_stands_in() -> None:
    run = play(stage("a", on_error="fallback", fallback_output={"value": 7}))
    run.create()
    assert run.fail("a") == ["end a fallback", "run_succeeded"]
    assert getattr(run.outputs[-1], "value", None) == {"value": 7}


def test_a_stage_that_its_executor_lost_has_failed() -> None:
    run = play(stage("a"))
    run.create()
    assert run.stop("a") == ["end a failed", "run_failed stopped a"]


def test_a_construct_that_fails_with_continue_skips_what_it_never_opened() -> None:
    run = play(
        conditional("choose", "yes", "no", on_error="continue"),
        stage("yes"),
        stage("no"),
        stage("after", after="choose"),
    )
    run.create()
    assert run.fail("choose") == [
        "end choose failed",
        "skip yes ended_early",
        "skip no ended_early",
        "start after",
    ]


def test_a_failure_in_a_branch_fails_the_construct_and_its_on_error_applies() -> None:
    run = play(
        conditional("choose", "yes side", "no", on_error="continue"),
        stage("yes"),
        stage("side"),
        stage("no"),
        stage("after", after="choose"),
    )
    run.create()
    run.succeed("choose", branch="true")
    assert run.fail("yes", "boom") == ["end yes failed", "cancel side", "end side cancelled"]
    assert run.stop("side") == ["end choose failed", "start after"]


def test_an_unknown_branch_is_a_failure_that_names_the_nearest() -> None:
    run = play(conditional("choose", "yes"), stage("yes"))
    run.create()
    assert run.succeed("choose", branch="treu") == ["end choose failed", "run_failed unknown_branch choose"]
    failure = next(o for o in run.outputs if isinstance(o, StageEnded)).failure
    assert failure is not None
    assert "'true'" in failure.message


def test_a_branch_of_none_ends_the_construct() -> None:
    run = play(conditional("choose", "yes", "no"), stage("yes"), stage("no"))
    run.create()
    assert run.succeed("choose", {"x": 1}, branch=None) == [
        "branch choose None",
        "skip yes branch_not_taken",
        "skip no branch_not_taken",
        "end choose succeeded",
        "run_succeeded",
    ]


def test_an_empty_branch_can_be_taken() -> None:
    run = play(conditional("choose", "yes"), stage("yes"))
    run.create()
    assert run.succeed("choose", branch="false") == [
        "branch choose false",
        "skip yes branch_not_taken",
        "end choose succeeded",
        "run_succeeded",
    ]


# -- retrying ---------------------------------------------------------------------------------------------------------

RETRY = {"max_attempts": 3, "initial_delay_ms": 1000, "jitter": 0, "backoff_multiplier": 3.0}


def test_a_failed_attempt_is_repeated_after_a_growing_delay() -> None:
    run = play(stage("a", retry=RETRY))
    run.create()
    assert run.fail("a") == ["retry a", "timer a 1"]
    assert run.fire("a") == ["start a #2"]
    assert run.fail("a") == ["retry a", "timer a 3"]
    assert run.fire("a") == ["start a #3"]
    assert run.fail("a", "boom") == ["end a failed", "run_failed boom a"]


def test_every_attempt_knows_when_the_first_one_started() -> None:
    run = play(stage("a", retry=RETRY))
    run.create()
    first = run.pending["a"]
    run.fail("a")
    run.fire("a")
    second = run.pending["a"]
    assert getattr(first, "first_started_at", None) == getattr(second, "first_started_at", None) == 1.0


def test_the_jitter_comes_from_the_event() -> None:
    run = play(stage("a", retry={**RETRY, "jitter": 0.5}))
    run.create()
    assert run.fail("a", draw=0.0) == ["retry a", "timer a 0.5"]


def test_a_permanent_failure_is_not_repeated() -> None:
    run = play(stage("a", retry=RETRY))
    run.create()
    assert run.fail("a", "permanent_error") == ["end a failed", "run_failed permanent_error a"]


@pytest.mark.parametrize(
    ("code", "error_type", "retried"),
    [("timeout", None, True), ("x", "KeyError", True), ("x", None, False), ("permanent_error", None, False)],
)
def test_retry_on_names_codes_and_exceptions(code: str, error_type: str | None, retried: bool) -> None:
    run = play(stage("a", retry={**RETRY, "retry_on": ["timeout", "KeyError"]}))
    run.create()
    lines = run.fail("a", code, error_type=error_type)
    assert lines[0] == ("retry a" if retried else "end a failed")


def test_on_error_applies_when_the_last_attempt_has_failed() -> None:
    run = play(stage("a", retry={**RETRY, "max_attempts": 2}, on_error="continue"))
    run.create()
    run.fail("a")
    run.fire("a")
    assert run.fail("a") == ["end a failed", "run_succeeded"]


def test_a_failure_elsewhere_ends_a_retry_delay() -> None:
    run = play(stage("a", retry=RETRY), stage("b"))
    run.create()
    run.fail("a")
    assert run.fail("b", "boom") == ["end b failed", "end a cancelled", "run_failed boom b"]
    assert run.fire("a") == []


# -- fencing ----------------------------------------------------------------------------------------------------------


def test_reports_that_are_late_doubled_or_foreign_change_nothing() -> None:
    run = play(stage("a", retry=RETRY), stage("b", after="a"))
    run.create()
    failure = Failure(code="x", message="m")
    run.fail("a")
    foreign = [
        StageSucceeded(path="a", attempt=1, value="late"),  # while it waits for its retry
        StageFailed(path="a", attempt=1, failure=failure),
        StageStopped(path="a", attempt=1),
        StageSucceeded(path="a", attempt=2, value="early"),
        StageSucceeded(path="nowhere", attempt=1, value=None),
        StageSucceeded(path="b", attempt=1, value=None),
        TimerFired(path="b", attempt=1),
        TimerFired(path="a", attempt=2),
        StageLogged(path="a", level="info", message="live"),
    ]
    for event in foreign:
        assert run.send(event) == [], event
    assert run.fire("a") == ["start a #2"]
    for event in [
        TimerFired(path="a", attempt=1),
        StageSucceeded(path="a", attempt=1, value="late"),
        StageFailed(path="a", attempt=1, failure=failure),
    ]:
        assert run.send(event) == [], event
    assert run.succeed("a", "right") == ["start b"]
    assert run.send(StageSucceeded(path="a", attempt=2, value="doubled")) == []
    root = run.state.root
    assert root is not None
    assert root.values[0] == "right"


def test_a_run_is_created_once() -> None:
    run = play(stage("a"))
    run.create()
    assert run.create() == []


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_cancelling_before_the_run_was_created_ends_it_for_good() -> None:
    run = play(stage("a"))
    assert run.cancel() == ["run_cancelled cancelled"]
    assert run.create() == []


def test_cancelling_stops_what_runs_and_starts_nothing() -> None:
    run = play(stage("a"), stage("b", after="a"), stage("c"))
    run.create()
    assert run.cancel() == ["cancel a", "end a cancelled", "cancel c", "end c cancelled"]
    assert run.succeed("a") == []
    assert run.stop("c") == ["run_cancelled cancelled"]
    assert run.cancel() == []


def test_cancelling_twice_is_cancelling_once() -> None:
    run = play(stage("a"))
    run.create()
    run.cancel()
    assert run.cancel("timeout") == []
    assert run.stop("a") == ["run_cancelled cancelled"]


def test_a_run_whose_time_is_over_has_failed() -> None:
    run = play(stage("a"))
    run.create()
    run.cancel("timeout")
    assert run.stop("a") == ["run_failed timeout"]


def test_cancelling_in_a_retry_delay_ends_at_once() -> None:
    run = play(stage("a", retry=RETRY))
    run.create()
    run.fail("a")
    assert run.cancel() == ["end a cancelled", "run_cancelled cancelled"]


def test_cancelling_while_a_failure_drains_takes_over() -> None:
    run = play(stage("a"), stage("b"))
    run.create()
    run.fail("a", "boom")
    assert run.cancel() == []
    assert run.stop("b") == ["run_cancelled cancelled"]


def test_cancelling_inside_nested_constructs() -> None:
    run = play(foreach("each", "choose", config={"max_parallel": 2}), conditional("choose", "yes"), stage("yes"))
    run.create()
    run.loop("each", 3)
    run.succeed("each[0]/choose", branch="true")
    assert run.cancel() == [
        "cancel each[1]/choose",
        "end each[1]/choose cancelled",
        "cancel each[0]/yes",
        "end each[0]/yes cancelled",
        "end each[0]/choose cancelled",
        "end each cancelled",
    ]
    run.stop("each[0]/yes")
    assert run.stop("each[1]/choose") == ["run_cancelled cancelled"]


def test_cancelling_while_results_are_gathered() -> None:
    run = play(foreach("each", "body"), stage("body"))
    run.create()
    assert run.loop("each", 0) == ["loop each 0", "gather each [] []"]
    assert run.cancel() == ["cancel each", "end each cancelled"]
    assert run.succeed("each") == ["run_cancelled cancelled"]


def test_cancelling_while_the_result_is_assembled() -> None:
    run = play(stage("a"), output="{{stages.a}}")
    run.create()
    run.succeed("a")
    assert run.cancel() == ["cancel $output", "end $output cancelled"]
    assert run.succeed("$output") == ["run_cancelled cancelled"]


# -- limits -----------------------------------------------------------------------------------------------------------


def test_max_parallel_is_never_exceeded_and_keeps_the_order() -> None:
    run = play(*(stage(f"s{i}") for i in range(5)), max_parallel=2, output=1)
    assert run.create() == ["start s0", "start s1"]
    assert run.succeed("s1") == ["start s2"]
    assert run.succeed("s0") == ["start s3"]


def test_a_retry_delay_gives_its_place_away() -> None:
    run = play(stage("a", retry=RETRY), stage("b"), max_parallel=1, output=1)
    assert run.create() == ["start a"]
    assert run.fail("a") == ["retry a", "timer a 1", "start b"]
    assert run.fire("a") == []
    assert run.succeed("b") == ["start a #2"]


def test_an_open_construct_holds_no_place() -> None:
    run = play(foreach("each", "body"), stage("body"), max_parallel=1)
    assert run.create() == ["start each"]
    assert run.loop("each", 1) == ["loop each 1", "start each[0]/body"]


def test_cancelling_forgets_what_waits_for_a_place() -> None:
    run = play(stage("a"), stage("b"), max_parallel=1)
    run.create()
    assert run.cancel() == ["cancel a", "end a cancelled"]
    assert run.stop("a") == ["run_cancelled cancelled"]


# -- variables --------------------------------------------------------------------------------------------------------


def test_a_variable_is_told() -> None:
    run = play(
        stage("v", "variable_set", config={"variables": {"x": 1, "y": 2}}), stage("a", config={"value": "{{vars.x}}"})
    )
    run.create()
    assert run.succeed("v", {"x": 1, "y": 2}) == ["set x,y by v", "end v succeeded", "start a"]
    root = run.state.root
    assert root is not None
    assert root.variable("x") == {"x": 1, "y": 2}
    with pytest.raises(KeyError):
        root.variable("z")


# -- determinism ------------------------------------------------------------------------------------------------------


def test_replaying_the_stimuli_gives_the_same_story() -> None:
    run = play(stage("a", retry=RETRY), foreach("each", "body"), stage("body"), stage("end", after="a each"))
    run.create()
    run.fail("a")
    run.loop("each", 2)
    run.fire("a")
    run.succeed("each[0]/body", 1)
    run.succeed("a", 2)
    run.fail("each[1]/body", "boom")
    assert run.ended == "run_failed boom each[1]/body"
    assert replay(run.plan, run.stimuli) == comparable(run.outputs)


def test_an_event_it_does_not_know_changes_nothing() -> None:
    state = RunState(plan_of(stage("a")))
    assert state.handle(StageLogged(path="a", level="info", message="x")) == []
    state.handle(RunCreated(run_id="r", pipeline="p", version="1", plan_digest="", input={}, seed=1))
    assert state.handle(CancelRequested()) != []


# -- third parties' control flow --------------------------------------------------------------------------------------


def test_a_third_partys_construct_names_its_bodies_in_two_ways() -> None:
    registry = Registry(entry_points=False)
    registry.add(Weekday)
    registry.add(Echo)
    config = {"early_stages": ["a"], "branches": {"late": ["b", "c"]}}
    data = pipeline(stage("day", "weekday", config=config), stage("a"), stage("b"), stage("c", after="b"))
    run = Player(make_plan(load_pipeline_data(data), registry))
    run.create()
    assert run.succeed("day", {"branch": "late"}, branch="late") == [
        "branch day late",
        "skip a branch_not_taken",
        "start b",
    ]
    run.succeed("b")
    assert run.succeed("c") == ["end day succeeded", "run_succeeded"]


def test_branches_that_are_no_mapping_are_refused() -> None:
    registry = Registry(entry_points=False)
    registry.add(Weekday)
    registry.add(Echo)
    _, problems = try_plan(
        load_pipeline_data(pipeline(stage("day", "weekday", config={"branches": [["a"]]}), stage("a"))), registry
    )
    assert [(p.code, p.path) for p in problems] == [("invalid_value", "/stages/0/config/branches")]
