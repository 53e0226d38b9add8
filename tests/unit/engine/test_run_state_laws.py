"""Laws of the state machine: whatever the pipeline and whatever happens, a run ends, in order, and replays to the same story.

The invariants themselves (order, limits, ends that stay ends, nothing after the end) are checked by `engine_kit.Player`.
"""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.events import StageSucceeded, TimerFired
from tests.engine_kit import Player, comparable, plan_of, replay

MOST_EVENTS = 5_000


class Pipelines:
    """Draws pipelines of nested constructs, in which a stage may depend on whatever was written before it."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.stages: list[dict[str, Any]] = []

    def region(self, depth: int, outer: list[str]) -> list[str]:
        ids: list[str] = []
        for _ in range(self._rng.randint(1, 4 if depth else 5)):
            ids.append(self._stage(depth, [*outer, *ids]))
        return ids

    def _stage(self, depth: int, before: list[str]) -> str:
        rng = self._rng
        made: dict[str, Any] = {"id": f"s{len(self.stages)}", "component_type": "echo"}
        self.stages.append(made)
        made["depends_on"] = rng.sample(before, min(len(before), rng.choice([0, 1, 1, 2])))
        if rng.random() < 0.1:
            made["enabled"] = False
        if rng.random() < 0.3:
            made["retry"] = {"max_attempts": rng.randint(1, 3), "initial_delay_ms": 1}
        match rng.random():
            case x if x < 0.25:
                made["on_error"] = "continue"
            case x if x < 0.4:
                made |= {"on_error": "fallback", "fallback_output": {"value": 1}}
            case _:
                pass
        kind = rng.random()
        if depth < 3 and kind < 0.25:
            made["component_type"] = "conditional"
            made["config"] = {
                "condition": True,
                "true_branch_stages": self.region(depth + 1, before),
                "false_branch_stages": self.region(depth + 1, before) if rng.random() < 0.6 else [],
            }
        elif depth < 3 and kind < 0.5:
            made["component_type"] = "foreach"
            config: dict[str, Any] = {"items": [], "loop_stages": self.region(depth + 1, before)}
            made["config"] = config
            config |= {"break_on_error": rng.random() < 0.5, "max_parallel": rng.randint(1, 3)}
            if rng.random() < 0.3:
                config["collect"] = "{{index}}"
            if rng.random() < 0.3:
                config["min_success_ratio"] = 0.5
        return made["id"]


def happen(run: Player, rng: Random) -> None:
    """Let one thing happen that can happen now; sometimes something that should not."""
    old: list[Any] = [e for e in run.stimuli if getattr(e, "path", None)]
    if old and rng.random() < 0.1:
        before = len(run.outputs)
        event = rng.choice(old)
        if event.path not in run.pending and event.path not in run.timers:
            run.send(event)  # a report that comes twice
            assert len(run.outputs) == before
        run.send(TimerFired(path="nowhere", attempt=1))
        run.send(StageSucceeded(path=f"{event.path}x", attempt=1, value=0))
    path = rng.choice([*run.pending, *run.timers])
    command = run.pending.get(path)
    if command is None:
        run.fire(path)
    elif not isinstance(command, StartStage):
        run.gathered(path)
    else:
        _end(run, rng, path, command)


def _end(run: Player, rng: Random, path: str, command: StartStage) -> None:
    what = rng.random()
    component = command.stage.component.name if command.stage.component else ""
    if path in run.cancelled and what < 0.6:
        run.stop(path)
    elif what < 0.2:
        run.fail(path, rng.choice(["boom", "permanent_error"]), draw=rng.random())
    elif what < 0.3 and component:
        run.decline(path)
    elif component == "conditional":
        run.succeed(path, {"v": 1}, branch=rng.choice(["true", "false", None, "true"]))
    elif component == "foreach":
        count = rng.choice([0, 1, 2, 4])
        run.loop(path, count, **({"indices": [i * 2 for i in range(count)]} if rng.random() < 0.3 else {}))
    else:
        run.succeed(path, {"value": 1})


@settings(max_examples=100)
@given(st.randoms(use_true_random=False))
def test_every_run_ends_in_order_and_replays_to_the_same_story(rng: Random) -> None:
    pipelines = Pipelines(rng)
    pipelines.region(0, [])
    limit = rng.choice([None, 1, 2, 5])
    keys: dict[str, Any] = {} if limit is None else {"max_parallel": limit}
    run = Player(plan_of(*pipelines.stages, **keys))
    run.create()
    cancels_at = rng.randint(0, 200)
    for step in range(MOST_EVENTS):
        if run.ended is not None:
            break
        if step == cancels_at:
            run.cancel(rng.choice(["cancelled", "timeout"]))
            continue
        assert run.pending or run.timers, "the run is stuck"
        happen(run, rng)
    assert run.ended is not None
    assert run.state.ended
    assert replay(run.plan, run.stimuli) == comparable(run.outputs)
