"""What is asked of a run from outside: what counts, what is over, and what is said when nobody can be heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from flowmason_ray.engine import requests
from flowmason_ray.engine.events import CancelRequested, Event, StageLogged
from flowmason_ray.engine.requests import Requests
from flowmason_ray.engine.run_log import Request, RunRecord
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.errors import Fenced, StoreError, StoreUnavailable
from flowmason_ray.stores.memory import MemoryRunLog
from tests.engine_kit import plan_of, stage

PLAN = plan_of(stage("a"))
RECORD = RunRecord(run_id="r", pipeline="p", version="1", status="running", created_at=1)


class Log(MemoryRunLog):
    """A log whose looks are scripted: an error, or what is there."""

    def __init__(self, *looks: StoreError | None, asked_before: int = 0) -> None:
        super().__init__(RECORD)
        self.asked_before = asked_before
        self.looks = list(looks)
        self.over = asyncio.Event()

    async def requests(self, *, after: int) -> Sequence[Request]:
        if not self.looks:
            self.over.set()
            return ()
        look = self.looks.pop(0)
        if look is not None:
            raise look
        return await super().requests(after=after)


def listen(make_log: Callable[[], Log], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Event], list[object]]:
    """Listen until the script is over; return what was delivered, and who paused or why the run was lost."""
    monkeypatch.setattr(requests, "LISTEN_S", 0)
    delivered: list[Event] = []
    told: list[object] = []

    async def work() -> None:
        log = make_log()
        listening = asyncio.create_task(
            Requests(
                RunState(PLAN),
                log,
                delivered.append,
                pause=told.append,
                lost=told.append,
                asked_before=log.asked_before,
            ).listen()
        )
        over = asyncio.create_task(log.over.wait())
        await asyncio.wait([listening, over], timeout=10, return_when=asyncio.FIRST_COMPLETED)
        for task in (listening, over):
            task.cancel()
        await asyncio.gather(listening, over, return_exceptions=True)

    asyncio.run(work())
    return delivered, told


def asked(*kinds: str) -> list[Request]:
    return [Request(number=n, kind=kind, body={"by": kind}) for n, kind in enumerate(kinds, 1)]


def test_a_store_that_is_away_is_told_of_once_and_so_is_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    away = StoreUnavailable("No answer.")

    delivered, _ = listen(lambda: Log(None, away, away, away, None, None, away, None), monkeypatch)

    assert [event.message for event in delivered if isinstance(event, StageLogged)] == [
        "Requests from other processes cannot be read for now: No answer.",
        "Requests from other processes can be read again.",
        "Requests from other processes cannot be read for now: No answer.",
        "Requests from other processes can be read again.",
    ]


def test_what_was_asked_of_an_earlier_process_is_over_also_when_the_first_look_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make_log() -> Log:
        log = Log(StoreUnavailable("No answer."), None, asked_before=2)
        log.asked = asked("pause", "cancel")
        return log

    delivered, told = listen(make_log, monkeypatch)

    assert told == []
    assert not any(isinstance(event, CancelRequested) for event in delivered)


def test_what_is_asked_while_a_run_is_being_taken_up_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_log() -> Log:
        log = Log(None, asked_before=2)
        log.asked = asked("cancel", "cancel", "pause", "cancel")  # the last two: while Ray was started, say
        return log

    delivered, told = listen(make_log, monkeypatch)

    assert told == ["pause"]
    assert [type(event) for event in delivered] == [CancelRequested]


def test_a_run_that_was_taken_over_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = listen(lambda: Log(Fenced("Somebody else has it.")), monkeypatch)
    assert [str(each) for each in told] == ["Somebody else has it."]


def test_an_answer_that_nobody_waits_for_any_more_is_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_log() -> Log:
        log = Log(None, asked_before=1)
        log.asked = [
            Request(number=n, kind="answer", body={"path": path, "data": 1}) for n, path in ((1, "a"), (2, "b"))
        ]
        return log

    delivered, _ = listen(make_log, monkeypatch)

    assert [event.path for event in delivered if isinstance(event, StageLogged)] == ["b"]
