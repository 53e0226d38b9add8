"""When a run is over, however it ended, this process has the threads, children and open files that it had before."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import operator
from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.events import Event, StageStarted
from flowmason_ray.errors import PermanentError
from flowmason_ray.resuming import prepare_resume
from flowmason_ray.wiring import open_workspace
from tests.processes_kit import WAIT_S, wait_until


class _In(BaseModel):
    n: int
    seconds: float = 0


class _Out(BaseModel):
    n: int
    text: str


@operator(name="left_thread", cost="cpu", effect="pure")
class InAThread:
    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        end = time.monotonic() + input.seconds
        while time.monotonic() < end:
            time.sleep(0.005)
        return _Out(n=input.n, text=f"{input.n}" * 100_000)


@operator(name="left_loop", cost="io", effect="pure")
class OnALoop:
    Input, Output = _In, _Out

    async def execute(self, input: _In, context: Context) -> _Out:
        await asyncio.sleep(input.seconds)
        if input.n < 0:
            raise PermanentError("negative")
        return _Out(n=input.n, text="")


def held() -> tuple[set[str], list[str], set[str]]:
    """Return what this process holds: its threads, what its open files are, its children."""
    files: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{name}").split(":")[0])
        except OSError:  # the descriptor that listed them
            continue
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return {t.name for t in threading.enumerate() if t.is_alive()}, sorted(files), set(children)


def added(before: tuple[set[str], list[str], set[str]]) -> tuple[set[str], list[str], set[str]]:
    """Return what is held that was not held before: nothing, unless it is still there after a while.

    What was held before may go, as what other tests have left: that is no fault of the run.
    """
    deadline = time.monotonic() + WAIT_S
    while any(more := _beyond(held(), before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return more


def _beyond(
    now: tuple[set[str], list[str], set[str]], before: tuple[set[str], list[str], set[str]]
) -> tuple[set[str], list[str], set[str]]:
    files = sorted((Counter(now[1]) - Counter(before[1])).elements())
    return now[0] - before[0], files, now[2] - before[2]


def settled_down() -> tuple[set[str], list[str], set[str]]:
    """Return what is held when nothing more of it goes."""
    gc.collect()  # what other tests have left to it may hold files, and goes at any time
    last: Any = None
    deadline = time.monotonic() + WAIT_S
    while (now := held()) != last and time.monotonic() < deadline:
        last = now
        time.sleep(1)
    return now


def pipeline(seconds: float, last: int) -> dict[str, Any]:
    loop = {"items": list(range(6)), "loop_stages": ["a", "b"], "max_parallel": 3}
    return {
        "name": "left",
        "stages": [
            {"id": "each", "component_type": "foreach", "config": loop},
            {"id": "a", "component_type": "left_thread", "config": {"n": "{{item}}", "seconds": seconds}},
            {"id": "b", "component_type": "left_loop", "config": {"n": "{{stages.a.n}}", "seconds": seconds}},
            {"id": "end", "component_type": "left_loop", "config": {"n": last}, "depends_on": ["each"]},
        ],
        "output": "{{stages.each.total_items}}",
    }


COMPONENTS = [InAThread, OnALoop]
Act = Callable[[PreparedRun], None]


def play(folder: Path, document: dict[str, Any], act: Act | None, on: str = "local") -> str:
    """Run, doing something when the first item is under way; return how it ended."""
    file = folder / "left.pipeline.json"
    file.write_text(json.dumps(document))
    store = open_workspace(folder).store()

    def watch(event: Event) -> None:
        if act is not None and isinstance(event, StageStarted) and event.path.endswith("/b"):
            act(prepared)

    prepared = PreparedRun(file, {}, on=on, components=COMPONENTS, store=store, observers=[watch])
    result = asyncio.run(prepared.run())
    if result.status == "paused":
        space = open_workspace(folder, components=COMPONENTS)
        file.write_text(json.dumps(document))
        result = asyncio.run(_resumed(store, prepared.run_id, space, on))
    return result.status


async def _resumed(store: Any, run_id: str, space: Any, on: str) -> Any:
    return await (await prepare_resume(store, run_id, workspace=space, on=on)).run()


def cancel(prepared: PreparedRun) -> None:
    prepared.cancel()


def pause(prepared: PreparedRun) -> None:
    prepared.pause()


@pytest.mark.parametrize(
    ("seconds", "last", "act", "status"),
    [(0, 1, None, "succeeded"), (0, -1, None, "failed"), (1, 1, cancel, "cancelled"), (0.3, 1, pause, "succeeded")],
    ids=["succeeded", "failed", "cancelled", "paused and resumed"],
)
def test_a_run_leaves_nothing_behind(tmp_path: Path, seconds: float, last: int, act: Act | None, status: str) -> None:
    (tmp_path / "flowmason.json").write_text("{}")
    document = pipeline(seconds, last)
    assert play(tmp_path, document, act) == status  # what is imported and opened once, is
    before = settled_down()
    for _ in range(3):
        assert play(tmp_path, document, act) == status
    assert added(before) == (set(), [], set())


@pytest.mark.parametrize(
    ("act", "status"), [(cancel, "cancelled"), (pause, "succeeded")], ids=["cancelled", "paused and resumed"]
)
def test_a_run_on_ray_gives_the_cluster_back(tmp_path: Path, ray_cluster: str, act: Act, status: str) -> None:
    ray: Any = importlib.import_module("ray")
    (tmp_path / "flowmason.json").write_text("{}")
    assert play(tmp_path, pipeline(0.4, 1), act, on="ray") == status
    deadline = time.monotonic() + WAIT_S
    while (free := ray.available_resources().get("CPU")) != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, f"{free} CPUs are free"
        time.sleep(0.2)

    def lasting() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("flowmason-")]

    wait_until(lambda: not lasting(), "ours have to end; Ray's stay with Ray")


@pytest.mark.parametrize(
    ("act", "status"), [(cancel, "cancelled"), (pause, "succeeded")], ids=["cancelled", "paused and resumed"]
)
def test_no_task_is_cancelled_before_it_has_settled(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch, act: Act, status: str
) -> None:
    """Ray 2.60 ends this process when a task is cancelled while its arguments are being resolved."""
    module: Any = importlib.import_module("flowmason_ray.engine.executors.ray_calls")
    really: Any = module.Call.cancel
    ages: list[float] = []

    def watched(call: Any, *, force: bool) -> None:
        ages.append(time.monotonic() - call.submitted)
        really(call, force=force)

    monkeypatch.setattr(module.Call, "cancel", watched)
    (tmp_path / "flowmason.json").write_text("{}")
    for seconds in (0.4, 2, 8):  # a busy machine may be so late that nothing is under way any more
        assert play(tmp_path, pipeline(seconds, 1), act, on="ray") == status
        if ages:
            break
    assert ages
    assert min(ages) >= 0.2
