"""Cases are run as they say: mocks answer, expectations are held against the run, and results come in order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.pipeline_tests.results import CaseResult
from flowmason_ray.pipeline_tests.running import Listener
from tests.unit.pipeline_tests.kit import GREET, file_result, run, run_cases, transformed, write

NAMES = {"names": ["Ada", "Bo"]}
BUSY = {"error": {"code": "busy", "message": "Come back later."}}


def one(folder: Path, pipeline: dict[str, Any] | None = None, **case: Any) -> CaseResult:
    (result,) = run_cases(folder, {"name": "c", **case}, pipeline=pipeline)
    return result


def check(path: str, value: Any) -> dict[str, Any]:
    return {"path": path, "value": value}


def with_stage(index: int, **more: Any) -> dict[str, Any]:
    stages = [dict(stage) for stage in GREET["stages"]]
    stages[index] |= more
    return {**GREET, "stages": stages}


# -- mocks ----------------------------------------------------------------------------------------------------------------


def test_nothing_is_mocked_that_is_not_declared(tmp_path: Path):
    result = one(tmp_path, input=NAMES, assertions=[check("$.output.texts", ["Hello Ada", "Hello Bo"])])
    assert (result.verdict, result.mocked, result.unmet) == ("passed", [], [])


def test_a_mock_answers_in_every_iteration(tmp_path: Path):
    result = one(
        tmp_path,
        input=NAMES,
        mocks={"say": {"output": transformed(text="Hi")}},
        assertions=[
            check("$.output.texts", ["Hi", "Hi"]),
            check("$.stages[*].mocked", [False, False, True, True, False]),
        ],
    )
    assert (result.verdict, result.mocked) == ("passed", ["each[0]/say", "each[1]/say"])


def test_the_most_precise_mock_answers_first(tmp_path: Path):
    mocks = {
        "*": {"output": transformed(text="any", word="any")},
        "say": {"output": transformed(text="say")},
        "each[1]/say": {"output": transformed(text="second")},
    }
    pipeline = {**GREET, "stages": [stage for stage in GREET["stages"] if stage["id"] != "loud"]}
    checks = [check("$.output.texts", ["say", "second"])]
    result = one(tmp_path, pipeline, input=NAMES, mocks=mocks, assertions=checks)
    assert result.verdict == "passed"


def test_a_mock_with_a_condition_leaves_the_rest_to_the_component(tmp_path: Path):
    mocks = {
        "say": [
            {"when": "'Ada' in config.values.text", "output": transformed(text="first")},
            {
                "when": "path == 'each[1]/say' and input.names[0] == 'X' and attempt == 1",
                "output": transformed(text="no"),
            },
        ]
    }
    result = one(tmp_path, input=NAMES, mocks=mocks, assertions=[check("$.output.texts", ["first", "Hello Bo"])])
    assert (result.verdict, result.mocked) == ("passed", ["each[0]/say"])
    assert result.warnings == ["The mock of 'say[1]' was never used."]


def test_templates_of_a_mocked_stage_are_still_rendered(tmp_path: Path):
    pipeline = with_stage(2, config={"data": {}, "values": {"text": "{{stages.greeting.result.wrod}}"}})
    result = one(tmp_path, pipeline, input=NAMES, mocks={"say": {"output": transformed(text="Hi")}})
    assert result.failure is not None
    assert (result.verdict, result.failure.code) == ("failed", "missing_value")


def test_when_of_a_mocked_stage_still_decides(tmp_path: Path):
    output = {"logged": True, "log_id": "x", "passthrough": 5}
    mocks = {"loud": {"output": output}}
    silent = one(tmp_path, input=NAMES, mocks=mocks, assertions=[check("$.stages.loud.reason", "when")])
    assert (silent.verdict, silent.warnings) == ("passed", ["The mock of 'loud' was never used."])
    loud = one(
        tmp_path, input={**NAMES, "loud": True}, mocks=mocks, assertions=[check("$.stages.loud.output.passthrough", 5)]
    )
    assert (loud.verdict, loud.warnings) == ("passed", [])


def test_outputs_are_given_one_per_attempt(tmp_path: Path):
    pipeline = with_stage(0, retry={"max_attempts": 3, "initial_delay_ms": 0})
    mocks = {"greeting": {"outputs": [BUSY, BUSY, {"output": transformed(word="Hi")}]}}
    checks = [check("$.stages.greeting.attempts", 3), check("$.output.texts", ["Hi Ada", "Hi Bo"])]
    assert one(tmp_path, pipeline, input=NAMES, mocks=mocks, assertions=checks).verdict == "passed"


def test_a_mock_that_has_no_more_outputs_fails(tmp_path: Path):
    mocks = {"say": {"outputs": [{"output": transformed(text="Hi")}]}}
    expected = {"code": "mock_exhausted", "stage": "each/say", "message_contains": "1 outputs"}
    assert one(tmp_path, input=NAMES, mocks=mocks, expect_error=expected).verdict == "passed"


def test_outputs_that_are_left_over_are_a_warning(tmp_path: Path):
    mocks = {"greeting": {"outputs": [{"output": transformed(word="Hi")}, BUSY]}}
    result = one(tmp_path, input=NAMES, mocks=mocks)
    assert result.warnings == ["The mock of 'greeting' gave 1 of its 2 outputs."]


def test_an_error_is_caught_by_its_type(tmp_path: Path):
    pipeline = with_stage(0, on_error="fallback", fallback_output=transformed(word="Well"))
    mocks = {"greeting": {"error": {"code": "busy", "message": "No.", "error_type": "TimeoutError"}}}
    checks = [
        check("$.stages.greeting.status", "fallback"),
        check("$.stages.greeting.error.error_type", "TimeoutError"),
        check("$.stages.greeting.output.result.word", "Well"),
    ]
    assert one(tmp_path, pipeline, input=NAMES, mocks=mocks, assertions=checks).verdict == "passed"


def test_an_approval_is_answered_by_its_mock(tmp_path: Path):
    pipeline = {
        "name": "ask",
        "stages": [{"id": "ask", "component_type": "wait_for_approval", "config": {"message": "Really?"}}],
        "output": "{{stages.ask.data.yes}}",
    }
    answer = {"answered": True, "data": {"yes": 1}, "answered_by": "Ada"}
    checks = [check("$.output", 1), check("$.stages.ask.output.answered_by", "Ada")]
    result = one(tmp_path, pipeline, mocks={"ask": {"output": answer}}, assertions=checks)
    assert (result.verdict, result.mocked) == ("passed", ["ask"])
    refused = file_result(
        tmp_path, {"name": "c", "mocks": {"ask": {"output": {**answer, "answered": False}}}}, pipeline=pipeline
    )
    assert [p.code for p in refused.problems] == ["not_mockable"]


def test_stages_of_a_called_pipeline_are_mocked_by_their_path(tmp_path: Path):
    called = {**GREET, "name": "called"}
    (tmp_path / "called.pipeline.json").write_text(json.dumps(called))
    pipeline = {
        "name": "calling",
        "stages": [
            {
                "id": "call",
                "component_type": "subpipeline",
                "config": {"pipeline": "./called.pipeline.json", "input_data": "{{input}}"},
            }
        ],
        "output": "{{stages.call.result.texts}}",
    }
    mocks = {"call/each[1]/say": {"output": transformed(text="Hi")}}
    checks = [check("$.output", ["Hello Ada", "Hi"]), check("$.stages['call/each[1]/say'].mocked", True)]
    assert one(tmp_path, pipeline, input=NAMES, mocks=mocks, assertions=checks).verdict == "passed"
    whole = file_result(tmp_path, {"name": "c", "mocks": {"call": {"error": {}}}}, pipeline=pipeline).problems[0]
    assert whole.code == "not_mockable"
    assert "'call/*'" in (whole.hint or "")


# -- expectations ---------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_unexpectedly_fails_the_case_and_says_why(tmp_path: Path):
    result = one(tmp_path, input=NAMES, mocks={"greeting": BUSY}, assertions=[check("$.output.texts", [])])
    (unmet,) = result.unmet
    assert unmet.message == "The run failed. Stage 'greeting': Come back later. [busy]"
    assert unmet.line == result.line


def test_an_expected_error(tmp_path: Path):
    mocks = {"greeting": BUSY}
    assert one(tmp_path, input=NAMES, mocks=mocks, expect_error=True).verdict == "passed"
    assert one(tmp_path, input=NAMES, mocks=mocks, expect_error={"code": "busy"}).verdict == "passed"
    assert one(tmp_path, input=NAMES, mocks=mocks, expect_status="failed").verdict == "passed"
    wrong = one(tmp_path, input=NAMES, mocks=mocks, expect_error={"code": "idle", "stage": "each/say"})
    assert wrong.verdict == "failed"
    assert wrong.unmet[0].details == [
        "~ code: expected 'idle'; found 'busy'",
        "~ stage: expected 'each/say'; found 'greeting'",
    ]


def test_a_run_that_succeeds_although_an_error_is_expected_fails_the_case(tmp_path: Path):
    result = one(tmp_path, input=NAMES, expect_error=True)
    assert [u.message for u in result.unmet] == ["The run was to fail, but it succeeded."]


def test_assertions_hold_for_failed_runs_too(tmp_path: Path):
    checks = [check("$.error.stage", "greeting"), check("$.error.code", "idle")]
    result = one(tmp_path, input=NAMES, mocks={"greeting": BUSY}, expect_error=True, assertions=checks)
    assert [u.path for u in result.unmet] == ["$.error.code"]


@pytest.mark.parametrize("code", ["invalid_input", "missing_field"])
def test_an_input_that_does_not_fit_is_an_error_like_any(tmp_path: Path, code: str):
    assert one(tmp_path, input={}, expect_error={"code": code}).verdict == "passed"
    assert "'names'" in one(tmp_path, input={}).unmet[0].message


def test_a_case_that_takes_too_long_is_stopped(tmp_path: Path):
    pipeline = {
        "name": "ask",
        "stages": [{"id": "ask", "component_type": "wait_for_approval", "config": {"message": "Really?"}}],
    }
    result = one(tmp_path, pipeline, timeout_ms=30, expect_error=True)
    assert [u.message for u in result.unmet] == ["It did not end within 0.03 s and was stopped."]


def test_values_of_the_environment_and_secrets_are_given_and_not_shown(tmp_path: Path):
    (tmp_path / "flowmason.json").write_text(json.dumps({"env_allow": ["CITY"], "secrets": ["TOKEN"]}))
    pipeline = with_stage(
        0,
        config={
            "data": {},
            "values": {"word": "{{env.CITY}}", "key": "{{secrets.TOKEN}}", "again": "x{{secrets.TOKEN}}"},
        },
    )
    result = one(
        tmp_path,
        pipeline,
        input=NAMES,
        env={"CITY": "Oslo"},
        secrets={"TOKEN": "abcdefgh"},
        assertions=[check("$.output.texts[0]", "Oslo Ada"), check("$.stages.greeting.output.result", {})],
    )
    (unmet,) = result.unmet
    assert "abcdefgh" not in json.dumps(unmet.to_json())
    assert unmet.found == {"word": "Oslo", "key": "***", "again": "x***"}


def test_what_was_run_where_a_place_of_each_failure_is_known(tmp_path: Path):
    result = one(tmp_path, input=NAMES, assertions=[check("$.status", "succeeded"), check("$.output.texts", [])])
    lines = (tmp_path / "p.test.json").read_text().splitlines()
    (unmet,) = result.unmet
    assert unmet.line is not None
    assert "$.output.texts" in lines[unmet.line]
    assert result.line is not None
    assert '"name": "c"' in lines[result.line]


# -- which cases, in which order ------------------------------------------------------------------------------------------

PASSES: dict[str, Any] = {"input": NAMES}
FAILS: dict[str, Any] = {"input": NAMES, "expect_error": True}


def verdicts(results: list[CaseResult]) -> dict[str, str]:
    return {result.name: result.verdict for result in results}


def test_skip_and_only(tmp_path: Path):
    results = run_cases(
        tmp_path,
        {"name": "a", **FAILS, "skip": "not yet"},
        {"name": "b", **FAILS, "skip": True},
        {"name": "c", **PASSES, "only": True},
        {"name": "d", **FAILS},
    )
    assert [(r.verdict, r.reason) for r in results] == [
        ("skipped", "not yet"),
        ("skipped", "it says so"),
        ("passed", None),
        ("skipped", "another case says 'only'"),
    ]


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ({"tags": ["quick"]}, ["a", "ab"]),
        ({"tags": ["quick", "slow"]}, ["a", "ab", "b"]),
        ({"tags": ["not slow"]}, ["a", "c"]),
        ({"tags": ["quick", "not slow"]}, ["a"]),
        ({"name": "A"}, ["a", "ab"]),
        ({"name": "B", "tags": ["slow"]}, ["ab", "b"]),
        ({"name": "z"}, []),
    ],
)
def test_cases_are_chosen_by_tag_and_name(tmp_path: Path, selection: dict[str, Any], chosen: list[str]):
    tags = {"a": ["quick"], "ab": ["quick", "slow"], "b": ["slow"], "c": []}
    file = write(tmp_path, [{"name": name, "tags": each, **PASSES} for name, each in tags.items()])
    result = run(file, **selection).files[0]
    assert [case.name for case in result.cases] == chosen
    assert result.left_out == 4 - len(chosen)


def test_after_a_failure_no_case_is_started(tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    files = [write(folder, [{"name": "a", **FAILS}, {"name": "b", **PASSES}]) for folder in (tmp_path, other)]
    report = run(*files, fail_fast=True)
    assert [case.verdict for case in report.cases()] == ["failed", "skipped", "skipped", "skipped"]


def test_several_cases_run_at_once_and_are_told_in_order(tmp_path: Path):
    pipeline = {
        "name": "ask",
        "stages": [{"id": "ask", "component_type": "wait_for_approval", "config": {"message": "?"}}],
    }
    limits = [180, 30, 120, 60]
    cases = [{"name": str(limit), "timeout_ms": limit} for limit in limits]
    file = write(tmp_path, cases, pipeline)
    at_once = False
    for _ in range(5):  # a busy machine may hold up one of them before they begin, or when they have ended
        told: list[str] = []
        report = run(file, listener=Listener(case_ended=lambda file, case, told=told: told.append(case.name)), jobs=4)
        assert told == [str(limit) for limit in limits]
        assert [case.name for case in report.cases()] == told
        at_once = report.duration_s < sum(case.duration_s for case in report.cases())
        if at_once:
            break
    assert at_once


def test_cancelling_the_task_ends_the_runs(tmp_path: Path):
    from flowmason_ray.pipeline_tests.running import Selection, run_files

    pipeline = {
        "name": "ask",
        "stages": [{"id": "ask", "component_type": "wait_for_approval", "config": {"message": "?"}}],
    }
    file = write(tmp_path, [{"name": "c"}], pipeline)

    async def cancelled() -> None:
        task = asyncio.create_task(run_files([file], Selection()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
