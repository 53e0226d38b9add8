"""The conformance suite finds executors that do not conform, and a third party can use it with a few lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import run as run_process

import pytest

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage
from flowmason_ray.engine.events import Event, StageLogged, StageSucceeded
from flowmason_ray.engine.executor import Deliver, RunInfo
from flowmason_ray.engine.executors.in_process import InProcessExecutor
from flowmason_ray.engine.scope import Scope
from flowmason_ray.testing.conformance import Capability, NotCapable, check, checking, scenarios

BY_NAME = {scenario.name: scenario for scenario in scenarios()}


class Reversing(InProcessExecutor):
    """Gathers results in the wrong order."""

    def gather(self, command: GatherResults) -> Event:
        event = super().gather(command)
        assert isinstance(event, StageSucceeded)
        return replace(event, value={**event.value, "results": event.value.get("results", [])[::-1]})


class Silent(InProcessExecutor):
    """Loses what components say."""

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        super().open(run, lambda event: None if isinstance(event, StageLogged) else deliver(event))


class Seedless(InProcessExecutor):
    """Draws from a seed of its own."""

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        super().open(replace(run, seed=run.seed + 1), deliver)


class Slow(InProcessExecutor):
    """Stops an attempt long after it was told to."""

    def cancel(self, command: CancelStage) -> None:
        asyncio.get_running_loop().call_later(2.5, super().cancel, command)


class Confusing(InProcessExecutor):
    """Renders the templates of every iteration in the scope of the first."""

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        super().open(run, deliver)
        self._scopes: dict[int, Scope] = {}

    def start(self, command: StartStage) -> Event | None:
        first = self._scopes.setdefault(id(command.stage), command.scope)
        return super().start(replace(command, scope=first))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Reversing, "a_loop_of_conf_trivial"),
        (Silent, "what_a_component_says_is_delivered"),
        (Seedless, "draws_follow_from_the_runs_seed"),
        (Slow, "a_cancelled_run_ends_within_a_second"),
        (Confusing, "loops_inside_loops_keep_their_items_apart"),
    ],
)
def test_an_executor_that_does_not_conform_is_found(
    make: Callable[[], InProcessExecutor], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "TRIES", 2)
    with pytest.raises(AssertionError, match=f"{name}: (?s:.*)The run: "):
        asyncio.run(check(BY_NAME[name], make, project_dir=tmp_path))


def test_a_machine_that_was_busy_once_is_no_fault_of_the_executor(tmp_path: Path) -> None:
    delays = iter([2.5, 0.0, 0.0, 0.0, 0.0])

    class SlowOnce(InProcessExecutor):
        def cancel(self, command: CancelStage) -> None:
            asyncio.get_running_loop().call_later(self.delay_s, super().cancel, command)

        def open(self, run: RunInfo, deliver: Deliver) -> None:
            super().open(run, deliver)
            self.delay_s = next(delays)

    asyncio.run(check(BY_NAME["a_cancelled_loop_stops_its_items"], SlowOnce, project_dir=tmp_path))
    assert len(list(delays)) < 4, "it was run again"


def test_what_an_executor_need_not_have_is_skipped(tmp_path: Path) -> None:
    scenario = BY_NAME["a_worker_that_dies_is_a_failed_attempt"]
    assert scenario.needs == {Capability.SURVIVES_EXIT}
    with pytest.raises(NotCapable, match="survives_exit"):
        asyncio.run(check(scenario, InProcessExecutor, project_dir=tmp_path))


def test_every_scenario_has_a_name_of_its_own() -> None:
    assert len(BY_NAME) == len(scenarios())


def test_the_suite_does_not_need_pytest() -> None:
    code = "import sys, flowmason_ray.testing.conformance as c; c.scenarios(); sys.exit('pytest' in sys.modules)"
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0
