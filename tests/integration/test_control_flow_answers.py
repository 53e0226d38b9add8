"""What the guide answers about control flow (`docs/guide/control-flow.md`), question by question."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import operator
from flowmason_ray.api import PreparedRun, RunResult, run
from flowmason_ray.engine.component import Context
from tests.engine_kit import Echo, foreach, pipeline, stage
from tests.matrix_kit import Boom


@operator(name="sleepy", cost="io", effect="pure")
class Sleepy:
    """Waits, until it is stopped."""

    class Input(BaseModel):
        seconds: float = 30

    class Output(BaseModel):
        slept: float

    async def execute(self, input: Input, context: Context) -> Output:
        await asyncio.sleep(input.seconds)
        return self.Output(slept=input.seconds)


@operator(name="raises", cost="trivial", effect="pure")
class Raises:
    """Raises a plain Python exception."""

    class Input(BaseModel): ...

    class Output(BaseModel): ...

    async def execute(self, input: Input, context: Context) -> Output:
        raise KeyError("lost")


COMPONENTS = (Echo, Boom, Sleepy, Raises)


def result(*stages: dict[str, Any], input: dict[str, Any] | None = None, **keys: Any) -> RunResult:
    return run(pipeline(*stages, **keys), input, components=COMPONENTS)


def output(*stages: dict[str, Any], input: dict[str, Any] | None = None, **keys: Any) -> Any:
    return result(*stages, input=input, **keys).raise_for_status().output


def reads(text: str, id: str = "r", **keys: Any) -> dict[str, Any]:
    return stage(id, config={"value": "{{" + text + "}}"}, **keys)


def branch(id: str, true: str = "", false: str = "", *, condition: str = "input.yes", **keys: Any) -> dict[str, Any]:
    config = {"condition": condition, "true_branch_stages": true.split(), "false_branch_stages": false.split()}
    return stage(id, "conditional", config=config, **keys)


def attempt(
    id: str, tried: str, caught: str = "", last: str = "", *, config: Mapping[str, Any] = {}, **keys: Any
) -> dict[str, Any]:
    bodies = {"try_stages": tried.split(), "catch_stages": caught.split(), "finally_stages": last.split()}
    return stage(id, "trycatch", config={**bodies, "error_scope": "continue", **config}, **keys)


def race(id: str, *branches: str, wait_for: Any = "all", **keys: Any) -> dict[str, Any]:
    config = {"branches": [each.split() for each in branches], "wait_for": wait_for}
    return stage(id, "parallel", config=config, **keys)


def statuses(found: RunResult) -> dict[str, str]:
    return {path: summary.status for path, summary in found.stages.items()}


# -- skipping and joining --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yes", "value"), [(True, ["a", None, "succeeded", "skipped"]), (False, [None, "b", "skipped", "succeeded"])]
)
def test_a_join_runs_when_one_of_its_branches_did(yes: bool, value: list[Any]) -> None:
    join = stage(
        "join",
        config={
            "value": [
                "{{stages.a.value | default(none)}}",
                "{{stages.b.value | default(none)}}",
                "{{stages.a.status}}",
                "{{stages.b.status}}",
            ]
        },
    )
    found = output(
        branch("c", "a", "b"),
        stage("a", config={"value": "a"}),
        stage("b", config={"value": "b"}),
        join,
        input={"yes": yes},
    )
    assert found["value"] == value


def test_what_only_waits_for_skipped_stages_is_skipped_too() -> None:
    found = result(
        stage("a", enabled=False), stage("b", after="a"), stage("c", after="b"), stage("d", after="b e"), stage("e")
    )
    assert statuses(found) == {"a": "skipped", "b": "skipped", "c": "skipped", "d": "succeeded", "e": "succeeded"}


def test_a_member_of_a_body_is_skipped_with_what_it_waits_for_outside() -> None:
    found = result(stage("o", when="false"), branch("c", "x y", condition="1 == 1"), reads("stages.o", "x"), stage("y"))
    assert statuses(found) == {"o": "skipped", "c": "succeeded", "x": "skipped", "y": "succeeded"}


def test_a_skipped_construct_skips_all_inside() -> None:
    found = result(foreach("e", "a", when="false"), stage("a"), branch("c", "b", enabled=False), stage("b"))
    assert statuses(found) == {"e": "skipped", "c": "skipped", "b": "skipped"}


def test_a_skipped_stage_reads_as_null() -> None:
    found = output(stage("a", when="false"), stage("o"), stage("r", config={"value": ["{{stages.a}}", "{{stages.o}}"]}))
    assert found["value"] == [None, {"value": None}]


# -- failing -----------------------------------------------------------------------------------------------------------------


def test_a_stage_after_one_that_failed_with_continue_sees_null_and_the_error() -> None:
    r = stage(
        "r",
        config={
            "value": ["{{stages.b}}", "{{stages.b.status}}", "{{stages.b.error.code}}", "{{stages.b.error.attempts}}"]
        },
    )
    assert output(stage("b", "boom", on_error="continue"), r)["value"] == [None, "failed", "permanent_error", 1]


def test_a_fallback_has_a_status_of_its_own_and_keeps_the_error() -> None:
    b = stage("b", "boom", on_error="fallback", fallback_output={"x": 1})
    r = stage("r", config={"value": ["{{stages.b.x}}", "{{stages.b.status}}", "{{stages.b.error.code}}"]})
    assert output(b, r)["value"] == [1, "fallback", "permanent_error"]


def test_a_stage_that_succeeded_has_no_error() -> None:
    assert output(stage("a"), reads("stages.a.error"))["value"] is None


@pytest.mark.parametrize("kind", ["conditional", "foreach", "parallel", "trycatch"])
def test_on_error_of_a_construct_covers_its_bodies(kind: str) -> None:
    construct = {
        "conditional": branch("c", "b", condition="1 == 1"),
        "foreach": foreach("c", "b"),
        "parallel": race("c", "b"),
        "trycatch": attempt("c", "b", config={"error_scope": "propagate"}),
    }[kind]
    r = stage("r", config={"value": ["{{stages.c}}", "{{stages.c.status}}", "{{stages.c.error.stage}}"]})
    path = "c[0]/b" if kind == "foreach" else "b"
    assert output({**construct, "on_error": "continue"}, stage("b", "boom"), r)["value"] == [None, "failed", path]
    fallback = {**construct, "on_error": "fallback", "fallback_output": 7}
    assert output(fallback, stage("b", "boom"), r)["value"] == [7, "fallback", path]


def test_a_retry_of_a_construct_does_not_repeat_its_bodies() -> None:
    found = result(foreach("e", "b", retry={"max_attempts": 3, "initial_delay_ms": 1}), stage("b", "boom"))
    assert found.stages["e[0]/b"].attempts == 1
    assert found.status == "failed"


# -- trycatch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "component", "caught"),
    [
        ([], "boom", True),
        (["permanent_error"], "boom", True),
        (["PermanentError"], "boom", True),
        (["timeout"], "boom", False),
        (["KeyError"], "raises", True),
        (["component_error"], "raises", True),
        (["ValueError"], "raises", False),
    ],
)
def test_errors_are_caught_by_code_or_exception_name(types: list[str], component: str, caught: bool) -> None:
    found = result(
        attempt("t", "b", "c", "f", config={"catch_error_types": types}), stage("b", component), stage("c"), stage("f")
    )
    assert found.status == ("succeeded" if caught else "failed")
    assert statuses(found)["c"] == ("succeeded" if caught else "skipped")
    assert statuses(found)["f"] == "succeeded", "in either case"
    if not caught:
        assert found.failure is not None
        assert found.failure.stage == "b"


def test_the_caught_body_sees_what_the_tried_one_came_to() -> None:
    c = stage(
        "c", config={"value": ["{{stages.a.value | default(0)}}", "{{stages.b.error.code}}", "{{stages.n.status}}"]}
    )
    t = attempt("t", "a b n", "c")
    found = output(t, stage("a", config={"value": 1}), stage("b", "boom", after="a"), stage("n", after="b"), c)
    assert found["catch_result"]["value"] == [1, "permanent_error", "cancelled"]
    assert (found["status"], found["recovered"], found["try_result"]) == ("caught", True, None)


def test_propagate_runs_the_other_bodies_and_fails_all_the_same() -> None:
    found = result(
        attempt("t", "b", "c", "f", config={"error_scope": "propagate"}), stage("b", "boom"), stage("c"), stage("f")
    )
    assert (found.status, statuses(found)["c"], statuses(found)["f"]) == ("failed", "succeeded", "succeeded")


@pytest.mark.parametrize(
    ("caught", "last", "stage_id"), [("boom", "echo", "c"), ("echo", "boom", "f"), ("boom", "boom", "f")]
)
def test_an_error_of_a_later_body_replaces_the_one_before(caught: str, last: str, stage_id: str) -> None:
    found = result(attempt("t", "b", "c", "f"), stage("b", "boom"), stage("c", caught), stage("f", last))
    assert found.failure is not None
    assert found.failure.stage == stage_id
    assert statuses(found)["f"] in ("succeeded", "failed")


def test_the_last_body_does_not_run_when_the_scope_is_left_from_inside() -> None:
    found = result(attempt("t", "r", "", "f"), stage("r", "return", config={"return_value": 1}), stage("f"))
    assert found.output == 1
    assert statuses(found) == {"r": "succeeded", "t": "cancelled", "f": "skipped"}


# -- parallel -----------------------------------------------------------------------------------------------------------------


def test_losers_are_stopped_and_have_no_result() -> None:
    found = result(
        race("p", "slow after", "fast", wait_for="any"),
        stage("slow", "sleepy"),
        stage("after", after="slow"),
        stage("fast"),
    )
    assert found.output == {"results": [None, {"value": None}], "completed": ["1"], "winner": "1", "errors": []}
    assert statuses(found) == {"p": "succeeded", "slow": "cancelled", "after": "skipped", "fast": "succeeded"}


def test_a_failed_branch_is_listed_when_enough_others_succeed() -> None:
    found = output(race("p", "b", "x", "y", wait_for=2), stage("b", "boom"), stage("x"), stage("y"))
    assert (found["results"][0], sorted(found["completed"])) == (None, ["1", "2"])
    assert [(e["branch"], e["code"], e["stage"]) for e in found["errors"]] == [("0", "permanent_error", "b")]


@pytest.mark.parametrize(("wait_for", "fails"), [("all", 1), (2, 2), ("any", 3)])
def test_it_fails_as_soon_as_too_few_can_succeed(wait_for: Any, fails: int) -> None:
    kinds = ["boom"] * fails + ["sleepy"] * (3 - fails)
    found = result(
        race("p", "a", "b", "c", wait_for=wait_for), *(stage(i, k) for i, k in zip("abc", kinds, strict=True))
    )
    assert found.failure is not None
    assert found.failure.code == "permanent_error"
    assert statuses(found)["p"] == "failed"
    assert "running" not in statuses(found).values()


def test_an_empty_branch_succeeds_at_once_with_an_empty_object() -> None:
    assert output(race("p", "", "x"), stage("x"))["results"] == [{}, {"value": None}]
    assert output(race("p", "", "x", wait_for="any"), stage("x"))["winner"] == "0"


def test_a_branch_of_skipped_stages_succeeds_with_null() -> None:
    assert output(race("p", "x", "y"), stage("x", when="false"), stage("y"))["results"] == [None, {"value": None}]


# -- loops --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "config", "expected"),
    [
        ("a", {}, {"value": 1}),
        ("a b", {}, {"b": {"value": 2}, "a": {"value": 1}}),
        ("a c", {}, {"value": 3}),
        ("a c", {"collect": "{{stages.a.value}}"}, 1),
        ("a s", {}, {"a": {"value": 1}, "s": None}),
        ("a q", {}, {"value": 1}),
    ],
)
def test_the_result_of_an_iteration(body: str, config: dict[str, Any], expected: Any) -> None:
    kinds = {
        "a": stage("a", config={"value": 1}),
        "b": stage("b", config={"value": 2}),
        "c": stage("c", config={"value": 3}, after="a"),
        "s": stage("s", when="false"),
        "q": stage("q", "break_loop", config={"condition": "item > 9"}, after="a"),
    }
    found = output(foreach("e", body, config={"items": [1], **config}), *(kinds[id] for id in body.split()))
    assert found["results"] == [expected]


def test_a_broken_loop_has_the_results_of_the_items_that_had_begun() -> None:
    loop = foreach("e", "q a", config={"items": [1, 2, 3, 4]})
    q = stage("q", "break_loop", config={"condition": "item == 3", "result": "stop"})
    found = output(loop, q, reads("item", "a", after="q"))
    assert found == {
        "results": [{"value": 1}, {"value": 2}, "stop"],
        "errors": [],
        "total_items": 4,
        "succeeded_items": 3,
    }


def test_items_in_flight_beside_a_break_are_stopped_and_null() -> None:
    loop = foreach("e", "q a", config={"items": [1, 2, 3, 4, 5], "max_parallel": 3})
    q = stage("q", "break_loop", config={"condition": "item == 3", "result": "stop"})
    found = result(loop, q, stage("a", "sleepy", after="q"))
    assert found.output == {"results": [None, None, "stop"], "errors": [], "total_items": 5, "succeeded_items": 1}
    assert statuses(found)["e[0]/a"] == "cancelled"
    assert "e[3]/q" not in statuses(found)


def test_continue_ends_the_item_with_its_result_and_without_one_with_null() -> None:
    n = stage("n", "continue_loop", config={"condition": "item == 2"})
    assert output(foreach("e", "n a"), n, reads("item", "a", after="n"))["results"] == [
        {"value": 1},
        None,
        {"value": 3},
    ]


def test_the_first_failed_item_stops_the_loop_unless_it_may_go_on() -> None:
    loop = foreach("e", "q b a", config={"items": [1, 2, 3]})
    rest = (branch("q", "b", condition="item == 2"), stage("b", "boom"), reads("item", "a"))
    stopped = result(foreach("e", "q a"), *rest)
    assert (stopped.status, stopped.failure and stopped.failure.stage) == ("failed", "e[1]/b")
    assert "e[2]/a" not in stopped.stages
    loop = foreach("e", "q a", config={"break_on_error": False, "collect": "{{item}}"})
    went_on = output(loop, *rest)
    assert (went_on["results"], went_on["succeeded_items"]) == ([1, None, 3], 2)
    assert went_on["errors"] == [
        {"index": 1, "code": "permanent_error", "message": "It was to fail.", "stage": "e[1]/b", "attempts": 1}
    ]


@pytest.mark.parametrize(("ratio", "status"), [(0.6, "succeeded"), (0.7, "failed")])
def test_min_success_ratio_is_judged_at_the_end(ratio: float, status: str) -> None:
    loop = foreach("e", "q a", config={"break_on_error": False, "min_success_ratio": ratio})
    found = result(loop, branch("q", "b", condition="item == 1"), stage("b", "boom"), reads("item", "a"))
    assert found.status == status
    if found.failure is not None:
        assert found.failure.code == "too_many_errors"
        assert found.failure.details is not None
        assert [e["index"] for e in found.failure.details["errors"]] == [0]


def test_a_loop_over_nothing_has_no_results() -> None:
    loop = foreach("e", "a", config={"items": [], "min_success_ratio": 1})
    assert output(loop, stage("a")) == {"results": [], "errors": [], "total_items": 0, "succeeded_items": 0}


def test_the_innermost_loops_variables_hide_the_outer_ones() -> None:
    outer = foreach("o", "i", config={"items": [[1, 2], [3]], "item_variable": "x"})
    inner = foreach("i", "a", config={"items": "{{x}}", "item_variable": "x"})
    found = output(outer, inner, stage("a", config={"value": ["{{x}}", "{{index}}"]}))
    assert [[r["value"] for r in each["results"]] for each in found["results"]] == [[[1, 0], [2, 1]], [[3, 0]]]


def test_the_index_is_that_of_the_source_also_in_paths() -> None:
    loop = foreach("e", "a", config={"items": [5, 6, 7], "filter_expression": "item != 6 and index < 9"})
    found = result(loop, reads("index", "a"))
    assert [r["value"] for r in found.output["results"]] == [0, 2]
    assert set(found.stages) == {"e", "e[0]/a", "e[2]/a"}


# -- variables ------------------------------------------------------------------------------------------------------------------


def sets(id: str, value: Any, name: str = "v", **keys: Any) -> dict[str, Any]:
    return stage(id, "variable_set", config={"name": name, "value": value}, **keys)


def test_a_variable_of_an_iteration_is_its_own() -> None:
    loop = foreach("e", "s r", config={"max_parallel": 3})
    found = output(
        sets("o", 0), loop, sets("s", "{{vars.v + item}}"), reads("vars.v", "r"), reads("vars.v", "after", after="e")
    )
    assert found == {"value": 0}


def test_a_variable_set_in_a_branch_is_there_behind_it() -> None:
    assert output(branch("c", "s", condition="1 == 1"), sets("s", 1), reads("vars.v"))["value"] == 1


def test_a_variable_that_was_not_set_is_an_error_unless_it_has_a_default() -> None:
    found = result(branch("c", "s"), sets("s", 1), reads("vars.v"), input={"yes": False})
    assert found.failure is not None
    assert "'v'" in found.failure.message
    assert output(branch("c", "s"), sets("s", 1), reads("vars.v | default(2)"), input={"yes": False})["value"] == 2


# -- leaving --------------------------------------------------------------------------------------------------------------------


def test_return_ends_the_run_from_inside_of_loops_and_stops_what_runs() -> None:
    loop = foreach("o", "i", config={"items": [[1, 2], [3, 4]]})
    inner = foreach("i", "q", config={"items": "{{item}}"})
    q = stage("q", "return", config={"condition": "item == 3", "return_value": "{{item}}"})
    found = result(loop, inner, q, stage("z", "sleepy"), output={"never": "{{stages.o}}"})
    assert found.output == 3
    assert statuses(found)["z"] == "cancelled"


def test_what_leaves_is_no_terminal_stage() -> None:
    found = output(stage("a", config={"value": 1}), stage("q", "return", config={"condition": "false"}, after="a"))
    assert found == {"value": 1}


def test_what_is_returned_must_fit_the_output_schema() -> None:
    q = stage("q", "return", config={"return_value": "x"})
    found = result(q, output_schema={"type": "integer"})
    assert found.failure is not None
    assert (found.failure.code, found.failure.stage) == ("invalid_output", "q")


# -- calls ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "its", "limit"), [(20, None, "0.02"), (None, 20, "0.02"), (20, 60_000, "0.02"), (60_000, 20, "0.02")]
)
@pytest.mark.parametrize(("on_error", "value"), [("fail", None), ("continue", None), ("default", "none")])
def test_the_shorter_of_two_time_limits_ends_a_call(
    mine: int | None, its: int | None, limit: str, on_error: str, value: Any, project_dir: Path
) -> None:
    called = pipeline(stage("z", "sleepy"), **({} if its is None else {"timeout_ms": its}))
    (project_dir / "called.pipeline.json").write_text(json.dumps({**called, "name": "called"}), encoding="utf-8")
    config: dict[str, Any] = {"pipeline": "./called.pipeline.json", "on_error": on_error}
    if mine is not None:
        config["timeout_ms"] = mine
    if on_error == "default":
        config["default_result"] = value
    found = result(stage("s", "subpipeline", config=config))
    assert statuses(found)["s/z"] == "cancelled"
    error = found.failure.to_json() if found.failure is not None else found.output["error"]
    assert (error["code"], error["stage"]) == ("timeout", "s")
    assert f"within {limit} s" in error["message"]
    if on_error != "fail":
        assert (found.output["status"], found.output["result"]) == ("failed", value)


# -- approvals ------------------------------------------------------------------------------------------------------------------


def asks(**config: Any) -> dict[str, Any]:
    return stage("w", "wait_for_approval", config={"message": "Go on?", **config})


@pytest.mark.parametrize("on_timeout", ["fail", "continue"])
def test_a_question_that_nobody_answers(on_timeout: str) -> None:
    found = result(asks(timeout_ms=20, on_timeout=on_timeout))
    if on_timeout == "fail":
        assert found.failure is not None
        assert found.failure.code == "timeout"
    else:
        assert found.output == {"answered": False, "data": None, "answered_by": None}


def test_an_answer_that_does_not_fit_the_form_is_passed_over() -> None:
    prepared = PreparedRun(pipeline(asks(form={"type": "object", "required": ["ok"]})), components=COMPONENTS)

    async def answered() -> RunResult:
        task = asyncio.create_task(prepared.run())
        for data in ({}, {"ok": True}):
            await asyncio.sleep(0.05)
            prepared.answer("w", data, by="Ada")
        return await task

    found = asyncio.run(answered())
    assert found.output == {"answered": True, "data": {"ok": True}, "answered_by": "Ada"}


def test_other_branches_go_on_while_a_question_waits() -> None:
    found = output(race("p", "w", "x", wait_for="any"), asks(), stage("x"))
    assert found["winner"] == "1"
