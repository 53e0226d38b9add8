"""Asks Ray what waits for room on the cluster, and what is free on each node.

Ray knows both exactly, for all that it has queued: tasks, actors that are to start, and placement groups, whoever asked for them. It
is what its autoscaler goes by (Ray 2.60, `ray/autoscaler/v2/sdk.py`), and takes 2 ms to ask. It is not part of Ray's public interface:
what it needs is imported when it is asked, and a Ray that has none of it, or something else, is told from one that is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import ray
from ray.exceptions import RayError, RpcError

from flowmason_ray.engine.executors.capacity import ACCELERATOR, Demand, Node
from flowmason_ray.engine.executors.pressure import Pressure, Waiting

ASK_S = 10.0
"""How long Ray's head may take to answer."""
_BUNDLE = "bundle_group"
"""Ray's resource that says no more than that something belongs to a placement group."""
_UNIMPLEMENTED = 12
"""gRPC's status of a method that a server does not have (`grpc/status.h`)."""

_ray: Any = ray  # under this name without types: those of Ray are partly unknown


class NotTold(Exception):
    """This Ray does not say what waits on its cluster, or not in a way that is known here."""


class Cluster:
    """The cluster that this process is connected to."""

    def __init__(self) -> None:
        self._client: Any = None

    def pressure(self) -> Pressure:
        """Ask what waits and what is free.

        Raises:
            RayError: its head does not answer.
            OSError: it cannot be reached.
            NotTold: this Ray does not say so; it is of no use to ask again.
        """
        try:
            return self._asked()
        except RpcError as exc:
            code: Any = getattr(exc, "rpc_code", None)
            if code != _UNIMPLEMENTED:
                raise
            raise _not_told(exc) from exc
        except (RayError, OSError):
            raise
        except Exception as exc:  # another version may have changed all of it: what it raises then has no bounds
            raise _not_told(exc) from exc

    def _asked(self) -> Pressure:
        messages: Any = import_module("ray.core.generated.autoscaler_pb2")
        if self._client is None:
            client: Any = import_module("ray._raylet").GcsClient
            self._client = client(address=_ray.get_runtime_context().gcs_address)
        reply = messages.GetClusterResourceStateReply.FromString(
            self._client.get_cluster_resource_state(timeout_s=ASK_S)
        )
        return pressure_from(reply.cluster_resource_state)


def _not_told(exc: Exception) -> NotTold:
    return NotTold(
        f"Ray {_ray.__version__} does not say what waits for room on the cluster as Ray 2.60 does ({type(exc).__name__}: {exc}). "
        "For the rest of the run, idle actors go by their 'idle_s' alone: not earlier when others wait for what they hold, and "
        "the last 'min' of them not before its end."
    )


def pressure_from(state: Any) -> Pressure:
    """Read what Ray says (`ClusterResourceState` in Ray's `autoscaler.proto`)."""
    messages: Any = import_module("ray.core.generated.autoscaler_pb2")
    free = [
        Node(id=node.node_id.hex(), resources=dict(node.available_resources), labels=dict(node.labels))
        for node in state.node_states
        if messages.NodeStatus.Name(node.status) in ("RUNNING", "IDLE")
    ]
    waiting = [
        Waiting(together=(_demand(each.request),), count=int(each.count)) for each in state.pending_resource_requests
    ]
    for gang in state.pending_gang_resource_requests:
        bundles = gang.bundle_selectors[0].resource_requests if gang.bundle_selectors else gang.requests
        waiting.append(Waiting(together=tuple(_demand(each) for each in bundles)))
    return Pressure(waiting=tuple(waiting), free=tuple(free))


def _demand(request: Any) -> Demand:
    operators: Any = import_module("ray.core.generated.common_pb2").LabelSelectorOperator
    labels: dict[str, str] = {}
    for selector in request.label_selectors[-1:]:  # the last is the one to fall back on: it asks for least
        for each in selector.label_constraints:
            negated = "NOT" in operators.Name(each.operator)
            labels[each.label_key] = f"{'!' if negated else ''}in({','.join(each.label_values)})"
    amounts = {name: n for name, n in request.resources_bundle.items() if not name.startswith(_BUNDLE)}
    return Demand(amounts=amounts, labels=labels)


def holdings(options: Mapping[str, Any]) -> dict[str, float]:
    """Return what an actor with these options holds, by Ray's resource names."""
    found: dict[str, float] = {}
    for option, name in (("num_cpus", "CPU"), ("num_gpus", "GPU"), ("memory", "memory")):
        if options.get(option):
            found[name] = float(options[option])
    if options.get("accelerator_type"):
        found[f"{ACCELERATOR}{options['accelerator_type']}"] = 0.001
    strategy = options.get("scheduling_strategy")
    group = getattr(strategy, "placement_group", None)
    if group is None:
        return found
    # In a placement group: Ray has names of their own for what is reserved, for all of it and for each bundle.
    number = int(getattr(strategy, "placement_group_bundle_index", -1))
    places = [""] if number < 0 else ["", f"{number}_"]
    return {f"{name}_group_{place}{group.id.hex()}": n for name, n in found.items() for place in places}
