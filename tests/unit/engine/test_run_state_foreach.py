"""The state machine's loops: the window, nesting, errors, and what an iteration hands on."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason_ray.engine.commands import Each, GatherResults
from flowmason_ray.engine.events import ItemEnded, StageEnded, StageSucceeded
from tests.engine_kit import Player, conditional, foreach, plan_of, stage

RETRY = {"max_attempts": 2, "initial_delay_ms": 1000, "jitter": 0}


def play(*stages: dict[str, Any], **keys: Any) -> Player:
    run = Player(plan_of(*stages, **keys))
    run.create()
    return run


def last_gather(run: Player) -> GatherResults:
    return [o for o in run.outputs if isinstance(o, GatherResults)][-1]


def test_a_sequential_loop_opens_one_item_at_a_time_and_keeps_the_order() -> None:
    run = play(foreach("each", "body"), stage("body"))
    assert run.loop("each", 2) == ["loop each 2", "start each[0]/body"]
    assert run.succeed("each[0]/body", "r0") == ["item each[0] ok", "start each[1]/body"]
    assert run.succeed("each[1]/body", "r1") == ["item each[1] ok", "gather each ['r0', 'r1'] []"]
    assert last_gather(run).head == {"total_items": 2, "succeeded_items": 2, "errors": []}
    assert run.gathered("each") == ["end each succeeded", "run_succeeded"]


def test_an_empty_loop_gathers_nothing() -> None:
    run = play(foreach("each", "body"), stage("body"))
    assert run.loop("each", 0) == ["loop each 0", "gather each [] []"]


def test_the_window_slides_and_a_straggler_delays_nobody() -> None:
    run = play(foreach("each", "body", config={"max_parallel": 2}), stage("body"))
    assert run.loop("each", 5) == ["loop each 5", "start each[0]/body", "start each[1]/body"]
    for i in range(1, 4):
        assert run.succeed(f"each[{i}]/body", i) == [f"item each[{i}] ok", f"start each[{i + 1}]/body"]
    run.succeed("each[4]/body", 4)
    assert run.succeed("each[0]/body", 0) == ["item each[0] ok", "gather each [0, 1, 2, 3, 4] []"]


@pytest.mark.parametrize(
    ("config", "open_at_once"),
    [({}, 1), ({"parallel": True}, 5), ({"parallel": False, "max_parallel": 4}, 1), ({"max_parallel": 3}, 3)],
)
def test_how_many_items_run_at_a_time(config: dict[str, Any], open_at_once: int) -> None:
    run = play(foreach("each", "body", config=config), stage("body"))
    assert sum(line.startswith("start") for line in run.loop("each", 9)) == open_at_once


def test_an_iteration_keeps_its_place_through_its_retries() -> None:
    run = play(foreach("each", "body", config={"max_parallel": 1}), stage("body", retry=RETRY))
    run.loop("each", 2)
    assert run.fail("each[0]/body") == ["retry each[0]/body", "timer each[0]/body 1"]
    assert run.fire("each[0]/body") == ["start each[0]/body #2"]
    assert run.succeed("each[0]/body") == ["item each[0] ok", "start each[1]/body"]


def test_a_filter_keeps_the_index_of_the_source() -> None:
    run = play(foreach("each", "body", config={"max_parallel": 2}), stage("body"))
    assert run.loop("each", 2, indices=[1, 4]) == ["loop each 2", "start each[1]/body", "start each[4]/body"]
    run.succeed("each[4]/body", "r4")
    assert run.succeed("each[1]/body", "r1") == ["item each[1] ok", "gather each ['r1', 'r4'] []"]


def test_the_first_failed_item_ends_the_loop() -> None:
    run = play(foreach("each", "body", config={"max_parallel": 3}), stage("body"), stage("other", after="each"))
    run.loop("each", 5)
    assert run.fail("each[1]/body", "boom") == [
        "end each[1]/body failed",
        "item each[1] boom",
        "cancel each[0]/body",
        "end each[0]/body cancelled",
        "cancel each[2]/body",
        "end each[2]/body cancelled",
    ]
    run.stop("each[0]/body")
    assert run.succeed("each[2]/body") == ["end each failed", "run_failed boom each[1]/body"]


def test_two_items_that_fail_at_once_end_the_loop_once() -> None:
    run = play(foreach("each", "a b", config={"max_parallel": 2}, on_error="continue"), stage("a"), stage("b"))
    run.loop("each", 2)
    # The first failure waits for its sibling stage; meanwhile the second item fails with nothing left to stop.
    assert run.fail("each[0]/a", "first") == ["end each[0]/a failed", "cancel each[0]/b", "end each[0]/b cancelled"]
    run.succeed("each[1]/b")
    assert run.fail("each[1]/a", "second") == ["end each[1]/a failed", "item each[1] second"]
    assert run.stop("each[0]/b") == ["end each failed", "run_succeeded"]


def test_a_failed_item_can_cost_one_item_only() -> None:
    run = play(foreach("each", "body", config={"break_on_error": False, "max_parallel": 2}), stage("body"))
    run.loop("each", 3)
    assert run.fail("each[0]/body", "boom") == [
        "end each[0]/body failed",
        "item each[0] boom",
        "start each[2]/body",
    ]
    run.fail("each[2]/body", "bang")
    assert run.succeed("each[1]/body", "ok") == ["item each[1] ok", "gather each [None, 'ok', None] [0, 2]"]
    assert last_gather(run).head["errors"][0] == {
        "index": 0,
        "code": "boom",
        "message": "it failed",
        "stage": "each[0]/body",
        "attempts": 1,
    }
    assert last_gather(run).head["succeeded_items"] == 1


@pytest.mark.parametrize(("ratio", "succeeds"), [(0, True), (0.5, True), (0.51, False), (1, False)])
def test_min_success_ratio_decides_at_the_end(ratio: float, succeeds: bool) -> None:
    config = {"break_on_error": False, "min_success_ratio": ratio}
    run = play(foreach("each", "body", config=config), stage("body"))
    run.loop("each", 2)
    run.fail("each[0]/body", "boom")
    lines = run.succeed("each[1]/body")
    assert lines[-1].startswith("gather" if succeeds else "run_failed too_many_errors each")
    if not succeeds:
        failure = [o for o in run.outputs if isinstance(o, StageEnded)][-1].failure
        assert failure is not None
        assert "1 of 2 items failed" in failure.message
        assert "item 0" in failure.message
        assert failure.details is not None


def test_no_items_satisfy_any_ratio() -> None:
    run = play(foreach("each", "body", config={"break_on_error": False, "min_success_ratio": 1}), stage("body"))
    assert run.loop("each", 0)[-1] == "gather each [] []"


def test_loops_nest_and_each_keeps_its_window() -> None:
    run = play(
        foreach("outer", "inner", config={"max_parallel": 2}),
        foreach("inner", "body", config={"items": "{{item}}", "max_parallel": 2, "item_variable": "x"}),
        stage("body"),
    )
    assert run.loop("outer", 3) == ["loop outer 3", "start outer[0]/inner", "start outer[1]/inner"]
    assert run.loop("outer[0]/inner", 3) == [
        "loop outer[0]/inner 3",
        "start outer[0]/inner[0]/body",
        "start outer[0]/inner[1]/body",
    ]
    assert run.succeed("outer[0]/inner[1]/body", 1)[-1] == "start outer[0]/inner[2]/body"
    run.succeed("outer[0]/inner[0]/body", 0)
    assert run.succeed("outer[0]/inner[2]/body", 2)[-1] == "gather outer[0]/inner [0, 1, 2] []"
    assert run.gathered("outer[0]/inner") == [
        "end outer[0]/inner succeeded",
        "item outer[0] ok",
        "start outer[2]/inner",
    ]


def test_a_failure_deep_inside_reaches_as_far_as_on_error_says() -> None:
    run = play(
        foreach("outer", "inner", config={"max_parallel": 2, "break_on_error": False}),
        foreach("inner", "body", config={"item_variable": "x", "max_parallel": 2}),
        stage("body"),
    )
    run.loop("outer", 2)
    run.loop("outer[0]/inner", 2)
    run.loop("outer[1]/inner", 1)
    run.fail("outer[0]/inner[0]/body", "boom")
    assert run.stop("outer[0]/inner[1]/body") == [
        "end outer[0]/inner failed",
        "item outer[0] boom",
    ]
    run.succeed("outer[1]/inner[0]/body", 1)
    assert (
        run.gathered("outer[1]/inner")[-1]
        == "gather outer [None, {'total_items': 1, 'succeeded_items': 1, 'errors': [], 'results': [1]}] [0]"
    )


def test_a_conditional_inside_a_loop_decides_per_item() -> None:
    run = play(
        foreach("each", "choose", config={"max_parallel": 2}),
        conditional("choose", "yes", "no"),
        stage("yes"),
        stage("no"),
    )
    run.loop("each", 2)
    assert run.succeed("each[0]/choose", {"b": 1}, branch="true") == [
        "branch each[0]/choose true",
        "skip each[0]/no branch_not_taken",
        "start each[0]/yes",
    ]
    assert run.succeed("each[1]/choose", {"b": 2}, branch="false") == [
        "branch each[1]/choose false",
        "skip each[1]/yes branch_not_taken",
        "start each[1]/no",
    ]
    run.succeed("each[1]/no")
    assert run.succeed("each[0]/yes")[-1] == "gather each [{'b': 1}, {'b': 2}] []"


def test_a_loop_inside_a_branch() -> None:
    run = play(conditional("choose", "each"), foreach("each", "body"), stage("body"), stage("after", after="choose"))
    run.succeed("choose", branch="true")
    run.loop("each", 1)
    assert run.succeed("each[0]/body", 1)[-1] == "gather each [1] []"
    assert run.gathered("each") == ["end each succeeded", "end choose succeeded", "start after"]


def test_collect_makes_the_results() -> None:
    run = play(
        foreach("each", "a b", config={"collect": {"x": "{{stages.a.value}}"}}), stage("a"), stage("b", after="a")
    )
    run.loop("each", 1)
    run.succeed("each[0]/a")
    assert run.succeed("each[0]/b") == ["start each[0]/$collect"]
    assert run.succeed("each[0]/$collect", {"x": 1})[-1] == "gather each [{'x': 1}] []"


def test_a_collect_that_fails_is_the_items_failure() -> None:
    config = {"collect": "{{stages.a.value.x}}", "break_on_error": False}
    run = play(foreach("each", "a", config=config), stage("a"))
    run.loop("each", 2)
    run.succeed("each[0]/a")
    assert run.fail("each[0]/$collect", "missing_value") == [
        "end each[0]/$collect failed",
        "item each[0] missing_value",
        "start each[1]/a",
    ]


def test_results_that_cannot_be_gathered_fail_the_loop_without_a_retry() -> None:
    run = play(foreach("each", "body", retry=RETRY), stage("body"))
    run.loop("each", 0)
    assert run.fail("each", "component_error") == ["end each failed", "run_failed component_error each"]


def test_a_gathering_is_no_attempt_so_that_no_doubled_report_is_taken_for_it() -> None:
    run = play(foreach("each", "body", retry=RETRY), stage("body"))
    run.fail("each")
    run.fire("each")
    run.loop("each", 1)
    run.succeed("each[0]/body")
    assert last_gather(run).attempt == 0
    assert run.send(StageSucceeded(path="each", attempt=2, value="doubled", decision={"count": 1})) == []
    assert run.gathered("each") == ["end each succeeded", "run_succeeded"]


def test_max_parallel_of_the_run_bounds_loops_too() -> None:
    run = play(
        foreach("each", "body", config={"max_parallel": 5}), stage("body"), stage("other"), max_parallel=2, output=1
    )
    assert run.loop("each", 5) == ["loop each 5", "start each[0]/body"]
    assert run.succeed("other") == ["start each[1]/body"]


def test_an_item_whose_stages_were_skipped_has_no_result() -> None:
    run = play(foreach("each", "body"), stage("body", when="item > 1"))
    run.loop("each", 2)
    assert run.decline("each[0]/body") == ["skip each[0]/body when", "item each[0] ok", "start each[1]/body"]
    run.succeed("each[1]/body", 1)
    assert last_gather(run).parts == {"results": Each([None, 1])}


def test_aborting_a_loop_ends_retry_delays_inside() -> None:
    run = play(foreach("each", "a b", config={"max_parallel": 2}), stage("a", retry=RETRY), stage("b"))
    run.loop("each", 2)
    run.fail("each[0]/a")
    lines = run.fail("each[1]/b", "boom")
    assert "cancel each[1]/a" in lines
    run.stop("each[1]/a")
    assert run.stop("each[0]/b") == ["end each failed", "run_failed boom each[1]/b"]
    assert run.fire("each[0]/a") == []


def test_every_item_is_told_once() -> None:
    run = play(foreach("each", "body", config={"max_parallel": 4, "break_on_error": False}), stage("body"))
    run.loop("each", 10)
    for i in (3, 0, 1, 2, 5, 4, 7, 6, 9, 8):
        run.fail(f"each[{i}]/body") if i % 3 == 0 else run.succeed(f"each[{i}]/body", i)
    told = [o.index for o in run.outputs if isinstance(o, ItemEnded)]
    assert sorted(told) == list(range(10))
