"""Runs of pipelines that extend and compose others: taken over, gone on with, cached, paused, told, as those of any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_pause import PAUSED, Project
from tests.acceptance.test_reuse import WORK, calls, work
from tests.cli_kit import Fm
from tests.processes_kit import WAIT_S

BASE: dict[str, Any] = {
    "name": "base",
    "stages": [work("x", "{{ input.n }}"), work("y", "{{ stages.x.v }}")],
    "output": {"v": "{{ stages.y.v }}"},
}


@pytest.fixture
def project(fm: Fm) -> Fm:
    (fm.directory / "components" / "work.py").write_text(WORK, encoding="utf-8")
    fm.write(BASE, "base.pipeline.json")
    fm.write({"name": "child", "extends": "base"}, "child.pipeline.json")
    return fm


def composing(last: dict[str, Any], *, pipeline: str = "child", **more: Any) -> dict[str, Any]:
    return {
        "name": "whole",
        "compositions": [
            {"id": "a", "pipeline": pipeline, "input_mapping": {"n": "{{ input.n }}"}},
            {"id": "b", "pipeline": pipeline, "input_mapping": {"n": "{{ stages.a.v }}"}},
        ],
        "stages": [last],
        "output": {"v": "{{ stages.last.v }}"},
        **more,
    }


def edit(fm: Fm, name: str, old: str, new: str) -> None:
    """Change text in a file."""
    file = fm.directory / name
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_failed_child_goes_on_after_an_edit_in_its_base(project: Fm) -> None:
    edit(project, "base.pipeline.json", '"v": "{{ stages.x.v }}"', '"v": "{{ stages.x.v }}", "fail": true')
    assert project("run", "child.pipeline.json", "-i", '{"n": 7}').code == 1
    assert calls(project) == ["x", "y"]
    edit(project, "base.pipeline.json", ', "fail": true', "")
    done = project("resume", "last", "--pipeline", "child.pipeline.json")
    assert (json.loads(done.out), calls(project)) == ({"v": 7}, ["y"])


def test_a_child_takes_over_what_its_flat_form_has_done(project: Fm) -> None:
    project.write(project("resolve", "child.pipeline.json").out, "flat.pipeline.json")
    project("run", "flat.pipeline.json", "-i", '{"n": 7}')
    assert calls(project) == ["x", "y"]
    assert project("run", "child.pipeline.json", "--reuse", "last").json == {"v": 7}
    assert calls(project) == []
    project.write(
        {"name": "child", "extends": "base", "overrides": {"y": {"config": {"v": "{{ stages.x.v + 1 }}"}}}},
        "child.pipeline.json",
    )
    assert project("run", "child.pipeline.json", "--reuse", "last").json == {"v": 8}
    assert calls(project) == ["y"]


def test_a_composing_run_goes_on_where_it_failed(project: Fm) -> None:
    project.write(composing(work("last", "{{ stages.b.v }}", fail=True)), "whole.pipeline.json")
    failed = project("run", "whole.pipeline.json", "-i", '{"n": 7}')
    assert failed.code == 1
    assert calls(project) == ["a/x", "a/y", "b/x", "b/y", "last"]
    project.write(composing(work("last", "{{ stages.b.v }}")), "whole.pipeline.json")
    told = project("resume", "last", "--pipeline", "whole.pipeline.json", "--dry-run")
    lines = [" ".join(line.split()) for line in told.err.splitlines()]
    assert {"= a/x reused", "= b/y reused"} <= set(lines)
    done = project("resume", "last", "--pipeline", "whole.pipeline.json")
    assert (done.json, calls(project)) == ({"v": 7}, ["last"])


def test_an_edit_in_a_composed_base_runs_what_it_concerns(project: Fm) -> None:
    project.write(composing(work("last", "{{ stages.b.v }}")), "whole.pipeline.json")
    project("run", "whole.pipeline.json", "-i", '{"n": 7}')
    calls(project)
    assert project("run", "whole.pipeline.json", "--reuse", "last").json == {"v": 7}
    assert calls(project) == []
    edit(project, "base.pipeline.json", "{{ stages.x.v }}", "{{ stages.x.v + 1 }}")
    assert project("run", "whole.pipeline.json", "--reuse", "last").json == {"v": 9}
    assert calls(project) == ["a/y", "b/x", "b/y", "last"]
    assert project("run", "whole.pipeline.json", "--reuse", "last", "--force", "b/x").json == {"v": 9}
    assert calls(project) == ["b/x"]


def test_the_cache_serves_inherited_and_composed_stages(project: Fm) -> None:
    project.write({**BASE, "defaults": {"cache": True}}, "base.pipeline.json")
    project.write(composing(work("last", "{{ stages.b.v }}")), "whole.pipeline.json")
    assert project("run", "child.pipeline.json", "-i", '{"n": 7}').json == {"v": 7}
    assert calls(project) == ["x", "y"]
    assert project("run", "child.pipeline.json", "-i", '{"n": 7}').json == {"v": 7}
    assert calls(project) == []
    assert project("run", "whole.pipeline.json", "-i", '{"n": 7}').json == {"v": 7}
    assert calls(project) == ["last"]  # the same stages with the same input, wherever they stand


def test_views_name_what_is_composed(project: Fm) -> None:
    project.write(composing(work("last", "{{ stages.b.v }}")), "whole.pipeline.json")
    text = project("plan", "whole.pipeline.json").out
    assert text.count("the pipeline child@1.0.0:") == 2
    assert "the pipeline child@1.0.0" in project("plan", "whole.pipeline.json", "--format", "mermaid").out
    assert project("info", "whole.pipeline.json").out.startswith("whole 1.0.0: pipeline, 1 stage, 2 compositions\n")
    project("run", "whole.pipeline.json", "-i", '{"n": 7}')
    every = project("runs", "story", "last").out
    assert [every.count(f"{name}  starts") for name in ("a (its result)", "a (what it keeps)", "$mapped")] == [1, 0, 0]
    story = project("runs", "story", "last", "a/x").out
    assert "a/x" in story
    assert "b/x" not in story
    assert "b/y" in project("runs", "show", "last").out


def test_a_failure_inside_a_composition_tells_the_line_of_the_base(project: Fm) -> None:
    edit(project, "base.pipeline.json", '"v": "{{ stages.x.v }}"', '"v": "{{ stages.x.v }}", "fail": true')
    project.write(composing(work("last", "{{ stages.b.v }}")), "whole.pipeline.json")
    failed = project("run", "whole.pipeline.json", "-i", '{"n": 7}')
    assert "Stage 'a/y' failed" in failed.err
    lines = (project.directory / "base.pipeline.json").read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if '"id": "y"' in line)  # the stage opens one line above
    assert f"--> base.pipeline.json:{at}:" in failed.err
    assert "inherited by child.pipeline.json" in failed.err


def test_cases_cover_inherited_and_composed_stages(project: Fm) -> None:
    extra = {"id": "more", "component_type": "work", "config": {"v": 1}}
    project.write({"name": "child", "extends": "base", "stages": [extra]}, "child.pipeline.json")
    project.write(composing(work("last", "{{ stages.b.v }}")), "whole.pipeline.json")
    case = {
        "name": "all",
        "input": {"n": 7},
        "mocks": {"a/x": {"output": {"v": 3}}},
        "assertions": [{"path": "$.output.v", "value": 3}, {"path": "$.stages['a/y'].output.v", "value": 3}],
    }
    project.write({"cases": [case]}, "whole.test.json")
    project.write({"cases": [{"name": "c", "input": {"n": 1}}]}, "child.test.json")
    done = project("test", "whole.test.json", "child.test.json", "--coverage", "coverage.json")
    assert done.code == 0, done.out + done.err
    assert calls(project) == ["a/more", "a/y", "b/more", "b/x", "b/y", "last", "more", "x", "y"]
    told = json.loads((project.directory / "coverage.json").read_text())["pipelines"]
    child, whole = sorted(told, key=lambda each: each["name"])
    assert [each["stage"] for each in whole["details"]] == ["last", "a", "b"]  # the others are tested as `child`
    lines = {each["stage"]: each["line"] for each in child["details"]}
    assert lines["more"]
    assert {**lines, "more": None} == dict.fromkeys(["x", "y", "more"])  # inherited ones stand in another file


def test_a_composing_run_is_paused_and_resumed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    try:
        stages = [
            {"id": "slow", "component_type": "pure", "config": {"after": "go"}},
            {"id": "end", "component_type": "pure", "config": {"after": ""}, "depends_on": ["slow"]},
        ]
        (project.root / "base.pipeline.json").write_text(json.dumps({"name": "base", "stages": stages}))
        (project.root / "p.pipeline.json").write_text(json.dumps({"name": "child", "extends": "base"}))
        whole = {"name": "whole", "compositions": [{"id": "one", "pipeline": "child"}]}
        (project.root / "whole.pipeline.json").write_text(json.dumps(whole))
        process = project.begin("run", "whole.pipeline.json", "--json")
        project.wait_for_call("one/slow")
        project.wait_until_recorded()
        assert project.fm("pause", "last").returncode == 0
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == PAUSED, err
        project.touch("go")
        resumed = project.fm("resume", "last", "--json")
        assert resumed.returncode == 0, resumed.stderr
        assert [line.split()[0] for line in project.calls()] == ["one/slow", "one/slow", "one/end"]
    finally:
        project.close()


def test_the_story_tells_a_result_from_what_is_kept_of_it(project: Fm) -> None:
    kept = composing(work("last", "{{ stages.a.first }}"))
    kept["compositions"] = [{**kept["compositions"][0], "output_mapping": {"first": "v"}}]
    project.write(kept, "whole.pipeline.json")
    assert project("run", "whole.pipeline.json", "-i", '{"n": 7}').json == {"v": 7}
    story = project("runs", "story", "last").out
    assert [story.count(f"a ({what})  starts") for what in ("its result", "what it keeps")] == [1, 1]
    kept["compositions"][0]["output_mapping"] = {"first": "{{ output.v.nothing.at_all }}"}
    project.write(kept, "whole.pipeline.json")
    failed = project("run", "whole.pipeline.json", "-i", '{"n": 7}')
    assert failed.code == 1
    assert "The output mapping of 'a' cannot be made:" in failed.err
