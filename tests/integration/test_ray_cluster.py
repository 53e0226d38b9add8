"""What every Ray test relies on: workers run what a test module defines, and an embedded Ray is ours alone."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import environment


@dataclass(frozen=True)
class Seen:
    """A class that only this module defines: it crosses the border by its name."""

    pid: int
    auth_mode: str | None


def look_around() -> Seen:
    return Seen(pid=os.getpid(), auth_mode=os.environ.get("RAY_AUTH_MODE"))


def test_a_worker_imports_what_a_test_defines(ray_cluster: str) -> None:
    ray: Any = importlib.import_module("ray")
    seen = ray.get(ray.remote(look_around).remote())
    assert isinstance(seen, Seen)
    assert seen.pid != os.getpid()
    assert seen.auth_mode == "disabled"


def test_the_cluster_is_started_by_the_tests(ray_cluster: str) -> None:
    ray: Any = importlib.import_module("ray")
    assert "RAY_ADDRESS" not in os.environ
    assert [n["Alive"] for n in ray.nodes()] == [True]
    assert ray.cluster_resources()["CPU"] == 4


def test_without_an_address_a_cluster_of_our_own_is_started_with_a_second_try(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray.init` without one joins what was started last on the machine, whosever it is."""
    module: Any = importlib.import_module("flowmason_ray.engine.executors.ray_cluster")
    asked: list[Any] = []

    def init(**options: Any) -> None:
        asked.append(options["address"])
        if len(asked) == 1:
            raise RuntimeError("it took too long")

    monkeypatch.setattr(module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(module.ray, "shutdown", lambda: None)
    monkeypatch.setattr(module.ray, "init", init)
    module._connect(None)
    assert asked == ["local", "local"]


EMBEDDED = """
    import asyncio, json, os, subprocess, sys
    from pathlib import Path
    from pydantic import BaseModel
    from flowmason_ray import operator
    from flowmason_ray.api import PreparedRun

    class In(BaseModel): pass
    class Out(BaseModel): mode: str; token: str

    @operator(name="look", cost="cpu")
    class Look:
        Input, Output = In, Out
        async def execute(self, input, context):
            return Out(mode=os.environ["RAY_AUTH_MODE"], token=os.environ["RAY_AUTH_TOKEN"])

    pipeline = {"name": "look", "stages": [{"id": "look", "component_type": "look", "placement": {"fuse": "never"}}]}
    result = asyncio.run(PreparedRun(pipeline, on="ray", components=[Look]).run()).raise_for_status()
    import ray
    join = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print(len(ray.nodes()))"
    joined = {}
    for name, token in (("ours", os.environ["RAY_AUTH_TOKEN"]), ("theirs", "0" * 64)):
        done = subprocess.run([sys.executable, "-c", join, ray.get_runtime_context().gcs_address], capture_output=True,
                              text=True, env={**os.environ, "RAY_AUTH_TOKEN": token}, timeout=120)
        joined[name] = (done.returncode == 0, "nauthenticated" in done.stderr)
    print(json.dumps({"seen": result.output, "mine": os.environ["RAY_AUTH_TOKEN"], "joined": joined}))
"""


@pytest.mark.ray
@pytest.mark.timeout(450)
def test_an_embedded_cluster_refuses_who_does_not_know_its_token(tmp_path: Path) -> None:
    outside = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(EMBEDDED)],
        env={**outside, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seen"] == {"mode": "token", "token": found["mine"]}
    assert len(found["mine"]) == 64
    assert found["joined"] == {"ours": [True, False], "theirs": [False, True]}
    assert not list(tmp_path.glob(".ray*")), "no token is left in the home directory"
