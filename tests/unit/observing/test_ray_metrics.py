"""Counting runs for Ray's metrics port: what is counted when, and that nobody counts on when a run is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray import run
from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.events import RunSucceeded, StageStarted, StageSucceeded
from flowmason_ray.engine.executors import ray_tasks
from flowmason_ray.engine.executors.ray_cluster import ClusterUnavailable
from flowmason_ray.observing import ray_metrics
from flowmason_ray.observing.ray_metrics import RayMetrics
from flowmason_ray.wiring import open_workspace
from tests.cli_kit import pipeline, set_stage
from tests.engine_kit import plan_of, stage


class Instruments:
    """Stand for Ray's: remember what they were handed."""

    def __init__(self) -> None:
        self.said: list[tuple[str, float]] = []

    def instrument(self, kind: Any, name: str, *_: Any, **__: Any) -> Any:
        """Return the instrument of that name."""
        return _Instrument(lambda value: self.said.append((name.removeprefix("flowmason_"), value)))


class _Instrument:
    def __init__(self, take: Callable[[float], None]) -> None:
        self._take = take

    def inc(self, value: float, _: Any) -> None:
        """Take a number, as the other two do."""
        self._take(value)

    set = observe = inc


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What was handed to Ray."""
    made = Instruments()
    monkeypatch.setattr(ray_metrics, "_instrument", made.instrument)
    return made.said


def counting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flowmason-metrics"]


@pytest.fixture(autouse=True)
def nobody_counts_before() -> None:
    """No thread of another test."""
    for thread in counting():
        thread.join(30)
    assert counting() == []


def nobody_counts() -> bool:
    """Tell whether no thread counts any more; one that was asked to end has the time to."""
    for thread in counting():
        thread.join(30)
    return counting() == []


PLAN = plan_of(stage("a"))


def test_a_run_that_ends_is_handed_over(said: list[tuple[str, float]]) -> None:
    metrics = RayMetrics(PLAN)
    metrics(StageStarted(at=1.0, path="a", attempt=1))
    metrics(StageSucceeded(at=2.0, path="a", attempt=1, value=1, duration_s=0.5))
    metrics(RunSucceeded(at=3.0, value=1))
    assert nobody_counts()
    assert {("attempts_started", 1), ("attempts_ended", 1), ("attempts_in_flight", 0), ("runs_ended", 1)} <= set(said)
    metrics.close()
    assert sum(value for name, value in said if name == "runs_ended") == 1


def test_a_run_without_an_end_is_let_go_of(said: list[tuple[str, float]]) -> None:
    """Its attempts are not under way any more; it has not ended either."""
    metrics = RayMetrics(PLAN)
    metrics(StageStarted(at=1.0, path="a", attempt=1))
    metrics.close()
    assert nobody_counts()
    assert said[-1:] == [("attempts_in_flight", 0)]
    assert "runs_ended" not in dict(said)


RUN = pipeline(set_stage("a", 1))


def test_nobody_counts_on_when_a_run_cannot_be_driven_to_its_end(
    monkeypatch: pytest.MonkeyPatch, said: list[tuple[str, float]]
) -> None:
    seen: list[int] = []

    async def refuse(address: str | None) -> None:
        seen.append(len(counting()))
        raise ClusterUnavailable("It is not there.")

    monkeypatch.setattr(ray_tasks, "connect", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterUnavailable):
        run(RUN, on="ray", store=None)
    assert seen == [1], "it was counted"
    assert nobody_counts()


def test_nobody_counts_a_run_that_is_left_to_another_process(
    monkeypatch: pytest.MonkeyPatch, project_dir: Path, said: list[tuple[str, float]]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    file = project_dir / "p.pipeline.json"
    file.write_text('{"name": "P", "stages": [{"id": "a", "component_type": "json_transform", "config": {"data": 1}}]}')
    workspace = open_workspace(file)
    prepared = PreparedRun(file, on="ray", store=workspace.store(), workspace=workspace)
    asyncio.run(prepared.accept())
    assert counting() == []
