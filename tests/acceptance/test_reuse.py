"""`fm resume --pipeline`, `fm run --reuse`, `--from`, `--force`: what is told before, what runs, and what a server sees of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cli_kit import Fm, pipeline, stage

WORK = """
from typing import Any
from pydantic import BaseModel
from flowmason_ray import operator


class In(BaseModel):
    v: Any = None
    fail: bool = False


class Out(BaseModel):
    v: Any


def work(input, context):
    with open(context.project_dir / "calls.txt", "a") as file:
        file.write(context.path + "\\n")
    if input.fail:
        raise ValueError("told to fail")
    return Out(v=input.v)


@operator(effect="pure")
class Work:
    Input, Output = In, Out

    def execute(self, input, context):
        return work(input, context)


@operator(effect="effectful")
class Pay:
    Input, Output = In, Out

    def execute(self, input, context):
        return work(input, context)
"""


@pytest.fixture
def project(fm: Fm) -> Fm:
    (fm.directory / "components" / "work.py").write_text(WORK, encoding="utf-8")
    return fm


def calls(fm: Fm) -> list[str]:
    """Return what was called since the last time."""
    file = fm.directory / "calls.txt"
    found = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return sorted(found)


def work(id: str, v: Any, component: str = "work", **config: Any) -> dict[str, Any]:
    return stage(id, component, config={"v": v, **config})


X, PAY = work("x", "{{ input.n }}"), work("pay", "{{ stages.x.v }}", "pay")
OUTPUT = {"output": {"v": "{{ stages.last.v }}"}}


def test_an_edited_pipeline_goes_on_where_the_failed_one_stopped(project: Fm) -> None:
    file = project.write(pipeline(X, PAY, work("last", "{{ stages.pay.v }}", fail=True), **OUTPUT))
    failed = project("run", file, "-i", '{"n": 7}')
    assert failed.code == 1
    calls(project)
    project.write(pipeline(X, PAY, work("last", "{{ stages.pay.v }}"), **OUTPUT))
    told = project("resume", "last", "--pipeline", file, "--dry-run")
    assert (told.code, told.out, calls(project)) == (0, "", [])
    lines = [" ".join(line.split()) for line in told.err.splitlines()]
    assert lines[1:] == ["= x reused", "= pay reused", "▶ last changed: config.fail"] or lines[1:] == [
        "= x reused", "= pay reused", "> last changed: config.fail",
    ]  # fmt: skip
    done = project("resume", "last", "--pipeline", file)
    assert (done.code, json.loads(done.out), calls(project)) == (0, {"v": 7}, ["last"])
    assert "3 stages, 2 reused" in done.err
    shown = project("runs", "show", "last").out
    assert "reused     pay" in shown
    again = project("resume", "last")
    assert again.code == 2
    assert "fm resume" in again.err
    assert "--pipeline" in again.err
    assert "fm run" in again.err


def test_the_plan_is_there_for_programs_too(project: Fm) -> None:
    file = project.write(pipeline(X, PAY, work("last", "{{ stages.pay.v }}", fail=True)))
    project("run", file, "-i", '{"n": 7}')
    project.write(pipeline(work("x", "{{ input.n + 1 }}"), PAY, work("other", 1)))
    told = project("resume", "last", "--pipeline", file, "--dry-run", "--json").json
    assert [each["stage"] for each in told["runs"]] == ["x", "pay", "other"]
    assert told["runs"][1] == {
        "stage": "pay", "known": 1, "unfinished": 0, "why": ["reads x"], "perhaps": True, "would_repeat": True,
    }  # fmt: skip
    assert told["gone"] == ["last"]


def test_an_effect_is_told_before_and_refused_when_it_comes_to_it(project: Fm) -> None:
    file = project.write(pipeline(X, PAY, work("last", "{{ stages.pay.v }}", fail=True)))
    project("run", file, "-i", '{"n": 7}')
    project.write(pipeline(work("x", "{{ input.n + 1 }}"), PAY))
    calls(project)
    refused = project("resume", "last", "--pipeline", file)
    assert refused.code == 1
    assert "unless you say: --force pay" in refused.err
    assert "error[effect_would_repeat]" in refused.err
    assert calls(project) == ["x"]
    assert project("resume", "last", "--pipeline", file, "--force", "pay").code == 0
    assert calls(project) == ["pay"]


def test_edited_code_runs_again(project: Fm) -> None:
    file = project.write(pipeline(work("x", 1), work("last", "{{ stages.x.v }}", fail=True)))  # one after the other
    project("run", file)
    component = project.directory / "components" / "work.py"
    component.write_text(WORK + "\n# edited\n", encoding="utf-8")
    calls(project)
    done = project("resume", "last", "--pipeline", file)
    assert "changed: the component's code" in done.err
    assert calls(project) == ["last", "x"]


def test_an_input_that_no_longer_fits_is_refused_and_nothing_changes(project: Fm) -> None:
    file = project.write(pipeline(X, work("last", 1, fail=True)))
    project("run", file, "-i", '{"n": 7}')
    before = project("runs", "list", "--json").json
    schema = {"type": "object", "properties": {"n": {"type": "string"}}}
    project.write(pipeline(X, input_schema=schema))
    refused = project("resume", "last", "--pipeline", file)
    assert refused.code == 2
    assert "no longer fits" in refused.err
    assert "--reuse" in refused.err
    assert project("runs", "list", "--json").json == before


def test_a_run_takes_over_what_another_has_done(project: Fm) -> None:
    stages = [X, work("y", "{{ stages.x.v }}"), work("last", "{{ stages.y.v }} {{ input.m }}")]
    file = project.write(pipeline(*stages, **OUTPUT))
    project("run", file, "-i", '{"n": 7, "m": 1}')
    calls(project)
    assert project("run", file, "-i", '{"n": 7, "m": 2}', "--reuse", "last").json == {"v": "7 2"}
    assert calls(project) == ["last"]
    assert project("run", file, "--reuse", "last").json == {"v": "7 2"}  # with that run's input
    assert calls(project) == []
    assert project("run", file, "--reuse", "last", "--from", "y").code == 0
    assert calls(project) == ["last", "y"]
    assert project("run", file, "--reuse", "last", "--force", "x").code == 0
    assert calls(project) == ["x"]
    missing = project("run", file, "--reuse", "r_nothing")
    assert (missing.code, "r_nothing" in missing.err) == (2, True)
    assert project("run", file, "--reuse", "last", "--no-store").code == 2


@pytest.mark.parametrize(
    "arguments", [("--force", "x"), ("--dry-run",), ("--in-doubt", "perhaps"), ("--pipeline", "nowhere.pipeline.json")]
)
def test_what_makes_no_sense_is_refused(project: Fm, arguments: tuple[str, ...]) -> None:
    project("run", project.write(pipeline(X)), "-i", '{"n": 7}')
    refused = project("resume", "last", *arguments)
    assert refused.code == 2
    assert "Traceback" not in refused.err


@pytest.fixture
def server() -> Iterator[tuple[int, list[tuple[str, str | None]]]]:
    """A server that notes the idempotency key of every request, and answers every second one of /flaky only."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.path, self.headers.get("Idempotency-Key")))
            refused = self.path == "/flaky" and sum(path == "/flaky" for path, _ in seen) % 2
            self.send_response(503 if refused else 200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"ok": true}')

        def log_message(self, format: str, *args: Any) -> None: ...

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield listening.server_address[1], seen
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_a_server_sees_one_key_over_retries_and_edits(
    project: Fm, server: tuple[int, list[tuple[str, str | None]]]
) -> None:
    port, seen = server
    (project.directory / "flowmason.json").write_text(
        json.dumps({"http": {"allow_hosts": ["127.0.0.1"]}}), encoding="utf-8"
    )

    def post(attempts: int) -> dict[str, Any]:
        config = {"url": f"http://127.0.0.1:{port}/flaky", "method": "POST", "body": {"n": 1}}
        return stage("post", "http_request", config=config, retry={"max_attempts": attempts, "initial_delay_ms": 1})

    file = project.write(pipeline(post(1)))
    assert project("run", file).code == 1  # refused once, and not tried again
    project.write(pipeline(post(2), work("new", 1)))
    assert project("resume", "last", "--pipeline", file).code == 0
    assert project("run", file).code == 0  # another run: refused, tried again
    keys = [key for _, key in seen]
    assert len(keys) == 4
    assert keys[0] == keys[1] != keys[2] == keys[3]
