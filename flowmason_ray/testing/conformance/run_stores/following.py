"""Checks of run stores: whoever follows a run misses nothing."""

from __future__ import annotations

import asyncio

from flowmason_ray.engine.events import RunPaused, RunResumed, RunSucceeded
from flowmason_ray.testing.conformance.run_stores.kit import (
    PATIENCE_S,
    Chapter,
    OpenStore,
    begun,
    followed,
    new_record,
    started,
)

FOLLOWING = Chapter()


@FOLLOWING
async def following_goes_on_until_the_run_ends(open_store: OpenStore) -> None:
    """And misses nothing."""
    log = open_store().create(new_record())
    log.append(started(0))
    await log.flush()
    following = asyncio.create_task(followed(open_store(), "r_1"))
    for i in range(1, 30):
        log.append(started(i))
        await log.flush()
        await asyncio.sleep(0.005)
    assert not following.done()
    log.append(RunSucceeded(at=1.0, value=1))
    await log.close()
    kinds = await asyncio.wait_for(following, PATIENCE_S)
    assert kinds == ["stage_started"] * 30 + ["run_succeeded"]
    assert await followed(open_store(), "r_1", after=30) == ["run_succeeded"]
    assert await followed(open_store(), "r_1", after=31) == []


@FOLLOWING
async def following_ends_with_a_pause_or_an_interruption(open_store: OpenStore) -> None:
    """But not with a pause that is over."""
    store = open_store()
    log = await begun(store)
    following = asyncio.create_task(followed(open_store(), "r_1"))
    await asyncio.sleep(0.05)
    await log.close()  # interrupted
    assert await asyncio.wait_for(following, PATIENCE_S) == ["stage_started"]
    log = store.reopen(await store.find("r_1"))
    log.append(RunPaused(at=1.0))
    await log.close()
    assert await asyncio.wait_for(followed(store, "r_1"), PATIENCE_S) == ["stage_started", "run_paused"]
    log = store.reopen(await store.find("r_1"))
    log.append(RunResumed(at=1.0))
    await log.flush()
    following = asyncio.create_task(followed(open_store(), "r_1"))
    await asyncio.sleep(0.05)
    log.append(RunSucceeded(at=2.0, value=1))
    await log.close()
    kinds = await asyncio.wait_for(following, PATIENCE_S)
    assert kinds == ["stage_started", "run_paused", "run_resumed", "run_succeeded"]
