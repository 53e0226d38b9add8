"""`fm run --detach`: a run that its cluster goes on with when the command has left, and when its coordinator is killed."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import stage
from tests.processes_kit import ProcessProject

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

PATIENCE_S = 120.0
"""How long something is waited for that takes seconds on a quiet machine."""

WORK = '''
"""Components that note their calls, and wait until a file is there."""

import time
from pathlib import Path
from pydantic import BaseModel
from flowmason_ray import operator


class Input(BaseModel):
    name: str
    wait_for: str | None = None


class Output(BaseModel):
    name: str


def work(input, context):
    with open(context.project_dir / "calls.txt", "a") as file:
        file.write(f"{input.name}\\n")
    context.log("info", f"at {input.name}")
    while input.wait_for and not (context.project_dir / input.wait_for).exists():
        time.sleep(0.05)
    return {"name": input.name}


@operator(effect="pure")
class Look:
    """Does nothing to the world."""

    Input = Input
    Output = Output

    def execute(self, input, context):
        return work(input, context)


@operator(effect="effectful")
class Send:
    """Does something that must not be done twice."""

    Input = Input
    Output = Output

    def execute(self, input, context):
        return work(input, context)
'''


@pytest.fixture
def project(tmp_path: Path) -> Iterator[ProcessProject]:
    made = ProcessProject(tmp_path, WORK, patience_s=PATIENCE_S)
    yield made
    made.close()


def detach(project: ProcessProject, address: str, stages: list[dict[str, Any]], *more: str, **keys: Any) -> str:
    """Hand a run over; return its id."""
    (project.root / "p.pipeline.json").write_text(json.dumps({"name": "p", "stages": stages, **keys}))
    done = project.fm("run", "p.pipeline.json", "--detach", "--address", address, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def until(true: Callable[[], Any]) -> Any:
    """Wait for something that is bound to come."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found


def row(project: ProcessProject, run: str) -> tuple[str, int, int]:
    """Return what the log knows of a run: status, process and epoch."""
    with closing(sqlite3.connect(project.root / ".flowmason" / "runs.db")) as connection:
        return connection.execute("SELECT status, pid, epoch FROM runs WHERE run_id = ?", (run,)).fetchone()


def coordinators() -> list[str]:
    ray: Any = importlib.import_module("ray")
    return [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]


@contextmanager
def another_coordinator(run: str) -> Generator[None]:
    """Have something else in the cluster take a run up meanwhile; it is to be left alone."""
    ray: Any = importlib.import_module("ray")

    class Other:
        def there(self) -> bool:
            return True

    made = ray.remote(Other).options(name=f"coordinator {run}", namespace="flowmason", num_cpus=0).remote()
    try:
        assert ray.get(made.there.remote(), timeout=PATIENCE_S)
        yield
        assert ray.get(made.there.remote(), timeout=PATIENCE_S)
    finally:
        ray.kill(made)


def test_a_run_goes_on_when_the_command_has_left(ray_cluster: str, project: ProcessProject) -> None:
    run = detach(
        project,
        ray_cluster,
        [stage("a", "look", config={"name": "a", "wait_for": "go"}), stage("b", "send", ["a"], config={"name": "b"})],
        output={"last": "{{ stages.b.name }}"},
    )
    until(lambda: project.calls() == ["a"])
    assert f"coordinator {run}" in coordinators()
    (project.root / "go").touch()
    watched = project.fm("runs", "watch", run)
    assert (watched.returncode, json.loads(watched.stdout)) == (0, {"last": "b"})
    assert project.calls() == ["a", "b"]
    until(lambda: f"coordinator {run}" not in coordinators())
    story = project.fm("runs", "story", run).stdout
    assert "goes on in another process" in story
    assert "interrupted" not in story
    assert "at b" in project.fm("runs", "logs", run, "b").stdout


def test_a_killed_coordinator_is_started_again_and_repeats_nothing_that_matters(
    ray_cluster: str, project: ProcessProject
) -> None:
    run = detach(
        project,
        ray_cluster,
        [
            stage("sent", "send", config={"name": "sent"}),
            stage("looked", "look", ["sent"], config={"name": "looked", "wait_for": "go"}),
            stage("last", "send", ["looked"], config={"name": "last"}),
        ],
    )
    until(lambda: project.calls() == ["sent", "looked"])
    # What is only computed does not wait for the disk, so it can be under way before the log has the effect: then that is in doubt.
    until(lambda: '"stage_succeeded"' in project.fm("runs", "events", run).stdout)
    first = row(project, run)
    os.kill(first[1], signal.SIGKILL)
    again = until(lambda: found if (found := row(project, run))[2] > first[2] else None)
    assert again[1] != first[1]
    (project.root / "go").touch()
    watched = project.fm("runs", "watch", run, "-q")
    assert watched.returncode == 0, watched.stderr
    calls = project.calls()
    assert [calls.count(name) for name in ("sent", "last")] == [1, 1]
    assert calls.count("looked") == 2, "it was under way, and may be repeated"
    until(lambda: f"coordinator {run}" not in coordinators())


def test_an_effect_in_doubt_is_left_to_a_person(ray_cluster: str, project: ProcessProject) -> None:
    run = detach(project, ray_cluster, [stage("sent", "send", config={"name": "sent", "wait_for": "never"})])
    until(lambda: project.calls() == ["sent"])
    os.kill(row(project, run)[1], signal.SIGKILL)
    until(lambda: f"coordinator {run}" not in coordinators())
    assert "sent" in until(lambda: project.fm("runs", "logs", run, "--level", "error").stdout)
    watched = project.fm("runs", "watch", run, "-q")
    assert watched.returncode == 1
    assert "does not go on with it" in watched.stderr
    assert project.calls() == ["sent"], "it was not repeated"
    with another_coordinator(run):
        refused = project.fm("resume", run, "--in-doubt", "skip", "--detach", "--address", ray_cluster, "-q")
    assert (refused.returncode, "taking run" in refused.stderr) == (1, True), refused.stderr
    resumed = project.fm("resume", run, "--in-doubt", "skip", "--detach", "--address", ray_cluster, "-q")
    assert (resumed.returncode, resumed.stdout) == (0, f"{run}\n"), resumed.stderr
    assert project.fm("runs", "watch", run, "-q").returncode == 0
    assert project.calls() == ["sent"]


def test_it_is_cancelled_from_anywhere(ray_cluster: str, project: ProcessProject) -> None:
    run = detach(project, ray_cluster, [stage("a", "look", config={"name": "a", "wait_for": "never"})], "--json")
    run = json.loads(run)["run_id"]
    until(lambda: project.calls() == ["a"])
    cancelled = project.fm("cancel", run)
    assert cancelled.returncode == 0, cancelled.stderr
    assert project.fm("runs", "watch", run).returncode == 130
    until(lambda: f"coordinator {run}" not in coordinators())


def test_who_watches_may_leave(ray_cluster: str, project: ProcessProject) -> None:
    run = detach(project, ray_cluster, [stage("a", "look", config={"name": "a", "wait_for": "go"})])
    until(lambda: project.calls() == ["a"])
    watching = project.begin("runs", "watch", run)
    assert watching.stderr is not None
    assert run in watching.stderr.readline()
    time.sleep(0.5)
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 130
    assert "Detached" in err
    assert row(project, run)[0] == "running"
    (project.root / "go").touch()
    assert project.fm("runs", "watch", run).returncode == 0


def test_what_only_the_cluster_finds_wrong_is_said_and_ends_the_run(ray_cluster: str, project: ProcessProject) -> None:
    broken = project.root / "components" / "picky.py"
    broken.write_text("import ray\nif ray.is_initialized():\n    raise RuntimeError('not in a cluster')\n")
    (project.root / "p.pipeline.json").write_text(
        json.dumps({"name": "p", "stages": [stage("a", "look", config={"name": "a"})]})
    )
    done = project.fm("run", "p.pipeline.json", "--detach", "--address", ray_cluster)
    assert done.returncode == 1
    assert "error[handover_failed]" in done.stderr
    assert "not in a cluster" in done.stderr
    shown = json.loads(project.fm("runs", "show", "last", "--json").stdout)
    assert (shown["status"], shown["error"]["code"]) == ("cancelled", "handover_failed")
    until(lambda: f"coordinator {shown['run_id']}" not in coordinators())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["ray start --head", "--address auto", "RAY_ADDRESS"]),
        (["--on", "local"], ["cannot run on 'local'"]),
        (["--address", "127.0.0.1:1", "--no-store"], ["--no-store"]),
        (["--address", "ray://head:10001"], ["fm submit"]),
    ],
)
def test_what_keeps_a_run_from_being_handed_over_is_said(
    project: ProcessProject, arguments: list[str], words: list[str]
) -> None:
    (project.root / "p.pipeline.json").write_text(
        json.dumps({"name": "p", "stages": [stage("a", "look", config={"name": "a"})]})
    )
    done = project.fm("run", "p.pipeline.json", "--detach", *arguments)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert not (project.root / ".flowmason").exists(), "nothing was recorded"
