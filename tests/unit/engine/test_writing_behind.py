"""A log waits for values that are still being written, and with them everything behind; nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowmason_ray.engine.events import Event, SkipReason, StageSkipped, StageSucceeded
from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.run_log import RunLog, RunRecord
from flowmason_ray.errors import StoreError
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore


def large(writing: Future[bytes | None] | None) -> StageSucceeded:
    value = RemoteValue(reference=object(), packed=None, size_bytes=10**7)
    if writing is not None:
        value.written_by(writing)
    return StageSucceeded(at=1.0, path="large", attempt=1, value=value)


SMALL = StageSkipped(at=2.0, path="small", reason=SkipReason.WHEN)


def recorded(folder: Path, play: Callable[[RunLog], Coroutine[Any, Any, None]]) -> list[dict[str, Any]]:
    """Return what is in a run's log when `play` has been through with it."""

    async def run() -> list[dict[str, Any]]:
        store = SqliteRunStore(folder / "runs.db", LocalBlobs(folder / "blobs"))
        record = RunRecord(run_id="r_1", pipeline="p", version="1.0.0", status="running", created_at=1.0)
        log = await asyncio.to_thread(store.create, record)
        try:
            await play(log)
        finally:
            await log.close()
        return [dict(each.event) async for each in store.read("r_1")]

    return asyncio.run(run())


def append(log: RunLog, *events: Event) -> None:
    for event in events:
        log.append(event)


def test_a_flush_waits_for_the_copy_and_the_order_stays(tmp_path: Path) -> None:
    writing: Future[bytes | None] = Future()
    text = orjson.dumps({"data": "x" * 100_000})
    digest = LocalBlobs(tmp_path / "blobs").put(text)
    marker = {"digest": digest, "size_bytes": len(text), "media_type": "application/json", "form": "value_json"}

    async def play(log: RunLog) -> None:
        append(log, StageSkipped(at=0.5, path="before", reason=SkipReason.WHEN))
        await log.flush()
        append(log, large(writing), SMALL)
        flushed = asyncio.create_task(log.flush())
        await asyncio.sleep(0.1)
        assert not flushed.done()
        writing.set_result(orjson.dumps({"$blob": marker}))
        await flushed

    events = recorded(tmp_path, play)
    assert [e["path"] for e in events] == ["before", "large", "small"]
    assert events[1]["packed"]["$blob"] == marker
    assert "lossy" not in events[1]


def test_what_was_never_written_is_recorded_as_a_value_that_was(tmp_path: Path) -> None:
    writing: Future[bytes | None] = Future()

    async def play(log: RunLog) -> None:
        append(log, large(writing), SMALL)
        writing.set_result(None)

    events = recorded(tmp_path, play)
    assert [e["path"] for e in events] == ["large", "small"]
    assert events[0]["lossy"]


def test_a_copy_that_cannot_be_written_ends_the_log(tmp_path: Path) -> None:
    writing: Future[bytes | None] = Future()

    async def play(log: RunLog) -> None:
        append(log, large(writing), SMALL)
        writing.set_exception(StoreError("The disk is full."))
        await log.flush()

    with pytest.raises(StoreError, match="The disk is full"):
        recorded(tmp_path, play)
