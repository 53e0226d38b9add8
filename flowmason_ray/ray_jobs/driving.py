"""What a coordinator in a cluster does: takes a recorded run up and drives it, again and again until it has stopped for good.

It is given nothing but where the run is recorded. Whether the run has just been accepted, or an earlier coordinator died in the
middle of it, makes no difference: the log says what is left to do, leases and epochs see to it that one process at a time does it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.events import StageLogged
from flowmason_ray.engine.reuse import InDoubt
from flowmason_ray.engine.run_log import RunRecord, RunStore
from flowmason_ray.errors import Fenced, FlowMasonError, StoreError, StoreUnavailable
from flowmason_ray.resuming import TAKEN_UP, prepare_resume
from flowmason_ray.stores.opening import open_store

STORE_PATIENCE_S = 900.0
"""How long a store that cannot be reached is tried again: a database is being moved, a network is down."""
LEASES = 3
"""How many leases are waited for until a run that another process seems to drive is left to it."""
POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A run that is to be driven. Small: a cluster keeps it, to start the coordinator again with."""

    run_id: str
    root: str
    """The project's directory, at the same place where the coordinator runs."""
    runs: str
    blobs: str
    lease_s: float
    in_doubt: InDoubt = "ask"
    """What holds for effectful attempts whose outcome was unknown when the order was given."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Environment variables that the project may read, and those that lead to its store: taken along from whoever asked."""


async def drive(order: Order, begun: Callable[[], None], *, again: bool = False) -> str:
    """Drive a run until it has stopped for good; return its status.

    Args:
        order: The run.
        again: Whether an earlier process has carried out this order: what was said about attempts in doubt was about others.
        begun: Is called when the run was found and can be taken up.

    Raises:
        InvalidCall, InvalidPipeline: it cannot be taken up: its files are not here as they were, or effects are in doubt.
        Fenced: another process drives it.
        StoreError: the store stays away.
    """
    os.environ.update(order.environment)
    store = open_store(order.runs, order.blobs, Path(order.root), lease_s=order.lease_s)
    lost_at: float | None = None
    pause_s = POLL_S
    while True:
        try:
            record = await _free(store, order)
            if record.status not in TAKEN_UP:
                begun()
                return record.status
            prepared = await _prepared(store, record, "ask" if again else order.in_doubt)
            again = True
            begun()
            lost_at = None
            return (await prepared.run()).status
        except StoreUnavailable:
            lost_at = monotonic() if lost_at is None else lost_at
            if monotonic() - lost_at > STORE_PATIENCE_S:
                raise
            await asyncio.sleep(pause_s)
            pause_s = min(30.0, pause_s * 2)


async def _free(store: RunStore, order: Order) -> RunRecord:
    """Return the run when no process drives it any more.

    Raises:
        Fenced: one goes on driving it.
    """
    deadline = monotonic() + LEASES * order.lease_s
    while True:
        record = await store.find(order.run_id)
        if record.status != "running":
            return record
        if monotonic() > deadline:
            raise Fenced(f"Run {order.run_id!r} is driven by another process.")
        await asyncio.sleep(POLL_S)


async def _prepared(store: RunStore, record: RunRecord, in_doubt: InDoubt) -> PreparedRun:
    try:
        return await prepare_resume(store, record.run_id, in_doubt=in_doubt, on="ray")
    except (StoreUnavailable, Fenced):
        raise
    except FlowMasonError as exc:
        await leave_word(store, record, exc)
        raise


async def leave_word(store: RunStore, record: RunRecord, error: FlowMasonError) -> None:
    """Keep with the run why nobody goes on with it, for 'fm runs logs'."""
    try:
        log = store.reopen(record)
    except StoreError:
        return  # somebody else has taken it up, or nothing can be written
    message = f"The run's coordinator in the cluster does not go on with it: {error.message}"
    log.say(StageLogged(at=time(), path="", level="error", message=message, fields={"code": error.code}))
    await log.close()
