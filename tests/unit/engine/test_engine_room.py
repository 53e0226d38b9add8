"""What an engine's actor asks of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from flowmason_ray.engine.executors.capacity import Node, missing
from flowmason_ray.engine.executors.ray_engines import demand_of, options_of
from flowmason_ray.settings import ProviderSettings

PLAIN = Node(id="a", resources={"CPU": 8})
WITH_GPUS = Node(id="b", resources={"CPU": 8, "GPU": 4, "accelerator_type:A100": 1}, labels={"zone": "x"})


def settings(**more: Any) -> ProviderSettings:
    return ProviderSettings.model_validate({"type": "vllm", "model_path": "m", **more})


def test_it_takes_gpus_where_there_are_any() -> None:
    assert demand_of(settings(), [PLAIN]).amounts == {"CPU": 0, "GPU": 0}
    assert demand_of(settings(), [PLAIN, WITH_GPUS]).amounts["GPU"] == 1
    parallel = settings(options={"tensor_parallel_size": 2, "pipeline_parallel_size": 2})
    assert demand_of(parallel, [WITH_GPUS]).amounts["GPU"] == 4
    assert demand_of(settings(resources={"num_gpus": 0.5}), [WITH_GPUS]).amounts["GPU"] == 0.5
    assert demand_of(settings(resources={"num_gpus": 2}), [PLAIN]).amounts["GPU"] == 2, "what is asked is asked"


def test_what_it_asks_becomes_options_of_the_actor() -> None:
    asked = {
        "num_gpus": 1,
        "num_cpus": 2,
        "memory_mib": 1024,
        "accelerator_type": "A100",
        "labels": {"zone": "in(x, y)"},
    }
    demand = demand_of(settings(resources=asked), [WITH_GPUS])
    options = options_of(demand)
    del options["max_concurrency"]
    assert options == {
        "num_gpus": 1,
        "num_cpus": 2,
        "memory": 1024 * 2**20,
        "accelerator_type": "A100",
        "label_selector": {"zone": "in(x,y)"},
    }


def test_nothing_is_set_apart_unless_it_is_asked() -> None:
    options = options_of(demand_of(settings(), [PLAIN]))
    assert options["num_cpus"] == 0
    assert "num_gpus" not in options


def test_what_no_node_has_is_said() -> None:
    found = missing(demand_of(settings(resources={"num_gpus": 8}), [WITH_GPUS]), [PLAIN, WITH_GPUS])
    assert found is not None
    assert "8 GPU" in found
    assert "4 GPU" in found
