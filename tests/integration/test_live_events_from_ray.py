"""What attempts say and print on workers reaches whoever watches: while they run, once, in order, and within bounds."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import Context, SetupContext, operator
from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.events import (
    Event,
    StageBegan,
    StageEnded,
    StageFailed,
    StageLogged,
    StageProgressed,
    StageSucceeded,
)

pytestmark = pytest.mark.ray


class _In(BaseModel):
    lines: int = 3
    wait_for: str = ""
    seconds: float = 0


class _Out(BaseModel):
    heard: bool = False


class _Speaking:
    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        context.log("warning", "here I am", wanted=input.wait_for)
        context.progress(1, 2)
        print("printed", 1)
        print("complained", file=sys.stderr)
        print("no end of line", end="")
        for i in range(input.lines):
            context.log("debug", f"line {i}")
        if input.wait_for:
            file = context.project_dir / input.wait_for
            until = time.monotonic() + 60
            while not file.exists() and time.monotonic() < until:
                time.sleep(0.02)
            return _Out(heard=file.exists())
        return _Out()


@operator(name="says", effect="pure", cost="cpu")
class Says(_Speaking):
    pass


@operator(name="says_in_actor", effect="pure", cost="cpu")
class SaysInActor(_Speaking):
    def setup(self, context: SetupContext) -> None:
        context.log("info", "getting ready")
        print("loading")


@operator(name="says_on_loop", effect="pure")
class SaysOnLoop:
    Input, Output = _In, _Out

    async def execute(self, input: _In, context: Context) -> _Out:
        await asyncio.sleep(0)
        print("from a coroutine")
        return _Out()


@operator(name="fails_loudly", effect="pure", cost="cpu")
class FailsLoudly:
    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        print("about to fail")
        raise ValueError("it failed")


@operator(name="slow", effect="pure", cost="cpu")
class Slow:
    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        time.sleep(input.seconds)
        return _Out()


@operator(name="dies_once", effect="pure", cost="cpu")
class DiesOnce:
    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        first = not (context.project_dir / "died").exists()
        for i in range(input.lines):
            context.log("info", f"{'first' if first else 'second'} {i}")
        if first:
            until = time.monotonic() + 60
            while not (context.project_dir / "heard").exists() and time.monotonic() < until:
                time.sleep(0.02)
            (context.project_dir / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return _Out()


COMPONENTS = [Says, SaysInActor, SaysOnLoop, FailsLoudly, Slow, DiesOnce]


def play(stages: list[dict[str, Any]], observe: Any = None) -> tuple[RunResult, list[Event]]:
    events: list[Event] = []
    observers = [events.append] + ([observe] if observe else [])
    prepared = PreparedRun({"name": "live", "stages": stages}, on="ray", components=COMPONENTS, observers=observers)
    return asyncio.run(prepared.run()), events


def one(component: str, **config: Any) -> list[dict[str, Any]]:
    return [{"id": "a", "component_type": component, "config": config}]


def said(events: list[Event]) -> list[tuple[str, str, Any]]:
    return [
        (e.level, e.message, e.fields.get("stream")) for e in events if isinstance(e, StageLogged) and e.path == "a"
    ]


SPOKEN = [
    ("warning", "here I am", None),
    ("info", "printed 1", "stdout"),
    ("info", "complained", "stderr"),
    *(("debug", f"line {i}", None) for i in range(3)),
    ("info", "no end of line", "stdout"),
]


@pytest.mark.parametrize("component", ["says", "says_in_actor"])
def test_what_is_said_arrives_while_the_attempt_runs(ray_cluster: str, project_dir: Path, component: str) -> None:
    """The attempt ends only when the coordinator has heard it."""

    def observe(event: Event) -> None:
        if isinstance(event, StageLogged) and event.message == "line 2":
            (project_dir / "heard").touch()

    result, events = play(one(component, wait_for="heard"), observe)
    result.raise_for_status()
    assert [e.value for e in events if isinstance(e, StageSucceeded)] == [{"heard": True}]
    spoken = said(events)
    if component == "says_in_actor":
        assert spoken[:2] == [("info", "getting ready", None), ("info", "loading", "stdout")]
        spoken = spoken[2:]
    assert spoken == SPOKEN, "once, in order"
    assert [(e.done, e.total) for e in events if isinstance(e, StageProgressed)] == [(1, 2)]


def test_what_is_said_right_before_the_end_is_not_lost_nor_doubled(ray_cluster: str, project_dir: Path) -> None:
    result, events = play(one("says"))
    result.raise_for_status()
    assert said(events) == SPOKEN
    ended = next(i for i, e in enumerate(events) if isinstance(e, (StageSucceeded, StageEnded)))
    assert all(i < ended for i, e in enumerate(events) if isinstance(e, StageLogged))


def test_coroutines_are_heard_too(ray_cluster: str, project_dir: Path) -> None:
    _, events = play(one("says_on_loop"))
    assert said(events) == [("info", "from a coroutine", "stdout")]


def test_what_a_failing_attempt_has_printed_is_there(ray_cluster: str, project_dir: Path) -> None:
    result, events = play(one("fails_loudly"))
    assert result.status == "failed"
    assert ("info", "about to fail", "stdout") in said(events)
    assert any(isinstance(e, StageFailed) for e in events)


def test_what_is_said_is_bounded_and_says_so(ray_cluster: str, project_dir: Path) -> None:
    result, events = play(one("says", lines=5000))
    result.raise_for_status()
    spoken = said(events)
    assert 1000 < len(spoken) < 4000  # 2,000 at once, and a hundred for every second that it took
    assert "were dropped" in spoken[-1][1]
    lines = [int(text.removeprefix("line ")) for _, text, _ in spoken if text.startswith("line ")]
    assert lines[:1900] == list(range(1900))
    assert lines == sorted(set(lines)), "in order, each once"


def test_the_time_in_the_queue_of_the_cluster_does_not_count(ray_cluster: str, project_dir: Path) -> None:
    """Six attempts of 1.5 s, all of which need the whole cluster, each with a limit of 6 s."""
    result = None
    for factor in (1, 4, 10):  # a machine that holds one of them up needs longer limits, and longer attempts
        stages = [
            {
                "id": f"s{i}",
                "component_type": "slow",
                "config": {"seconds": 1.5 * factor},
                "timeout_ms": 6000 * factor,
                "resources": {"num_cpus": 4},
            }
            for i in range(6)
        ]
        result, _ = play(stages)
        if result.status == "succeeded":
            return
    assert result is not None
    result.raise_for_status()


def test_an_attempt_that_is_carried_out_again_is_heard_from_its_beginning(ray_cluster: str, project_dir: Path) -> None:
    def observe(event: Event) -> None:
        if isinstance(event, StageLogged) and event.message == "first 4":
            (project_dir / "heard").touch()

    result, events = play(one("dies_once", lines=5), observe)
    result.raise_for_status()
    assert (project_dir / "died").exists()
    assert [text for _, text, _ in said(events)] == [f"{time} {i}" for time in ("first", "second") for i in range(5)]


def test_a_time_limit_holds_although_the_letter_is_lost_that_the_attempt_has_begun(
    ray_cluster: str, project_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the mailbox dies, and is started anew by Ray, in the wrong moment."""
    hearing = importlib.import_module("flowmason_ray.engine.executors.ray_hearing").Hearing
    hear = hearing._letters
    lost: list[Any] = []

    def losing(self: Any, letters: list[Any]) -> None:
        if lost:
            hear(self, letters)
        else:
            lost.extend(letters)

    monkeypatch.setattr(hearing, "_letters", losing)
    stages = [{**one("says", wait_for="never", lines=0)[0], "timeout_ms": 1500}]
    result, events = play(stages)
    assert any(isinstance(letter[3], StageBegan) for letter in lost)
    assert result.status == "failed"
    assert [e.failure.code for e in events if isinstance(e, StageFailed)] == ["timeout"]
