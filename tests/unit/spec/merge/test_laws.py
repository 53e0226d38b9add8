"""The laws of diff and merge: proved for all small pipelines, tried on random ones, and a broken rule is caught.

`FLOWMASON_ALL_TRIPLES=1` proves them for every triple instead of one of each shape; that takes some minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowmason_ray.spec.diff import tree
from flowmason_ray.spec.diff.comparing import diff, patch
from flowmason_ray.spec.formatting import canonical_bytes
from flowmason_ray.spec.merge import merging, three_way
from flowmason_ray.spec.merge.conflicts import Conflict, Side, choose_always, read_conflicts, with_conflicts
from flowmason_ray.spec.merge.merging import Merged, merge
from flowmason_ray.spec.merge.ordering import merged_order
from tests.merge_kit import (
    Document,
    check_diff,
    check_merge,
    disjoint,
    edited,
    equal,
    is_whole,
    pipeline,
    pipelines,
    small_bodies,
    small_pipelines,
    stage,
    triples,
    up_to_names,
)

EVERYTHING = bool(os.environ.get("FLOWMASON_ALL_TRIPLES"))

FAMILIES: dict[str, Callable[[], list[Document]]] = {
    "three marked stages": lambda: small_pipelines("abc", marked=True),
    "two stages that may be renamed": lambda: small_pipelines("abc", most=2, values=(0, 1), marked=False),
    "loops": small_bodies,
}


def bases(family: list[Document], *, shapes: bool) -> list[Document]:
    return up_to_names(family) if shapes and not EVERYTHING else family


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.timeout(3600 if EVERYTHING else 240)
def test_the_laws_hold_for_all_small_pipelines(name: str) -> None:
    family = FAMILIES[name]()
    assert all(is_whole(each) for each in family)
    for base in bases(family, shapes=name != "loops"):
        for n, ours in enumerate(family):
            check_diff(base, ours)
            for theirs in family[: n + 1]:  # the law of symmetry is about the others
                check_merge(base, ours, theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_one_side_left_alone_is_the_other_for_all_small_pipelines(name: str) -> None:
    family = FAMILIES[name]()
    for base in family:
        for side in family:
            for merged in (merge(base, base, side), merge(base, side, base), merge(base, side, side)):
                assert merged.clean
                assert canonical_bytes(merged.document) == canonical_bytes(side)


@given(base=pipelines(), side=pipelines())
@settings(max_examples=100, deadline=None)
def test_a_diff_can_be_applied_and_undone(base: Document, side: Document) -> None:
    assert is_whole(base)
    check_diff(base, side)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_diff_of_an_edit_can_be_applied_and_undone(data: st.DataObject) -> None:
    base = data.draw(pipelines())
    check_diff(base, data.draw(edited(base)))


@given(triple=triples())
@settings(max_examples=200, deadline=None)
def test_the_laws_of_merge_hold(triple: tuple[Document, Document, Document]) -> None:
    base, ours, theirs = triple
    check_merge(base, ours, theirs)
    for merged in (merge(base, base, ours), merge(base, ours, base), merge(base, ours, ours)):
        assert merged.clean
        assert canonical_bytes(merged.document) == canonical_bytes(ours)


@given(triple=triples())
@settings(max_examples=150, deadline=None)
def test_disjoint_edits_are_both_orders_of_patching(triple: tuple[Document, Document, Document]) -> None:
    base, ours, theirs = triple
    mine, yours = diff(base, ours, renames=False), diff(base, theirs, renames=False)
    assume(not diff(base, ours).renames and not diff(base, theirs).renames and disjoint(base, ours, theirs))
    merged = merge(base, ours, theirs)
    assert all(conflict.kind == "semantic" for conflict in merged.conflicts)
    assert equal(merged.document, patch(patch(base, mine), yours))
    assert equal(merged.document, patch(patch(base, yours), mine))


def test_a_renamed_loop_that_is_kept_gets_its_body_back() -> None:
    """Found by the law below: theirs removed a loop and its body, ours only renamed the loop."""
    body: Document = {"id": "load", "component_type": "logger", "config": {}}
    loop: Document = {"component_type": "foreach", "config": {"items": [1], "loop_stages": ["load"]}}
    base: Document = {"name": "p", "stages": [{"id": "each", **loop}, body]}
    ours: Document = {"name": "p", "stages": [{"id": "renamed", **loop}, body]}
    theirs: Document = {"name": "p", "stages": []}
    kept = merge(base, ours, theirs, choose=choose_always("ours"))
    assert kept.clean
    assert kept.document == ours
    gone = merge(base, ours, theirs, choose=choose_always("theirs"))
    assert gone.clean
    assert gone.document["stages"] == []


@given(triple=triples(), side=st.sampled_from(["ours", "theirs"]))
@settings(max_examples=150, deadline=None)
def test_deciding_at_once_or_later_is_the_same(triple: tuple[Document, Document, Document], side: Side) -> None:
    base, ours, theirs = triple
    once = merge(base, ours, theirs, choose=choose_always(side))
    # Where both sides hold a part of what is broken together, deciding for one of them may not mend it: that stays open, and is said.
    assert all(conflict.kind == "semantic" for conflict in once.conflicts), once.conflicts
    assume(not once.conflicts)
    assert is_whole(once.document)
    open_ = merge(base, ours, theirs)
    if all(conflict.kind != "semantic" for conflict in open_.conflicts):
        document, conflicts = read_conflicts(with_conflicts(open_.document, open_.conflicts))
        assert conflicts == open_.conflicts
        for conflict in conflicts:
            document = merging.decide(document, conflict, side)
        if is_whole(document):
            assert equal(document, once.document)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_what_never_shows_never_shows(data: st.DataObject) -> None:
    base = data.draw(pipelines())
    shuffled = {key: base[key] for key in data.draw(st.permutations(list(base)))}
    shuffled["stages"] = [
        {**{k: s[k] for k in data.draw(st.permutations(list(s)))}, "position": {"x": data.draw(st.integers())}}
        for s in data.draw(st.permutations(base["stages"]))
    ]
    assert not diff(base, shuffled)
    other = data.draw(edited(base))
    merged = merge(base, shuffled, other)
    assert merged.clean
    assert equal(merged.document, other)


keys = st.lists(st.sampled_from("abcdefg"), unique=True).map(tuple)


@given(base=keys, ours=keys, theirs=keys)
@settings(max_examples=300, deadline=None)
def test_the_merged_order_is_symmetric_and_keeps_what_one_side_did(
    base: tuple[str, ...], ours: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    wanted = set(ours) | set(theirs)
    order = merged_order(base, ours, theirs, wanted)
    assert sorted(order) == sorted(wanted)
    assert order == merged_order(base, theirs, ours, wanted)
    kept = {key for key in ours if key in base or key not in base}
    assert merged_order(base, ours, base, kept) == [key for key in ours if key in kept]


# -- a rule that is wrong is caught --------------------------------------------------------------------------------------


def prefers_ours(self: Any, base: Any, ours: Any, theirs: Any, path: Any) -> Any:
    return ours


def adds_up(self: Any, base: Any, ours: Any, theirs: Any, path: Any) -> Any:
    if isinstance(ours, int) and isinstance(theirs, int):
        return ours + theirs + 1
    return self._conflict(base, ours, theirs, path)


def forgets_removals(self: Any, base: Any, ours: Any, theirs: Any, path: Any) -> Any:
    return (
        theirs if ours is tree.ABSENT else ours if theirs is tree.ABSENT else self._conflict(base, ours, theirs, path)
    )


@pytest.mark.parametrize("rule", [prefers_ours, adds_up, forgets_removals])
def test_an_unsound_rule_is_caught(rule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(three_way._Walk, "_value", rule)  # pyright: ignore[reportPrivateUsage]  # planted on purpose
    assert breaks_a_law()


def test_a_merge_that_does_not_look_at_the_meaning_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "findings", lambda tree, frame: [])  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    assert breaks_a_law()


def test_a_merge_by_position_is_caught() -> None:
    def by_position(base: Document, ours: Document, theirs: Document) -> Merged:
        longest = max(ours["stages"], theirs["stages"], key=len)
        pairs = zip(ours["stages"], theirs["stages"], strict=False)
        stages = [a if a == b or a not in base["stages"] else b for a, b in pairs]
        return Merged(document={**ours, "stages": [*stages, *longest[len(stages) :]]})

    assert breaks_a_law(by_position)


def test_nothing_is_caught_without_a_wrong_rule() -> None:
    assert not breaks_a_law()


def breaks_a_law(rule: Callable[[Document, Document, Document], Merged] = merge) -> bool:
    family = small_pipelines("ab", most=2, values=(0, 1, 2), marked=True)
    edgeless = [p for p in family if not any("depends_on" in s for s in p["stages"])]
    family = [*edgeless, *small_pipelines("ab", most=2, marked=True)]
    try:
        for base in up_to_names(family):
            for ours in family:
                for theirs in family:
                    check_merge(base, ours, theirs, rule)
    except AssertionError:
        return True
    return False


# -- single rules --------------------------------------------------------------------------------------------------------


def test_a_rename_here_and_an_edit_there_both_survive() -> None:
    base = pipeline(stage("a", config={"text": "one two three"}), stage("b", "a", config={"t": "{{ stages.a.x }}"}))
    ours = pipeline(
        stage("load", config={"text": "one two three"}), stage("b", "load", config={"t": "{{ stages.load.x }}"})
    )
    theirs = pipeline(*base["stages"], stage("c", "a", config={"t": "{{ stages['a'].y or stages.a.z }}"}))
    theirs["stages"][0] = stage("a", config={"text": "one two four"})
    merged = merge(base, ours, theirs)
    assert merged.clean
    assert merged.document == pipeline(
        stage("load", config={"text": "one two four"}),
        stage("b", "load", config={"t": "{{ stages.load.x }}"}),
        stage("c", "load", config={"t": "{{ stages['load'].y or stages.load.z }}"}),
    )


def kinds(merged: Merged) -> list[tuple[str, str]]:
    return [(conflict.kind, conflict.pointer) for conflict in merged.conflicts]


def test_two_names_for_one_stage_are_a_conflict_that_can_be_decided() -> None:
    base = pipeline(stage("a", config={"n": 1}), stage("z", "a"))
    ours = pipeline(stage("one", config={"n": 1}), stage("z", "one"))
    theirs = pipeline(stage("two", config={"n": 1}), stage("z", "two"))
    merged = merge(base, ours, theirs)
    assert kinds(merged) == [("renamed_differently", "/stages/one/id")]
    sides: tuple[tuple[Side, Document], ...] = (("ours", ours), ("theirs", theirs), ("base", base))
    for side, document in sides:
        assert merge(base, ours, theirs, choose=choose_always(side)) == Merged(document=document)


def test_a_stage_that_was_renamed_and_removed_is_a_conflict() -> None:
    base = pipeline(stage("a", config={"n": 1}))
    merged = merge(base, pipeline(stage("b", config={"n": 1})), pipeline())
    assert kinds(merged) == [("renamed_and_removed", "/stages/b")]
    assert merged.conflicts[0].choices == ("ours", "theirs")


def test_two_stages_under_one_new_id_are_a_conflict() -> None:
    merged = merge(pipeline(), pipeline(stage("a", config={"n": 1})), pipeline(stage("a", config={"n": 2})))
    assert kinds(merged) == [("both_added", "/stages/a")]
    assert merged.conflicts[0].code == "duplicate_id"


def test_a_new_name_that_means_another_stage_on_the_other_side_is_a_conflict() -> None:
    base = pipeline(stage("a", config={"text": "a b c"}))
    ours = pipeline(stage("c", config={"text": "a b c"}))
    theirs = pipeline(*base["stages"], stage("c", component="filter", config={"items": []}))
    assert ("both_added", "/stages/c") in kinds(merge(base, ours, theirs))


def semantic(base: Document, ours: Document, theirs: Document) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for conflict in merge(base, ours, theirs).conflicts:
        assert conflict.edits is not None, conflict
        one, other = conflict.edits
        found.append((conflict.code, tree.pointer_of(one.path), tree.pointer_of(other.path)))
    return found


def test_a_dependency_on_what_the_other_side_removed() -> None:
    base = pipeline(stage("a"), stage("b"))
    ours, theirs = pipeline(stage("b")), pipeline(stage("a"), stage("b", config={"t": "{{ stages.a.v }}"}))
    assert semantic(base, ours, theirs) == [("unknown_stage", "/stages/a", "/stages/b/config")]


def test_a_circle_of_two_edits() -> None:
    base = pipeline(stage("a"), stage("b"))
    ours, theirs = pipeline(stage("a", "b"), stage("b")), pipeline(stage("a"), stage("b", "a"))
    assert semantic(base, ours, theirs) == [("cycle", "/stages/a/depends_on/b", "/stages/b/depends_on/a")]


def test_a_route_to_what_the_other_side_removed() -> None:
    def routing(*targets: str, more: tuple[Document, ...] = ()) -> Document:
        return pipeline(stage("r", component="router", config={"value": 1, "routes": {"x": list(targets)}}), *more)

    base = routing("a", more=(stage("a"), stage("b")))
    ours = routing("a", more=(stage("a"),))
    theirs = routing("a", "b", more=(stage("a"), stage("b")))
    assert semantic(base, ours, theirs) == [("removed_member", "/stages/b", "/stages/r/config/routes/x/b")]


def test_a_stage_put_into_two_bodies() -> None:
    def loops(a: list[str], b: list[str]) -> Document:
        owners = (("a", a), ("b", b))
        return pipeline(*(stage(n, component="foreach", config={"loop_stages": m}) for n, m in owners), stage("c"))

    found = semantic(loops([], []), loops(["c"], []), loops([], ["c"]))
    assert found == [("two_owners", "/stages/a/config/loop_stages/c", "/stages/b/config/loop_stages/c")]


def test_a_slot_in_what_is_no_longer_abstract() -> None:
    base = pipeline(stage("a"), abstract=True)
    ours = pipeline(stage("a"))
    theirs = pipeline(stage("a"), stage("slot", component="abstract"), abstract=True)
    assert semantic(base, ours, theirs) == [("unfilled_slot", "/abstract", "/stages/slot")]


def test_a_stage_and_a_composition_with_one_id() -> None:
    base = pipeline(stage("z"))
    theirs = {**base, "compositions": [{"id": "a", "pipeline": "other"}]}
    assert semantic(base, pipeline(stage("z"), stage("a")), theirs) == [("duplicate_id", "/stages/a", "/compositions")]


def test_a_list_is_one_value_and_a_set_is_not() -> None:
    base = pipeline(stage("a", config={"list": [1, 2]}), tags=["x"])
    ours = pipeline(stage("a", config={"list": [1, 2, 3]}), tags=["x", "y"])
    theirs = pipeline(stage("a", config={"list": [0, 1, 2]}), tags=["z"])
    merged = merge(base, ours, theirs)
    assert kinds(merged) == [("both_changed", "/stages/a/config/list")]
    assert merged.document["tags"] == ["y", "z"]


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", None, [1], {"a": 1}])
def test_values_that_python_takes_for_equal_are_not(value: Any) -> None:
    others = [each for each in (True, 1, 1.0, "1", None, [True], {"a": True}) if repr(each) != repr(value)]
    for other in others:
        a, b = (pipeline(stage("a", config={"v": each})) for each in (value, other))
        assert len(diff(a, b).changes) == 1


def test_a_conflict_that_lost_its_place_is_reported() -> None:
    from flowmason_ray.errors import InvalidPipeline

    conflict = Conflict(path=("stages", "gone", "config", "n"), kind="both_changed", why="", ours=1, theirs=2)
    with pytest.raises(InvalidPipeline, match="lost_conflict"):
        merging.decide(pipeline(stage("a")), conflict, "theirs")
