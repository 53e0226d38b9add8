"""The order of the stages that set one variable: as the rule says it, however many there are."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray import validate
from flowmason_ray.engine.bodies import Bodies, RegionNode
from flowmason_ray.engine.setter_order import SetterOrder


def stage(i: int, *after: int, reads: bool = False) -> dict[str, Any]:
    value = "{{ vars.x + 1 }}" if reads else i
    config = {"name": "x", "value": value}
    return {
        "id": f"s{i}",
        "component_type": "variable_set",
        "config": config,
        "depends_on": [f"s{each}" for each in after],
    }


def settle(waits: dict[str, dict[str, str]], setters: list[str], readers: set[str]) -> Any:
    root = RegionNode(None, None, None)
    root.members.extend(waits)
    return SetterOrder(Bodies(root, dict.fromkeys(waits, root)), waits).settle(setters, readers)


def above_all(waits: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    """Return, for every stage, all that it waits for at any distance; itself too when there is a cycle."""
    above = {name: set(found) for name, found in waits.items()}
    for _ in waits:
        for found in above.values():
            found |= {further for each in found for further in above[each]}
    return above


@settings(max_examples=300)
@given(st.data())
def test_reading_decides_and_nothing_else_is_guessed(data: st.DataObject) -> None:
    names = data.draw(st.permutations([f"s{i}" for i in range(data.draw(st.integers(2, 7)))]))
    rank = {name: i for i, name in enumerate(sorted(names))}
    pairs = [(a, b) for a in names for b in names if rank[a] < rank[b]]
    waits: dict[str, dict[str, str]] = {name: {} for name in names}
    for a, b in data.draw(st.lists(st.sampled_from(pairs), max_size=10)):
        waits[b][a] = ""
    setters = [name for name in names if data.draw(st.booleans())]
    readers = {name for name in setters if data.draw(st.booleans())}

    # The rule itself, on every pair at once: who does not read comes before who reads, where nothing else is said.
    written = above_all(waits)
    ruled = {name: dict(found) for name, found in waits.items()}
    for a, b in combinations(setters, 2):
        if a not in written[b] and b not in written[a] and (a in readers) != (b in readers):
            first, second = (b, a) if a in readers else (a, b)
            ruled[second][first] = ""
    above = above_all(ruled)
    cyclic = any(name in above[name] for name in names)
    chain = not cyclic and all(a in above[b] or b in above[a] for a, b in combinations(setters, 2))

    edges, unsettled = settle(waits, setters, readers)
    assert (not unsettled) == chain
    for first, second in edges:
        assert first not in readers
        assert second in readers
        waits[second][first] = ""
    after = above_all(waits)
    assert all(name not in after[name] for name in names)
    if chain:
        assert all(a in after[b] or b in after[a] for a, b in combinations(setters, 2))


def test_ten_thousand_setters_in_a_chain_are_planned() -> None:
    count = 10_000
    chain = [stage(i, *([i - 1] if i else []), reads=i > 0) for i in range(count)]
    assert validate({"name": "P", "stages": chain}) == []


def test_ten_thousand_setters_without_an_order_are_one_problem() -> None:
    (problem,) = validate({"name": "P", "stages": [stage(i) for i in range(10_000)]})
    assert problem.code == "ambiguous_order"
    assert problem.message == (
        "10,000 stages set variable 'x', and nothing says in which order: 's0', 's1', 's2', 's3', 's4', …."
    )
    assert problem.hint == "Add 's0' to 'depends_on' of 's1', or the other way round."


def test_only_those_without_an_order_are_named() -> None:
    (problem,) = validate({"name": "P", "stages": [stage(0), stage(1, 0), stage(2, 1), stage(3, 1)]})
    assert problem.message == "Stages 's2' and 's3' both set variable 'x', and neither comes before the other."
    assert problem.path == "/stages/3"


def test_a_setter_that_reads_comes_after_one_that_does_not() -> None:
    assert validate({"name": "P", "stages": [stage(2, 1, reads=True), stage(1, reads=True), stage(0)]}) == []
