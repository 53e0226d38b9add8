"""What every run store promises, as checks: for the project's own stores, and for those of third parties.

    from flowmason_ray.testing.conformance.run_stores import STORE_CHECKS

    @pytest.mark.parametrize("name", STORE_CHECKS)
    def test_it_conforms(name, tmp_path):
        asyncio.run(STORE_CHECKS[name](lambda: MyStore(tmp_path)))

A check is given a function that opens the store: fresh and empty at its first call, the same again at every other. Nothing here
needs pytest, waits for a lease to run out, or needs a second process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from time import time
from typing import Any

from flowmason_ray.engine.events import (
    Event,
    RunCancelled,
    RunCreated,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSucceeded,
    StageFailed,
    StageLogged,
    StageReused,
    StageStarted,
    StageSucceeded,
)
from flowmason_ray.engine.run_log import Recorded, RunLog, RunRecord, RunStore
from flowmason_ray.errors import Failure, Fenced, FlowMasonError, RunNotFound, StoreError

OpenStore = Callable[[], RunStore]
Check = Callable[[OpenStore], Awaitable[None]]

STORE_CHECKS: dict[str, Check] = {}
"""Every check by what it shows."""

FAILURE = Failure(code="boom", message="it broke", stage="a", details={"n": 1})
PATIENCE_S = 45.0
"""How long something is waited for that should be there at once."""


def _check(body: Check) -> Check:
    STORE_CHECKS[body.__name__] = body
    return body


def new_record(run_id: str = "r_1", *, created_at: float = 1.0, pipeline: str = "p") -> RunRecord:
    """Return the record of a run that begins."""
    return RunRecord(
        run_id=run_id, pipeline=pipeline, version="1.0.0", status="running", created_at=created_at, file="p.json"
    )


async def recorded(store: RunStore, run_id: str, after: int = 0) -> list[Recorded]:
    """Return the events of a run."""
    return [each async for each in store.read(run_id, after=after)]


async def begun(store: RunStore, run: RunRecord | None = None) -> RunLog:
    """Begin a run that is there for everybody: its first event is recorded."""
    log = store.create(run or new_record())
    log.append(started(0))
    await log.flush()
    return log


async def ran(store: RunStore, *events: Event, run: RunRecord | None = None) -> None:
    """Record a whole run."""
    log = store.create(run or new_record())
    for event in events:
        log.append(event)
    await log.close()


def started(number: int) -> StageStarted:
    """Return an event that tells apart."""
    return StageStarted(at=float(number), path=f"s{number}", attempt=1)


async def refused(error: type[FlowMasonError], work: Awaitable[Any], *words: str) -> None:
    """Make sure that something is refused, and that the message says some words."""
    message: str | None = None
    try:
        await work
    except error as exc:
        message = exc.message
    assert message is not None, f"no {error.__name__} was raised"
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


async def call(body: Callable[[], Any]) -> Any:
    """Make a call one that can be awaited, for `refused`."""
    return body()


# -- events -----------------------------------------------------------------------------------------------------------


@_check
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


@_check
async def pages_of_a_long_run_join(open_store: OpenStore) -> None:
    """Whatever a page is."""
    store = open_store()
    await ran(store, *(started(i) for i in range(2_500)))
    assert [r.position for r in await recorded(store, "r_1")] == list(range(1, 2_501))


@_check
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


@_check
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


@_check
async def a_run_is_recorded_once(open_store: OpenStore) -> None:
    """A second one with the same id is refused."""
    await ran(open_store(), RunSucceeded(value=1))
    await refused(StoreError, call(lambda: open_store().create(new_record())))


@_check
async def a_run_is_there_with_its_first_event(open_store: OpenStore) -> None:
    """Not before: one that was killed in between could never be taken up."""
    log = open_store().create(new_record())
    assert await open_store().list_runs() == []
    await refused(RunNotFound, open_store().find("r_1"))
    log.append(started(0))
    await log.flush()
    assert [r.run_id for r in await open_store().list_runs()] == ["r_1"]
    await log.close()


@_check
async def a_closed_log_takes_nothing_more(open_store: OpenStore) -> None:
    """What comes too late is an error, not lost."""
    log = open_store().create(new_record())
    await log.close()
    await refused(StoreError, call(lambda: log.append(started(1))))


@_check
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


# -- runs -------------------------------------------------------------------------------------------------------------


@_check
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


@_check
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


@_check
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


@_check
async def what_is_not_there_is_said_so(open_store: OpenStore) -> None:
    """By everything that takes a run's id."""
    store = open_store()
    for _ in range(2):  # in an empty store, and beside another run
        await refused(RunNotFound, recorded(store, "r_x"))
        await refused(RunNotFound, store.request("r_x", "cancel", {}))
        await refused(RunNotFound, _followed(store, "r_x"))
        await refused(Fenced, call(lambda: store.reopen(new_record("r_x"))))
        if not await store.list_runs():
            await ran(store, RunSucceeded(at=1, value=1))


@_check
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


@_check
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


# -- whose run it is --------------------------------------------------------------------------------------------------


@_check
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


@_check
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


@_check
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


@_check
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


@_check
async def whoever_holds_a_run_may_act(open_store: OpenStore) -> None:
    """`check_lease` says nothing while all is well."""
    log = open_store().create(new_record())
    for i in range(3):
        log.check_lease()
        log.append(started(i))
        await log.flush()
    log.check_lease()
    await log.close()


# -- following --------------------------------------------------------------------------------------------------------


async def _followed(store: RunStore, run_id: str, after: int = 0) -> list[str]:
    return [each.event["kind"] async for each in store.follow(run_id, after=after)]


@_check
async def following_goes_on_until_the_run_ends(open_store: OpenStore) -> None:
    """And misses nothing."""
    log = open_store().create(new_record())
    log.append(started(0))
    await log.flush()
    following = asyncio.create_task(_followed(open_store(), "r_1"))
    for i in range(1, 30):
        log.append(started(i))
        await log.flush()
        await asyncio.sleep(0.005)
    assert not following.done()
    log.append(RunSucceeded(at=1.0, value=1))
    await log.close()
    kinds = await asyncio.wait_for(following, PATIENCE_S)
    assert kinds == ["stage_started"] * 30 + ["run_succeeded"]
    assert await _followed(open_store(), "r_1", after=30) == ["run_succeeded"]
    assert await _followed(open_store(), "r_1", after=31) == []


@_check
async def following_ends_with_a_pause_or_an_interruption(open_store: OpenStore) -> None:
    """But not with a pause that is over."""
    store = open_store()
    log = await begun(store)
    following = asyncio.create_task(_followed(open_store(), "r_1"))
    await asyncio.sleep(0.05)
    await log.close()  # interrupted
    assert await asyncio.wait_for(following, PATIENCE_S) == ["stage_started"]
    log = store.reopen(await store.find("r_1"))
    log.append(RunPaused(at=1.0))
    await log.close()
    assert await asyncio.wait_for(_followed(store, "r_1"), PATIENCE_S) == ["stage_started", "run_paused"]
    log = store.reopen(await store.find("r_1"))
    log.append(RunResumed(at=1.0))
    await log.flush()
    following = asyncio.create_task(_followed(open_store(), "r_1"))
    await asyncio.sleep(0.05)
    log.append(RunSucceeded(at=2.0, value=1))
    await log.close()
    kinds = await asyncio.wait_for(following, PATIENCE_S)
    assert kinds == ["stage_started", "run_paused", "run_resumed", "run_succeeded"]


# -- results for other runs -------------------------------------------------------------------------------------------


def succeeded(value: Any, decision: dict[str, Any] | None = None) -> StageSucceeded:
    """Return a stage's success."""
    return StageSucceeded(at=1.0, path="a", attempt=1, value=value, decision=decision)


@_check
async def a_kept_result_is_there_for_other_runs(open_store: OpenStore) -> None:
    """With its decision and where it comes from, until it expires; the last one counts."""
    log = open_store().create(new_record())
    assert await log.kept_result("f") is None
    event = succeeded({"x": [1, None, "é"]}, {"branch": "yes"})
    log.append(event)
    log.keep_result("f", event, ttl_s=None)
    log.keep_result("short", event, ttl_s=0.0)
    log.keep_result("long", event, ttl_s=1_000.0)
    await log.flush()
    await log.close()
    assert len(await recorded(open_store(), "r_1")) == 1, "a kept result is no event"
    other = open_store().create(new_record("r_2"))
    for fingerprint in ("f", "long"):
        found = await other.kept_result(fingerprint)
        assert found is not None
        assert (found.value, found.decision, found.run_id) == (event.value, event.decision, "r_1")
        assert abs(found.created_at - time()) < 3600
        beside = await open_store().kept_result(fingerprint)
        assert beside is not None, "a store tells it without a run"
        assert beside.value == event.value
    assert await open_store().kept_result("short") is None
    assert await other.kept_result("short") is None, "it has expired"
    other.keep_result("f", succeeded({"x": 2}), ttl_s=None)
    await other.flush()
    found = await other.kept_result("f")
    assert found is not None
    assert (found.value, found.decision, found.run_id) == ({"x": 2}, None, "r_2")
    await other.close()


@_check
async def a_result_that_would_not_come_back_as_it_was_is_not_kept(open_store: OpenStore) -> None:
    """A number that JSON does not have."""
    log = open_store().create(new_record())
    log.keep_result("f", succeeded({"x": float("nan")}), ttl_s=None)
    log.keep_result("g", succeeded({"x": [{"y": float("-inf")}]}), ttl_s=None)
    await log.flush()
    assert await log.kept_result("f") is None
    assert await log.kept_result("g") is None
    await log.close()


@_check
async def a_record_that_is_not_the_value_says_so(open_store: OpenStore) -> None:
    """`lossy`, on successes and on reused ones; and only there where it is true."""
    store = open_store()
    nan = float("nan")
    await ran(
        store,
        succeeded({"x": nan}),
        StageReused(at=1.0, path="b", attempt=1, value={"x": [nan]}),
        succeeded({"x": None, "y": "null"}),
    )
    found = [r.event for r in await recorded(store, "r_1")]
    assert [event.get("lossy") for event in found] == [True, True, None]
    assert found[0]["value"] == {"x": None}


# -- pruning ----------------------------------------------------------------------------------------------------------


@_check
async def pruning_removes_ended_runs_by_age_and_number(open_store: OpenStore) -> None:
    """And no others; `dry_run` removes nothing."""
    store, now = open_store(), time()
    for name, ended in (("r_old", now - 100), ("r_older", now - 200), ("r_new", now), ("r_failed", now - 50)):
        end = RunFailed(at=ended, failure=FAILURE) if name == "r_failed" else RunSucceeded(at=ended, value=1)
        await ran(store, started(1), end, run=new_record(name, created_at=ended - 1))
    await ran(store, started(1), run=new_record("r_left"))
    log = store.create(new_record("r_paused"))
    log.append(RunPaused(at=1.0))
    await log.close()
    going = await begun(store, new_record("r_going"))
    assert list((await store.prune()).runs) == []
    assert set((await store.prune(keep=1, dry_run=True)).runs) == {"r_old", "r_older", "r_failed"}
    assert set((await store.prune(older_than_s=75, keep=3, dry_run=True)).runs) == {"r_older"}
    assert set((await store.prune(older_than_s=75)).runs) == {"r_old", "r_older"}
    await refused(RunNotFound, recorded(store, "r_old"))
    assert (await store.prune(older_than_s=75)).runs in ((), [])
    assert set((await store.prune(keep=0)).runs) == {"r_new", "r_failed"}
    left = {record.run_id for record in await store.list_runs()}
    assert left == {"r_left", "r_paused", "r_going"}, "what has not ended stays"
    going.append(RunSucceeded(at=now, value=1))
    await going.close()
    assert (await store.find("r_going")).status == "succeeded"


@_check
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


@_check
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
