"""Checks of run stores: what pruning removes, and what it leaves."""

from __future__ import annotations

from contextlib import suppress
from time import time

from flowmason_ray.engine.events import RunFailed, RunPaused, RunSucceeded
from flowmason_ray.engine.run_log import RunLog
from flowmason_ray.errors import Fenced, RunNotFound
from flowmason_ray.testing.conformance.run_stores.kit import (
    FAILURE,
    Chapter,
    OpenStore,
    begun,
    new_record,
    ran,
    recorded,
    refused,
    started,
    succeeded,
)

PRUNING = Chapter()


@PRUNING
async def pruning_removes_ended_runs_by_age_and_number(open_store: OpenStore) -> None:
    """And no others; `dry_run` removes nothing."""
    store, now = open_store(), time()
    for name, ended in (("r_old", now - 10_000), ("r_older", now - 20_000), ("r_new", now), ("r_failed", now - 50)):
        end = RunFailed(at=ended, failure=FAILURE) if name == "r_failed" else RunSucceeded(at=ended, value=1)
        await ran(store, started(1), end, run=new_record(name, created_at=ended - 1))
    await ran(store, started(1), run=new_record("r_left"))
    log = store.create(new_record("r_paused"))
    log.append(RunPaused(at=1.0))
    await log.close()
    going = await begun(store, new_record("r_going"))
    assert list((await store.prune()).runs) == []
    assert set((await store.prune(keep=1, dry_run=True)).runs) == {"r_old", "r_older", "r_failed"}
    assert set((await store.prune(older_than_s=7_500, keep=3, dry_run=True)).runs) == {"r_older"}
    assert set((await store.prune(older_than_s=7_500)).runs) == {"r_old", "r_older"}
    await refused(RunNotFound, recorded(store, "r_old"))
    assert (await store.prune(older_than_s=7_500)).runs in ((), [])
    assert set((await store.prune(keep=0)).runs) == {"r_new", "r_failed"}
    left = {record.run_id for record in await store.list_runs()}
    assert left == {"r_left", "r_paused", "r_going"}, "what has not ended stays"
    going.append(RunSucceeded(at=now, value=1))
    await going.close()
    assert (await store.find("r_going")).status == "succeeded"


@PRUNING
async def kept_results_outlive_their_run_until_they_expire(open_store: OpenStore) -> None:
    """Pruning takes the expired ones."""
    store = open_store()
    log = store.create(new_record())
    log.keep_result("f", succeeded({"x": 1}), ttl_s=1_000.0)
    log.keep_result("gone", succeeded({"x": 1}), ttl_s=0.0)
    log.append(RunSucceeded(at=1.0, value=1))
    await log.close()
    assert (await store.prune(keep=0, dry_run=True)).results == 1
    pruned = await store.prune(keep=0)
    assert (list(pruned.runs), pruned.results) == (["r_1"], 1)
    other = open_store().create(new_record("r_2"))
    found = await other.kept_result("f")
    assert found is not None
    assert found.value == {"x": 1}
    await other.close()
    assert (await store.prune()).results == 0


@PRUNING
async def the_writer_of_a_run_that_was_removed_is_fenced(open_store: OpenStore) -> None:
    """Its run ended, somebody pruned it; what it still says is refused."""
    store = open_store()
    log = store.create(new_record())
    log.append(RunSucceeded(at=1.0, value=1))
    await log.flush()
    await store.prune(keep=0)
    await refused(Fenced, _append(log))
    with suppress(Fenced):
        await log.close()


async def _append(log: RunLog) -> None:
    log.append(started(1))
    await log.flush()
