"""What is wrong with a test file is said before anything runs, each with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.errors import Problem
from tests.unit.pipeline_tests.kit import GREET, file_result, run, transformed, write


def problem_of(folder: Path, case: dict[str, Any], pipeline: dict[str, Any] | None = None) -> Problem:
    result = file_result(folder, {"name": "c", **case}, pipeline=pipeline)
    assert result.cases == []
    assert len(result.problems) == 1, [str(p) for p in result.problems]
    problem = result.problems[0]
    assert problem.file == str(folder / "p.test.json")
    assert problem.line is not None
    return problem


@pytest.mark.parametrize(
    ("case", "code", "path", "nearest"),
    [
        ({"asertions": []}, "unknown_key", "/cases/0/asertions", "assertions"),
        ({"mocks": {"say": {"outptu": {}}}}, "unknown_key", "/cases/0/mocks/say/outptu", "output"),
        ({"mocks": {"say": {"outputs": [{"rows": 1}]}}}, "unknown_key", "/cases/0/mocks/say/outputs/0/rows", None),
        ({"assertions": [{"operator": "equal"}]}, "invalid_choice", "/cases/0/assertions/0/operator", "equals"),
        ({"input": [1]}, "wrong_type", "/cases/0/input", None),
        ({"input": {}, "sample": True}, "two_inputs", "/cases/0/sample", None),
        ({"expect_error": True, "expect_status": "succeeded"}, "contradiction", "/cases/0/expect_status", None),
        ({"mocks": {"say": {}}}, "no_answer", "/cases/0/mocks/say", None),
        ({"mocks": {"say": []}}, "no_answer", "/cases/0/mocks/say", None),
        ({"mocks": {"say": {"outputs": []}}}, "no_answer", "/cases/0/mocks/say/outputs", None),
        ({"mocks": {"say": {"output": {}, "error": {}}}}, "two_answers", "/cases/0/mocks/say", None),
        ({"mocks": {"say": {"error": {}, "when": "vars.x"}}}, "invalid_expression", "/cases/0/mocks/say/when", None),
        ({"assertions": [{"path": "output"}]}, "invalid_json_path", "/cases/0/assertions/0/path", None),
        ({"mocks": {"sya": {"error": {}}}}, "unknown_stage", "/cases/0/mocks/sya", "say"),
        ({"mocks": {"each/sey": {"error": {}}}}, "unknown_stage", "/cases/0/mocks/each~1sey", "each/say"),
        ({"mocks": {"each": {"error": {}}}}, "not_mockable", "/cases/0/mocks/each", None),
        ({"expect_error": {"stage": "gretting"}}, "unknown_stage", "/cases/0/expect_error/stage", "greeting"),
        ({"env": {"HOME": "x"}}, "unknown_name", "/cases/0/env/HOME", None),
    ],
)
def test_a_case_that_is_wrong(tmp_path: Path, case: dict[str, Any], code: str, path: str, nearest: str | None):
    if "assertions" in case and "operator" not in case["assertions"][0]:
        case = {"assertions": [{**case["assertions"][0], "value": 1}]}
    problem = problem_of(tmp_path, case)
    assert (problem.code, problem.path, problem.nearest) == (code, path, nearest)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [("$.outptu.x", "output"), ("$.stages['each[0]/sya'].status", "each/say"), ("$.stages.greting", "greeting")],
)
def test_an_assertion_about_what_no_run_comes_to(tmp_path: Path, path: str, nearest: str):
    problem = problem_of(tmp_path, {"assertions": [{"path": path, "value": 1}]})
    assert problem.nearest == nearest


def test_an_output_that_the_component_cannot_have(tmp_path: Path):
    unknown = problem_of(tmp_path, {"mocks": {"say": {"output": {**transformed(), "resutl": 1}}}})
    assert (unknown.code, unknown.path, unknown.nearest) == (
        "unknown_field",
        "/cases/0/mocks/say/output/resutl",
        "result",
    )
    missing = problem_of(tmp_path, {"mocks": {"say": {"output": {"result": {}}}}})
    assert missing.code == "missing_field"
    assert "'fields_mapped' and 'fields_missing'" in missing.message
    wrong = problem_of(tmp_path, {"mocks": {"say": [{"output": {**transformed(), "fields_mapped": 1}}]}})
    assert (wrong.code, wrong.path) == ("invalid_output", "/cases/0/mocks/say/0/output/fields_mapped")
    listed = problem_of(tmp_path, {"mocks": {"say": {"outputs": [{"output": {**transformed(), "x": 1}}]}}})
    assert listed.path == "/cases/0/mocks/say/outputs/0/output/x"


def test_a_wildcard_passes_over_control_flow(tmp_path: Path):
    mocks = {"*": {"output": transformed(text="t", word="w")}}
    pipeline = {**GREET, "stages": [s for s in GREET["stages"] if s["id"] != "loud"]}
    result = file_result(tmp_path, {"name": "c", "sample": True, "mocks": mocks}, pipeline=pipeline)
    assert [case.verdict for case in result.cases] == ["passed"]


def test_names_are_unique(tmp_path: Path):
    result = file_result(tmp_path, {"name": "a", "sample": True}, {"name": "a"})
    assert [p.code for p in result.problems] == ["duplicate_name"]
    assert "in line 3" in result.problems[0].message


def test_no_sample_input(tmp_path: Path):
    pipeline = {key: value for key, value in GREET.items() if key != "sample_input"}
    assert problem_of(tmp_path, {"sample": True}, pipeline).code == "no_sample_input"


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", "invalid_json"), ("[]", "not_an_object"), ('{"cases": []}', "invalid_value"), ("{}", "missing_field")],
)
def test_files_that_are_no_test_files(tmp_path: Path, text: str, code: str):
    problem = run(write(tmp_path, text)).files[0].problems[0]
    assert problem.code == code
    assert "pipeline" not in problem.message


def test_a_pipeline_that_is_not_there(tmp_path: Path):
    file = write(tmp_path, [{"name": "c"}], pipeline=None)
    (tmp_path / "p.pipeline.json").rename(tmp_path / "q.pipeline.json")
    problem = run(file).files[0].problems[0]
    assert (problem.code, problem.line) == ("pipeline_not_found", 1)
    file.write_text(json.dumps({"pipeline": "gret", "cases": [{"name": "c"}]}))
    problem = run(file).files[0].problems[0]
    assert (problem.code, problem.path, problem.nearest) == ("pipeline_not_found", "/pipeline", "greet")
    file.write_text(json.dumps({"pipeline": "greet", "cases": [{"name": "c", "sample": True}]}))
    assert run(file).files[0].problems == ()
    file.write_text(json.dumps({"pipeline": "./q.pipeline.json", "cases": [{"name": "c", "sample": True}]}))
    assert run(file).files[0].problems == ()


def test_what_is_wrong_with_the_pipeline_is_told_with_its_place(tmp_path: Path):
    pipeline = {**GREET, "stages": [{"id": "a", "component_type": "jason_transform"}], "output": None}
    problems = file_result(tmp_path, {"name": "c"}, pipeline=pipeline).problems
    assert [p.code for p in problems] == ["unknown_component"]
    assert problems[0].file == str(tmp_path / "p.pipeline.json")
