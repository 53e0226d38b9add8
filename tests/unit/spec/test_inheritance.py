"""Families of pipelines: slots, removed stages, several parents, and what is refused with the chain named."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason_ray.spec.inheritance import MAX_DEPTH
from flowmason_ray.spec.pipeline import Pipeline, field_order
from flowmason_ray.spec.provenance import chain_of
from tests.family_kit import Data, Family, base, child, put_together, stage, stages_of, told


def test_a_pipeline_that_extends_nothing_is_not_touched() -> None:
    family = Family(base(stage("a")))
    assert family.resolve("base") is family.files["base"]


def test_a_child_adds_changes_fills_and_removes() -> None:
    parent = base(
        stage("a", config={"x": 1}),
        stage("slot", "abstract", depends_on=["a"], retry={"max_attempts": 2}),
        stage("c"),
        abstract=True,
    )
    made = put_together(
        parent,
        child({"a": {"config": {"x": 2}}, "c": None}, stage("slot", "filter", config={"y": 1}), stage("d")),
    )
    assert made == {
        "name": "child",
        "stages": [
            stage("a", config={"x": 2}),
            stage("slot", "filter", depends_on=["a"], retry={"max_attempts": 2}, config={"y": 1}),
            stage("d"),
        ],
    }


def test_a_slot_is_filled_by_an_override_too() -> None:
    parent = base(stage("slot", "abstract", config={"level": "info"}), abstract=True)
    made = put_together(parent, child({"slot": {"component_type": "logger", "config": {"message": "m"}}}))
    assert made["stages"] == [stage("slot", config={"level": "info", "message": "m"})]


def test_an_open_slot_is_an_error_for_who_wants_to_be_run() -> None:
    parent = base(stage("slot", "abstract"), abstract=True)
    family = Family(parent, child(name="open", abstract=True), child(name="closed", extends="open"))
    assert family.problems("open") == []
    (problem,) = family.problems("closed")
    assert (problem.code, problem.path, problem.found) == ("unfilled_slot", "/extends", "slot")
    assert "/nowhere/base.pipeline.json:4" in problem.message


@pytest.mark.parametrize(
    "reader",
    [
        stage("b", depends_on=["a"]),
        stage("b", config={"x": ["{{ 1 + stages.a.n }}"]}),
        stage("b", config={"filter_expression": "stages['a'].n > 1"}),
        stage("b", when="stages.a.n > 1"),
        stage("b", "foreach", config={"items": [], "loop_stages": ["a"]}),
        stage("b", "router", config={"value": 1, "routes": {"x": ["a"]}}),
        stage("b", "parallel", config={"branches": [["a"]]}),
        stage("b", placement={"near": "a"}),
        stage("b", cache={"key": "{{stages.a.n}}"}),
    ],
    ids=lambda each: str(sorted(each)[-1]),
)
def test_a_stage_that_is_still_read_cannot_be_removed(reader: Data) -> None:
    parent = base(stage("a"), reader, stage("aa", config={"x": "{{stages.b.a}} a stages.a"}))
    (problem,) = Family(parent, child({"a": None})).problems("child")
    assert (problem.code, problem.path, problem.found) == ("removed_stage_is_read", "/overrides/a", "a")
    assert "stage 'b'" in problem.message
    assert Family(parent, child({"a": None, "b": None, "aa": None})).problems("child") == []


@pytest.mark.parametrize("said", [{"output": {"x": "{{stages.a.n}}"}}, {"output_stage_id": "a"}])
def test_a_stage_that_makes_the_result_cannot_be_removed(said: Data) -> None:
    parent = base(stage("a"), stage("b"), **said)
    assert told(Family(parent, child({"a": None})).problems("child")) == [("removed_stage_is_read", "/overrides/a")]
    assert Family(parent, child({"a": None}, output={"x": 1})).problems("child") == []


def test_a_removed_stage_stays_removed_and_may_come_back_as_another_one() -> None:
    parent = base(stage("a"), stage("b"))
    first = child({"a": None}, name="first")
    (problem,) = Family(parent, first, child({"a": {}}, extends="first")).problems("child")
    assert problem.code == "unknown_override"
    assert "removed at /nowhere/first.pipeline.json" in problem.message
    made = put_together(parent, first, child(None, stage("a", "filter"), extends="first"))
    assert stages_of(made)["a"] == stage("a", "filter")


def test_a_stage_that_is_inherited_cannot_be_written_again() -> None:
    (problem,) = Family(base(stage("a")), child(None, stage("a"))).problems("child")
    assert (problem.code, problem.path) == ("inherited_stage", "/stages/0/id")


def test_overrides_need_something_that_is_inherited() -> None:
    alone: Data = {"name": "alone", "overrides": {"a": {}}, "stages": [stage("a")]}
    assert told(Family(alone).problems("alone")) == [("unknown_override", "/overrides/a")]
    family = Family(base(stage("a")), child({"own": {}}, stage("own")))
    (problem,) = family.problems("child")
    assert "written in this file" in problem.message


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "parents", "childs", "made"),
    [
        ("description", "p", None, None),
        ("description", "p", "c", "c"),
        ("version", "2.0.0", None, None),
        ("tags", ["a", "b"], ["c", "a"], ["a", "b", "c"]),
        ("metadata", {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": None, "e": 4}, "$x": 5}, {"a": 1, "b": {"d": 3, "e": 4}, "$x": 5}),
        ("defaults", {"retry": {"max_attempts": 3}, "timeout_ms": 9}, {"retry": {"jitter": 0}, "timeout_ms": None}, {"retry": {"max_attempts": 3, "jitter": 0}}),
        ("triggers", {"schedule": {"cron": "a", "zone": "b"}}, {"schedule": {"cron": "c"}, "webhook": {}}, {"schedule": {"cron": "c", "zone": "b"}, "webhook": {}}),
        ("residency", {"pii": ["eu"]}, {"x": ["us"]}, {"pii": ["eu"], "x": ["us"]}),
        ("sample_input", {"a": None, "b": 1}, {"c": 2}, {"c": 2}),
        ("output", {"a": 1}, {"b": 2}, {"b": 2}),
        ("timeout_ms", 5, 6, 6),
        ("max_parallel", 5, None, None),
        ("x-team", {"a": 1}, {"b": 2}, {"b": 2}),
        ("abstract", True, False, False),
    ],
)  # fmt: skip
def test_every_field_is_inherited_by_its_rule(key: str, parents: Any, childs: Any, made: Any) -> None:
    parent = base(stage("a"), **{key: parents})
    assert put_together(parent, child(None, **{key: childs} if key != "version" else {})).get(key) == made
    silent = put_together(parent, child())
    assert silent.get(key) == (None if key in ("version", "abstract") else parents)


def test_every_field_has_a_rule() -> None:
    from flowmason_ray.spec.combining import RULES

    assert list(RULES) == list(field_order(Pipeline))


def test_saying_the_result_in_one_way_drops_the_other_way() -> None:
    parent = base(stage("a"), output_stage_id="a")
    assert "output_stage_id" not in put_together(parent, child(output={"x": 1}))


def test_older_references_to_inherited_stages_are_understood() -> None:
    made = put_together(
        base(stage("fetch")),
        child(
            {"fetch": {"config": {"$replace": {"x": "{{later.output.y}}"}}}}, stage("later", when="fetch.output.n > 1")
        ),
    )
    assert stages_of(made)["fetch"]["config"] == {"x": "{{stages.later.y}}"}
    assert stages_of(made)["later"]["when"] == "stages.fetch.n > 1"


# -- several parents ---------------------------------------------------------------------------------------------------


def diamond(*, left: Data | None = None, right: Data | None = None, bottom: Data | None = None) -> list[Data]:
    return [
        base(stage("a", config={"x": 0, "list": ["base"]}), stage("slot", "abstract"), abstract=True),
        child(left, name="left", abstract=True),
        child(right, name="right", abstract=True),
        child(bottom, stage("slot"), extends=["left", "right"]),
    ]


def test_a_diamond_is_resolved_once_and_the_first_parent_holds() -> None:
    made = put_together(
        *diamond(
            left={"a": {"config": {"x": 1, "list": {"$append": ["left"]}}}},
            right={"a": {"config": {"x": 2, "list": {"$append": ["right"]}}}},
        )
    )
    assert stages_of(made)["a"]["config"] == {"x": 1, "list": ["base", "right", "left"]}


def test_the_order_of_a_family_is_that_of_classes() -> None:
    documents: list[Data] = [{"name": name, "extends": parents} if parents else {"name": name, "stages": [stage("s")]} for name, parents in (
        ("o", []), ("a", ["o"]), ("b", ["o"]), ("c", ["o"]), ("k1", ["a", "b"]), ("k2", ["b", "c"]), ("z", ["k1", "k2"]),
    )]  # fmt: skip
    order = Family(*documents).family("z").member.order
    o = type("o", (), {})
    a, b, c = type("a", (o,), {}), type("b", (o,), {}), type("c", (o,), {})
    z = type("z", (type("k1", (a, b), {}), type("k2", (b, c), {})), {})
    assert [member.document.pipeline.name for member in order] == [each.__name__ for each in z.__mro__[:-1]]


def test_parents_whose_order_contradicts_itself_are_refused() -> None:
    documents = [base(stage("a")), child(name="b"), child(name="x", extends=["base", "b"])]
    (problem,) = Family(*documents).problems("x")
    assert (problem.code, problem.path) == ("contradicting_parents", "/extends")
    assert "base@1.0.0" in problem.message


def test_two_parents_that_write_the_same_stage_differently_have_to_be_reconciled() -> None:
    one, two = {"name": "one", "stages": [stage("a", config={"x": 1})]}, {"name": "two", "stages": [stage("a")]}
    (problem,) = Family(one, two, child(extends=["one", "two"])).problems("child")
    assert (problem.code, problem.found) == ("contradicting_parents", "a")
    assert "one.pipeline.json" in problem.message
    assert "two.pipeline.json" in problem.message
    settled = child({"a": {"$replace": stage("a", "filter")}}, extends=["one", "two"])
    assert put_together(one, two, settled)["stages"] == [stage("a", "filter")]
    assert put_together(one, two, child({"a": None}, extends=["one", "two"])) == {"name": "child"}
    assert put_together(one, {**one, "name": "two"}, child(extends=["one", "two"]))["stages"] == one["stages"]


def test_a_slot_that_two_parents_fill_differently_has_to_be_reconciled() -> None:
    documents = diamond(left={"slot": {"component_type": "logger"}})
    documents[2] = child(None, stage("slot", "filter"), name="right", abstract=True)
    documents[3] = child(None, extends=["left", "right"])
    assert told(Family(*documents).problems("child"))[:1] == [("contradicting_parents", "/extends")]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extends", "ring"),
    [
        ({"a": "a"}, "a@1.0.0 → a@1.0.0"),
        ({"a": "b", "b": "a"}, "a@1.0.0 → b@1.0.0 → a@1.0.0"),
        ({"a": ["x", "b"], "b": "c", "c": "b"}, "b@1.0.0 → c@1.0.0 → b@1.0.0"),
    ],
)
def test_a_ring_is_refused_with_the_chain_named(extends: dict[str, Any], ring: str) -> None:
    family = Family({"name": "x", "stages": [stage("s")]}, *({"name": n, "extends": e} for n, e in extends.items()))
    (problem,) = family.problems("a")
    assert (problem.code, problem.found) == ("extends_cycle", ring)
    assert (
        problem.file
        == f"/nowhere/{ring.split('@')[-2].split()[-1] if len(extends) == 1 else list(extends)[-1]}.pipeline.json"
    )


def test_too_many_generations_are_refused_with_the_chain_named() -> None:
    documents: list[Data] = [{"name": "g0", "stages": [stage("s")]}]
    documents += [{"name": f"g{i}", "extends": f"g{i - 1}"} for i in range(1, MAX_DEPTH + 1)]
    family = Family(*documents)
    (problem,) = Family(*documents).problems(f"g{MAX_DEPTH}")
    assert problem.code == "extends_too_deep"
    assert f"g{MAX_DEPTH}@1.0.0 → g{MAX_DEPTH - 1}@1.0.0" in problem.message
    assert family.problems(f"g{MAX_DEPTH - 1}") == []


def test_a_parent_that_is_not_there_is_reported_where_it_is_named() -> None:
    assert told(Family(child(extends=["x", "y"])).problems("child")) == [
        ("pipeline_not_found", "/extends/0"),
        ("pipeline_not_found", "/extends/1"),
    ]
    assert told(Family(base(stage("a")), child(extends=["base", "base"])).problems("child")) == [
        ("not_unique", "/extends/1")
    ]


def test_what_is_wrong_in_a_parent_is_reported_there_and_once() -> None:
    documents = [
        base(stage("a")),
        child({"b": {}}, name="p"),
        child(name="l", extends="p"),
        child(name="r", extends="p"),
    ]
    (problem,) = Family(*documents, child(extends=["l", "r"])).problems("child")
    assert (problem.code, problem.file) == ("unknown_override", "/nowhere/p.pipeline.json")


# -- provenance --------------------------------------------------------------------------------------------------------


def test_every_value_knows_the_places_where_it_was_written() -> None:
    family = Family(
        base(stage("a", config={"x": 1, "list": [1, 2], "deep": {"k": 1}})),
        child({"a": {"config": {"x": 2, "list": {"$remove": [1], "$append": [3]}}}}, name="mid"),
        child({"a": {"config": {"x": {"$replace": None}}, "enabled": False}}, stage("b"), extends="mid"),
    )
    loaded = family.resolve("child")

    def places(pointer: str) -> list[str]:
        chain = chain_of(loaded, pointer)
        return [f"{origin.document.pipeline.name}{origin.pointer}" for origin in chain]

    assert places("/stages/0/config/x") == [
        "base/stages/0/config/x",
        "mid/overrides/a/config/x",
        "child/overrides/a/config/x/$replace",
    ]
    assert places("/stages/0/config/deep/k") == ["base/stages/0/config/deep/k"]
    assert places("/stages/0/config/list/0") == ["base/stages/0/config/list/1"]
    assert places("/stages/0/config/list/1") == ["mid/overrides/a/config/list/$append/0"]
    assert places("/stages/0/enabled") == ["child/overrides/a/enabled"]
    assert places("/stages/1/id") == ["child/stages/0/id"]
    assert places("/name") == ["child/name"]
    place = loaded.locate("/stages/0/config/list/1")
    assert (place.file, place.line) == ("/nowhere/mid.pipeline.json", 13)
