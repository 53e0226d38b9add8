"""Checks of run stores: finding runs, and asking something of them."""

from __future__ import annotations

from typing import Any

from flowmason_ray.engine.events import Event, RunCancelled, RunFailed, RunSucceeded
from flowmason_ray.errors import Fenced, RunNotFound
from flowmason_ray.testing.conformance.run_stores.kit import (
    FAILURE,
    Chapter,
    OpenStore,
    begun,
    call,
    followed,
    new_record,
    ran,
    recorded,
    refused,
    started,
)

RUNS = Chapter()


@RUNS
async def how_a_run_ended_is_known_without_its_events(open_store: OpenStore) -> None:
    """Status, time and failure."""
    store = open_store()
    ends: list[tuple[Event, str, Any]] = [
        (RunSucceeded(at=9, value={"x": 1}), "succeeded", None),
        (RunFailed(at=9, failure=FAILURE), "failed", FAILURE.to_json()),
        (RunCancelled(at=9, failure=FAILURE), "cancelled", FAILURE.to_json()),
    ]
    for event, status, failure in ends:
        await ran(store, event, run=new_record(f"r_{status}"))
        found = await store.find(f"r_{status}")
        assert (found.status, found.ended_at, found.failure, found.file) == (status, 9, failure, "p.json")


@RUNS
async def runs_are_listed_newest_first_and_filtered(open_store: OpenStore) -> None:
    """By status, pipeline, time and number."""
    store = open_store()
    assert await store.list_runs() == []
    await ran(store, RunSucceeded(at=1, value=1), run=new_record("r_b", created_at=2.0))
    await ran(store, RunFailed(at=1, failure=FAILURE), run=new_record("r_a", created_at=3.0, pipeline="q"))
    await ran(store, RunSucceeded(at=1, value=1), run=new_record("r_c", created_at=1.0))
    await ran(store, started(0), run=new_record("r_d", created_at=0.5))
    going = await begun(store, new_record("r_e", created_at=0.25))

    async def ids(**wanted: Any) -> list[str]:
        return [r.run_id for r in await store.list_runs(**wanted)]

    assert await ids() == ["r_a", "r_b", "r_c", "r_d", "r_e"]
    assert await ids(limit=1) == ["r_a"]
    assert await ids(since=2.0) == ["r_a", "r_b"]
    assert await ids(pipeline="p", since=1.0) == ["r_b", "r_c"]
    assert await ids(status="succeeded") == ["r_b", "r_c"]
    assert await ids(status="succeeded", limit=1) == ["r_b"]
    assert await ids(status="failed", pipeline="p") == []
    assert await ids(status="running") == ["r_e"]
    assert await ids(status="interrupted") == ["r_d"]
    assert (await store.find("last")).run_id == "r_a"
    await going.close()


@RUNS
async def a_run_is_found_by_the_beginning_of_its_id(open_store: OpenStore) -> None:
    """If that fits one run only."""
    store = open_store()
    for wanted in ("last", "r_1"):
        await refused(RunNotFound, store.find(wanted))
    for name in ("r_aa1", "r_aa2", "r_b", "r_aa"):
        await ran(store, RunSucceeded(at=1, value=1), run=new_record(name))
    assert (await store.find("r_b")).run_id == "r_b"
    assert (await store.find("r_aa1")).run_id == "r_aa1"
    assert (await store.find("r_aa")).run_id == "r_aa", "a whole id is never ambiguous"
    await refused(RunNotFound, store.find("r_a"), "ambiguous", "r_aa1")
    for missing in ("r_c", "", "%", "R_B", "r_b'"):
        await refused(RunNotFound, store.find(missing), "no run")


@RUNS
async def what_is_not_there_is_said_so(open_store: OpenStore) -> None:
    """By everything that takes a run's id."""
    store = open_store()
    for _ in range(2):  # in an empty store, and beside another run
        await refused(RunNotFound, recorded(store, "r_x"))
        await refused(RunNotFound, store.request("r_x", "cancel", {}))
        await refused(RunNotFound, followed(store, "r_x"))
        await refused(Fenced, call(lambda: store.reopen(new_record("r_x"))))
        if not await store.list_runs():
            await ran(store, RunSucceeded(at=1, value=1))


@RUNS
async def requests_reach_the_writer(open_store: OpenStore) -> None:
    """In order, numbered, from where it asks."""
    log = await begun(open_store())
    assert await log.requests(after=0) == []
    for kind in ("answer", "pause", "cancel"):
        await open_store().request("r_1", kind, {"by": "é", "n": [1]})
    found = await log.requests(after=0)
    assert [(r.number, r.kind) for r in found] == [(1, "answer"), (2, "pause"), (3, "cancel")]
    assert found[0].body == {"by": "é", "n": [1]}
    assert [r.number for r in await log.requests(after=2)] == [3]
    assert log.asked_before == 0
    await log.close()


@RUNS
async def a_writer_knows_what_was_asked_of_the_one_before(open_store: OpenStore) -> None:
    """So that what was asked of a process that has gone is not mistaken for what is asked of the next one."""
    store = open_store()
    first = await begun(store)
    await store.request("r_1", "pause", {})
    await store.request("r_1", "cancel", {})
    await first.close()
    second = open_store().reopen(await store.find("r_1"))
    assert second.asked_before == 2
    await store.request("r_1", "pause", {})
    assert [r.number for r in await second.requests(after=second.asked_before)] == [3]
    await second.close()
