"""Idle actors go where that makes room for what waits, and nowhere else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.engine.executors.capacity import Demand, Node
from flowmason_ray.engine.executors.pressure import Idle, Pressure, Waiting, to_give_way, without


def node(id: str, labels: dict[str, str] | None = None, **free: float) -> Node:
    return Node(id=id, resources=free, labels=labels or {})


def one(count: int = 1, labels: dict[str, str] | None = None, **amounts: float) -> Waiting:
    return Waiting(together=(Demand(amounts=amounts, labels=labels or {}),), count=count)


def idle(node: str, **holds: float) -> Idle:
    return Idle(node=node, holds=holds)


def going(waiting: list[Waiting], free: list[Node], actors: list[Idle], leaving: list[Idle] | None = None) -> list[int]:
    return to_give_way(Pressure(waiting=tuple(waiting), free=tuple(free)), actors, leaving or [])


def test_who_needs_nothing_takes_nothing() -> None:
    assert going([], [node("n", CPU=0)], [idle("n", CPU=1)]) == []
    assert going([one(CPU=2)], [node("n", CPU=2)], [idle("n", CPU=1)]) == []


def test_cores_that_are_free_on_two_nodes_are_no_room_for_what_needs_them_on_one() -> None:
    free = [node("m", CPU=2), node("n", CPU=2)]
    assert going([one(CPU=4)], free, [idle("m", CPU=1), idle("n", CPU=2)]) == [1]


def test_a_gpu_is_room_too() -> None:
    assert going([one(CPU=1, GPU=1)], [node("n", CPU=3)], [idle("n", CPU=1), idle("n", CPU=1, GPU=1)]) == [1]


def test_those_that_are_missed_least_go_first() -> None:
    actors = [idle("n", CPU=1), idle("n", CPU=1), idle("n", CPU=1)]
    assert going([one(CPU=2)], [node("n", CPU=0)], actors) == [0, 1]


def test_nobody_goes_where_that_helps_nobody() -> None:
    assert going([one(CPU=4)], [node("n", CPU=1)], [idle("n", CPU=1)]) == []
    assert going([one(CPU=1, GPU=1)], [node("n")], [idle("n", CPU=1)]) == []
    elsewhere = {"zone": "!in(a)"}
    assert going([one(CPU=1, labels=elsewhere)], [node("n", {"zone": "a"}), node("m")], [idle("n", CPU=1)]) == []
    assert going([one(CPU=1, labels=elsewhere)], [node("n", {"zone": "b"})], [idle("n", CPU=1)]) == [0]
    assert going([one(CPU=1)], [node("m")], [idle("gone", CPU=1)]) == []


def test_many_that_wait_get_as_many() -> None:
    actors = [idle("n", CPU=1) for _ in range(4)]
    assert going([one(3, CPU=1)], [node("n")], actors) == [0, 1, 2]
    assert going([one(3, CPU=1)], [node("n", CPU=1)], actors) == [0, 1]
    assert going([one(3, CPU=1)], [node("n", CPU=1)], actors, [idle("n", CPU=1)]) == [0]
    assert going([one(99, CPU=1)], [node("n")], actors) == [0, 1, 2, 3]


def test_what_could_have_what_is_free_is_in_nobodys_way() -> None:
    """Ray may have reasons not to give it."""
    assert going([one(GPU=1), one(CPU=1, GPU=1)], [node("n", GPU=1)], [idle("n", CPU=1)]) == [0]


def test_a_gang_gets_room_for_all_of_it_or_takes_nothing() -> None:
    gang = Waiting(together=(Demand(amounts={"CPU": 2}), Demand(amounts={"CPU": 2})))
    actors = [idle("m", CPU=1), idle("n", CPU=1), idle("n", CPU=1)]
    assert going([gang], [node("m", CPU=1), node("n")], actors) == [0, 1, 2]
    assert going([gang], [node("m"), node("n")], actors) == []
    tight = Waiting(together=tuple(Demand(amounts={"CPU": n}) for n in (2.0, 2.0, 3.0)))
    assert going([tight], [node("m", CPU=4), node("n", CPU=3)], [idle("m", CPU=1)]) == []


def test_what_nobody_needs_any_more_does_not_count() -> None:
    pressure = Pressure(waiting=(one(2, CPU=1), one(GPU=1)))
    left = without(pressure, [{"CPU": 1}, {"GPU": 1}, {"GPU": 1}, {"TPU": 1}])
    assert [each.count for each in left.waiting] == [1, 0]
    assert to_give_way(Pressure(waiting=left.waiting, free=(node("n"),)), [idle("n", GPU=1), idle("n", CPU=1)]) == [1]


AMOUNTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])
NAMES = st.sampled_from(["m", "n"])


@st.composite
def waits(draw: st.DrawFn) -> Waiting:
    return one(draw(st.integers(1, 3)), CPU=draw(AMOUNTS), GPU=draw(AMOUNTS))


@st.composite
def idles(draw: st.DrawFn) -> Idle:
    return idle(draw(NAMES), CPU=draw(AMOUNTS), GPU=draw(AMOUNTS))


@given(st.lists(waits(), max_size=3), st.lists(AMOUNTS, min_size=4, max_size=4), st.lists(idles(), max_size=6))
@settings(max_examples=200)
def test_nothing_waits_because_of_idle_actors_and_none_goes_for_nothing(
    waiting: list[Waiting], free: list[float], actors: list[Idle]
) -> None:
    nodes = [node("m", CPU=free[0], GPU=free[1]), node("n", CPU=free[2], GPU=free[3])]
    gone = going(waiting, nodes, actors)
    assert len(set(gone)) == len(gone)
    after = [actors[number] for number in gone]
    for each in waiting:
        assert _has_room(each, nodes, after) == _has_room(each, nodes, actors)
    if len(waiting) == 1 and waiting[0].count == 1:
        for number in gone:
            assert not _has_room(waiting[0], nodes, [actors[other] for other in gone if other != number])


def _has_room(waiting: Waiting, nodes: list[Node], freed: list[Idle]) -> bool:
    [demand] = waiting.together
    for each in nodes:
        there = {
            name: each.resources.get(name, 0.0) + sum(a.holds.get(name, 0.0) for a in freed if a.node == each.id)
            for name in demand.amounts
        }
        if all(there[name] >= amount for name, amount in demand.amounts.items()):
            return True
    return False
