"""The crash harness in the test suite, in its short form. `make chaos` kills a thousand times and more."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import play
from tests.cli_kit import command, environment
from tests.postgres_kit import MIGRATED, Server, prepare_template, serving

KILLS = int(os.environ.get("CHAOS_KILLS", "50"))
"""Of processes; on each store."""
CRASHES = max(3, KILLS // 20)
"""Of the database."""
SEED = int(os.environ.get("CHAOS_SEED", "1"))
TIMEOUT_S = 400 + 5 * KILLS
HOWS = ("at a random moment", "before an fsync", "after an fsync")


@pytest.mark.timeout(TIMEOUT_S)
def test_runs_on_sqlite_survive_being_killed() -> None:
    tally = play(kills=KILLS, seed=SEED)
    assert tally.total >= KILLS
    assert all(tally.kills[how] for how in HOWS)
    print(f"\nSQLite: {tally}")


@pytest.mark.timeout(TIMEOUT_S)
def test_runs_on_postgresql_survive_being_killed(postgres_url: str) -> None:
    tally = play(kills=KILLS // 2, seed=SEED, store=postgres_url)
    assert tally.total >= KILLS // 2
    assert tally.runs > 0
    print(f"\nPostgreSQL: {tally}")


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that the test may crash."""
    for server in serving():
        prepare_template(server)
        yield server


@contextmanager
def crashing(server: Server, crashes: list[int]) -> Generator[threading.Thread]:
    """Stop a server at once, as if it had crashed, and start it again, over and over, in a thread."""
    over = threading.Event()

    def restart() -> None:
        server.stop("immediate")
        server.start()

    def crash() -> None:
        while not over.wait(1.0):
            try:
                restart()
            except (RuntimeError, subprocess.TimeoutExpired):  # a busy machine takes its time
                restart()
            crashes.append(1)

    thread = threading.Thread(target=crash)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()


@pytest.mark.timeout(TIMEOUT_S)
def test_runs_survive_their_database_being_stopped_at_once(own_server: Server) -> None:
    url = own_server.url(own_server.new_database(MIGRATED))
    crashes: list[int] = []
    with crashing(own_server, crashes) as thread:

        def enough() -> bool:
            return len(crashes) >= CRASHES or not thread.is_alive()

        tally = play(kills=CRASHES, seed=SEED, store=url, most_kills=2, until=enough)
    assert len(crashes) >= CRASHES
    assert tally.runs > 0
    print(f"\n{len(crashes)} crashes of the database: {tally}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"A FULL DISK IS NOT TESTED HERE: a small one cannot be mounted ({done.stderr.strip()}).")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_run_whose_disk_was_full_goes_on_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    stores = {"runs": str(small_disk / "runs.db"), "blobs": str(small_disk / "blobs")}
    (project / "flowmason.json").write_text(json.dumps({"stores": stores}))
    loop = {"items": list(range(18)), "loop_stages": ["text", "keep"], "collect": "{{item}}"}
    text = {"name": "text", "value": "{{ input.text ~ item }}"}
    stages: list[dict[str, Any]] = [
        {"id": "each", "component_type": "foreach", "config": loop},
        {"id": "text", "component_type": "variable_set", "config": text},
        {"id": "keep", "component_type": "local_file", "depends_on": ["text"], "config": {"operation": "append", "path": "kept.txt", "content": "{{item}} "}},
    ]  # fmt: skip
    (project / "p.pipeline.json").write_text(json.dumps({"name": "p", "stages": stages}))
    (project / "input.json").write_text(json.dumps({"text": "x" * 150_000}))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 2_500_000)

    def fm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=project,
            env=environment(),
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )

    full = fm("run", "p.pipeline.json", "-f", "input.json", "--json")
    assert full.returncode == 1, full.stderr
    error = json.loads(full.stdout)["error"]
    assert error["code"] == "store_unavailable"
    assert "No space left on device" in error["message"] or "disk is full" in error["message"]
    assert "Traceback" not in full.stderr
    before = [json.loads(line) for line in fm("runs", "events", "last").stdout.splitlines()]
    assert before, "what was acknowledged can be read while the disk is full"
    ballast.unlink()
    resumed = fm("resume", "last", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["output"]["results"] == list(range(18))
    after = [json.loads(line) for line in fm("runs", "events", "last").stdout.splitlines()]
    assert after[: len(before)] == before
    assert sorted(map(int, (project / "kept.txt").read_text().split())) == list(range(18)), "each was appended once"
