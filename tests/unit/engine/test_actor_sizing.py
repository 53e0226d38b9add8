"""How many actors a pool has: the laws that growing and shrinking keep."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.engine.component import Actors
from flowmason_ray.engine.executors.actor_sizing import Load, may_give_way, to_release, to_start, worn
from flowmason_ray.engine.executors.grouping import shares

COUNTS = st.integers(0, 50)
SECONDS = st.none() | st.floats(0.001, 100)


@st.composite
def bounds(draw: st.DrawFn) -> Actors:
    least = draw(st.integers(0, 5))
    most = draw(st.none() | st.integers(max(least, 1), 20))
    return Actors(min=least, max=most, concurrency=draw(st.integers(1, 8)), idle_s=draw(st.floats(0, 60)))


@st.composite
def loads(draw: st.DrawFn) -> Load:
    return Load(
        waiting=draw(COUNTS),
        running=draw(COUNTS),
        ready=draw(COUNTS),
        starting=draw(COUNTS),
        call_s=draw(SECONDS),
        setup_s=draw(SECONDS),
        waited_s=draw(st.floats(0, 100)),
    )


@given(bounds(), st.integers(1, 30), loads())
@settings(max_examples=300)
def test_a_pool_never_grows_beyond_its_bounds_and_never_lets_work_lie(declared: Actors, room: int, load: Load) -> None:
    more = to_start(declared, room, load)
    assert more >= 0
    total = load.ready + load.starting + more
    highest = max(1, declared.max if declared.max is not None else room, declared.min)
    assert more == 0 or total <= highest
    if load.waiting:
        assert total >= 1, "somebody will take the call"
    assert total >= declared.min


def test_a_pool_grows_with_what_there_is_to_do() -> None:
    assert to_start(Actors(), 8, Load(waiting=3)) == 3
    assert to_start(Actors(max=2), 8, Load(waiting=3)) == 2
    assert to_start(Actors(), 2, Load(waiting=30)) == 2
    assert to_start(Actors(concurrency=4), 8, Load(waiting=5)) == 2
    assert to_start(Actors(min=2), 8, Load(ready=1)) == 1
    assert to_start(Actors(), 8, Load(waiting=3, starting=2)) == 1


def test_what_will_be_done_before_a_new_actor_is_ready_needs_none() -> None:
    short = Load(waiting=10, running=1, ready=1, call_s=0.1, setup_s=20)
    assert to_start(Actors(), 8, short) == 0
    long = Load(waiting=10, running=1, ready=1, call_s=10, setup_s=20)
    assert to_start(Actors(), 8, long) == 7


def test_averages_do_not_count_for_calls_that_have_waited_for_as_long_as_a_setup_takes() -> None:
    behind = Load(waiting=2, running=1, ready=1, call_s=0.1, setup_s=5, waited_s=4.9)
    assert to_start(Actors(), 8, behind) == 0
    assert to_start(Actors(), 8, replace(behind, waited_s=5.1)) == 2
    assert to_start(Actors(max=2), 8, replace(behind, waited_s=5.1)) == 1


@given(bounds(), st.lists(st.floats(0, 120), max_size=20), st.integers(0, 10))
@settings(max_examples=300)
def test_what_is_released_was_idle_and_the_least_stays(declared: Actors, idle_s: list[float], busy: int) -> None:
    total = len(idle_s) + busy
    gone = to_release(declared, idle_s, total)
    assert 0 <= gone <= sum(each >= declared.idle_s for each in idle_s)
    assert gone == 0 or total - gone >= declared.min
    assert sum(may_give_way(declared, each) for each in idle_s) >= gone, "who may go anyway may go for others"


def test_an_actor_that_others_wait_for_goes_sooner() -> None:
    assert to_release(Actors(idle_s=10), [1.0, 0.1], 2) == 0
    assert [may_give_way(Actors(idle_s=10), each) for each in (1.0, 0.1)] == [True, False]
    assert to_release(Actors(idle_s=10, min=2), [99.0, 99.0], 2) == 0
    assert may_give_way(Actors(idle_s=10, min=2), 99.0)
    assert may_give_way(Actors(idle_s=0), 0.0)


def test_an_actor_wears_out_by_calls_or_by_memory() -> None:
    assert not worn(Actors(), 10_000, 10_000)
    assert [worn(Actors(recycle_after=3), calls, 0) for calls in (2, 3, 4)] == [False, True, True]
    assert [worn(Actors(recycle_at_mib=100), 1, mib) for mib in (99.9, 100.0)] == [False, True]


@given(st.integers(1, 500), st.integers(1, 50), st.integers(-3, 16))
@settings(max_examples=300)
def test_shares_are_even_complete_and_bounded(count: int, limit: int, idle: int) -> None:
    found = shares(count, limit, idle)
    assert sum(found) == count
    assert max(found) <= limit
    assert max(found) - min(found) <= 1
    assert len(found) >= min(count, idle), "no worker stays idle while attempts share a call"
