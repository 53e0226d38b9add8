"""Two coordinators of one run never both act: one that was stopped, replaced and continued is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_pause import Project, stage
from tests.processes_kit import WAIT_S, stop_between_commits, wait_until

pytestmark = pytest.mark.timeout(600)  # longer than all that a test waits for together

LEASE_S = 2


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.close()


def set_lease(project: Project, lease_s: float = LEASE_S) -> None:
    """Change how long the lease of what is begun from now on lasts."""
    (project.root / "flowmason.json").write_text(json.dumps({"stores": {"lease_s": lease_s}}))


def test_a_process_that_is_stopped_keeps_its_run_while_its_lease_lasts(project: Project) -> None:
    stopped = project.start_with(stage("slow", "pure", "go"))
    project.wait_for_call("slow")
    stop_between_commits(stopped.pid, project.root / ".flowmason" / "runs.db")
    early = project.fm("resume", "last")
    assert early.returncode == 2, "its lease lasts, and it is still there"
    assert "running" in early.stderr
    os.kill(stopped.pid, signal.SIGCONT)
    project.touch("go")
    out, err = stopped.communicate(timeout=WAIT_S)
    assert stopped.returncode == 0, err
    assert json.loads(out)["status"] == "succeeded"


def test_a_process_that_was_stopped_and_continued_is_refused(project: Project) -> None:
    set_lease(project)
    stages = (
        stage("slow", "pure", "go"),
        stage("pay", "effectful", "", "slow"),
        stage("last", "idempotent", "", "pay"),
    )
    stopped = project.start_with(*stages)
    project.wait_for_call("slow")
    project.wait_until_recorded()
    stop_between_commits(stopped.pid, project.root / ".flowmason" / "runs.db")
    wait_until(lambda: project.status() != "running", "the lease does not run out")
    assert project.status() == "interrupted"
    set_lease(project, 600)  # who takes it up now shall not lose it, however busy the machine is
    project.touch("go")
    resumed = project.fm("resume", "last", "--json")
    assert resumed.returncode == 0, resumed.stderr
    events = project.fm("runs", "events", "last").stdout
    os.kill(stopped.pid, signal.SIGCONT)
    out, err = stopped.communicate(timeout=WAIT_S)
    assert stopped.returncode != 0
    assert json.loads(out)["error"]["code"] == "fenced"
    assert "Traceback" not in err
    assert project.fm("runs", "events", "last").stdout == events, "it could write nothing any more"
    called = [line.split()[0] for line in project.calls()]
    assert called.count("pay") == 1
    assert called.count("last") == 1


def test_a_process_that_was_stopped_but_not_replaced_goes_on(project: Project) -> None:
    set_lease(project)
    stopped = project.start_with(stage("slow", "pure", "go"), stage("pay", "effectful", "", "slow"))
    project.wait_for_call("slow")
    project.wait_until_recorded()
    os.kill(stopped.pid, signal.SIGSTOP)
    wait_until(lambda: project.status() == "interrupted", "the lease does not run out")
    os.kill(stopped.pid, signal.SIGCONT)
    project.touch("go")
    out, err = stopped.communicate(timeout=WAIT_S)
    assert stopped.returncode == 0, err
    assert json.loads(out)["status"] == "succeeded"
    assert project.status() == "succeeded"
    assert [line.split()[0] for line in project.calls()] == ["slow", "pay"]


def test_of_two_that_take_up_a_run_at_once_one_gets_it(project: Project) -> None:
    killed = project.start_with(stage("slow", "pure", "go"), stage("pay", "effectful", "", "slow"))
    project.wait_for_call("slow")
    project.wait_until_recorded()
    killed.kill()
    killed.communicate()
    project.touch("go")
    both = [project.begin("resume", "last", "--json") for _ in range(3)]
    done = [process.communicate(timeout=WAIT_S) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes.count(0) == 1, done
    for process, (out, err) in zip(both, done, strict=True):
        if process.returncode:
            assert "Traceback" not in err
            assert any(words in out + err for words in ("fenced", "only a run that", "is running", "is succeeded")), (
                out + err
            )
    assert [line.split()[0] for line in project.calls()].count("pay") == 1
    assert project.status() == "succeeded"
