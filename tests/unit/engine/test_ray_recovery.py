"""Lost values come back, or who reads them hears why not: the decisions, without a cluster.

References are texts here, and a small executor answers what is begun as the test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import pytest

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.events import Event, StageFailed, StageLogged, StageStopped, StageSucceeded
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.ray_bindings import RemoteValue, remote_values
from flowmason_ray.engine.executors.ray_inputs import StoreFull
from flowmason_ray.engine.executors.ray_losses import ValueLost, lost_failure
from flowmason_ray.engine.executors.ray_recovery import DEATHS_OUTLIVED, Command, Recovery
from flowmason_ray.engine.remaking import MOST_LOSSES, is_the_same
from flowmason_ray.engine.scope import Scope
from flowmason_ray.errors import Failure
from tests.engine_kit import plan_of, stage

P = ParamSpec("P")


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


RUN = RunInfo(run_id="r", pipeline="p", version="1.0.0", started_at=0.0, seed=1, project_dir=Path())


@dataclass(frozen=True)
class Reference:
    """Stands for an `ObjectRef`."""

    name: str

    def hex(self) -> str:
        return self.name


def reading(*names: str) -> dict[str, Any]:
    return {"config": {"value": "".join("{{ stages." + name + " }}" for name in names)}}


@dataclass
class Played:
    """A run of `a` → `b` → `c`, of which each reads the one before; `answers` says how an attempt ends, by path."""

    effects: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, list[Callable[[Command], Event]]] = field(
        default_factory=dict[str, "list[Callable[[Command], Event]]"]
    )
    full: bool = False
    """Whether there is no room for anything more."""

    def __post_init__(self) -> None:
        stages = [stage("a"), stage("b", **reading("a")), stage("c", **reading("b"))]
        for each in stages:
            each["effect"] = self.effects.get(each["id"], "pure")
        self.plan = plan_of(*stages)
        self.scope = Scope(self.plan.root, parent=None, owner=-1, prefix="", input=None)
        self.began: list[str] = []
        self.told: list[Event] = []
        self.recovery = Recovery(self.again, self.put_again, self.reads)
        self.recovery.open(RUN, self.told.append)  # within the loop

    def reads(self, command: Command) -> Iterable[RemoteValue]:
        assert isinstance(command, StartStage)
        return remote_values(command.scope, command.stage)

    def put_again(self, value: RemoteValue) -> bool:
        if self.full:
            raise StoreFull("The object store is full.")
        return False

    def command(self, name: str) -> StartStage:
        found = next(s for s in self.plan.root.stages if s.id == name)
        return StartStage(path=name, stage=found, scope=self.scope, attempt=1, first_started_at=0.0)

    def again(self, command: Command) -> Event | None:
        if not self.recovery.may_begin(command):
            return None
        self.began.append(command.path)
        answers = self.answers.get(command.path)
        if answers:
            asyncio.get_running_loop().call_soon(self.recovery.deliver, answers.pop(0)(command))
        return None

    def has_made(self, name: str, reference: str, size_bytes: int = 1000) -> RemoteValue:
        """The stage has succeeded before, with a value in the object store."""
        command = self.command(name)
        value = RemoteValue(reference=Reference(reference), packed=None, size_bytes=size_bytes)
        self.scope.values[command.stage.index] = value
        self.recovery.register(value, command)
        return value

    async def begin(self, name: str) -> None:
        self.again(self.command(name))
        for _ in range(50):
            await asyncio.sleep(0)

    def reports(self) -> list[Event]:
        return [event for event in self.told if not isinstance(event, StageLogged)]


def makes(reference: str, size_bytes: int = 1000) -> Callable[[Command], Event]:
    value = RemoteValue(reference=Reference(reference), packed=None, size_bytes=size_bytes)
    return lambda c: StageSucceeded(path=c.path, attempt=c.attempt, value=value)


def ends(value: Any) -> Callable[[Command], Event]:
    return lambda c: StageSucceeded(path=c.path, attempt=c.attempt, value=value)


def lacks(reference: str) -> Callable[[Command], Event]:
    return lambda c: StageFailed(path=c.path, attempt=c.attempt, failure=lost_failure(reference, c.path, c.attempt))


def dies(error_type: str = "WorkerCrashedError") -> Callable[[Command], Event]:
    failure = Failure(code="worker_died", message="It died.", error_type=error_type)
    return lambda c: StageFailed(path=c.path, attempt=c.attempt, failure=failure)


def fails(c: Command) -> Event:
    return StageFailed(path=c.path, attempt=c.attempt, failure=Failure(code="component_error", message="No."))


def failure_in(played: Played) -> Failure:
    [event] = played.reports()
    assert isinstance(event, StageFailed)
    return event.failure


@pytest.mark.parametrize("effect", ["pure", "idempotent"])
@in_a_loop
async def test_what_may_be_repeated_is_made_again(effect: str) -> None:
    played = Played({"a": effect}, {"b": [lacks("a1"), ends(7)], "a": [makes("a2")]})
    value = played.has_made("a", "a1")
    await played.begin("b")
    assert played.began == ["b", "a", "b"]
    assert [(e.path, e.value) for e in played.reports() if isinstance(e, StageSucceeded)] == [("b", 7)]
    assert value.reference == Reference("a2")
    assert any(isinstance(e, StageLogged) and e.path == "a" for e in played.told)


@in_a_loop
async def test_an_effectful_stage_is_never_repeated_for_its_value() -> None:
    played = Played({"a": "effectful"}, {"b": [lacks("a1")]})
    played.has_made("a", "a1")
    await played.begin("b")
    assert played.began == ["b"]
    failure = failure_in(played)
    assert failure.code == "value_lost"
    assert "effectful" in failure.message


@in_a_loop
async def test_a_consumer_with_an_effect_is_begun_again_because_it_never_began() -> None:
    played = Played({"b": "effectful"}, {"b": [lacks("a1"), ends(7)], "a": [makes("a2")]})
    played.has_made("a", "a1")
    await played.begin("b")
    assert played.began == ["b", "a", "b"]


@in_a_loop
async def test_another_value_than_the_recorded_one_is_not_taken() -> None:
    played = Played(answers={"b": [lacks("a1")], "a": [makes("a2", size_bytes=1001)]})
    played.has_made("a", "a1")
    await played.begin("b")
    assert "is not what was recorded" in failure_in(played).message


@in_a_loop
async def test_what_the_maker_reads_comes_back_first() -> None:
    played = Played(
        answers={"c": [lacks("b1"), ends(7)], "b": [lacks("a1"), makes("b2")], "a": [makes("a2")]},
    )
    played.has_made("a", "a1")
    played.has_made("b", "b1")
    await played.begin("c")
    assert played.began == ["c", "b", "a", "b", "c"]
    assert len(played.reports()) == 1


@in_a_loop
async def test_what_was_let_go_of_is_made_again_for_the_maker() -> None:
    played = Played(answers={"c": [lacks("b1"), ends(7)], "b": [makes("b2")], "a": [makes("a2")]})
    played.has_made("a", "a1").let_go()
    played.has_made("b", "b1")
    await played.begin("c")
    assert played.began == ["c", "a", "b", "c"]


@in_a_loop
async def test_what_cannot_be_made_again_fails_who_reads_it() -> None:
    played = Played(answers={"b": [lacks("a1")], "a": [fails]})
    played.has_made("a", "a1")
    await played.begin("b")
    assert "could not be made again: No." in failure_in(played).message


@in_a_loop
async def test_an_input_for_which_there_is_no_room_any_more_fails_who_reads_it() -> None:
    played = Played(answers={"b": [lacks("i1")]}, full=True)
    value = RemoteValue(reference=Reference("i1"), packed=None, size_bytes=1000)
    played.recovery.register(value, None)
    played.scope.values[played.command("a").stage.index] = value
    await played.begin("b")
    failure = failure_in(played)
    assert (failure.code, failure.message) == (
        "value_lost",
        "A value of 1000 bytes is gone from the cluster. The object store is full.",
    )


@in_a_loop
async def test_several_readers_wait_for_one_return() -> None:
    played = Played(answers={"b": [lacks("a1"), ends(7)], "c": [lacks("a1"), ends(8)], "a": [makes("a2")]})
    played.has_made("a", "a1")
    played.again(played.command("b"))
    await played.begin("c")
    assert played.began.count("a") == 1
    assert len(played.reports()) == 2


@in_a_loop
async def test_a_value_that_is_lost_again_and_again_is_given_up() -> None:
    played = Played()
    value = played.has_made("a", "a0")
    for i in range(MOST_LOSSES):
        value.rebind(Reference(f"a{i + 1}"))
    played.recovery.register(value, played.command("a"))
    played.answers["b"] = [lacks(f"a{MOST_LOSSES}")]
    await played.begin("b")
    assert "not brought back any more" in failure_in(played).message


@in_a_loop
async def test_who_waits_for_a_value_can_be_cancelled() -> None:
    played = Played(answers={"b": [lacks("a1")]})
    played.has_made("a", "a1")
    await played.begin("b")
    assert played.recovery.cancel("b", 1)
    await asyncio.sleep(0)
    assert [type(e) for e in played.reports()] == [StageStopped]
    assert not played.recovery.cancel("b", 1)


@in_a_loop
async def test_who_wants_a_value_here_waits_or_hears_why_not() -> None:
    played = Played(answers={"a": [makes("a2")]})
    value = played.has_made("a", "a1")
    await played.recovery.restored(value)
    assert value.reference == Reference("a2")
    once = Played({"a": "effectful"})
    with pytest.raises(ValueLost, match="effectful"):
        await once.recovery.restored(once.has_made("a", "a1"))


@pytest.mark.parametrize(
    ("effect", "error_type", "repeated"),
    [
        ("idempotent", "WorkerCrashedError", True),
        ("idempotent", "ActorDiedError", True),
        ("pure", "ActorDiedError", True),
        ("pure", "WorkerCrashedError", False),  # Ray has done so already
        ("effectful", "WorkerCrashedError", False),
        ("effectful", "ActorDiedError", False),
    ],
)
@in_a_loop
async def test_which_attempts_outlive_their_workers(effect: str, error_type: str, repeated: bool) -> None:
    played = Played({"a": effect}, {"a": [dies(error_type), ends(7)]})
    await played.begin("a")
    assert played.began == (["a", "a"] if repeated else ["a"])
    assert [type(e) for e in played.reports()] == [StageSucceeded if repeated else StageFailed]


@in_a_loop
async def test_nobody_outlives_more_than_a_few_workers() -> None:
    played = Played({"a": "idempotent"}, {"a": [dies()] * (DEATHS_OUTLIVED + 5)})
    await played.begin("a")
    assert played.began == ["a"] * (DEATHS_OUTLIVED + 1)
    assert failure_in(played).code == "worker_died"


@pytest.mark.parametrize(
    ("recorded", "made", "same"),
    [
        ((b"x", None, 1), (b"x", None, 2), True),
        ((b"x", None, 1), (b"y", None, 1), False),
        ((None, None, 1), (None, None, 1), True),
        ((None, None, 1), (b"y", None, 2), False),
    ],
)
def test_what_is_known_best_decides_whether_a_value_is_the_same(recorded: Any, made: Any, same: bool) -> None:
    assert is_the_same(recorded, made) is same
