"""Handing a run to a coordinator in the cluster: it is recorded here, and driven there.

The run is checked and accepted by the process that hands it over (`PreparedRun.accept`), so what is wrong with it is said at
once. From then on only its log is shared: the coordinator takes the run up from there. So both sides have to reach the same
store. PostgreSQL with blobs in a bucket is reached from every node; a file or a directory only from this machine, and then the
coordinator is bound to this node.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import ray
from ray.exceptions import ActorAlreadyExistsError, GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.events import RunResumed
from flowmason_ray.engine.executors.ray_cluster import connect
from flowmason_ray.engine.reuse import InDoubt
from flowmason_ray.errors import FlowMasonError, InvalidCall
from flowmason_ray.ray_jobs.coordinator import NAMESPACE, RESTARTS, Coordinator, name_of
from flowmason_ray.ray_jobs.driving import Order
from flowmason_ray.ray_jobs.surroundings import taken_along
from flowmason_ray.resuming import TAKEN_UP, end_stopped
from flowmason_ray.settings import Project
from flowmason_ray.stores.opening import POSTGRES, open_store, project_store, store_addresses

BEGIN_S = 60.0
"""How long is waited for the coordinator to take the run up: a worker process has to start and to plan the pipeline."""
LEAVING_S = 5.0
"""How long is waited for an earlier coordinator of the run that is just leaving, before it counts as one that stays."""
POLL_S = 0.5

_ray: Any = ray


class HandoverFailed(FlowMasonError):
    """The cluster's coordinator could not take the run up. A new run has ended as cancelled; another is as it was."""

    code = "handover_failed"


def check_address(address: str | None) -> str:
    """Return the address of the cluster that a run can be handed to.

    Raises:
        InvalidCall: there is none that outlives this process, or it is one that this process cannot hand a run to.
    """
    found = address or os.environ.get("RAY_ADDRESS")
    if not found or found == "local":
        raise InvalidCall(
            "--detach hands the run to a Ray cluster that outlives this command; without an address Ray would be started here "
            "and end with it. Start one on this machine with 'ray start --head', then say --address auto, or set RAY_ADDRESS."
        )
    if found.startswith(("ray://", "http://", "https://")):
        raise InvalidCall(
            f"--detach needs a machine of the cluster: {found!r} is reached from outside. From there, send the project as a job: "
            "fm submit FILE --address http://HEAD:8265"
        )
    return found


async def detach(prepared: PreparedRun, project: Project, *, address: str | None) -> str:
    """Record a run, hand it to a coordinator in the cluster, and return the node that it is bound to ("": none).

    Args:
        prepared: The run, with the project's store.
        project: Its project.
        address: The cluster's; None: `RAY_ADDRESS`.

    Raises:
        InvalidCall: there is no cluster that a run can be handed to.
        ClusterUnavailable: it cannot be reached.
        HandoverFailed: its coordinator cannot take the run up.
        StoreError: the run cannot be recorded.
    """
    await connect(check_address(address))
    await prepared.accept()
    return await _hand_over(prepared.run_id, project, in_doubt="ask", new=True, position=0)


async def detach_again(prepared: PreparedRun, project: Project, *, in_doubt: InDoubt, address: str | None) -> str:
    """Hand a run that was interrupted or paused to a coordinator in the cluster. Returns as `detach`.

    Args:
        prepared: The run, ready to go on (`resuming.prepare_resume`): that it can is known.
        project: Its project.
        in_doubt: What holds for effectful attempts whose outcome is unknown now.
        address: The cluster's; None: `RAY_ADDRESS`.

    Raises:
        InvalidCall, ClusterUnavailable: as for `detach`.
        HandoverFailed: its coordinator cannot take the run up, or another one is about to; the run is as it was.
    """
    await connect(check_address(address))
    position = len(prepared.recorded)
    return await _hand_over(prepared.run_id, project, in_doubt=in_doubt, new=False, position=position)


async def _hand_over(run_id: str, project: Project, *, in_doubt: InDoubt, new: bool, position: int) -> str:
    runs, blobs = store_addresses(project)
    bound = not (runs.startswith(POSTGRES) and "://" in blobs and not blobs.startswith("file:"))
    order = Order(
        run_id=run_id,
        root=str(project.root),
        runs=runs,
        blobs=blobs,
        lease_s=project.settings.stores.lease_s,
        new=new,
        in_doubt=in_doubt,
        environment=taken_along(project.settings, os.environ),
    )
    try:
        problem = await asyncio.to_thread(_start, order, bound, position)
    except ActorAlreadyExistsError:
        raise HandoverFailed(
            f"A coordinator in the cluster is taking run {run_id!r} up already; it is left alone. Watch it: fm runs watch {run_id}"
        ) from None
    except (RayError, ValueError) as exc:
        problem = ("cluster_unavailable", f"The coordinator cannot be started: {exc}")
    if problem is not None:
        code, message = problem
        if new:
            await _withdraw(project, run_id, message)
        raise HandoverFailed(f"Run {run_id!r} could not be handed to the cluster [{code}]: {message}")
    return _node() if bound else ""


def _start(order: Order, bound: bool, position: int) -> tuple[str, str] | None:
    """Start a run's coordinator; return what keeps it from taking the run up. Then it is gone again.

    Args:
        order: What it does.
        bound: Whether it can only run on this node.
        position: The last event that is recorded of the run.

    Raises:
        ActorAlreadyExistsError: the run has one.
    """
    options: dict[str, Any] = {
        "name": name_of(order.run_id),
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": RESTARTS,
        "max_task_retries": 0,
        "max_concurrency": 2,  # it can be asked whether it has begun and be told to leave
    }
    if bound:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(_node(), soft=False)
    actor = _made(options, order)
    try:
        problem = _problem(actor, order, position)
    except RayError as exc:
        problem = ("cluster_unavailable", f"The coordinator cannot be asked: {exc}")
    if problem is not None:
        with suppress(ValueError, RayError):  # this one alone: whoever has its name by now is somebody else's
            _ray.kill(actor, no_restart=True)
    return problem


def _made(options: Mapping[str, Any], order: Order) -> Any:
    """Make the actor, as soon as one that has left the run does not have its name any more.

    Raises:
        ActorAlreadyExistsError: another has its name, and keeps it.
    """
    deadline = monotonic() + LEAVING_S
    while True:
        try:
            return _ray.remote(Coordinator).options(**options).remote(order)
        except ActorAlreadyExistsError:
            if monotonic() > deadline:
                raise
            sleep(POLL_S)


def _problem(actor: Any, order: Order, position: int) -> tuple[str, str] | None:
    """Wait until the run was taken up; return what was in the way."""
    try:
        return _ray.get(actor.begun.remote(), timeout=BEGIN_S)
    except GetTimeoutError:
        return None  # the cluster is busy; it will
    except RayActorError as exc:
        # The run was so short that its coordinator has left before it could answer; or it died, and is started again.
        taken_up = asyncio.run(_taken_up(order, position))
        return None if taken_up else ("worker_died", f"Its coordinator died: {exc}")


async def _taken_up(order: Order, position: int) -> bool:
    """Wait until the log says that somebody has taken the run up.

    Its status alone does not tell: a run that was paused may have gone on and be paused again.
    """
    store = open_store(order.runs, order.blobs, Path(order.root), lease_s=order.lease_s)
    deadline = monotonic() + BEGIN_S
    while (await store.find(order.run_id)).status in TAKEN_UP:
        async for recorded in store.read(order.run_id, after=position):
            if recorded.event["kind"] == RunResumed.kind:
                return True
        if monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _node() -> str:
    return _ray.get_runtime_context().get_node_id()


async def _withdraw(project: Project, run_id: str, why: str) -> None:
    """End a new run that nobody takes up."""
    store = project_store(project)
    record = await store.find(run_id)
    if record.status == "interrupted":
        await end_stopped(store, record, code="handover_failed", message=f"It could not be handed over: {why}")
