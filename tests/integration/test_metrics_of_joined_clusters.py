"""Runs of programs that have joined a cluster by themselves are counted; those on a cluster that is their own are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import run
from flowmason_ray.observing import ray_metrics
from tests.cli_kit import environment, pipeline, set_stage

pytestmark = pytest.mark.ray

RUN = pipeline(set_stage("a", 1))

PROGRAM = f"""
import ray
import sys

import flowmason_ray
from flowmason_ray.observing import ray_metrics

made = []
init = ray_metrics.RayMetrics.__init__
ray_metrics.RayMetrics.__init__ = lambda self, plan: (made.append(plan.name), init(self, plan))[1]
ray.init(sys.argv[1], log_to_driver=False)
done = flowmason_ray.run({RUN!r}, on="ray", store=None)
print(done.status, made)
"""


def test_a_program_that_has_joined_a_cluster_is_counted(ray_cluster: str, tmp_path: Path) -> None:
    variables = environment(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    assert "RAY_ADDRESS" not in variables
    words = [sys.executable, "-c", PROGRAM, ray_cluster]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=150, check=False)
    assert done.stdout.splitlines()[-1:] == ["succeeded ['P']"], done.stderr


def test_a_cluster_of_our_own_is_not_counted(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(ray_metrics, "RayMetrics", made.append)
    assert "RAY_ADDRESS" not in os.environ
    assert run(RUN, on="ray", store=None).status == "succeeded"
    assert made == []
