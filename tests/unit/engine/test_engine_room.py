"""What an engine's actor asks of a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from flowmason_ray.engine.executors import ray_engine_asking, ray_engines
from flowmason_ray.engine.executors.capacity import Node, missing
from flowmason_ray.engine.executors.ray_engine_asking import SharedEngines
from flowmason_ray.engine.executors.ray_engines import demand_of, options_of
from flowmason_ray.errors import PermanentError
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


class _Cluster:
    """As much of Ray as the keeper uses, with nodes that come when the test says so."""

    def __init__(self) -> None:
        self.found: list[Node] = [PLAIN]
        self.killed: list[Any] = []

    def nodes(self) -> list[Node]:
        return self.found

    def remote(self, _: type) -> _Cluster:
        return self

    def options(self, **_: Any) -> Any:
        return SimpleNamespace(remote=object)

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def test_everybody_waits_for_a_node_for_as_long_as_he_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster()
    monkeypatch.setattr(ray_engines, "_ray", cluster)
    monkeypatch.setattr(ray_engines, "nodes_from", list[Node])
    monkeypatch.setattr(ray_engines, "LOOK_AGAIN_S", 0.001)
    wanted = settings(resources={"num_gpus": 4}).model_dump(mode="json")

    async def both() -> Any:
        keeper = ray_engines._Keeper()  # pyright: ignore[reportPrivateUsage]  # what is tested
        patient = asyncio.create_task(keeper.host("patient", "one", wanted, None, 3600))
        await asyncio.sleep(0)
        with pytest.raises(PermanentError, match="'hasty' can never run on this cluster"):
            await keeper.host("hasty", "two", wanted, None, 0)
        assert not patient.done()
        cluster.found = [PLAIN, WITH_GPUS]
        return await patient

    host, said = asyncio.run(asyncio.wait_for(both(), 60))
    assert host is not None
    assert said is None
    assert not cluster.killed


def test_a_worker_tells_the_keeper_how_long_its_run_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Found(Exception):
        pass

    def host(*arguments: Any) -> Any:
        asked.extend(arguments)
        raise Found

    keeper = SimpleNamespace(host=SimpleNamespace(remote=host))
    names: list[str] = []

    def get_actor(name: str) -> Any:
        names.append(name)
        return keeper

    monkeypatch.setattr(ray_engine_asking, "_ray", SimpleNamespace(get_actor=get_actor))
    engines = SharedEngines("keeper", 90.0)
    assert engines.name != SharedEngines("keeper", 0.0).name, "a worker keeps one way for each"
    provider = engines.provider("m", settings(), None, Path())

    async def ready() -> None:
        await provider.ready(names.append, "chat")

    with pytest.raises(Found):
        asyncio.run(ready())
    assert names == ["keeper"]
    assert asked[-1] == 90.0
