"""Checks of run stores: results that are kept for other runs."""

from __future__ import annotations

from time import time

from flowmason_ray.engine.events import StageReused
from flowmason_ray.testing.conformance.run_stores.kit import Chapter, OpenStore, new_record, ran, recorded, succeeded

RESULTS = Chapter()


@RESULTS
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


@RESULTS
async def a_result_that_would_not_come_back_as_it_was_is_not_kept(open_store: OpenStore) -> None:
    """A number that JSON does not have."""
    log = open_store().create(new_record())
    log.keep_result("f", succeeded({"x": float("nan")}), ttl_s=None)
    log.keep_result("g", succeeded({"x": [{"y": float("-inf")}]}), ttl_s=None)
    await log.flush()
    assert await log.kept_result("f") is None
    assert await log.kept_result("g") is None
    await log.close()


@RESULTS
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
