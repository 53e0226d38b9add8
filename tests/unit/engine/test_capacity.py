"""What a cluster can give, what is said when it cannot, and which stages are asked about."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.engine.executors.capacity import (
    Demand,
    Node,
    fits,
    for_ray,
    missing,
    missing_together,
    nodes_from,
)
from flowmason_ray.engine.executors.gangs import Bundles, ConflictingLabels, surely_run
from flowmason_ray.engine.plan import PlanStage
from tests.engine_kit import plan_of, stage

HEAD = Node(id="head", resources={"CPU": 4.0, "memory": 8 * 2.0**30}, labels={"ray.io/region": "eu"})
GPUS = Node(id="gpus", resources={"CPU": 8.0, "GPU": 2.0, "accelerator_type:A100": 1.0}, labels={"ray.io/region": "us"})


def demand(labels: dict[str, str] | None = None, **amounts: float) -> Demand:
    return Demand(amounts={"CPU": 1.0, **amounts}, labels=labels or {})


@pytest.mark.parametrize(
    ("condition", "fitting"),
    [
        ("eu", {"eu"}),
        ("!eu", {"us", None}),
        ("in(eu, us)", {"eu", "us"}),
        ("in(eu,us)", {"eu", "us"}),
        ("!in(eu, us)", {None}),
        ("!in(us)", {"eu", None}),
    ],
)
def test_conditions_of_labels(condition: str, fitting: set[str | None]) -> None:
    assert {value for value in ("eu", "us", None) if fits(value, condition)} == fitting


def test_blanks_in_lists_of_values_do_not_reach_ray() -> None:
    assert for_ray({"a": "!in(x, y)", "b": "z"}) == {"a": "!in(x,y)", "b": "z"}


def test_what_some_node_has_is_not_missing() -> None:
    assert missing(demand(GPU=2), [HEAD, GPUS]) is None
    assert missing(demand({"ray.io/region": "!us"}, CPU=4), [HEAD, GPUS]) is None


def test_what_only_several_nodes_have_together_is_missing() -> None:
    said = missing(Demand(amounts={"GPU": 1, "memory": 2.0**30}), [HEAD, GPUS])
    assert said is not None
    assert "1 GPU, 1024 MiB of memory on one node" in said
    assert "no node of the cluster (2 nodes) has all of it" in said
    assert "The node that comes nearest has" in said


def test_a_gpu_that_nobody_has_is_named() -> None:
    said = missing(demand(GPU=1), [HEAD])
    assert said == (
        "It asks for 1 CPU, 1 GPU on one node; none of the cluster's 1 node has any GPU. "
        "The node that comes nearest has 4 CPU, 8192 MiB of memory."
    )


def test_an_accelerator_that_nobody_has_is_named() -> None:
    said = missing(Demand(amounts={"accelerator_type:H100": 0.001}), [GPUS])
    assert said is not None
    assert "an accelerator 'H100'" in said
    assert "'A100'" in said  # what there is instead


def test_labels_that_nobody_has_are_named_with_what_there_is() -> None:
    said = missing(demand({"ray.io/region": "asia", "disk": "ssd"}), [HEAD, GPUS])
    assert said is not None
    assert "none of the cluster's 2 nodes has such labels" in said
    assert "Ray.io/region is 'eu', 'us' there; no node has a label disk." in said


def test_a_cluster_without_nodes_has_nothing() -> None:
    assert missing(demand(), []) is not None


def test_dead_nodes_do_not_count() -> None:
    listed: list[dict[str, Any]] = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 1.0}, "Labels": {"x": "y"}},
        {"NodeID": "b", "Alive": False, "Resources": {"CPU": 9.0}},
    ]
    assert nodes_from(listed) == [Node(id="a", resources={"CPU": 1.0}, labels={"x": "y"})]


def test_a_group_needs_room_at_the_same_time() -> None:
    assert missing_together([demand()] * 12, [HEAD, GPUS]) is None
    said = missing_together([demand()] * 13, [HEAD, GPUS])
    assert said is not None
    assert "room for 13 at the same time, 13 CPU in all" in said
    assert "have 12 CPU" in said


def test_a_group_may_have_thousands_of_members() -> None:
    large = Node(id="large", resources={"CPU": 3000.0})
    assert missing_together([demand()] * 3000, [large]) is None
    assert "room for 3001" in (missing_together([demand()] * 3001, [large]) or "")


def test_a_group_with_a_member_that_never_fits_is_missing_that() -> None:
    said = missing_together([demand(), demand(GPU=3)], [HEAD, GPUS])
    assert said is not None
    assert "3 GPU" in said


amounts = st.integers(1, 4)


@given(st.lists(amounts, max_size=4), st.lists(amounts, min_size=1, max_size=3))
@settings(max_examples=60)
def test_a_group_fits_exactly_when_some_assignment_does(bundles: list[int], nodes: list[int]) -> None:
    def assignable(left: list[int], at: int) -> bool:
        if at == len(bundles):
            return True
        return any(
            assignable([*left[:i], left[i] - bundles[at], *left[i + 1 :]], at + 1)
            for i in range(len(left))
            if left[i] >= bundles[at]
        )

    said = missing_together(
        [Demand(amounts={"CPU": float(n)}) for n in bundles],
        [Node(id=str(i), resources={"CPU": float(n)}) for i, n in enumerate(nodes)],
    )
    assert (said is None) is assignable(nodes, 0)


# -- which stages ---------------------------------------------------------------------------------------------------------------


def test_only_what_surely_runs_is_asked_about() -> None:
    made = plan_of(
        stage("sure"),
        stage("maybe", when="input.x"),
        stage("harmless", on_error="continue"),
        stage("off", enabled=False),
        stage("each", "foreach", config={"items": [1], "loop_stages": ["inside"]}),
        stage("inside"),
        stage("choose", "conditional", config={"condition": "{{ input.x }}", "true_branch_stages": ["taken"]}),
        stage("taken"),
        stage("try", "trycatch", config={"try_stages": ["tried"], "catch_stages": ["caught"]}),
        stage("tried"),
        stage("caught"),
    )
    assert {s.id for s in surely_run(made)} == {"sure", "each", "inside", "choose", "try"}


def test_a_loop_without_a_window_asks_for_one_bundle_that_is_enough_for_each_stage() -> None:
    made = plan_of(
        stage("each", "foreach", config={"items": [1, 2], "loop_stages": ["a", "b"]}, placement={"gang": True}),
        stage("a", resources={"num_cpus": 2}),
        stage("b", resources={"num_gpus": 1, "labels": {"x": "y"}}),
    )

    def of(s: PlanStage) -> Demand:
        asked = s.resources
        amounts = {"CPU": float(asked.get("num_cpus") or 1), "GPU": float(asked.get("num_gpus") or 0)}
        return Demand(amounts=amounts, labels=asked.get("labels") or {})

    each = next(s for s in made.root.stages if s.id == "each")
    bundle = Demand(amounts={"CPU": 2.0, "GPU": 1.0}, labels={"x": "y"})
    assert Bundles(made, of).of(made.root, each, 2) == [bundle, bundle]


def test_a_parallel_has_one_bundle_per_branch_whatever_nests_in_it() -> None:
    made = plan_of(
        stage("all", "parallel", config={"branches": [["a"], ["each"]]}, placement={"gang": True}),
        stage("a"),
        stage("each", "foreach", config={"items": [1], "loop_stages": ["b"]}),
        stage("b", resources={"num_gpus": 1}),
    )

    def of(s: PlanStage) -> Demand:
        return Demand(amounts={"GPU": float(s.resources.get("num_gpus") or 0), "CPU": 1.0})

    every = next(s for s in made.root.stages if s.id == "all")
    assert [b.amounts for b in Bundles(made, of).of(made.root, every, 1)] == [{"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}]


def test_stages_of_one_branch_that_want_different_nodes_cannot_be_a_gang() -> None:
    made = plan_of(
        stage("all", "parallel", config={"branches": [["a", "b"]]}, placement={"gang": True}),
        stage("a", resources={"labels": {"x": "y"}}),
        stage("b", resources={"labels": {"x": "z"}}),
    )

    def of(s: PlanStage) -> Demand:
        return Demand(amounts={"CPU": 1.0}, labels=s.resources.get("labels") or {})

    every = next(s for s in made.root.stages if s.id == "all")
    with pytest.raises(ConflictingLabels, match="x = 'y' and with x = 'z'"):
        Bundles(made, of).of(made.root, every, 1)
