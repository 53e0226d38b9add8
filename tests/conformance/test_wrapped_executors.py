"""What tests of pipelines put in front of an executor is an executor itself: without mocks it changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowmason_ray.engine.executor import Executor
from flowmason_ray.engine.executors.in_process import InProcessExecutor
from flowmason_ray.pipeline_tests.mocking import MockingExecutor, Mocks
from flowmason_ray.pipeline_tests.recording import RecordingExecutor
from flowmason_ray.testing.conformance import Capability, NotCapable, Scenario, check, check_nothing_is_left, scenarios


def wrapped() -> Executor:
    return RecordingExecutor(MockingExecutor(InProcessExecutor(), Mocks.of({})))


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda s: s.name)
def test_wrapped(scenario: Scenario, tmp_path: Path) -> None:
    try:
        asyncio.run(check(scenario, wrapped, project_dir=tmp_path, capabilities=frozenset({Capability.FRAMES})))
    except NotCapable as exc:
        pytest.skip(str(exc))


def test_wrapped_leaves_nothing(tmp_path: Path) -> None:
    asyncio.run(check_nothing_is_left(wrapped, project_dir=tmp_path))
