"""Checks of run stores: a run has one writer at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from flowmason_ray.engine.events import RunPaused, RunResumed, RunSucceeded
from flowmason_ray.engine.run_log import RunLog
from flowmason_ray.errors import Fenced
from flowmason_ray.testing.conformance.run_stores.kit import (
    Chapter,
    OpenStore,
    call,
    new_record,
    ran,
    recorded,
    refused,
    started,
)

OWNERS = Chapter()


@OWNERS
async def a_run_is_gone_on_with_once(open_store: OpenStore) -> None:
    """Also when two begin to at the same time: the second one is refused before anything that it must wait for."""
    store = open_store()
    await ran(store, RunSucceeded(at=1, value=1))

    async def go_on(run_id: str) -> None:
        log = store.create(replace(new_record(run_id, created_at=2), based_on="r_1"))
        try:
            log.append(started(1))
            await log.flush()
        finally:
            with suppress(Fenced):
                await log.close()

    results = await asyncio.gather(go_on("r_a"), go_on("r_b"), return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == ["Fenced", "NoneType"], results
    assert sum(record.based_on == "r_1" for record in await store.list_runs()) == 1
    await refused(Fenced, go_on("r_c"), "r_1")


@OWNERS
async def a_run_changes_hands_only_when_it_was_left(open_store: OpenStore) -> None:
    """Not while it is under way, and not when it has ended; with the next epoch, behind what is recorded."""
    store = open_store()
    first = store.create(new_record())
    assert first.epoch == 1
    first.append(started(1))
    await first.flush()
    record = await store.find("r_1")
    assert record.status == "running"
    await refused(Fenced, call(lambda: open_store().reopen(record)), "running")
    await first.close()
    assert (await store.find("r_1")).status == "interrupted"
    second = open_store().reopen(record)
    assert second.epoch == 2
    assert (await store.find("r_1")).status == "running"
    second.append(RunResumed(at=2.0))
    second.append(RunSucceeded(at=3.0, value=1))
    await second.close()
    assert [r.position for r in await recorded(store, "r_1")] == [1, 2, 3]
    await refused(Fenced, call(lambda: open_store().reopen(record)), "succeeded")


@OWNERS
async def of_two_who_take_a_run_up_one_gets_it(open_store: OpenStore) -> None:
    """However close they are."""
    store = open_store()
    await ran(store, started(1))
    record = await store.find("r_1")
    got: list[RunLog] = []

    def take() -> None:
        with suppress(Fenced):
            got.append(open_store().reopen(record))

    await asyncio.gather(*(asyncio.to_thread(take) for _ in range(4)))
    assert [log.epoch for log in got] == [2]
    await got[0].close()


@OWNERS
async def a_paused_run_waits_to_be_taken_up(open_store: OpenStore) -> None:
    """It is nobody's; whoever takes it up makes it run again."""
    store = open_store()
    log = store.create(new_record())
    log.append(started(1))
    log.append(RunPaused(at=2.0, by="me"))
    await log.flush()
    assert (await store.find("r_1")).status == "paused"
    log.check_lease()
    await log.close()
    record = await store.find("r_1")
    assert (record.status, record.ended_at) == ("paused", None)
    assert [r.run_id for r in await store.list_runs(status="paused")] == ["r_1"]
    again = open_store().reopen(record)
    await refused(Fenced, call(lambda: open_store().reopen(record)))
    again.append(RunResumed(at=3.0))
    await again.flush()
    again.check_lease()
    assert (await store.find("r_1")).status == "running"
    again.append(RunPaused(at=4.0))
    await again.close()
    assert (await store.find("r_1")).status == "paused"


@OWNERS
async def whoever_holds_a_run_may_act(open_store: OpenStore) -> None:
    """`check_lease` says nothing while all is well."""
    log = open_store().create(new_record())
    for i in range(3):
        log.check_lease()
        log.append(started(i))
        await log.flush()
    log.check_lease()
    await log.close()
