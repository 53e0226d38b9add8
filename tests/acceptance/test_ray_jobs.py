"""A project as a Ray job, on a real head with token authentication: `ray job submit`, and `fm submit`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.cli_kit import Done, command, environment, pipeline, stage
from tests.ray_head_kit import Head, serving

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

LOOK = '''
"""The project's own component."""

import os
from pathlib import Path
from pydantic import BaseModel
from flowmason_ray import PermanentError, operator


@operator(effect="pure")
class LookAround:
    """Tells where it is."""

    class Input(BaseModel):
        fail: bool = False

    class Output(BaseModel):
        folder: str
        files: list[str]
        pid: int

    def execute(self, input, context):
        context.log("info", "looking around")
        if input.fail:
            raise PermanentError("nothing to see", code="too_dark")
        files = [str(each.relative_to(context.project_dir)) for each in context.project_dir.rglob("*") if each.is_file()]
        return {"folder": str(context.project_dir), "files": sorted(files), "pid": os.getpid()}
'''


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    yield from serving()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flowmason.json").write_text("{}")
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "look.py").write_text(LOOK)
    (tmp_path / ".gitignore").write_text("private.txt\n")
    (tmp_path / ".rayignore").write_text("large.bin\n")
    (tmp_path / "private.txt").write_text("mine")
    (tmp_path / "large.bin").write_bytes(b"0" * 1000)
    (tmp_path / "data.txt").write_text("sent along")
    look = stage("look", "look_around", config={"fail": "{{ input.fail }}"}, placement={"fuse": "never"})
    schema = {"type": "object", "properties": {"fail": {"type": "boolean", "default": False}}}
    file = pipeline(look, input_schema=schema, output={"found": "{{ stages.look }}"})
    (tmp_path / "p.pipeline.json").write_text(json.dumps(file))
    return tmp_path


def run(arguments: list[str], cwd: Path, **variables: str) -> Done:
    """Run a command to its end, without any address of a cluster around it."""
    done = subprocess.run(arguments, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=200)
    return Done(done.returncode, done.stdout, done.stderr)


def submit(head: Head, project: Path, *arguments: str, **variables: str) -> Done:
    words = command("submit", "p.pipeline.json", "--address", head.dashboard, "--python", sys.executable, *arguments)
    return run(words, project, **{**head.environment(), **variables})


def check_files(files: list[str]) -> None:
    """What is ignored stayed at home, all else came along."""
    assert {"data.txt", "p.pipeline.json", "components/look.py"} <= set(files)
    assert not {"private.txt", "large.bin"} & set(files)


def test_ray_job_submit_runs_a_project_with_its_own_components(head: Head, project: Path) -> None:
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.dashboard]
    words = [*ray, "--working-dir", ".", "--", *command("run", "p.pipeline.json", "-q")]
    done = run(words, project, **head.environment())
    assert done.code == 0, done.out + done.err
    result = next(line for line in done.out.splitlines() if line.startswith('{"found"'))
    check_files(json.loads(result)["found"]["files"])


def test_fm_submit_follows_the_job_and_prints_its_result(head: Head, project: Path) -> None:
    done = submit(head, project)
    assert done.code == 0, done.err
    found = done.json["found"]
    check_files(found["files"])
    assert Path(found["folder"]) != project, "it ran in the job's own directory"
    assert "looking around" in done.err
    assert "FLOWMASON_STORE" in done.err, "where its log is, is said"


def test_fm_submit_ends_as_the_run_does(head: Head, project: Path) -> None:
    done = submit(head, project, "-i", '{"fail": true}', "--json")
    assert done.code == 1, done.err
    assert done.json["error"]["code"] == "too_dark"


def test_a_job_whose_store_is_a_database_is_watched_from_here(head: Head, project: Path, postgres_url: str) -> None:
    sent = submit(head, project, "--no-wait", "-q", "--env", "FLOWMASON_STORE", FLOWMASON_STORE=postgres_url)
    assert sent.code == 0, sent.err
    assert sent.out.startswith("raysubmit_")
    here = {**head.environment(), "FLOWMASON_STORE": postgres_url}
    deadline = time.monotonic() + 90
    while (watched := run(command("runs", "watch", "last", "-q"), project, **here)).code == 2:
        assert time.monotonic() < deadline, f"the job has not begun its run: {watched.err}"
    assert watched.code == 0, watched.err
    check_files(watched.json["found"]["files"])
    assert "looking around" in run(command("runs", "logs", "last", "look"), project, **here).out


def metrics_of(head: Head) -> dict[str, float]:
    """Return our metrics on the head's metrics port: their names with our labels, and the values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{head.ports['metrics-export-port']}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^ray_(flowmason_\w+)\{(.*)\} (\S+)$", "\n".join(lines), re.MULTILINE):
        told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = " ".join([name, *(told[label] for label in ("pipeline", "component", "status", "le") if label in told)])
        found[key] = found.get(key, 0.0) + float(value)
    return found


def test_runs_and_attempts_are_counted_on_the_metrics_port(head: Head, project: Path) -> None:
    text = (project / "p.pipeline.json").read_text().replace('"P"', '"Counted"')
    (project / "counted.pipeline.json").write_text(text)
    words = ("counted.pipeline.json", "-q", "--address", head.address)
    done = run(command("run", *words), project, **head.environment())
    assert done.code == 0, done.err
    failed = run(command("run", *words, "-i", '{"fail": true}'), project, **head.environment())
    assert failed.code == 1, failed.err
    deadline = time.monotonic() + 90
    wanted = {
        "flowmason_runs_ended_total Counted succeeded": 1,
        "flowmason_runs_ended_total Counted failed": 1,
        "flowmason_attempts_started_total Counted look_around": 2,
        "flowmason_attempts_ended_total Counted look_around succeeded": 1,
        "flowmason_attempts_ended_total Counted look_around failed": 1,
        "flowmason_attempts_in_flight Counted look_around": 0,
        "flowmason_attempt_seconds_count Counted look_around": 2,
        "flowmason_queue_seconds_count Counted look_around": 2,
    }
    found: dict[str, float] = {}
    while not wanted.items() <= found.items():
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
        with suppress(OSError, HTTPException):  # a busy head answers late, or stops in the middle
            found = metrics_of(head)
    assert not [key for key in found if "r_0" in key], "no label grows with the number of runs"


def test_ray_list_tasks_calls_attempts_by_their_stages_and_runs(head: Head, project: Path) -> None:
    submitted = submit(head, project, "--json")
    assert submitted.code == 0, submitted.err
    name = f"name=look {submitted.json['run_id']}"
    listing = [sys.executable, "-m", "ray.scripts.scripts", "list", "tasks", "--address", head.dashboard]
    deadline = time.monotonic() + 90  # Ray hears of tasks a moment later
    while True:
        listed = run([*listing, "--filter", name, "--format", "json"], project, **head.environment())
        # A busy head may not answer at all, this time.
        if listed.code == 0 and any(task["state"] == "FINISHED" for task in json.loads(listed.out or "[]")):
            return
        assert time.monotonic() < deadline, f"no such task: {listed.out}{listed.err}"
        time.sleep(1)


def test_a_gpu_that_no_node_has_is_refused_before_anything_runs(head: Head, project: Path) -> None:
    pipeline = json.loads((project / "p.pipeline.json").read_text())
    pipeline["stages"][0]["resources"] = {"num_gpus": 1}
    (project / "p.pipeline.json").write_text(json.dumps(pipeline))
    refused = submit(head, project, "--json")
    assert refused.code == 1
    error = refused.json["error"]
    assert error["code"] == "infeasible_resources"
    assert "'look'" in error["message"]
    assert "none of the cluster's 1 node has any GPU" in error["message"]
    waited = submit(head, project, "--json", "--wait-for-resources", "1")
    assert waited.json["error"]["code"] == "infeasible_resources"
    assert "It waited 1 s for that to change" in waited.json["error"]["message"]


def test_who_has_not_the_token_is_refused(head: Head, project: Path) -> None:
    done = submit(head, project, RAY_AUTH_TOKEN="f" * 64)
    assert done.code == 1
    assert "error[submission_failed]" in done.err
    assert "RAY_AUTH_TOKEN" in done.err
    assert "Traceback" not in done.err


def test_a_cluster_that_is_not_there_is_said_so(project: Path, free_port: int) -> None:
    done = run(command("submit", "p.pipeline.json", "--address", f"http://127.0.0.1:{free_port}"), project)
    assert (done.code, "Cannot reach" in done.err) == (1, True), done.err
    nowhere = run(command("submit", "p.pipeline.json"), project)
    assert (nowhere.code, "--address http://" in nowhere.err) == (2, True), nowhere.err
    invalid = run(command("submit", "p.pipeline.json", "--address", "http://127.0.0.1:1", "-i", '{"fail": 3}'), project)
    assert (invalid.code, "fail" in invalid.err) == (2, True), "what is wrong is said before anything is sent"


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
