"""Checks of run stores: what is recorded comes back: in order, whole, and once it was acknowledged."""

from __future__ import annotations

from flowmason_ray.engine.events import RunCreated, RunFailed, RunSucceeded, StageFailed, StageLogged, StageStarted
from flowmason_ray.errors import RunNotFound, StoreError
from flowmason_ray.testing.conformance.run_stores.kit import (
    FAILURE,
    Chapter,
    OpenStore,
    call,
    new_record,
    ran,
    recorded,
    refused,
    started,
)

EVENTS = Chapter()


@EVENTS
async def events_come_back_in_order_with_positions_from_one(open_store: OpenStore) -> None:
    """Also from another position, and with everything that they say."""
    store = open_store()
    await ran(
        store,
        RunCreated(at=1, run_id="r_1", pipeline="p", version="1", plan_digest="d", input={"x": [1]}, seed=7),
        StageStarted(at=2, path="a", attempt=1, fingerprint="f"),
        StageFailed(at=3, path="a", attempt=1, failure=FAILURE, draw=0.25),
        RunFailed(at=4, failure=FAILURE),
    )
    found = await recorded(open_store(), "r_1")
    assert [(r.position, r.event["kind"], r.event["at"]) for r in found] == [
        (1, "run_created", 1),
        (2, "stage_started", 2),
        (3, "stage_failed", 3),
        (4, "run_failed", 4),
    ]
    assert found[0].event["input"] == {"x": [1]}
    assert found[1].event["fingerprint"] == "f"
    assert (found[2].event["path"], found[2].event["attempt"], found[2].event["draw"]) == ("a", 1, 0.25)
    assert found[2].event["failure"] == FAILURE.to_json()
    assert [r.position for r in await recorded(store, "r_1", after=2)] == [3, 4]
    assert await recorded(store, "r_1", after=4) == []


@EVENTS
async def pages_of_a_long_run_join(open_store: OpenStore) -> None:
    """Whatever a page is."""
    store = open_store()
    await ran(store, *(started(i) for i in range(2_500)))
    assert [r.position for r in await recorded(store, "r_1")] == list(range(1, 2_501))


@EVENTS
async def what_is_flushed_is_there(open_store: OpenStore) -> None:
    """For whoever opens the store anew."""
    log = open_store().create(new_record())
    for i in range(250):
        log.append(started(i))
    await log.flush()
    assert len(await recorded(open_store(), "r_1")) == 250
    await log.flush()
    await log.close()
    assert len(await recorded(open_store(), "r_1")) == 250


@EVENTS
async def several_runs_share_a_store(open_store: OpenStore) -> None:
    """Their events do not mix."""
    store = open_store()
    logs = [store.create(new_record(f"r_{i}")) for i in range(3)]
    for n in range(5):
        for i, log in enumerate(logs):
            log.append(StageStarted(at=n, path=f"s{i}", attempt=n))
    for log in logs:
        await log.close()
    for i in range(3):
        found = await recorded(store, f"r_{i}")
        assert [r.position for r in found] == [1, 2, 3, 4, 5]
        assert {r.event["path"] for r in found} == {f"s{i}"}


@EVENTS
async def a_run_is_recorded_once(open_store: OpenStore) -> None:
    """A second one with the same id is refused."""
    await ran(open_store(), RunSucceeded(value=1))
    await refused(StoreError, call(lambda: open_store().create(new_record())))


@EVENTS
async def a_run_is_there_with_its_first_event(open_store: OpenStore) -> None:
    """Not before: one that was killed in between could never be taken up."""
    log = open_store().create(new_record())
    assert await open_store().list_runs() == []
    await refused(RunNotFound, open_store().find("r_1"))
    log.append(started(0))
    await log.flush()
    assert [r.run_id for r in await open_store().list_runs()] == ["r_1"]
    await log.close()


@EVENTS
async def a_closed_log_takes_nothing_more(open_store: OpenStore) -> None:
    """What comes too late is an error, not lost."""
    log = open_store().create(new_record())
    await log.close()
    await refused(StoreError, call(lambda: log.append(started(1))))


@EVENTS
async def what_stages_say_is_kept_beside_the_log(open_store: OpenStore) -> None:
    """In order, with everything that it says; the events do not know of it, and it goes with its run."""
    store = open_store()
    log = store.create(new_record())
    log.append(started(0))
    for i in range(1_200):
        said = StageLogged(
            at=float(i), path="a", attempt=2, level="info", message=f"m{i}", fields={"n": i, "deep": [1]}
        )
        log.say(said)
    await log.flush()
    found = [each async for each in open_store().said("r_1")]
    assert [(each.number, each.message) for each in found] == [(i + 1, f"m{i}") for i in range(1_200)]
    assert (found[7].at, found[7].path, found[7].attempt, found[7].level) == (7.0, "a", 2, "info")
    assert found[7].fields == {"n": 7, "deep": [1]}
    assert [each.number async for each in store.said("r_1", after=1_198)] == [1_199, 1_200]
    assert [r.position for r in await recorded(store, "r_1")] == [1]
    await log.close()
    log.say(StageLogged(at=1.0, path="a", level="info", message="too late"))
    again = open_store().reopen(await open_store().find("r_1"))
    again.say(StageLogged(at=1.0, path="b", attempt=1, level="debug", message="once more"))
    again.append(RunSucceeded(at=5.0, value=1))
    await again.close()
    assert [(each.number, each.path) async for each in store.said("r_1", after=1_199)] == [(1_200, "a"), (1_201, "b")]
    await store.prune(keep=0)
    assert await store.list_runs() == []
