"""Components that get ready once, on Ray: actors are set up, shared, recycled, replaced, stopped and given back."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import Actors, Context, PermanentError, SetupContext, operator
from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.events import Event, StageLogged, StageRetrying, StageStarted

pytestmark = pytest.mark.ray


class _In(BaseModel):
    n: int = 0
    what: str = ""


class _Out(BaseModel):
    n: int = 0
    pid: int = 0
    calls: int = 0
    peak: int = 0
    text: str = ""


def note(context: Any, word: str) -> None:
    """Write a line into a file of the project: what outlives an actor."""
    with (context.project_dir / "notes.txt").open("a") as file:
        file.write(f"{word} {os.getpid()}\n")


class _Counting:
    Input, Output = _In, _Out

    def setup(self, context: SetupContext) -> None:
        note(context, "setup")
        self.context = context
        self.calls = 0
        self.ballast: list[bytearray] = []

    def teardown(self) -> None:
        note(self.context, "teardown")

    def execute(self, input: _In, context: Context) -> _Out:
        self.calls += 1
        if input.what == "leak":
            self.ballast.append(bytearray(os.urandom(1)) * (96 * 2**20))
        if input.what == "die":
            note(context, "died")
            os._exit(1)
        if input.what == "spin":
            note(context, "spin")
            end = time.monotonic() + 60
            while time.monotonic() < end:
                pass
        if input.what == "sleep":
            note(context, "sleep")
            time.sleep(60)
        if input.what == "nap":
            time.sleep(2)  # long enough for idle actors to be looked at
        time.sleep(0.01)
        text = "x" * 200_000 if input.what == "large" else ""
        return _Out(n=input.n, pid=os.getpid(), calls=self.calls, text=text)


def counting(name: str, actors: Actors | None = None, effect: str = "pure") -> type:
    return operator(name=name, effect=effect, cost="cpu", actors=actors)(type(name, (_Counting,), {"__doc__": name}))


Two = counting("two", Actors(max=2))
ByCount = counting("by_count", Actors(max=1, recycle_after=3))
ByMemory = counting("by_memory", Actors(max=1, recycle_at_mib=500))
Careful = counting("careful", Actors(max=1), effect="effectful")
Lasting = counting("lasting", Actors(max=4, idle_s=600))
Hasty = counting("hasty", Actors(max=1, idle_s=0))
Kept = counting("kept", Actors(min=1, max=1, idle_s=0))


@operator(name="together", effect="pure", actors=Actors(max=1, concurrency=4))
class Together:
    Input, Output = _In, _Out

    async def setup(self, context: SetupContext) -> None:
        self.loop = asyncio.get_running_loop()
        self.under_way = self.peak = 0

    async def execute(self, input: _In, context: Context) -> _Out:
        assert asyncio.get_running_loop() is self.loop
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        for _ in range(2400):  # until the others are here, for 120 s at most
            if self.peak == 4:
                break
            await asyncio.sleep(0.05)
        if input.what == "wait":
            note(context, "waiting")
            await asyncio.sleep(60)
        self.under_way -= 1
        return _Out(n=input.n, pid=os.getpid(), peak=self.peak)


@operator(name="stubborn", effect="pure", actors=Actors(max=1, concurrency=2, idle_s=600))
class Stubborn:
    """Does not end when it is stopped."""

    Input, Output = _In, _Out

    async def execute(self, input: _In, context: Context) -> _Out:
        end = time.monotonic() + 600
        while input.what == "stick" and time.monotonic() < end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
        return _Out(n=input.n, pid=os.getpid())


@operator(name="wrong", effect="pure", cost="cpu")
class Wrong:
    """Its setup fails as its project says."""

    Input, Output = _In, _Out

    def setup(self, context: SetupContext) -> None:
        note(context, "setup")
        context.log("info", "loading")
        if (context.project_dir / "die").exists():
            os._exit(1)
        if (context.project_dir / "never").exists():
            raise PermanentError("wrong key")
        raise ValueError("no such model: 'm'")

    def execute(self, input: _In, context: Context) -> _Out:
        raise AssertionError


class _Greedy:
    """Takes memory without end when it is told to."""

    Input, Output = _In, _Out

    def setup(self, context: SetupContext) -> None:
        note(context, "setup")
        self.hoard: list[bytearray] = []

    def take(self, input: _In) -> Iterator[None]:
        while input.what == "all" and len(self.hoard) < 4000:
            self.hoard.append(bytearray(os.urandom(1024)) * 1024)
            yield


@operator(name="greedy", effect="effectful", cost="cpu", actors=Actors(max=1))
class Greedy(_Greedy):
    """In a thread."""

    def execute(self, input: _In, context: Context) -> _Out:
        for _ in self.take(input):
            time.sleep(0.005)
        return _Out(n=7, pid=os.getpid())


@operator(name="greedy_on_loop", effect="effectful", actors=Actors(max=1))
class GreedyOnLoop(_Greedy):
    """On a loop."""

    async def execute(self, input: _In, context: Context) -> _Out:
        for _ in self.take(input):
            await asyncio.sleep(0.005)
        return _Out(n=7, pid=os.getpid())


class _Hanging:
    """Its first setup hangs: `hang` begins to."""

    Input, Output = _In, _Out

    def hang(self, context: SetupContext) -> bool:
        note(context, "setup")
        return len(notes(context.project_dir)) == 1

    def setup(self, context: SetupContext) -> None:
        if self.hang(context):
            time.sleep(600)

    def execute(self, input: _In, context: Context) -> _Out:
        return _Out(n=7, pid=os.getpid())


@operator(name="hanging", effect="pure", cost="cpu", actors=Actors(max=1, setup_timeout_s=3))
class Hanging(_Hanging):
    """Its first setup sits in a call."""


@operator(name="hanging_on_loop", effect="pure", actors=Actors(max=1, setup_timeout_s=3))
class HangingOnLoop(_Hanging):
    """Its first setup blocks the loop."""

    async def setup(self, context: SetupContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # components may be either
        if self.hang(context):
            time.sleep(600)  # noqa: ASYNC251  # that is the point

    async def execute(self, input: _In, context: Context) -> _Out:  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        return _Out(n=7, pid=os.getpid())


@operator(name="task", effect="pure", cost="cpu", resources={"num_cpus": 4})
class Task:
    """Needs the whole cluster."""

    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        return _Out(n=len(input.what), pid=os.getpid())


COMPONENTS = [
    *(Two, ByCount, ByMemory, Careful, Lasting, Hasty, Kept, Together, Stubborn, Wrong, Task),
    *(Hanging, HangingOnLoop, Greedy, GreedyOnLoop),
]


@pytest.fixture(autouse=True)
def _given_back(ray_cluster: str) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  # pytest uses it
    """After every test the cluster has what it had."""
    ray: Any = importlib.import_module("ray")
    yield
    until = time.monotonic() + 120
    while (free := ray.available_resources().get("CPU", 0)) != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < until, f"{free} CPUs are free"
        time.sleep(0.2)


def stage(id: str, component: str, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": id, "component_type": component, "config": config or {}, **more}


def over(component: str, n: int, **config: Any) -> dict[str, Any]:
    """A loop of which every item is a call of `component`."""
    loop = {"items": list(range(n)), "loop_stages": ["a"], "max_parallel": n}
    return {
        "name": "actors",
        "stages": [stage("each", "foreach", loop), stage("a", component, {"n": "{{item}}", **config})],
    }


class Played:
    def __init__(self, project: Path, document: dict[str, Any], stop_at: str | None = None) -> None:
        self.events: list[Event] = []
        prepared = PreparedRun(document, on="ray", components=COMPONENTS, observers=[self.events.append])

        async def go() -> RunResult:
            if stop_at is None:
                return await prepared.run()
            stopping = asyncio.create_task(self._stop(prepared, project, stop_at))
            result = await prepared.run()
            await stopping
            return result

        self.result = asyncio.run(go())
        self.notes = Counter(line.split()[0] for line in notes(project))

    async def _stop(self, prepared: PreparedRun, project: Path, word: str) -> None:
        until = time.monotonic() + 60
        while not any(line.startswith(word) for line in notes(project)) and time.monotonic() < until:  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.05)
        prepared.cancel()

    def items(self) -> list[dict[str, Any]]:
        self.result.raise_for_status()
        return self.result.output["results"]


def notes(project: Path) -> list[str]:
    file = project / "notes.txt"
    return file.read_text().splitlines() if file.exists() else []


def test_each_actor_is_set_up_once_and_there_are_no_more_than_declared(
    project_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a teardown may take longer than the end of a run waits for it.
    monkeypatch.setattr(importlib.import_module("flowmason_ray.engine.executors.ray_releasing"), "TEARDOWN_S", 60.0)
    played = Played(project_dir, over("two", 12))
    items = played.items()
    assert [item["n"] for item in items] == list(range(12))
    pids = Counter(item["pid"] for item in items)
    assert len(pids) in (1, 2)
    assert os.getpid() not in pids
    assert max(item["calls"] for item in items) == max(pids.values()), "an instance lives as long as its actor"
    assert played.notes["setup"] in (1, 2)
    assert played.notes["teardown"] >= len(pids)


def test_actors_are_replaced_after_so_many_calls(project_dir: Path) -> None:
    pids = Counter(item["pid"] for item in Played(project_dir, over("by_count", 7)).items())
    assert sorted(pids.values(), reverse=True) == [3, 3, 1]


def test_actors_that_grow_are_replaced(project_dir: Path) -> None:
    pids = Counter(item["pid"] for item in Played(project_dir, over("by_memory", 8, what="leak")).items())
    assert len(pids) >= 2
    assert max(pids.values()) <= 5, "five times 96 MiB are more than allowed"


def test_a_setup_that_raises_says_why_once(project_dir: Path) -> None:
    played = Played(project_dir, over("wrong", 3))
    failure = played.result.failure
    assert failure is not None
    assert failure.code == "component_setup_failed"
    assert "no such model: 'm'" in failure.message
    assert played.notes["setup"] <= 4, "not again and again"
    assert "loading" in [e.message for e in played.events if isinstance(e, StageLogged)]


@pytest.mark.parametrize(("never", "setups"), [(False, 2), (True, 1)])
def test_a_setup_is_repeated_only_as_the_stage_says(project_dir: Path, never: bool, setups: int) -> None:
    if never:
        (project_dir / "never").touch()
    retry = {"max_attempts": 2, "initial_delay_ms": 1}
    played = Played(project_dir, {"name": "actors", "stages": [stage("a", "wrong", retry=retry)]})
    failure = played.result.failure
    assert failure is not None
    assert failure.code == "component_setup_failed"
    assert played.notes["setup"] == setups


def test_an_actor_that_dies_in_its_setup_ends_the_stage(project_dir: Path) -> None:
    (project_dir / "die").touch()
    played = Played(project_dir, {"name": "actors", "stages": [stage("a", "wrong")]})
    failure = played.result.failure
    assert failure is not None
    assert (failure.code, failure.stage) == ("component_setup_failed", "a")
    assert "'wrong' died before its setup() had ended" in failure.message
    assert played.notes["setup"] == 1


@pytest.mark.parametrize("component", ["greedy", "greedy_on_loop"])
def test_an_attempt_in_an_actor_is_held_to_its_memory(project_dir: Path, component: str) -> None:
    more: dict[str, Any] = {"resources": {"memory_mib": 64}}
    stages = [
        stage("all", component, {"what": "all"}, on_error="continue", **more),
        stage("next", component, depends_on=["all"], **more),
    ]
    played = Played(project_dir, {"name": "actors", "stages": stages})
    summary = played.result.stages
    assert summary["all"].failure is not None
    assert summary["all"].failure.code == "out_of_memory"
    assert "its stage asks for 64 MiB" in summary["all"].failure.message
    assert summary["next"].status == "succeeded"
    assert played.notes["setup"] == 2, "what the first has gathered is gone with its process"


@pytest.mark.parametrize("component", ["hanging", "hanging_on_loop"])
def test_a_setup_that_hangs_is_ended_with_its_actor(project_dir: Path, component: str) -> None:
    again = stage("a", component, timeout_ms=2500, retry={"max_attempts": 5, "initial_delay_ms": 1})
    played = Played(project_dir, {"name": "actors", "stages": [again]})
    played.result.raise_for_status()
    first = next(e for e in played.events if isinstance(e, StageRetrying))
    assert first.failure.code == "component_setup_failed", "it does not use up the stage's time"
    assert f"'{component}' did not end within 3 s" in first.failure.message
    hung = int(notes(project_dir)[0].split()[1])
    assert played.result.output["pid"] != hung
    until = time.monotonic() + 60
    while Path(f"/proc/{hung}").exists():
        assert time.monotonic() < until, "its process is still there"
        time.sleep(0.1)


def test_an_effectful_call_whose_actor_dies_is_not_repeated_and_the_pool_goes_on(project_dir: Path) -> None:
    document = over("careful", 3)
    document["stages"][0]["config"]["break_on_error"] = False
    document["stages"][1]["config"]["what"] = "{{ 'die' if item == 1 else '' }}"
    document["stages"][1]["retry"] = {"max_attempts": 3, "initial_delay_ms": 1}
    played = Played(project_dir, document)
    assert [e.path for e in played.events if isinstance(e, StageStarted)].count("each[1]/a") == 1
    assert played.notes["died"] == 1
    summary = played.result.stages
    assert summary["each[1]/a"].failure is not None
    assert summary["each[1]/a"].failure.code == "worker_died"
    assert [summary[f"each[{i}]/a"].status for i in (0, 2)] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("what", ["spin", "sleep"])
def test_cancelling_ends_a_call_in_an_actor(project_dir: Path, what: str) -> None:
    played = Played(project_dir, over("two", 2, what=what), stop_at=what)
    assert played.result.status == "cancelled"


def test_cancelling_ends_a_waiting_call(project_dir: Path) -> None:
    assert Played(project_dir, over("together", 4, what="wait"), stop_at="waiting").result.status == "cancelled"


def test_a_call_that_takes_too_long_is_ended_and_the_next_one_gets_an_actor(project_dir: Path) -> None:
    slow = stage("slow", "careful", {"what": "sleep"}, timeout_ms=1000, on_error="continue")
    document = {"name": "actors", "stages": [slow, stage("next", "careful", {"n": 7}, depends_on=["slow"])]}
    played = Played(project_dir, document)
    summary = played.result.stages
    assert summary["slow"].failure is not None
    assert summary["slow"].failure.code == "timeout"
    assert summary["next"].status == "succeeded"


def test_calls_that_do_not_end_leave_neither_the_actor_nor_its_core_behind(project_dir: Path) -> None:
    stuck = [
        stage(id, "stubborn", {"what": "stick"}, timeout_ms=500, on_error="continue", depends_on=[])
        for id in ("one", "two")
    ]
    after = stage("after", "stubborn", {"n": 7}, depends_on=["one", "two"])
    whole = stage("whole", "task", {"what": "abc"}, depends_on=["after"])
    played = Played(project_dir, {"name": "actors", "stages": [*stuck, after, whole]})
    summary = played.result.stages
    assert [failure.code for id in ("one", "two") if (failure := summary[id].failure)] == ["timeout", "timeout"]
    assert [summary[id].status for id in ("after", "whole")] == ["succeeded", "succeeded"]


def test_an_asynchronous_component_carries_out_several_calls_at_once(project_dir: Path) -> None:
    items = Played(project_dir, over("together", 4)).items()
    assert len({item["pid"] for item in items}) == 1
    assert max(item["peak"] for item in items) == 4


def test_large_values_outlive_their_actor(project_dir: Path) -> None:
    stages = [
        stage("make", "hasty", {"what": "large"}),
        stage("pause", "two", depends_on=["make"]),
        stage("read", "task", {"what": "{{stages.make.text}}"}, depends_on=["pause"]),
    ]
    played = Played(project_dir, {"name": "actors", "stages": stages, "output": {"n": "{{stages.read.n}}"}})
    played.result.raise_for_status()
    assert played.result.output == {"n": 200_000}


def test_idle_actors_make_room_for_tasks(project_dir: Path) -> None:
    document = over("lasting", 8)
    document["stages"].append(stage("after", "task", {"what": "abc"}, depends_on=["each"]))
    document["output"] = {"n": "{{stages.after.n}}"}
    played = Played(project_dir, document)
    played.result.raise_for_status()
    assert played.result.output == {"n": 3}


def test_a_lower_bound_is_kept_until_others_need_the_room(project_dir: Path) -> None:
    stages = [
        stage("first", "kept", {"n": 1}),
        stage("nap", "careful", {"what": "nap"}, depends_on=["first"]),
        stage("again", "kept", {"n": 2}, depends_on=["nap"]),
        stage("whole", "task", {"what": "abc"}, depends_on=["again"]),
        stage("anew", "kept", {"n": 3}, depends_on=["whole"]),
    ]
    output = {id: {"pid": f"{{{{stages.{id}.pid}}}}"} for id in ("first", "again", "anew")}
    played = Played(project_dir, {"name": "actors", "stages": stages, "output": output})
    played.result.raise_for_status()
    first, again, anew = (played.result.output[id]["pid"] for id in ("first", "again", "anew"))
    assert first == again, "it is kept though it has nothing to do"
    assert first != anew, "it made room for what needs the whole cluster"


def test_a_gang_gets_its_room_from_idle_actors_and_shares_it_in_turns(project_dir: Path) -> None:
    resources = {"num_cpus": 2}
    branches = {"branches": [["one", "then"], ["other"]]}
    stages = [
        stage("first", "kept"),  # holds a core that the gang needs
        stage("gang", "parallel", branches, placement={"gang": True}, depends_on=["first"]),
        stage("one", "lasting", {"n": 1}, resources=resources),
        stage("then", "two", {"n": 2}, resources=resources, depends_on=["one"]),  # needs the room that `one` has held
        stage("other", "task", {"what": "abc"}, resources=resources),
    ]
    output = {"then": "{{ stages.then.n | default(0) }}", "other": "{{ stages.other.n | default(0) }}"}
    played = Played(project_dir, {"name": "actors", "stages": stages, "output": output})
    played.result.raise_for_status()
    assert played.result.output == {"then": 2, "other": 3}
