"""`fm submit`, with a cluster that is played: what is the result, what a command may take, and how often a log is read."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("aiohttp")

from flowmason_ray.cli import submit_command
from flowmason_ray.ray_jobs import submitting
from flowmason_ray.ray_jobs.submitting import JobEnded, JobServer
from tests.cli_kit import Fm, pipeline, stage

WARNING = "[2026-01-01 00:00:00,000 W 1 1] core_worker.cc: a node died"


class Played:
    """A job that has printed some lines."""

    def __init__(self, *lines: str, exit_code: int = 0) -> None:
        self._lines = lines
        self._exit_code = exit_code

    async def lines(self, job_id: str) -> AsyncIterator[str]:
        for line in self._lines:
            yield line

    def ended(self, job_id: str) -> JobEnded:
        status = "FAILED" if self._exit_code else "SUCCEEDED"
        return JobEnded(status=status, exit_code=self._exit_code, message="")


@pytest.mark.parametrize(
    ("lines", "exit_code", "as_json", "result"),
    [
        (["run r: succeeded", '{"answer":42}'], 0, False, '{"answer":42}\n'),
        (["run r: succeeded", '{"answer":42}', WARNING], 0, False, '{"answer":42}\n'),
        (['{"said":1}', "7", "run r: succeeded", '"done"', WARNING, WARNING], 0, False, '"done"\n'),
        (['{"run_id":"r","status":"failed"}', WARNING], 1, True, '{"run_id":"r","status":"failed"}\n'),
        (['{"said":1}', "error[x]: it failed"], 1, False, ""),
        (["nothing"], 0, False, ""),
    ],
)
def test_the_result_is_found_whatever_is_said_behind_it(
    capsys: pytest.CaptureFixture[str], lines: list[str], exit_code: int, as_json: bool, result: str
) -> None:
    server: Any = Played(*lines, exit_code=exit_code)
    assert asyncio.run(submit_command._follow(server, "j", as_json=as_json)) == exit_code  # pyright: ignore[reportPrivateUsage]  # without a cluster
    out, err = capsys.readouterr()
    assert out == result
    assert sorted(err.splitlines()) == sorted(line for line in lines if f"{line}\n" != result), "all else is shown"


@pytest.mark.parametrize(
    ("text", "fits"), [("x" * 100_000, True), ("it's " * 19_000, False)], ids=["plain", "with_quotes"]
)
def test_what_a_shell_takes_is_measured_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, fits: bool
) -> None:
    sent: list[list[str]] = []

    class Server:
        address = "http://head"

        def __init__(self, address: str) -> None: ...

        def submit(self, job: submitting.Job) -> str:
            sent.append(list(job.command))
            return "raysubmit_1"

    monkeypatch.setattr(submitting, "JobServer", Server)
    monkeypatch.chdir(tmp_path)
    fm = Fm(monkeypatch, tmp_path)
    fm.write(pipeline(stage("a", "variable_set", config={"name": "x", "value": 1})))
    (tmp_path / "input.json").write_text(json.dumps({"text": text}))
    done = fm("submit", "p.pipeline.json", "--address", "http://head", "-f", "input.json", "--no-wait", "-q")
    assert (done.code == 0) is fits, done.err
    if fits:
        assert len(shlex.join(sent[0]).encode()) < 128 * 1024
    else:
        assert "which is sent along" in done.err
        assert not sent


class Client:
    """A job that says something at the beginning and at the end, and is over when it was asked often enough."""

    asked = read = 0

    def get_job_status(self, job_id: str) -> Client:
        self.asked += 1
        return self

    def is_terminal(self) -> bool:
        return self.asked >= 200

    def get_job_logs(self, job_id: str) -> str:
        self.read += 1
        return "first\nsecond\nlast" if self.is_terminal() else "first\nsec"


def test_a_job_that_says_nothing_is_read_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "POLL_S", 0.001)
    server, client = JobServer.__new__(JobServer), Client()
    server._client = client  # pyright: ignore[reportPrivateUsage]  # without a cluster

    async def lines() -> list[str]:
        return [line async for line in server.lines("j")]

    assert asyncio.run(lines()) == ["first", "second", "last"]
    assert client.read < client.asked / 2
