"""Cheap pure stages share warm workers once there are many of them; one that dies is no loss."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import Context, operator
from flowmason_ray.api import PreparedRun, RunResult

pytestmark = pytest.mark.ray


class _In(BaseModel):
    n: int = 0
    large: bool = False
    text: str = ""


class _Out(BaseModel):
    n: int
    pid: int
    text: str = ""


@operator(name="cheap", effect="pure", cost="trivial")
class Cheap:
    Input, Output = _In, _Out

    async def execute(self, input: _In, context: Context) -> _Out:
        deadly = context.project_dir / "deadly"
        if deadly.exists() and input.n == 20:
            deadly.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return _Out(n=input.n + len(input.text), pid=os.getpid(), text="x" * 200_000 if input.large else "")


def lanes() -> list[Any]:
    return importlib.import_module("flowmason_ray.engine.executors.ray_warm")._lanes


def pids() -> set[int]:
    """Return the processes of the warm workers that are there."""
    ray: Any = importlib.import_module("ray")
    return {ray.get(lane.handle.__ray_call__.remote(_pid)) for lane in lanes() if lane.ready}


def _pid(_: Any) -> int:
    return os.getpid()


def play(n: int, **config: Any) -> RunResult:
    loop = {"items": list(range(n)), "loop_stages": ["a", "b"], "max_parallel": 8}
    never = {"placement": {"fuse": "never"}}
    stages = [
        {"id": "each", "component_type": "foreach", "config": loop},
        {"id": "a", "component_type": "cheap", "config": {"n": "{{item}}", **config}, **never},
        {"id": "b", "component_type": "cheap", "config": {"n": "{{stages.a.n}}", "text": "{{stages.a.text}}"}, **never},
    ]
    prepared = PreparedRun({"name": "warm", "stages": stages}, on="ray", components=[Cheap])
    return asyncio.run(prepared.run())


def warmed() -> None:
    """Run until warm workers are there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        play(30).raise_for_status()
        if any(lane.ready for lane in lanes()):
            return
    raise AssertionError("there are no warm workers")


def test_many_cheap_calls_are_made_by_warm_workers(ray_cluster: str, project_dir: Path) -> None:
    warmed()
    result = play(30).raise_for_status()
    assert [each["n"] for each in result.output["results"]] == list(range(30))
    assert {each["pid"] for each in result.output["results"]} <= pids()
    ray: Any = importlib.import_module("ray")
    until = time.monotonic() + 60  # tasks of the runs before give their cores back in their own time
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"], "they hold no cores"


def test_the_calls_of_one_that_dies_are_made_again(ray_cluster: str, project_dir: Path) -> None:
    warmed()
    (project_dir / "deadly").touch()
    result = play(30).raise_for_status()
    assert not (project_dir / "deadly").exists()
    assert [each["n"] for each in result.output["results"]] == list(range(30))


def test_large_values_stay_in_the_cluster(ray_cluster: str, project_dir: Path) -> None:
    warmed()
    result = play(6, large=True).raise_for_status()
    assert [each["n"] for each in result.output["results"]] == [i + 200_000 for i in range(6)]
