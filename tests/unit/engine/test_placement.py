"""Which options the calls of attempts get: what must hold, and what would be good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.capacity import MIB, Node
from flowmason_ray.engine.executors.placement import PURE_RETRIES, REGION_LABEL, Placement
from flowmason_ray.engine.scope import Scope
from tests.engine_kit import plan_of, stage

NODES = [
    Node(id="a" * 56, resources={"CPU": 1.0}),
    Node(id="b" * 56, resources={"CPU": 8.0}, labels={"kind": "x"}),
    Node(id="c" * 56, resources={"CPU": 4.0}, labels={"kind": "x"}),
]


def options(region: str | None = None, **keys: Any) -> Mapping[str, Any]:
    plan = plan_of(stage("a", **keys))
    placement = Placement(lambda: NODES)
    placement.open(RunInfo(run_id="r_1", pipeline="p", version="1", started_at=0.0, seed=1, region=region))
    placement.prepare(plan)
    scope = Scope(plan.root, parent=None, owner=-1, prefix="", input=None)
    return placement.options(
        StartStage(path="a", stage=plan.root.stages[0], scope=scope, attempt=1, first_started_at=0.0)
    )


def test_a_stage_that_says_nothing_gets_a_core_and_may_go_anywhere() -> None:
    assert options() == {"num_cpus": 1.0, "max_retries": PURE_RETRIES}


def test_spread_is_asked_of_ray() -> None:
    assert options(placement={"strategy": "spread"})["scheduling_strategy"] == "SPREAD"


def test_pack_prefers_the_largest_node_that_could_hold_it() -> None:
    strategy = options(placement={"strategy": "pack"}, resources={"labels": {"kind": "x"}})["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == ("b" * 56, True)


def test_resources_labels_and_the_region_are_conditions() -> None:
    found = options(
        "eu", resources={"num_gpus": 1, "memory_mib": 10, "accelerator_type": "A100", "labels": {"kind": "in(x, y)"}}
    )
    assert (found["num_gpus"], found["memory"], found["accelerator_type"]) == (1.0, 10 * MIB, "A100")
    assert found["label_selector"] == {"kind": "in(x,y)", REGION_LABEL: "eu"}


@pytest.mark.parametrize("effect", ["idempotent", "effectful"])
def test_ray_repeats_nothing_but_pure_stages(effect: str) -> None:
    assert options(effect=effect)["max_retries"] == 0
