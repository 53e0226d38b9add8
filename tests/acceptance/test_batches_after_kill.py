"""A run is killed while its batch is under way; taken up again it waits for that batch, and pays for nothing twice."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmason_ray.testing.llm_server import LlmServer
from tests.cli_kit import command, environment
from tests.llm_kit import make_project, model_server

ITEMS = 4
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with model_server() as serving:
        yield serving


@pytest.fixture
def pipeline(server: LlmServer, tmp_path: Path) -> Path:
    file = make_project(tmp_path / "project")
    said = json.loads(file.read_text(encoding="utf-8"))
    said["stages"][1]["llm_settings"] = {"provider": "anthropic", "priority": "batch"}
    said["stages"][0]["config"]["max_parallel"] = 4
    file.write_text(json.dumps(said), encoding="utf-8")
    settings = {"providers": {"anthropic": server.providers()["anthropic"]}}
    (file.parent / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")
    return file


def fm(pipeline: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(*arguments), cwd=pipeline.parent, env=environment(), capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until_noted(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until all is in batches whose ids are on the disk: the server has them by then."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        notes = [json.loads(file.read_text()) for file in (folder / ".flowmason" / "batches").glob("*.json")]
        if sum(len(note["requests"]) for note in notes if note["batch"]) == ITEMS:
            return
        time.sleep(0.05)
    raise AssertionError("no batch was made")


def test_a_batch_outlives_the_process_that_made_it(pipeline: Path, server: LlmServer) -> None:
    server.batch_polls = 1_000_000
    process = subprocess.Popen(
        command("run", str(pipeline), "-q", "-i", '{"items": [1, 2, 3, 4]}'), cwd=pipeline.parent, env=environment()
    )
    try:
        until_noted(pipeline.parent, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    made = dict(server.batches)  # one, unless the machine is so busy that the attempts begin seconds apart
    assert sum(len(batch["requests"]) for batch in made.values()) == ITEMS

    server.batch_polls = 0
    resumed = json.loads(fm(pipeline, "resume", "last", "--json"))
    assert resumed["status"] == "succeeded"
    answers = [each["content"] for each in resumed["output"]["results"]]
    assert answers == [f"You said: say {n} please" for n in (1, 2, 3, 4)]
    assert list(server.batches) == list(made), "nothing was asked anew"
    total = json.loads(fm(pipeline, "runs", "cost", "last", "--json"))["total"]
    assert (total["calls"], total["input_tokens"]) == (ITEMS, ITEMS * 3), "the words of four prompts"
