"""Which stages and branches count as run, and how coverage is written for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowmason_ray.pipeline_tests.coverage import PipelineCoverage, percent, stage_percent
from flowmason_ray.pipeline_tests.coverage_files import coverage_document, lcov
from tests.unit.pipeline_tests.kit import GREET, run, transformed, write


def noop(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "component_type": "json_transform", "config": {"data": {}, "values": {"v": 1}}, **more}


ALL: dict[str, Any] = {
    "name": "all",
    "stages": [
        {
            "id": "if",
            "component_type": "conditional",
            "config": {"condition": "{{input.n > 1}}", "true_branch_stages": ["yes"]},
        },
        noop("yes"),
        {
            "id": "route",
            "component_type": "router",
            "config": {"value": "{{input.n}}", "routes": {"1": ["one"], "2": ["two"]}},
        },
        noop("one"),
        noop("two"),
        {
            "id": "each",
            "component_type": "foreach",
            "config": {"items": "{{input.items}}", "loop_stages": ["body", "leave"]},
        },
        noop("body"),
        {
            "id": "leave",
            "component_type": "break_loop",
            "config": {"condition": "{{item == 9}}"},
            "depends_on": ["body"],
        },
        {
            "id": "try",
            "component_type": "trycatch",
            "config": {"try_stages": ["risky"], "catch_stages": ["rescue"], "error_scope": "continue"},
        },
        noop("risky"),
        noop("rescue"),
        noop("maybe", when="{{input.n > 1}}", on_error="continue"),
        noop("never", enabled=False),
    ],
    "output": {"n": "{{input.n}}"},
}


def covered(folder: Path, *cases: dict[str, Any], pipeline: dict[str, Any] = ALL) -> PipelineCoverage:
    report = run(write(folder, [{"name": str(i), **case} for i, case in enumerate(cases)], pipeline))
    assert report.count("passed") == len(cases), [u.message for case in report.cases() for u in case.unmet]
    (coverage,) = report.coverage
    return coverage


def taken(coverage: PipelineCoverage) -> dict[str, dict[str, int]]:
    return {stage.path: stage.branches for stage in coverage.stages.values() if stage.branches}


def test_what_one_case_runs(tmp_path: Path):
    coverage = covered(tmp_path, {"input": {"n": 1, "items": []}})
    runs = {stage.path: stage.runs for stage in coverage.stages.values()}
    assert runs == {
        "if": 1,
        "yes": 0,
        "route": 1,
        "one": 1,
        "two": 0,
        "each": 1,
        "each/body": 0,
        "each/leave": 0,
        "try": 1,
        "risky": 1,
        "rescue": 0,
        "maybe": 0,
    }
    assert taken(coverage) == {
        "if": {"true": 0, "false": 1},
        "route": {"route:1": 1, "route:2": 0, "no branch": 0},
        "each": {"no items": 1, "one item": 0, "several items": 0},
        "each/leave": {"leaves": 0, "stays": 0},
        "try": {"try": 1, "catch": 0},
        "maybe": {"when: true": 0, "when: false": 1, "error": 0},
    }


def test_cases_together_cover_everything(tmp_path: Path):
    failing = {"error": {"message": "No."}}
    coverage = covered(
        tmp_path,
        {"input": {"n": 1, "items": []}},
        {"input": {"n": 2, "items": [9]}, "mocks": {"risky": failing}},
        {"input": {"n": 3, "items": [1, 2]}, "mocks": {"maybe": failing}},
    )
    assert [stage.path for stage in coverage.stages.values() if not stage.runs] == []
    assert [(path, name) for path, each in taken(coverage).items() for name, count in each.items() if not count] == []
    assert coverage.stages["each/body"].runs == 3
    assert (coverage.stages["risky"].runs, coverage.stages["risky"].mocked) == (3, 1)


def test_the_cases_of_several_files_of_one_pipeline_count_together(tmp_path: Path):
    first = write(tmp_path, [{"name": "a", "input": {"names": []}}])
    second = tmp_path / "more.test.json"
    reference = f"../{tmp_path.name}/p.pipeline.json"
    second.write_text(first.read_text().replace('"cases"', f'"pipeline": "{reference}", "cases"'))
    (coverage,) = run(first, second).coverage
    assert coverage.stages["greeting"].runs == 2
    assert coverage.stages["each"].branches == {"no items": 2, "one item": 0, "several items": 0}


def test_the_json_document(tmp_path: Path):
    coverage = covered(
        tmp_path, {"input": {"names": []}, "mocks": {"greeting": {"output": transformed(word="x")}}}, pipeline=GREET
    )
    document = coverage_document([coverage])
    assert document["total"]["stages"] == {"covered": 2, "total": 4, "percent": 50.0}
    assert document["total"]["branches"] == {"covered": 2, "total": 5, "percent": 40.0}
    details = document["pipelines"][0]["details"]
    assert [d["stage"] for d in details] == ["greeting", "each", "each/say", "loud"]
    assert (details[0]["runs"], details[0]["mocked"]) == (1, 1)
    assert stage_percent([coverage]) == 50.0


def test_lcov(tmp_path: Path):
    coverage = covered(tmp_path, {"input": {"names": []}}, pipeline=GREET)
    lines = lcov([coverage]).splitlines()
    text = (tmp_path / "p.pipeline.json").read_text().splitlines()
    assert lines[1] == f"SF:{tmp_path / 'p.pipeline.json'}"
    hits = dict(line[3:].split(",") for line in lines if line.startswith("DA:"))
    # A stage is the line of its opening brace; the line after it holds its id.
    assert {text[int(line)].strip(): count for line, count in hits.items()} == {
        '"id": "greeting",': "1",
        '"id": "each",': "1",
        '"id": "say",': "0",
        '"id": "loud",': "0",
    }
    assert {"LF:4", "LH:2", "BRF:5", "BRH:2"} <= set(lines)
    assert [line.rpartition(",")[2] for line in lines if line.startswith("BRDA:")] == ["1", "0", "0", "-", "1"]
    assert lines[-1] == "end_of_record"


def test_a_pipeline_without_line_breaks_has_one_line(tmp_path: Path):
    file = write(tmp_path, [{"name": "a", "sample": True}])
    pipeline = tmp_path / "p.pipeline.json"
    pipeline.write_text(pipeline.read_text().replace("\n", " "))
    lines = lcov(run(file).coverage).splitlines()
    assert [line for line in lines if line.startswith(("DA:", "LF:"))] == ["DA:1,3", "LF:1"]


def test_percentages_are_rounded_down():
    assert (percent(0, 0), percent(999, 1000), percent(9999, 10_000), percent(1, 3)) == (100.0, 99.9, 99.9, 33.3)
