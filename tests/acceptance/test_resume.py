"""A run whose process is killed goes on where it was: nothing that had finished runs again, questions can still be answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes_kit import WAIT_S, ProcessProject, wait_until

pytestmark = pytest.mark.timeout(600)  # longer than all that a test waits for together

COMPONENTS = """
import time
from pathlib import Path

from pydantic import BaseModel

from flowmason_ray import operator


class In(BaseModel):
    name: str
    after: str = ""


class Out(BaseModel):
    name: str


def note(input, context):
    with open(context.project_dir / "calls.txt", "a") as file:
        file.write(f"{context.path} {context.attempt} {context.idempotency_key}\\n")
    while input.after and not (context.project_dir / input.after).exists():
        time.sleep(0.01)


@operator(effect="pure")
class Work:
    Input, Output = In, Out

    def execute(self, input, context):
        note(input, context)
        return Out(name=input.name)


@operator(effect="effectful")
class Pay:
    Input, Output = In, Out

    def execute(self, input, context):
        first = not (context.project_dir / "calls.txt").exists()
        note(In(name=input.name, after=input.after if first else ""), context)
        return Out(name=input.name)
"""


class Project(ProcessProject):
    """A project in which runs are killed. A stage waits until the file exists that it is told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, COMPONENTS)

    def kill_when(self, process: subprocess.Popen[str], kind: str, path: str) -> None:
        """Kill a run's process as soon as an event is in its log."""

        def recorded() -> bool:
            events = [json.loads(line) for line in self.fm("runs", "events", "last").stdout.splitlines()]
            return any(e["kind"] == kind and e.get("path") == path for e in events)

        wait_until(recorded, f"no {kind} of {path}")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.close()


def loop(**config: Any) -> list[dict[str, Any]]:
    return [
        {"id": "first", "component_type": "work", "config": {"name": "first"}},
        {
            "id": "each",
            "component_type": "foreach",
            "config": {
                "items": ["a", "b", "c", "d"],
                "loop_stages": ["slow"],
                "collect": "{{stages.slow.name}}",
                **config,
            },
            "depends_on": ["first"],
        },
        {
            "id": "slow",
            "component_type": "work",
            "config": {"name": "{{item}}", "after": "{{'' if index < 2 else 'go'}}"},
        },
    ]


@pytest.mark.parametrize("items", [["a", "b", "c", "d"], {"dataset": "items.ndjson"}], ids=["list", "file"])
def test_a_killed_loop_goes_on_with_the_item_that_was_in_flight(project: Project, items: Any):
    (project.root / "items.ndjson").write_text('"a"\n"b"\n"c"\n"d"\n', encoding="utf-8")
    process = project.start(loop(items=items))
    project.kill_when(process, "stage_started", "each[2]/slow")
    before = project.calls()
    assert "interrupted" in project.fm("runs", "list").stdout
    (project.root / "go").touch()
    done = project.fm("resume", "last", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["output"]["results"] == ["a", "b", "c", "d"]
    assert {path: s["status"] for path, s in document["stages"].items()} == dict.fromkeys(
        ["first", "each", *(f"each[{i}]/slow" for i in range(4))], "succeeded"
    )
    again = project.calls()[len(before) :]
    assert [line.split()[0] for line in again] == ["each[2]/slow", "each[3]/slow"]
    assert again[0] == next((line for line in before if line.startswith("each[2]/")), again[0])  # the same key again
    story = project.fm("runs", "story", "last").stdout
    assert "each[2]/slow" in story
    finished = project.fm("resume", "last")
    assert finished.returncode == 2
    assert "is succeeded: only a run that was interrupted" in finished.stderr


@pytest.mark.parametrize("items", ["{{stages.read.table}}", {"dataset": "days.csv"}], ids=["table", "file"])
def test_dates_of_items_are_the_same_before_and_after(project: Project, items: Any):
    (project.root / "days.csv").write_text("day,n\n2024-01-01,1\n2024-01-02,2\n", encoding="utf-8")
    seen = "{{ stages.each.results[0].day == '2024-01-02' }}"
    looped = loop(items=items, filter_expression="item.day == '2024-01-02'", collect="{{item}}")
    looped[1]["depends_on"] = ["read"]
    looped[2]["config"] = {"name": "day {{item.day}}"}
    process = project.start(
        [
            {"id": "read", "component_type": "table_read", "config": {"path": "days.csv"}},
            *looped[1:],
            {"id": "before", "component_type": "work", "config": {"name": f"{seen}!"}},
            {
                "id": "gate",
                "component_type": "work",
                "config": {"name": "x", "after": "go"},
                "depends_on": ["before"],
            },
        ],
        output={"before": "{{stages.before.name}}", "after": seen, "results": "{{stages.each.results}}"},
    )
    project.kill_when(process, "stage_started", "gate")
    (project.root / "go").touch()
    done = project.fm("resume", "last", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == {
        "before": "true!", "after": True, "results": [{"day": "2024-01-02", "n": 2}],
    }  # fmt: skip


def test_a_question_outlives_the_process_that_asked(project: Project):
    ask = {"id": "ask", "component_type": "wait_for_approval", "config": {"message": "Go?"}}
    process = project.start([ask], output={"answer": "{{stages.ask.data}}"})
    project.kill_when(process, "approval_requested", "ask")
    resumed = project.begin("resume", "last", "--json")
    wait_until(
        lambda: project.fm("runs", "answer", "last", "ask", "--data", "42").returncode == 0, "the answer is not taken"
    )
    out, err = resumed.communicate(timeout=WAIT_S)
    assert resumed.returncode == 0, err
    assert json.loads(out)["output"] == {"answer": 42}


@pytest.mark.parametrize(
    ("decision", "code", "status"), [("retry", 0, "succeeded"), ("skip", 0, "skipped"), ("fail", 1, "failed")]
)
def test_an_effect_in_doubt_is_never_repeated_silently(project: Project, decision: str, code: int, status: str):
    pay = {"id": "pay", "component_type": "pay", "config": {"name": "x", "after": "go"}}
    process = project.start([pay])
    project.kill_when(process, "stage_started", "pay")
    asked = project.fm("resume", "last")
    assert asked.returncode == 2
    assert "'pay'" in asked.stderr
    assert "--in-doubt retry" in asked.stderr
    before = len(project.calls())
    (project.root / "go").touch()
    done = project.fm("resume", "last", "--in-doubt", decision, "--json")
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert document["stages"]["pay"]["status"] == status
    assert len(project.calls()) - before == (1 if decision == "retry" else 0)
    if decision == "fail":
        assert document["error"]["code"] == "in_doubt"


def test_a_changed_pipeline_is_refused(project: Project):
    process = project.start(loop())
    project.kill_when(process, "stage_started", "each[2]/slow")
    file = project.root / "p.pipeline.json"
    file.write_text(file.read_text().replace('"first"', '"other"'))
    refused = project.fm("resume", "last")
    assert refused.returncode == 2
    assert "has changed" in refused.stderr


def test_a_run_that_is_alive_cannot_be_taken_over(project: Project):
    project.start(loop())
    wait_until(lambda: "running" in project.fm("runs", "list").stdout, "the run does not begin")
    refused = project.fm("resume", "last")
    assert refused.returncode == 2
    assert "is running" in refused.stderr
