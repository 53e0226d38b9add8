"""What a coordinator does with a run that was paused, that cannot go on, or whose store is away; in this process, without Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.events import RunPaused, RunResumed
from flowmason_ray.engine.run_log import Request, RunStore, Said
from flowmason_ray.errors import PermanentError, RunNotFound, StoreError, StoreUnavailable
from flowmason_ray.ray_jobs import driving
from flowmason_ray.ray_jobs.driving import Order, drive
from flowmason_ray.resuming import ResumedRun, prepare_resume
from flowmason_ray.stores.group_commit import CommittingRunLog
from flowmason_ray.wiring import open_workspace

PATIENCE_S = 60.0
ASK = {"id": "ask", "component_type": "wait_for_approval", "config": {"message": "Go on?"}}


class Handed:
    """A run that was begun here, and is left to a coordinator."""

    def __init__(self, root: Path, stage: Mapping[str, Any] = ASK) -> None:
        file = root / "p.pipeline.json"
        file.write_text(json.dumps({"name": "p", "stages": [stage]}))
        workspace = open_workspace(file)
        self.store: RunStore = workspace.store()
        self.prepared = PreparedRun(file, {}, on="local", store=self.store, workspace=workspace)
        self.run_id = self.prepared.run_id
        self.order = Order(
            run_id=self.run_id, root=str(root), runs=".flowmason/runs.db", blobs=".flowmason/blobs", lease_s=15
        )
        self.begun: list[bool] = []
        """Whenever its coordinator said that it goes on."""

    async def pause(self) -> None:
        """Begin it, and have somebody pause it when it has come to its question."""
        running = asyncio.create_task(self.prepared.run())
        await self.until(self.asks)
        self.prepared.pause(by="somebody")
        assert (await running).status == "paused"

    async def status(self) -> str:
        return (await self.store.find(self.run_id)).status

    async def kinds(self) -> list[str]:
        try:
            return [recorded.event["kind"] async for recorded in self.store.read(self.run_id)]
        except RunNotFound:  # it has not begun
            return []

    async def asks(self) -> bool:
        return "approval_requested" in await self.kinds()

    async def words(self) -> list[Said]:
        return [said async for said in self.store.said(self.run_id)]

    async def until(self, true: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await true():  # noqa: ASYNC110  # another thread or process writes the log: no event tells
                await asyncio.sleep(0.02)

    async def drive(self, *, again: bool = False) -> str:
        """Drive it as a coordinator does."""
        return await drive(self.order, lambda: self.begun.append(True), again=again)

    async def resumed(self) -> bool:
        return "run_resumed" in await self.kinds()


@pytest.fixture
def handed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handed:
    async def here(store: RunStore, run_id: str, **asked: Any) -> ResumedRun:
        asked["on"] = "local"
        return await prepare_resume(store, run_id, **asked)

    monkeypatch.setattr(driving, "prepare_resume", here)
    monkeypatch.setattr(driving, "POLL_S", 0.01)
    return Handed(tmp_path)


def test_a_coordinator_that_was_started_again_leaves_a_run_paused(handed: Handed) -> None:
    async def work() -> None:
        await handed.pause()
        assert await asyncio.wait_for(handed.drive(again=True), PATIENCE_S) == "paused"
        assert await handed.status() == "paused"
        assert not await handed.resumed()

    asyncio.run(work())


def test_one_that_was_just_given_it_takes_it_up(handed: Handed) -> None:
    async def work() -> None:
        await handed.pause()
        going = asyncio.create_task(handed.drive())
        await handed.until(handed.resumed)
        assert handed.begun
        await handed.store.request(handed.run_id, "cancel", {})
        assert await asyncio.wait_for(going, PATIENCE_S) == "cancelled"

    asyncio.run(work())


def test_it_says_that_it_goes_on_when_the_log_does(handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(self: PreparedRun) -> RunResult:
        raise StoreError("It cannot be written.")

    async def work() -> None:
        await handed.pause()
        monkeypatch.setattr(ResumedRun, "run", refused)
        with pytest.raises(StoreError):
            await handed.drive()
        assert handed.begun == []

    asyncio.run(work())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreError("A large value could not be written."), "A large value could not be written."),
        (PermanentError("There is no room.", code="full"), "There is no room."),
        (RuntimeError("who knows"), "RuntimeError"),
    ],
)
def test_why_it_does_not_go_on_is_kept_with_the_run_which_stays_paused(
    handed: Handed, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    async def refused(self: PreparedRun) -> RunResult:
        raise error

    async def work() -> None:
        await handed.pause()
        monkeypatch.setattr(ResumedRun, "run", refused)
        with pytest.raises(type(error)):
            await handed.drive()
        said = (await handed.words())[-1]
        assert (said.path, said.level) == ("", "error")
        assert words in said.message
        assert await handed.status() == "paused"
        assert (await handed.kinds())[-1] == RunPaused.kind

    asyncio.run(work())


def test_a_store_that_is_away_for_a_moment_ends_nothing(handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tries = ResumedRun.run, 0

    async def after_a_while(self: ResumedRun) -> RunResult:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StoreUnavailable("No answer.")
        return await run(self)

    async def work() -> None:
        await handed.pause()
        monkeypatch.setattr(ResumedRun, "run", after_a_while)
        going = asyncio.create_task(handed.drive())
        await handed.until(handed.resumed)  # it was paused all the while, but not since it was given away
        await handed.store.request(handed.run_id, "cancel", {})
        assert await asyncio.wait_for(going, PATIENCE_S) == "cancelled"

    asyncio.run(work())


def test_one_that_stays_away_does(handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: ResumedRun) -> RunResult:
        raise StoreUnavailable("No answer.")

    async def work() -> None:
        await handed.pause()
        monkeypatch.setattr(ResumedRun, "run", never)
        monkeypatch.setattr(driving, "STORE_PATIENCE_S", 0.1)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(handed.drive(), PATIENCE_S)

    asyncio.run(work())


async def leave(handed: Handed, kind: str) -> None:
    """Have a coordinator take the run up and die; while nobody has noticed that, ask something of it."""
    await handed.prepared.accept()
    log = handed.store.reopen(await handed.store.find(handed.run_id))
    log.append(RunResumed(at=2, options={"handed_over": True, "asked_before": 0}))
    await log.close()
    await handed.store.request(handed.run_id, kind, {})


@pytest.mark.parametrize(("kind", "status"), [("cancel", "cancelled"), ("pause", "paused")])
def test_what_is_asked_while_it_is_started_again_is_done(handed: Handed, kind: str, status: str) -> None:
    async def work() -> None:
        await leave(handed, kind)
        assert await asyncio.wait_for(handed.drive(again=True), PATIENCE_S) == status
        resumed = [e.event async for e in handed.store.read(handed.run_id) if e.event["kind"] == RunResumed.kind]
        assert resumed[-1]["options"] == {"handed_over": True, "asked_before": 0}, "one that dies now would heed it too"

    asyncio.run(work())


def test_what_is_asked_before_it_has_begun_is_done(handed: Handed) -> None:
    async def work() -> None:
        await handed.prepared.accept()
        await handed.store.request(handed.run_id, "cancel", {})
        handed.order = replace(handed.order, new=True)
        assert await asyncio.wait_for(handed.drive(), PATIENCE_S) == "cancelled"

    asyncio.run(work())


def test_what_was_asked_before_somebody_takes_it_up_on_purpose_is_over(handed: Handed) -> None:
    async def work() -> None:
        await leave(handed, "cancel")
        going = asyncio.create_task(handed.drive())

        async def resumed_again() -> bool:
            return (await handed.kinds()).count(RunResumed.kind) == 2

        await handed.until(resumed_again)
        await handed.store.request(handed.run_id, "pause", {})  # is taken after what was asked before
        assert await asyncio.wait_for(going, PATIENCE_S) == "paused"

    asyncio.run(work())


def test_what_was_asked_before_a_pause_is_over_for_whoever_goes_on(handed: Handed) -> None:
    async def work() -> None:
        await leave(handed, "pause")
        assert await asyncio.wait_for(handed.drive(again=True), PATIENCE_S) == "paused"
        log = handed.store.reopen(await handed.store.find(handed.run_id))  # given to another, which dies at once
        await log.close()
        going = asyncio.create_task(handed.drive(again=True))

        async def resumed_again() -> bool:
            return (await handed.kinds()).count(RunResumed.kind) == 3

        await handed.until(resumed_again)
        await handed.store.request(handed.run_id, "cancel", {})
        assert await asyncio.wait_for(going, PATIENCE_S) == "cancelled"

    asyncio.run(work())


SEND = '''
"""A component that does something that cannot be taken back."""

from pydantic import BaseModel
from flowmason_ray import operator


@operator(effect="effectful")
class Send:
    """Notes its call."""

    class Input(BaseModel):
        pass

    class Output(BaseModel):
        pass

    def execute(self, input, context):
        (context.project_dir / "sent.txt").touch()
        return {}
'''


def test_no_effect_begins_that_was_asked_to_stop(
    tmp_path: Path, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = CommittingRunLog.requests

    async def slowly(self: CommittingRunLog, *, after: int) -> Sequence[Request]:
        await asyncio.sleep(0.5)  # an effect would have begun meanwhile
        return await requests(self, after=after)

    async def work() -> None:
        await leave(other, "cancel")
        assert await asyncio.wait_for(other.drive(again=True), PATIENCE_S) == "cancelled"

    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "send.py").write_text(SEND)
    other = Handed(tmp_path, {"id": "send", "component_type": "send"})
    monkeypatch.setattr(CommittingRunLog, "requests", slowly)
    asyncio.run(work())
    assert not (tmp_path / "sent.txt").exists()
