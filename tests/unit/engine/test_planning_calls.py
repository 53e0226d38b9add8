"""What planning says about pipelines that call pipelines: where the fault lies, and in which file."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.planning import try_plan
from flowmason_ray.errors import Problem
from flowmason_ray.spec.finding import find_pipeline
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_file
from tests.engine_kit import catalogue, conditional, stage


def call(pipeline: str, id: str = "s", **config: Any) -> dict[str, Any]:
    return stage(id, "subpipeline", config={"pipeline": pipeline, **config})


def write(folder: Path, **pipelines: list[dict[str, Any]]) -> None:
    for name, stages in pipelines.items():
        text = json.dumps({"name": name, "stages": stages}, indent=1)
        (folder / f"{name}.pipeline.json").write_text(text, encoding="utf-8")


def check(folder: Path, name: str = "main") -> list[Problem]:
    def find(reference: str, from_file: str | None) -> LoadedPipeline:
        return find_pipeline(reference, Path(from_file or folder).parent, [folder])

    return try_plan(load_pipeline_file(folder / f"{name}.pipeline.json"), catalogue(), pipelines=find)[1]


@pytest.mark.parametrize(
    ("calls", "ring"),
    [
        ({"main": "main"}, "main → main"),
        ({"main": "b", "b": "main"}, "main → b → main"),
        ({"main": "b", "b": "c", "c": "main"}, "main → b → c → main"),
        ({"main": "b", "b": "c", "c": "d", "d": "c"}, "c → d → c"),
    ],
)
def test_a_pipeline_that_calls_itself_is_refused_with_the_ring_named(
    calls: dict[str, str], ring: str, tmp_path: Path
) -> None:
    write(tmp_path, **{name: [call(f"{called}.pipeline.json")] for name, called in calls.items()})
    (problem,) = check(tmp_path)
    assert (problem.code, problem.path) == ("recursive_pipeline", "/stages/0/config/pipeline")
    assert problem.found == " → ".join(f"{name}@1.0.0" for name in ring.split(" → "))
    last = ring.split(" → ")[-2]
    assert problem.file == str(tmp_path / f"{last}.pipeline.json"), "where the ring is closed"
    assert problem.line == 8


def test_a_ring_that_is_reached_by_name_and_by_path_is_the_same_ring(tmp_path: Path) -> None:
    write(tmp_path, main=[call("b")], b=[call("./main.pipeline.json")])
    assert [p.code for p in check(tmp_path)] == ["recursive_pipeline"]


def test_the_same_pipeline_may_be_called_twice(tmp_path: Path) -> None:
    write(tmp_path, main=[call("b", "x"), call("b", "y")], b=[call("c")], c=[stage("a")])
    assert check(tmp_path) == []


def test_what_is_wrong_in_a_called_pipeline_has_its_file_and_line_and_is_said_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        main=[call("b", "x"), call("b", "y")],
        b=[stage("a"), stage("n", "continue_loop"), stage("r", config={"value": "{{stages.aa.value}}"})],
    )
    problems = check(tmp_path)
    assert [(p.code, p.path, p.line, Path(p.file or "").name, p.nearest) for p in problems] == [
        ("not_in_loop", "/stages/1", 8, "b.pipeline.json", None),
        ("unknown_stage", "/stages/2/config/value", 16, "b.pipeline.json", "a"),
    ]


def test_a_called_pipeline_stands_in_no_loop_of_its_caller(tmp_path: Path) -> None:
    loop = stage("e", "foreach", config={"items": [1], "loop_stages": ["s"]})
    write(tmp_path, main=[loop, call("b")], b=[stage("x", "break_loop")])
    assert [(p.code, Path(p.file or "").name) for p in check(tmp_path)] == [("not_in_loop", "b.pipeline.json")]


def test_a_called_pipeline_sees_no_stage_variable_or_item_of_its_caller(tmp_path: Path) -> None:
    reads = [
        stage(f"r{i}", config={"value": "{{" + text + "}}"}) for i, text in enumerate(("stages.a", "vars.v", "item"))
    ]
    loop = stage("e", "foreach", config={"items": [1], "loop_stages": ["s"]})
    sets = stage("v", "variable_set", config={"name": "v", "value": 1})
    write(tmp_path, main=[stage("a"), sets, loop, call("b")], b=reads)
    assert [p.code for p in check(tmp_path)] == ["unknown_stage", "unknown_variable", "unknown_name"]


@pytest.mark.parametrize(
    ("reference", "code", "nearest"),
    [
        ("reprot", "pipeline_not_found", "report"),
        ("report@^2", "pipeline_not_found", None),
        ("report@new", "invalid_range", None),
        ("reprot.pipeline.json", "pipeline_not_found", "report.pipeline.json"),
    ],
)
def test_a_pipeline_that_is_not_there_is_said_at_the_call(
    reference: str, code: str, nearest: str | None, tmp_path: Path
) -> None:
    write(tmp_path, main=[call(reference)], report=[stage("a")])
    (problem,) = check(tmp_path)
    assert (problem.code, problem.path, problem.line, problem.nearest) == (
        code,
        "/stages/0/config/pipeline",
        8,
        nearest,
    )
    assert problem.message.startswith("Stage 's': ")
    assert Path(problem.file or "").name == "main.pipeline.json"


def test_the_result_of_a_call_may_be_anything_and_the_rest_of_its_output_is_known(tmp_path: Path) -> None:
    reads = [
        stage("ok", config={"value": "{{stages.s.result.whatever.it[0]}}"}),
        stage("no", config={"value": "{{stages.s.reslt}}"}),
    ]
    write(tmp_path, main=[call("b"), *reads], b=[stage("a")])
    assert [(p.code, p.path, p.nearest) for p in check(tmp_path)] == [
        ("unknown_field", "/stages/2/config/value", "result")
    ]


def test_a_body_inside_of_a_called_pipeline_is_checked_as_in_any_file(tmp_path: Path) -> None:
    write(tmp_path, main=[call("b")], b=[conditional("c", "x"), conditional("d", "x"), stage("x")])
    (problem,) = check(tmp_path)
    assert (problem.code, Path(problem.file or "").name) == ("two_owners", "b.pipeline.json")


def test_a_time_limit_of_a_call_belongs_into_its_config(tmp_path: Path) -> None:
    write(tmp_path, main=[{**call("b", timeout_ms=5), "timeout_ms": 5}], b=[stage("a")])
    assert [(p.code, p.path, p.severity) for p in check(tmp_path)] == [
        ("covers_decision_only", "/stages/0/timeout_ms", "warning")
    ]


@pytest.mark.parametrize("depth", [32, 33])
def test_calls_nest_thirty_two_deep(depth: int, tmp_path: Path) -> None:
    names = ["main", *(f"p{i}" for i in range(1, depth))]
    pipelines = {name: [call(below)] for name, below in pairwise(names)}
    write(tmp_path, **pipelines, **{names[-1]: [stage("a")]})
    assert [p.code for p in check(tmp_path)] == ([] if depth == 32 else ["nested_too_deeply"])
