"""Every executor of ours against every scenario of the conformance suite."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from flowmason_ray.engine.executor import Executor
from flowmason_ray.engine.executors.in_process import InProcessExecutor
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.testing.conformance import Capability, NotCapable, Scenario, check, check_nothing_is_left, scenarios

ALL = scenarios()
IN_PROCESS = frozenset({Capability.FRAMES})
RAY = frozenset({Capability.FRAMES, Capability.SURVIVES_EXIT, Capability.ENDS_C_CALLS})


def hold(scenario: Scenario, make: Callable[[], Executor], project_dir: Path, able: frozenset[Capability]) -> None:
    try:
        asyncio.run(check(scenario, make, project_dir=project_dir, capabilities=able))
    except NotCapable as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize("scenario", ALL, ids=lambda s: s.name)
def test_in_process(scenario: Scenario, tmp_path: Path) -> None:
    hold(scenario, InProcessExecutor, tmp_path, IN_PROCESS)


def test_in_process_leaves_nothing(tmp_path: Path) -> None:
    asyncio.run(check_nothing_is_left(InProcessExecutor, project_dir=tmp_path))


def _ray_executor() -> Executor:
    # Here, so that collecting the tests does not import Ray.
    return importlib.import_module("flowmason_ray.engine.executors.ray_tasks").RayTasksExecutor()


@pytest.mark.parametrize("scenario", ALL, ids=lambda s: s.name)
def test_ray_tasks(scenario: Scenario, ray_cluster: str, tmp_path: Path) -> None:
    hold(scenario, _ray_executor, tmp_path, RAY)


NEVER_FUSED = [s.fused("never") for s in ALL if "conf_trivial" in repr(s.pipeline) or "foreach" in repr(s.pipeline)]
"""Those in which fusing makes a difference: trivial stages and constructs."""


@pytest.mark.parametrize("scenario", NEVER_FUSED, ids=lambda s: s.name)
def test_ray_tasks_without_fusing(scenario: Scenario, ray_cluster: str, tmp_path: Path) -> None:
    hold(scenario, _ray_executor, tmp_path, RAY)


OF_ACTORS = ("time_limit", "cancel", "race", "interrupted", "retr", "large", "frame", "exit", "window", "conf_raise")
"""Words of the scenarios in which it matters that an attempt runs in an actor: how it is stopped, fails, and hands over values."""


@pytest.mark.parametrize("scenario", [s for s in ALL if any(w in s.name for w in OF_ACTORS)], ids=lambda s: s.name)
def test_ray_actors(scenario: Scenario, ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in actors, as if every component that does not run in the coordinator had a setup."""
    module = importlib.import_module("flowmason_ray.engine.executors.ray_tasks")

    def all_of_them(stage: PlanStage) -> bool:
        return stage.component is not None

    monkeypatch.setattr(module, "wants_actors", all_of_them)
    hold(scenario, _ray_executor, tmp_path, RAY)


def test_ray_tasks_leave_nothing(ray_cluster: str, tmp_path: Path) -> None:
    asyncio.run(check_nothing_is_left(_ray_executor, project_dir=tmp_path, rounds=2))
    ray: Any = importlib.import_module("ray")
    total, until = ray.cluster_resources()["CPU"], monotonic() + 60
    while ray.available_resources().get("CPU", 0) != total and monotonic() < until:
        sleep(0.1)
    assert ray.available_resources()["CPU"] == total
