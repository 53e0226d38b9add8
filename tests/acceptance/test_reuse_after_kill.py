"""A run that goes on with another is killed in its turn: what the first one did is still not repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_resume import Project
from tests.processes_kit import WAIT_S


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.close()


def stage(id: str, component: str, name: str, **config: Any) -> dict[str, Any]:
    return {"id": id, "component_type": component, "config": {"name": name, **config}}


def test_the_past_outlives_the_process_that_read_it(project: Project) -> None:
    first = [
        stage("pay", "pay", "x"),
        stage("slow", "work", "{{ stages.pay.name }}", after="{{ none }}"),  # not a text: it fails
        stage("pay_again", "pay", "{{ stages.slow.name }}"),
    ]
    process = project.start(first)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    paid = project.calls()
    assert [line.split()[0] for line in paid] == ["pay"]
    slow = stage("slow", "work", "{{ stages.pay.name }}", after="go")
    file = project.root / "p.pipeline.json"
    file.write_text(json.dumps({"name": "p", "stages": [first[0], slow, first[2]]}))
    going_on = project.begin("resume", "last", "--pipeline", str(file), "--json")
    project.kill_when(going_on, "stage_reused", "pay")
    before = len(project.calls())
    (project.root / "go").touch()
    done = project.fm("resume", "last", "--json")
    assert done.returncode == 0, done.stdout
    assert [line.split()[0] for line in project.calls()[before:]] == ["slow", "pay_again"]
    stages = json.loads(done.stdout)["stages"]
    assert stages["pay"]["reused"]["how"] == "record"
    events = [json.loads(line) for line in project.fm("runs", "events", "last").stdout.splitlines()]
    assert events[0]["based_on"] == stages["pay"]["reused"]["run"]
    assert events[0]["definitions"]["pay"]["effect"] == "effectful"


def test_an_interrupted_run_is_superseded_and_left_alone_from_then_on(project: Project) -> None:
    process = project.start([stage("a", "work", "x"), {**stage("b", "work", "y", after="never"), "depends_on": ["a"]}])
    project.kill_when(process, "stage_started", "b")
    file = project.root / "p.pipeline.json"
    file.write_text(json.dumps({"name": "p", "stages": [stage("a", "work", "x"), stage("b", "work", "z")]}))
    changed = project.fm("resume", "last")
    assert changed.returncode == 2
    assert "--pipeline" in changed.stderr
    done = project.fm("resume", "last", "--pipeline", str(file), "--json")
    assert done.returncode == 0, done.stderr
    runs: Any = json.loads(project.fm("runs", "list", "--json").stdout)
    listed: list[dict[str, Any]] = runs["runs"]
    assert [run["status"] for run in listed] == ["succeeded", "cancelled"]
    old = project.fm("resume", listed[1]["run_id"])
    assert old.returncode == 2
    assert "is cancelled" in old.stderr
