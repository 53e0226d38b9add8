"""Where stages run on a cluster of several nodes, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import stage
from tests.cluster_kit import Nodes, Runs, runs_on, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]

COMPONENTS = '''
"""Components that say where they run."""

import time
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel

from flowmason_ray import operator


@operator(effect="pure", cost="cpu")
class Where:
    """Says on which node it runs, and between which times."""

    class Input(BaseModel):
        size: int = 0
        seconds: float = 0
        reads: Any = None
        wait_for: str | None = None

    class Output(BaseModel):
        node: str
        region: str | None
        began: float
        ended: float
        data: str

    def execute(self, input, context):
        began = time.monotonic()
        folder = Path(context.project_dir)
        with (folder / "notes.txt").open("a") as notes:
            notes.write(f"began {context.path}\\n")
        while input.wait_for and not (folder / input.wait_for).exists():
            time.sleep(0.05)
        time.sleep(input.seconds)
        node = ray.get_runtime_context().get_node_id()
        return {"node": node, "region": context.region, "began": began, "ended": time.monotonic(), "data": "x" * input.size}
'''


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes(num_cpus=1, labels={"ray.io/region": "eu"})
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def runs(nodes: Nodes, tmp_path: Path) -> Iterator[Runs]:
    with runs_on(nodes, tmp_path, COMPONENTS) as runs:
        yield runs


def where(id: str, *after: str, **more: Any) -> dict[str, Any]:
    return stage(id, "where", after, **more)


def loop(*bodies: dict[str, Any], count: int, **more: Any) -> list[dict[str, Any]]:
    config = {
        "items": list(range(count)),
        "loop_stages": [body["id"] for body in bodies],
        "max_parallel": count,
        "collect": "{{ stages." + bodies[-1]["id"] + " }}",
    }
    return [stage("each", "foreach", config=config, **more), *bodies]


def test_labels_regions_and_near(nodes: Nodes, runs: Runs) -> None:
    """One run, and all of where its stages ran: starting a process for each question would take a minute."""
    us = nodes.add(num_cpus=4, labels={"ray.io/region": "us", "disk": "ssd"})
    asia = nodes.add(num_cpus=4, labels={"ray.io/region": "asia"})
    runs.settings(datasets={"sales": {"path": "s3://bucket/sales", "labels": {"ray.io/region": "asia"}}})
    region = "ray.io/region"
    done = runs.run(
        [
            where("in", resources={"labels": {region: "in(us, mars)"}}),
            where("not_in", resources={"labels": {region: "!in(us, eu)"}}),
            where("not", resources={"labels": {region: "!eu", "disk": "!ssd"}}),
            where("several", resources={"labels": {region: "us", "disk": "ssd"}}),
            where("near_stage", "several", placement={"near": "several"}),
            where("near_stage_elsewhere", "not_in", placement={"near": "not_in"}),
            where("near_data", placement={"near": "sales"}),
            where("near_path", placement={"near": "s3://bucket/sales/2024.parquet"}),
            where("near_data_but_not_there", placement={"near": "sales"}, resources={"labels": {"disk": "ssd"}}),
        ],
        output={
            "single": {
                name: "{{ stages." + name + ".node }}"
                for name in (
                    "in",
                    "not_in",
                    "not",
                    "several",
                    "near_stage",
                    "near_stage_elsewhere",
                    "near_data",
                    "near_path",
                    "near_data_but_not_there",
                )
            },
            "region": "{{ stages.not_in.region }}",
        },
    )
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"]["single"] == {
        "in": us,
        "not_in": asia,
        "not": asia,
        "several": us,
        "near_stage": us,
        "near_stage_elsewhere": asia,
        "near_data": asia,
        "near_path": asia,
        "near_data_but_not_there": us,
    }
    assert done["output"]["region"] == "asia"


def test_instances_that_are_spread_have_a_node_each(nodes: Nodes, runs: Runs) -> None:
    """Each node has room for all of them, so that Ray would put them together if it were not asked."""
    added = {nodes.add(num_cpus=4) for _ in range(4)}
    spread = loop(where("apart", config={"wait_for": "go"}, placement={"strategy": "spread"}), count=4)
    process = runs.start(spread, output="{{ stages.each.results | map(attribute='node') }}")
    runs.noted("began", times=4)  # all at a time
    runs.say("go")
    found = runs.end(process)["output"]
    assert len(set(found)) == 4
    assert set(found) <= added | {nodes.head}


def test_instances_that_are_packed_share_a_node_while_there_is_room(nodes: Nodes, runs: Runs) -> None:
    nodes.add(num_cpus=3)
    big = nodes.add(num_cpus=4)
    packed = loop(where("together", config={"seconds": 0.2}, placement={"strategy": "pack"}), count=4)
    done = runs.run(packed, output="{{ stages.each.results | map(attribute='node') }}")
    assert done["output"] == [big] * 4


def test_a_run_in_a_region_stays_there(nodes: Nodes, runs: Runs) -> None:
    us = nodes.add(num_cpus=1, labels={"ray.io/region": "us"})
    runs.settings(ray={"region": "us"})
    done = runs.run(
        [where("a"), where("b", resources={"labels": {"ray.io/region": "eu"}})],
        output={"a": "{{ stages.a.node }}", "b": "{{ stages.b.node }}"},
    )
    assert done["output"] == {"a": us, "b": nodes.head}


def test_a_gang_starts_together_or_not_at_all(nodes: Nodes, runs: Runs) -> None:
    nodes.add(num_cpus=1, labels={"kind": "left"})
    nodes.add(num_cpus=1, labels={"kind": "right"})
    blocker = where("blocker", config={"wait_for": "go"}, resources={"labels": {"kind": "right"}})
    gang = stage(
        "gang",
        "parallel",
        config={"branches": [["left"], ["right"]]},
        placement={"gang": True, "strategy": "spread"},
    )
    members = [where(kind, config={"seconds": 0.5}, resources={"labels": {"kind": kind}}) for kind in ("left", "right")]
    # The gang waits for the blocker's place, although one of the two could begin at once.
    begin = stage("begun", "where", resources={"labels": {"ray.io/region": "eu"}})
    gang["depends_on"] = ["begun"]
    process = runs.start(
        [blocker, begin, gang, *members],
        output={"left": "{{ stages.left }}", "right": "{{ stages.right }}", "blocker": "{{ stages.blocker }}"},
    )
    runs.noted("began", 2)
    until(lambda: "began blocker" in runs.notes() and "began begun" in runs.notes())
    assert not {"began left", "began right"} & set(runs.notes())
    runs.say("go")
    done = runs.end(process)
    left, right, blocked = (done["output"][name] for name in ("left", "right", "blocker"))
    assert left["node"] != right["node"]
    assert left["began"] >= blocked["ended"]  # it had room long before
    assert right["began"] >= blocked["ended"]


def test_a_gang_for_which_there_is_never_room_is_refused(runs: Runs) -> None:
    done = runs.run(loop(where("a", resources={"num_cpus": 1}), count=3, placement={"gang": True}))
    assert done["error"]["code"] == "infeasible_resources"
    assert "room for 3 at the same time" in done["error"]["message"]


def test_a_gpu_on_a_cluster_without_any_is_refused_before_anything_runs(runs: Runs) -> None:
    stages = [where("first"), where("train", "first", resources={"num_gpus": 1})]
    done = runs.run(stages)
    assert done["status"] == "failed"
    assert done["error"]["code"] == "infeasible_resources"
    assert "'train'" in done["error"]["message"]
    assert "1 GPU" in done["error"]["message"]
    assert "none of the cluster's 1 node has any GPU" in done["error"]["message"]
    assert runs.notes() == []


def test_what_may_never_be_reached_is_refused_only_there(runs: Runs) -> None:
    stages = [where("first"), where("train", "first", resources={"num_gpus": 1}, when="stages.first.data != ''")]
    assert runs.run(stages)["status"] == "succeeded"


def test_a_stage_may_wait_for_a_node_that_comes_later(nodes: Nodes, runs: Runs) -> None:
    runs.settings(ray={"wait_for_resources_s": 140})
    labels = {"labels": {"kind": "late"}}
    process = runs.start([where("first"), where("late", "first", resources=labels)], output="{{ stages.late.node }}")
    runs.noted("began")
    late = nodes.add(num_cpus=1, labels={"kind": "late"})
    done = runs.end(process)
    assert done["output"] == late


def test_nobody_waits_for_ever(runs: Runs) -> None:
    stages = [where("late", resources={"labels": {"kind": "never"}})]
    done = runs.run(stages, "--wait-for-resources", "0.5")
    assert done["error"]["code"] == "infeasible_resources"
    assert "It waited 0.5 s" in done["error"]["message"]
