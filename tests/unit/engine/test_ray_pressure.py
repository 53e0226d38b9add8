"""What Ray says about a cluster is read as it is meant: the messages are Ray's own, without a cluster."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray.engine.executors import ray_pressure
from flowmason_ray.engine.executors.capacity import Demand, Node
from flowmason_ray.engine.executors.pressure import Waiting
from flowmason_ray.engine.executors.ray_pressure import Cluster, NotTold, holdings, pressure_from

_messages: Any = importlib.import_module("ray.core.generated.autoscaler_pb2")
_common: Any = importlib.import_module("ray.core.generated.common_pb2")
_raylet: Any = importlib.import_module("ray._raylet")
_errors: Any = importlib.import_module("ray.exceptions")


def request(labels: dict[str, tuple[str, list[str]]] | None = None, **amounts: float) -> Any:
    found = _messages.ResourceRequest(resources_bundle=amounts)
    for label, (operator, values) in (labels or {}).items():
        constraint = _common.LabelSelectorConstraint(
            label_key=label, operator=f"LABEL_OPERATOR_{operator}", label_values=values
        )
        found.label_selectors.append(_common.LabelSelector(label_constraints=[constraint]))
    return found


def test_nodes_that_take_nothing_have_nothing_free() -> None:
    state = _messages.ClusterResourceState()
    for number, status in enumerate(("RUNNING", "IDLE", "DEAD", "DRAINING")):
        labels = {"zone": "a"} if status == "RUNNING" else {}
        state.node_states.add(
            node_id=bytes([number]),
            status=status,
            available_resources={"CPU": 0.5},
            total_resources={"CPU": 2},
            labels=labels,
        )
    assert pressure_from(state).free == (
        Node(id="00", resources={"CPU": 0.5}, labels={"zone": "a"}),
        Node(id="01", resources={"CPU": 0.5}),
    )


def test_tasks_actors_and_gangs_wait() -> None:
    state = _messages.ClusterResourceState()
    state.pending_resource_requests.add(request=request(CPU=1, GPU=1), count=3)
    state.pending_resource_requests.add(request=request(CPU_group_ab=1, bundle_group_ab=0.001), count=1)
    gang = state.pending_gang_resource_requests.add()
    gang.bundle_selectors.add(resource_requests=[request(CPU=2), request({"zone": ("IN", ["a", "b"])}, CPU=1)])
    assert pressure_from(state).waiting == (
        Waiting(together=(Demand(amounts={"CPU": 1, "GPU": 1}),), count=3),
        Waiting(together=(Demand(amounts={"CPU_group_ab": 1}),)),
        Waiting(together=(Demand(amounts={"CPU": 2}), Demand(amounts={"CPU": 1}, labels={"zone": "in(a,b)"}))),
    )


def test_what_may_fall_back_asks_for_the_least() -> None:
    state = _messages.ClusterResourceState()
    wishes: dict[str, tuple[str, list[str]]] = {"zone": ("IN", ["a"]), "kind": ("NOT_IN", ["b"])}
    state.pending_resource_requests.add(request=request(wishes, CPU=1), count=1)
    [waiting] = pressure_from(state).waiting
    assert waiting.together == (Demand(amounts={"CPU": 1}, labels={"kind": "!in(b)"}),)


def test_an_actor_holds_what_its_options_say() -> None:
    options = {"num_cpus": 0.25, "num_gpus": 1.0, "memory": 100.0, "accelerator_type": "T4", "max_concurrency": 2}
    assert holdings(options) == {"CPU": 0.25, "GPU": 1.0, "memory": 100.0, "accelerator_type:T4": 0.001}
    assert holdings({"num_cpus": 0.0}) == {}


@pytest.mark.parametrize(
    ("bundle", "held"), [(-1, {"CPU_group_ab": 2.0}), (1, {"CPU_group_ab": 2.0, "CPU_group_1_ab": 2.0})]
)
def test_in_a_gang_it_holds_what_was_reserved(bundle: int, held: dict[str, float]) -> None:
    group: Any = SimpleNamespace(id=SimpleNamespace(hex=lambda: "ab"))
    strategy: Any = SimpleNamespace(placement_group=group, placement_group_bundle_index=bundle)
    assert holdings({"num_cpus": 2.0, "scheduling_strategy": strategy}) == held


# -- another Ray ------------------------------------------------------------------------------------------------------------


class Asked:
    """A client of Ray's head that answers as the test says."""

    def __init__(self, patch: pytest.MonkeyPatch, answer: Callable[[], bytes]) -> None:
        self.answer = answer
        patch.setattr(_raylet, "GcsClient", self.connected)
        here = SimpleNamespace(gcs_address="head:6379")
        patch.setattr(ray_pressure, "_ray", SimpleNamespace(get_runtime_context=lambda: here, __version__="9.9"))

    def connected(self, address: str) -> Asked:
        return self

    def get_cluster_resource_state(self, timeout_s: float) -> bytes:
        return self.answer()


def raises(error: Exception) -> Callable[[], bytes]:
    def answer() -> bytes:
        raise error

    return answer


@pytest.mark.parametrize("name", ["ray.core.generated.autoscaler_pb2", "ray.core.generated.common_pb2"])
def test_a_ray_without_these_messages_does_not_tell_and_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reply = _messages.GetClusterResourceStateReply()
    wishes: dict[str, tuple[str, list[str]]] = {"zone": ("IN", ["a"])}
    reply.cluster_resource_state.pending_resource_requests.add(request=request(wishes, CPU=1), count=1)
    Asked(monkeypatch, reply.SerializeToString)
    monkeypatch.setitem(sys.modules, name, None)  # as if there were none
    monkeypatch.delitem(sys.modules, ray_pressure.__name__)
    package = importlib.import_module("flowmason_ray.engine.executors")
    monkeypatch.setattr(package, "ray_pressure", ray_pressure)  # so that it is put back
    assert importlib.import_module(ray_pressure.__name__) is not ray_pressure
    with pytest.raises(NotTold, match=rf"^Ray 9\.9 does not say .*{name}.*'idle_s' alone"):
        Cluster().pressure()


def test_a_ray_that_answers_otherwise_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        raises(AttributeError("'GcsClient' object has no attribute 'get_cluster_resource_state'")),
        raises(TypeError("get_cluster_resource_state() got an unexpected keyword argument 'timeout_s'")),
        raises(_errors.RpcError("no such method", rpc_code=12)),
        lambda: b"not a message",
    ]
    asked = Asked(monkeypatch, answers[0])
    for asked.answer in answers:
        with pytest.raises(NotTold, match=r"^Ray 9\.9 does not say"):
            Cluster().pressure()


def test_a_head_that_is_away_is_no_other_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, raises(OSError("down")))
    away: list[Exception] = [
        _errors.RpcError("unavailable", rpc_code=14),
        _errors.GetTimeoutError("late"),
        OSError("down"),
    ]
    for error in away:
        asked.answer = raises(error)
        with pytest.raises(type(error)):
            Cluster().pressure()
