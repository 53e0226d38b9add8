"""Calls on Ray, seen from the coordinator: every end is taken, and nothing that is held back is forgotten."""

from __future__ import annotations

import asyncio
import importlib
import pickle
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray.engine.commands import CancelStage, StartStage
from flowmason_ray.engine.events import Event, StageFailed, StageStopped
from flowmason_ray.engine.executors.ray_calls import Arrivals, Call, Member, UnreadableReport, lost, outcome_of
from flowmason_ray.engine.executors.ray_messages import CallReport, Report, pack, sealed
from flowmason_ray.engine.executors.ray_tasks import RayTasksExecutor
from flowmason_ray.engine.executors.ray_telling import Teller
from tests.engine_kit import plan_of, stage

mailboxes: Any = importlib.import_module("flowmason_ray.engine.executors.ray_mailbox")
telling: Any = importlib.import_module("flowmason_ray.engine.executors.ray_telling")


class _OfTomorrow:
    """A report with more fields than this version knows."""

    def __reduce__(self) -> Any:
        return Report, (None,) * (len(Report._fields) + 1)


class _Reference:
    """Stands for Ray's: its future is there at once."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def future(self) -> Future[bytes]:
        """Return the future."""
        done: Future[bytes] = Future()
        done.set_result(self._packed)
        return done


def test_a_report_that_cannot_be_read_ends_its_call_and_no_other() -> None:
    unreadable = sealed(pickle.dumps(CallReport((_OfTomorrow(),), "node")))  # pyright: ignore[reportArgumentType]  # the point
    good = pack(CallReport((Report(status="declined"),), "node"))
    member = Member("a", 1)

    async def work() -> list[Any]:
        taken: list[Any] = []
        arrivals = Arrivals(asyncio.get_running_loop(), lambda call, future: taken.append(outcome_of(future)))
        for packed in (unreadable, good):
            arrivals.watch(Call([member], _Reference(packed)))
        while len(taken) < 2:  # noqa: ASYNC110  # it is told by a callback that is what is tested
            await asyncio.sleep(0.01)
        return taken

    first, second = asyncio.run(asyncio.wait_for(work(), 60))
    assert isinstance(first, UnreadableReport)
    assert isinstance(second, CallReport)
    event = lost(Call([member]), member, first)
    assert isinstance(event, StageFailed)
    assert event.failure.code == "executor_error"
    assert "another version of FlowMason" in event.failure.message


def test_a_report_of_another_version_says_which() -> None:
    outcome = outcome_of(_Reference(b"FlowMason 99.1\nwhatever").future())
    assert isinstance(outcome, BaseException)
    member = Member("a", 1)
    event = lost(Call([member]), member, outcome)
    assert isinstance(event, StageFailed)
    assert event.failure.code == "version_mismatch"
    assert "the Ray worker has FlowMason '99.1'" in event.failure.message


@pytest.mark.parametrize("name", ["ObjectStoreFullError", "OutOfDiskError"])
def test_a_value_that_has_no_room_is_called_so(name: str) -> None:
    member = Member("a", 1)
    full = getattr(importlib.import_module("ray.exceptions"), name)("Local disk is full")
    event = lost(Call([member]), member, full)
    assert isinstance(event, StageFailed)
    assert event.failure.code == "object_store_full"
    assert event.failure.message.startswith(
        "What the attempt made has no room in the cluster: Local disk is full. The "
    ), "its point, which is not in its last line alone"
    assert event.failure.message.endswith(".")
    assert "Tip" not in event.failure.message
    assert "\n" not in event.failure.message


def test_an_end_that_cannot_be_taken_keeps_no_other_waiting() -> None:
    async def work() -> tuple[list[int], list[Any]]:
        taken: list[int] = []
        complaints: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))

        def take(call: Call, future: Any) -> None:
            taken.append(len(taken))
            if len(taken) == 1:
                raise ValueError("not this one")

        arrivals = Arrivals(loop, take)
        for _ in range(3):
            arrivals.watch(Call([], _Reference(b"")))
        while len(taken) < 3:  # noqa: ASYNC110  # likewise
            await asyncio.sleep(0.01)
        return taken, complaints

    taken, complaints = asyncio.run(asyncio.wait_for(work(), 60))
    assert taken == [0, 1, 2]
    assert [str(each) for each in complaints] == ["not this one"]


def always(value: Any) -> Any:
    """Return a function that returns it."""

    def said(*_: Any) -> Any:
        return value

    return said


def test_what_is_held_back_goes_although_all_of_another_kind_was_cancelled() -> None:
    plan = plan_of(stage("a"), stage("b"))
    sent: list[str] = []
    said: list[Event] = []

    class Executor(RayTasksExecutor):
        """The real one, whose calls are only noted."""

        def _send(self, commands: Any, options: Any) -> None:
            sent.extend(command.path for command in commands)

    async def work() -> None:
        executor: Any = Executor()
        executor._loop = asyncio.get_running_loop()
        executor._deliver = said.append
        executor._group = SimpleNamespace(limit=always(4))
        executor._admission = SimpleNamespace(
            cores=always(2), cancel=always(False), placement=SimpleNamespace(options=always(None))
        )
        scope: Any = None
        for each in plan.root.stages[:2]:
            command = StartStage(path=each.id, stage=each, scope=scope, attempt=1, first_started_at=0.0)
            executor._hold(command, each.id)
        executor.cancel(CancelStage(path="a", attempt=1))
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(work())
    assert sent == ["b"]
    assert [(type(event), getattr(event, "path", "")) for event in said] == [(StageStopped, "a")]


def test_runs_that_begin_together_make_one_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives the second maker a handle that does not keep the actor alive."""
    made: list[str] = []

    class Maker:
        """Stands for Ray: making takes a while."""

        def __getattr__(self, name: str) -> Any:
            def itself(*args: Any, **options: Any) -> Any:
                return self

            return itself

        def get_runtime_context(self) -> Any:
            return SimpleNamespace(gcs_address="here", get_job_id=lambda: "1", get_node_id=lambda: "00" * 28)

        def remote(self, *classes: Any) -> Any:
            if classes:
                return self
            made.append(f"handle {len(made)}")
            handle = made[-1]
            time.sleep(0.2)
            return handle

    monkeypatch.setattr(mailboxes, "_ray", Maker())
    monkeypatch.setattr(mailboxes, "_made", {})
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(mailboxes._mailbox())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["handle 0"] * 3


def test_nothing_is_repeated_of_an_attempt_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def send(*letter: Any, urgent: bool = False) -> None:
        sent.append(letter)

    monkeypatch.setattr(telling._post, "send", send)
    teller = Teller("a", 1)
    teller.post_to(("mailbox", "box"))
    teller.began()
    assert len(telling._post._repeated) == len(sent) == 1
    teller.over()
    assert not telling._post._repeated


def test_that_an_attempt_has_begun_waits_for_a_mailbox_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def send(mailbox: tuple[str, str], letter: Any, *, urgent: bool = False) -> None:
        sent.append(letter)

    def not_there(name: str) -> None:
        raise ValueError(name)

    monkeypatch.setattr(telling._post, "send", send)
    monkeypatch.setattr(telling, "_ray", SimpleNamespace(get_actor=not_there))
    monkeypatch.setattr(telling, "RETRY_S", 0)
    teller = Teller("a", 1)
    teller.post_to(("mailbox", "box"))
    teller.began()
    teller.over()
    post = telling._Post()
    post._deliver(("mailbox", "box"), sent)
    assert [letter for _, letter in post._queue] == sent
