"""A run is paused and resumed from other processes: what can be repeated is stopped, what must not be is waited for."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.pausing import WAITED_FOR
from tests.processes_kit import WAIT_S, ProcessProject, stop_between_commits, wait_until

pytestmark = pytest.mark.timeout(600)  # longer than all that a test waits for together

PAUSED = 75

COMPONENTS = """
import time

from pydantic import BaseModel

from flowmason_ray import operator


class In(BaseModel):
    after: str = ""


class Out(BaseModel):
    done: bool = True


class Work:
    Input, Output = In, Out

    def execute(self, input, context):
        with open(context.project_dir / "calls.txt", "a") as file:
            file.write(f"{context.path} {context.attempt} {context.idempotency_key}\\n")
        while input.after and not (context.project_dir / input.after).exists():
            time.sleep(0.01)
        return Out()


for effect in ("pure", "idempotent", "effectful"):
    globals()[effect] = operator(name=effect, effect=effect)(type(effect, (Work,), {"__module__": __name__}))
"""


class Project(ProcessProject):
    """A project in which a stage waits until the file that it is told exists. `calls` gives `path attempt key` of each call."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, COMPONENTS)

    def start_with(self, *stages: dict[str, Any]) -> subprocess.Popen[str]:
        process = self.start(list(stages))
        self.wait_until_recorded()  # what is only computed does not wait for the disk, which may be busy
        return process

    def touch(self, name: str) -> None:
        (self.root / name).touch()

    def wait_for_call(self, path: str, times: int = 1) -> None:
        def called() -> bool:
            return sum(line.startswith(f"{path} ") for line in self.calls()) >= times

        wait_until(called, f"{path} was not called {times} times")

    def wait_until_recorded(self) -> None:
        """Wait until the log has what it was told so far: it is at most a moment behind."""
        wait_until(lambda: self.fm("runs", "show", "last").returncode == 0, "the run is not recorded")

    def wait_until_it_waits_for(self, path: str) -> None:
        """Wait until the run has heard that it is to pause, and says that it waits for this stage."""
        wait_until(
            lambda: WAITED_FOR in self.fm("runs", "logs", "last", path).stdout, f"the run does not wait for {path}"
        )

    def status(self) -> str:
        return json.loads(self.fm("runs", "show", "last", "--json").stdout)["status"]

    def kinds(self) -> list[str]:
        return [json.loads(line)["kind"] for line in self.fm("runs", "events", "last").stdout.splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.close()


def begin_to_be_left(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """Begin a command that Ctrl-C reaches even where we ourselves were started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits what is ignored
    process = project.begin(*arguments)
    signal.signal(signal.SIGINT, before)
    return process


def stage(id: str, kind: str, after: str = "", *depends_on: str) -> dict[str, Any]:
    return {"id": id, "component_type": kind, "config": {"after": after}, "depends_on": list(depends_on)}


@pytest.mark.parametrize("kind", ["pure", "idempotent"])
def test_a_paused_run_goes_on_where_it_was(project: Project, kind: str) -> None:
    process = project.start_with(
        stage("first", kind), stage("slow", kind, "go", "first"), stage("last", kind, "", "slow")
    )
    project.wait_for_call("slow")
    paused = project.fm("pause", "last")
    assert paused.returncode == 0, paused.stderr
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == PAUSED, err
    document = json.loads(out)
    assert document["status"] == "paused"
    assert f"fm resume {document['run_id']}" in err
    assert project.status() == "paused"
    project.touch("go")
    resumed = project.fm("resume", "last", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["run_id"] == document["run_id"]
    calls = project.calls()
    assert [line.split()[0] for line in calls] == ["first", "slow", "slow", "last"]
    assert calls[1] == calls[2], "the same attempt, with the same idempotency key"
    assert document["stages"]["slow"]["status"] == "paused"
    assert "3 of 3 stages" in resumed.stderr, "what was done before counts"
    story = project.fm("runs", "story", "last").stdout
    assert "the run was paused by" in story
    assert "the run goes on; begins again: slow" in story
    assert project.status() == "succeeded"


def test_an_effect_that_must_not_be_repeated_is_waited_for(project: Project) -> None:
    process = project.start_with(
        stage("pay", "effectful", "go"), stage("slow", "pure", "later"), stage("tell", "effectful", "", "pay")
    )
    project.wait_for_call("pay")
    project.wait_for_call("slow")
    pausing = project.begin("pause", "last")
    project.wait_until_it_waits_for("pay")  # it would pause now, were it not for the payment
    assert process.poll() is None, "the payment is under way"
    assert "run_paused" not in project.kinds()
    project.touch("go")
    assert pausing.wait(timeout=WAIT_S) == 0
    process.communicate(timeout=WAIT_S)
    assert process.returncode == PAUSED
    assert "tell" not in {line.split()[0] for line in project.calls()}, "nothing new begins"
    project.touch("later")
    resumed = project.fm("resume", "last", "--json")
    assert resumed.returncode == 0, resumed.stderr
    called = [line.split()[0] for line in project.calls()]
    assert called.count("pay") == 1
    assert called.count("tell") == 1
    assert called.count("slow") == 2


def test_who_waits_is_told_what_for_and_can_leave_it(project: Project) -> None:
    process = project.start_with(stage("pay", "effectful", "go"), stage("slow", "pure", "later"))
    project.wait_for_call("pay")
    project.wait_for_call("slow")
    pausing = begin_to_be_left(project, "pause", "last")
    assert pausing.stderr is not None
    told = pausing.stderr.readline()  # while it waits: the payment goes on until we say so
    assert "pay" in told
    assert "not interrupted" in told
    assert "up to 60 s" in told
    assert "Ctrl-C" in told
    pausing.send_signal(signal.SIGINT)
    out, err = pausing.communicate(timeout=WAIT_S)
    assert pausing.returncode == 130
    assert out == ""
    assert "is still to pause" in err
    assert "Cancelled" not in err, "nothing was"
    project.touch("go")
    process.communicate(timeout=WAIT_S)
    assert process.returncode == PAUSED, "what was asked stands"


def test_who_waits_for_a_cancelled_run_can_leave_it(project: Project) -> None:
    process = project.start_with(stage("slow", "pure", "never"))
    project.wait_for_call("slow")
    wait_until(lambda: "stage_started" in project.kinds(), "that it began is not recorded")
    stop_between_commits(process.pid, project.root / ".flowmason" / "runs.db")  # it hears nothing now
    cancelling = begin_to_be_left(project, "cancel", "last")
    assert cancelling.stderr is not None
    told = cancelling.stderr.readline()
    assert "under way: slow" in told
    assert "up to 60 s" in told
    cancelling.send_signal(signal.SIGINT)
    _, err = cancelling.communicate(timeout=WAIT_S)
    assert cancelling.returncode == 130
    assert "is still to end" in err
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, "what was asked stands"
    assert project.status() == "cancelled"


def test_a_run_that_is_pausing_can_be_cancelled(project: Project) -> None:
    process = project.start_with(stage("pay", "effectful", "never"), stage("slow", "pure", "never"))
    project.wait_for_call("pay")
    project.wait_for_call("slow")
    project.begin("pause", "last")
    project.wait_until_it_waits_for("pay")
    cancelled = project.fm("cancel", "last")
    assert cancelled.returncode == 0, cancelled.stderr
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert project.status() == "cancelled"


def test_a_paused_run_can_be_cancelled_and_only_then_is_over(project: Project) -> None:
    process = project.start_with(stage("slow", "pure", "never"))
    project.wait_for_call("slow")
    assert project.fm("pause", "last").returncode == 0
    process.communicate(timeout=WAIT_S)
    assert "paused" in project.fm("pause", "last").stderr
    cancelled = project.fm("cancel", "last")
    assert cancelled.returncode == 0, cancelled.stderr
    assert project.status() == "cancelled"
    assert project.kinds()[-1] == "run_cancelled"
    resumed = project.fm("resume", "last")
    assert resumed.returncode == 2
    assert "cancelled" in resumed.stderr


def test_a_loop_goes_on_with_the_items_that_are_left(project: Project) -> None:
    loop = {"items": "{{[0, 1, 2, 3, 4, 5]}}", "loop_stages": ["work"], "max_parallel": 2}
    process = project.start_with(
        {"id": "each", "component_type": "foreach", "config": loop},
        {"id": "work", "component_type": "pure", "config": {"after": "{{ '' if item < 3 else 'go' }}"}},
    )
    project.wait_for_call("each[3]/work")
    project.wait_for_call("each[4]/work")
    assert project.fm("pause", "last").returncode == 0
    process.communicate(timeout=WAIT_S)
    project.touch("go")
    assert project.fm("resume", "last").returncode == 0
    called = sorted(line.split()[0] for line in project.calls())
    again = ["each[3]/work", "each[4]/work"]
    assert called == sorted([f"each[{n}]/work" for n in range(6)] + again)
