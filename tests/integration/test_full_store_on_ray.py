"""A full object store, and a full disk behind it: attempts fail, runs do not."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest
from pydantic import BaseModel
from ray.exceptions import OutOfDiskError

from flowmason_ray import Actors, operator, run
from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.events import StageFailed
from flowmason_ray.engine.executors import ray_inputs, ray_packing, ray_tasks
from flowmason_ray.engine.executors.ray_actors import Pools
from flowmason_ray.engine.executors.ray_calls import Call, Member, lost
from flowmason_ray.engine.executors.ray_warm import Lane, Warm
from flowmason_ray.errors import Failure
from tests.cli_kit import pipeline, stage

pytestmark = pytest.mark.usefixtures("ray_cluster")


class _Given(BaseModel):
    items: list[Any]


class _Counted(BaseModel):
    n: int


@operator(name="full_store_count", effect="pure", cost="cpu")
class Count:
    """Counts what it is given."""

    Input = _Given
    Output = _Counted

    def execute(self, input: _Given, context: Context) -> _Counted:
        return _Counted(n=len(input.items))


@operator(name="full_store_cheap", effect="pure", cost="trivial")
class Cheap:
    """Counts what it is given, so quickly that warm workers do it."""

    Input = _Given
    Output = _Counted

    async def execute(self, input: _Given, context: Context) -> _Counted:
        return _Counted(n=len(input.items))


@operator(name="full_store_keep", effect="pure", cost="cpu", actors=Actors(max=1))
class Keep:
    """Counts what it is given, in an actor."""

    Input = _Given
    Output = _Counted

    def execute(self, input: _Given, context: Context) -> _Counted:
        return _Counted(n=len(input.items))


@operator(name="full_store_make", effect="pure", cost="cpu")
class Make:
    """Makes what is too large for a report."""

    Input = _Counted
    Output = _Given

    def execute(self, input: _Counted, context: Context) -> _Given:
        return _Given(items=LARGE)


class _Full:
    """Stands for Ray, or for a remote function: whatever is sent meets a full disk behind a full object store."""

    def __init__(self, real: Any = None) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def options(self, **_: Any) -> _Full:
        """Take the options of a call."""
        return self

    def remote(self, *_: Any) -> Any:
        """Refuse a call."""
        raise OutOfDiskError("The disk is full.")

    put = remote


class _FullAtFirst:
    """Stands for a method of an actor: its first call meets a full disk, the others do not."""

    def __init__(self, real: Any) -> None:
        self._ways = [real, _Full()]

    def options(self, **options: Any) -> Any:
        """Take the options of a call."""
        return (self._ways.pop() if len(self._ways) > 1 else self._ways[0]).options(**options)


class _FullWorker:
    """Stands for a warm worker that no call reaches."""

    run = _Full()

    class learn:  # named as the worker's method
        """Its start, which ends at once."""

        @staticmethod
        def remote(_: Any) -> None:
            """Take what it is told."""


LARGE = ["x" * 100] * 2_000


def error_of(done: RunResult, path: str) -> Failure:
    assert done.status == "succeeded", done.failure
    found = done.stages[path].failure
    assert found is not None
    return found


def test_an_input_that_does_not_fit_fails_the_stages_that_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_inputs, "_ray", _Full())
    reads = stage("reads", "full_store_count", config={"items": "{{ input.all }}"}, on_error="continue")
    beside = stage("beside", "full_store_count", ["reads"], config={"items": [1, 2]})
    done = run(pipeline(reads, beside), {"all": LARGE}, on="ray", components=[Count], store=None)
    error = error_of(done, "reads")
    assert error.code == "object_store_full"
    assert "the disk behind it" in error.message
    assert done.stages["beside"].status == "succeeded"


def test_a_call_that_does_not_fit_fails_its_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_packing, "_call_with", _Full)
    done = run(
        pipeline(stage("a", "full_store_count", config={"items": [1]}, on_error="continue")),
        on="ray",
        components=[Count],
        store=None,
    )
    assert error_of(done, "a").code == "object_store_full"


def test_a_gathering_that_does_not_fit_fails_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tasks, "_remote_gather", _Full())
    config = {"items": [1, 2], "loop_stages": ["one"], "collect": "{{ stages.one.items }}"}
    each = stage("each", "foreach", config=config, on_error="continue")
    one = stage("one", "full_store_make", config={"n": "{{ item }}"})
    done = run(pipeline(each, one), on="ray", components=[Make], store=None)
    assert error_of(done, "each").code == "object_store_full"


def test_a_call_to_an_actor_that_does_not_fit_fails_its_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Pools.make

    def made(pools: Pools, *given: Any) -> Any:
        handle = make(pools, *given)
        handle.run = _FullAtFirst(handle.run)
        return handle

    monkeypatch.setattr(Pools, "make", made)
    first = stage("first", "full_store_keep", config={"items": [1]}, on_error="continue")
    second = stage("second", "full_store_keep", ["first"], config={"items": [1, 2]})
    prepared = PreparedRun(pipeline(first, second), on="ray", components=[Keep], store=None)
    done = asyncio.run(asyncio.wait_for(prepared.run(), 120))
    error = error_of(done, "first")
    assert error.code == "object_store_full"
    assert "The call cannot be sent" in error.message
    assert done.stages["second"].status == "succeeded"


def test_a_call_to_a_warm_worker_that_does_not_fit_fails_its_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def lane(_: Warm) -> Lane:
        return Lane(_FullWorker())

    monkeypatch.setattr(Warm, "lane", lane)
    first = stage("first", "full_store_cheap", config={"items": [1]}, on_error="continue", placement={"fuse": "never"})
    second = stage("second", "full_store_count", ["first"], config={"items": [1, 2]})
    done = run(pipeline(first, second), on="ray", components=[Cheap, Count], store=None)
    error = error_of(done, "first")
    assert error.code == "object_store_full"
    assert "The call cannot be sent" in error.message
    assert done.stages["second"].status == "succeeded"


def test_who_reads_a_value_that_found_no_room_is_told_that_it_did_not_run() -> None:
    ray: Any = importlib.import_module("ray")

    def make() -> None:
        raise OutOfDiskError("Local disk is full")  # as Ray does when it stores what a task returns

    def read(_: Any) -> None: ...

    made = ray.remote(make).remote()
    with pytest.raises(OutOfDiskError) as maker:
        ray.get(made, timeout=120)
    with pytest.raises(OutOfDiskError) as reader:
        ray.get(ray.remote(read).remote(made), timeout=120)
    member = Member("a", 1)
    for error, words in ((maker, "What the attempt made has no room"), (reader, "A value that it reads found no room")):
        event = lost(Call([member]), member, error.value)
        assert isinstance(event, StageFailed)
        assert event.failure.code == "object_store_full"
        assert event.failure.message.startswith(f"{words} in the cluster")
        assert "Local disk is full. The object" in event.failure.message
        assert "Tip" not in event.failure.message
