"""What `placement` and labels may say."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason_ray.engine.plan import PlanStage, Target
from flowmason_ray.engine.planning import try_plan
from flowmason_ray.errors import Problem
from flowmason_ray.spec.loader import load_pipeline_data
from tests.engine_kit import catalogue, foreach, pipeline, problems_of, stage

DATASETS = {"sales": "s3://bucket/sales", "sales_2024": "s3://bucket/sales/2024", "other": None}


def near(*stages: dict[str, Any]) -> tuple[dict[str, PlanStage], list[Problem]]:
    plan, problems = try_plan(load_pipeline_data(pipeline(*stages)), catalogue(), datasets=DATASETS)
    return ({s.id: s for _, s in plan.stages()} if plan else {}), problems


@pytest.mark.parametrize("condition", ["x", "!x", "in(x)", "in(x, y)", "!in(x,y)", "a.b-c_1"])
def test_conditions_that_can_be_read(condition: str) -> None:
    assert problems_of(stage("a", resources={"labels": {"ray.io/region": condition}})) == []


@pytest.mark.parametrize(
    "condition", ["", "!", "in()", "in(x", "x y", "!!x", "in(x;y)", "-x", "x" * 64, "{{ input.x }}"]
)
def test_conditions_that_cannot(condition: str) -> None:
    [problem] = problems_of(stage("a", resources={"labels": {"ray.io/region": condition}}))
    assert problem.code == "invalid_label"
    assert problem.path == "/stages/0/resources/labels/ray.io~1region"


@pytest.mark.parametrize("name", ["", "a b", "/x", "x/", "-x", "y" * 64])
def test_labels_that_no_node_can_carry(name: str) -> None:
    [problem] = problems_of(stage("a"), defaults={"resources": {"labels": {name: "x"}}})
    assert (problem.code, problem.path) == ("invalid_label", "/defaults/resources/labels")


def test_near_a_stage_that_has_ended() -> None:
    stages, problems = near(stage("a"), stage("b", after="a", placement={"near": "a"}))
    assert problems == []
    assert stages["b"].near == Target(0, stages["a"].index)


def test_near_a_stage_outside_the_loop() -> None:
    stages, problems = near(stage("a"), foreach("each", "b", after="a"), stage("b", placement={"near": "a"}))
    assert problems == []
    assert stages["b"].near == Target(1, stages["a"].index)


def test_near_a_stage_that_may_not_have_begun_is_said() -> None:
    _, [problem] = near(stage("a"), stage("b", placement={"near": "a"}))
    assert (problem.code, problem.severity) == ("near_not_awaited", "warning")


def test_near_a_stage_of_many_places_is_an_error() -> None:
    _, [problem] = near(foreach("each", "b"), stage("b"), stage("c", after="each", placement={"near": "b"}))
    assert problem.code == "border_crossing"


@pytest.mark.parametrize("name", ["a", "nothing", "s3://bucket/salesman"])
def test_near_nothing_is_an_error(name: str) -> None:
    _, [problem] = near(stage("a", placement={"near": name}))
    assert problem.code == "unknown_near"


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("sales", "sales"),
        ("other", "other"),
        ("s3://bucket/sales", "sales"),
        ("s3://bucket/sales/x.parquet", "sales"),
        ("s3://bucket/sales/2024/x.parquet", "sales_2024"),
    ],
)
def test_near_a_dataset_or_a_path_in_one(name: str, dataset: str) -> None:
    stages, problems = near(stage("a", placement={"near": name}))
    assert problems == []
    assert stages["a"].near == dataset


def test_near_and_spread_pull_apart() -> None:
    _, [problem] = near(stage("a"), stage("b", after="a", placement={"near": "a", "strategy": "spread"}))
    assert problem.code == "conflicting_keys"


def test_a_gang_needs_bodies() -> None:
    [problem] = problems_of(stage("a", placement={"gang": True}))
    assert (problem.code, problem.path) == ("gang_without_bodies", "/stages/0/placement/gang")


def test_a_gang_of_a_loop() -> None:
    assert problems_of(foreach("each", "a", placement={"gang": True, "strategy": "spread"}), stage("a")) == []
