"""What every Ray test relies on: workers run what a test module defines, and an embedded Ray is ours alone."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

import pytest


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
