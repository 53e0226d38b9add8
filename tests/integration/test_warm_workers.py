"""Cheap pure stages share warm workers once there are many of them; one that dies is no loss."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import Context, operator
from flowmason_ray.api import PreparedRun, RunResult

pytestmark = pytest.mark.ray


class _In(BaseModel):
    n: int = 0
    fill: str = ""
    text: str = ""


class _Out(BaseModel):
    n: int
    pid: int
    of: str = ""
    text: str = ""


@operator(name="cheap", effect="pure", cost="trivial")
class Cheap:
    Input, Output = _In, _Out

    async def execute(self, input: _In, context: Context) -> _Out:
        deadly = context.project_dir / "deadly"
        if deadly.exists() and input.n == 20:
            deadly.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return _Out(n=input.n + len(input.text), pid=os.getpid(), of=input.text[:1], text=input.fill * 200_000)


def lanes() -> list[Any]:
    return importlib.import_module("flowmason_ray.engine.executors.ray_warm")._lanes


def pids() -> set[int]:
    """Return the processes of the warm workers that are there."""
    ray: Any = importlib.import_module("ray")
    found: set[int] = set()
    for lane in lanes():
        with suppress(ray.exceptions.RayActorError):
            if lane.ready:
                found.add(ray.get(lane.handle.__ray_call__.remote(_pid)))
    return found


def _pid(_: Any) -> int:
    return os.getpid()


def prepared(n: int, **config: Any) -> PreparedRun:
    loop = {"items": list(range(n)), "loop_stages": ["a", "b"], "max_parallel": 8}
    never = {"placement": {"fuse": "never"}}
    stages = [
        {"id": "each", "component_type": "foreach", "config": loop},
        {"id": "a", "component_type": "cheap", "config": {"n": "{{item}}", **config}, **never},
        {"id": "b", "component_type": "cheap", "config": {"n": "{{stages.a.n}}", "text": "{{stages.a.text}}"}, **never},
    ]
    return PreparedRun({"name": "warm", "stages": stages}, on="ray", components=[Cheap])


def play(n: int, **config: Any) -> RunResult:
    return asyncio.run(prepared(n, **config).run())


def warmed() -> None:
    """Run until warm workers are there."""
    until = time.monotonic() + 120  # a busy machine takes its time to start them
    while time.monotonic() < until:
        play(30).raise_for_status()
        if any(lane.ready for lane in lanes()):
            return
    raise AssertionError("there are no warm workers")


def test_many_cheap_calls_are_made_by_warm_workers(ray_cluster: str, project_dir: Path) -> None:
    warmed()
    before = pids()
    result = play(30).raise_for_status()
    after = pids()
    assert [each["n"] for each in result.output["results"]] == list(range(30))
    used = {each["pid"] for each in result.output["results"]}
    assert used & (before | after)
    lost = before - after  # a machine that is short of memory may take one: its calls are made again, as tasks
    assert used <= before | after or len(lost) == 1
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
    result = play(6, fill="x").raise_for_status()
    assert [each["n"] for each in result.output["results"]] == [i + 200_000 for i in range(6)]


def test_runs_side_by_side_do_not_see_each_others_values(ray_cluster: str, project_dir: Path) -> None:
    """Their stages have the same paths, and the same workers."""
    warmed()

    async def both() -> list[RunResult]:
        return await asyncio.gather(*(prepared(12, fill=letter).run() for letter in "abcd"))

    for _ in range(3):
        for letter, result in zip("abcd", asyncio.run(both()), strict=True):
            output = result.raise_for_status().output
            assert [(each["n"], each["of"]) for each in output["results"]] == [(i + 200_000, letter) for i in range(12)]
    workers: Any = [lane.handle for lane in lanes() if lane.ready]
    ray: Any = importlib.import_module("ray")
    assert ray.get([worker.__ray_call__.remote(_kept) for worker in workers]) == [0] * len(workers)


def _kept(worker: Any) -> int:
    return len(worker._kept)
