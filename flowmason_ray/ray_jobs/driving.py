"""What a coordinator in a cluster does: takes a recorded run up and drives it, again and again until it has stopped for good.

It is given nothing but where the run is recorded. Whether the run has just been accepted, or an earlier coordinator died in the
middle of it, makes no difference: the log says what is left to do, leases and epochs see to it that one process at a time does it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time

from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.events import ATTEMPT_ENDED, Event, RunPaused, RunResumed, StageLogged
from flowmason_ray.engine.reuse import InDoubt
from flowmason_ray.engine.run_log import RunRecord, RunStore
from flowmason_ray.errors import Fenced, FlowMasonError, StoreError, StoreUnavailable
from flowmason_ray.resuming import TAKEN_UP, prepare_resume
from flowmason_ray.stores.encoding import event_from_json
from flowmason_ray.stores.opening import open_store

STORE_PATIENCE_S = 900.0
"""How long a store that cannot be reached is tried again: a database is being moved, a network is down. What counts is the time
that it was away since an attempt of the run was last recorded."""
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
    new: bool = False
    """Whether nobody has driven it before."""
    in_doubt: InDoubt = "ask"
    """What holds for effectful attempts whose outcome was unknown when the order was given."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Environment variables that the project may read, and those that lead to its store: taken along from whoever asked."""


async def drive(order: Order, begun: Callable[[], None], *, again: bool = False) -> str:
    """Drive a run until it has stopped for good; return its status.

    Args:
        order: The run.
        again: Whether an earlier process has carried out this order: what was said about attempts in doubt was about others, and
            a run that is paused was paused since.
        begun: Is called when the log says that the run goes on here, or when there is nothing to do.

    Raises:
        InvalidCall, InvalidPipeline: it cannot be taken up: its files are not here as they were, or effects are in doubt.
        Fenced: another process drives it.
        StoreError: the store stays away.
    """
    os.environ.update(order.environment)
    driving = _Driving(order, begun, taken_up=again)
    try:
        return await driving.until_it_stops()
    except Fenced:
        raise  # somebody else has it: there is nothing to say about it here
    except FlowMasonError as exc:
        await leave_word(driving.store, order.run_id, exc.code, exc.message)
        raise
    except Exception as exc:
        # Only its type: what else it says may hold values of the run, and nothing is masked here.
        message = f"{type(exc).__name__}; the coordinator's log in the cluster says more."
        await leave_word(driving.store, order.run_id, "internal_error", message)
        raise


class _Driving:
    """Takes one run up, as often as its store comes back."""

    def __init__(self, order: Order, begun: Callable[[], None], *, taken_up: bool) -> None:
        self.store = open_store(order.runs, order.blobs, Path(order.root), lease_s=order.lease_s)
        self._order = order
        self._begun = begun
        self._taken_up = taken_up
        self._goes_on = False
        """Whether the run goes on by what was tried last."""
        self._reports = -1
        """How many attempts had ended when the run was read last."""
        self._away_s = 0.0
        """How long the store has been away since the run last got on."""
        self._pause_s = POLL_S

    async def until_it_stops(self) -> str:
        """Drive the run; return the status in which it is left."""
        while True:
            tried_at, self._goes_on = monotonic(), False
            try:
                record = await _free(self.store, self._order)
                # One that was paused since is left so: whoever did that wants it, and resumes it.
                if record.status not in TAKEN_UP or (self._taken_up and record.status == "paused"):
                    self._begun()
                    return record.status
                return (await (await self._prepared(record)).run()).status
            except StoreUnavailable:
                if not self._goes_on:  # else it was there while the run went on
                    self._away_s += monotonic() - tried_at
                if self._away_s > STORE_PATIENCE_S:
                    raise
                await asyncio.sleep(self._pause_s)
                self._away_s += self._pause_s
                self._pause_s = min(30.0, self._pause_s * 2)

    async def _prepared(self, record: RunRecord) -> PreparedRun:
        in_doubt = "ask" if self._taken_up else self._order.in_doubt
        prepared = await prepare_resume(
            self.store,
            record.run_id,
            in_doubt=in_doubt,
            on="ray",
            observers=[self._see],
            handed_over=True,
            same=self._taken_up or self._order.new,
        )
        reports = sum(isinstance(event, ATTEMPT_ENDED) for event in prepared.recorded)
        if reports > self._reports:  # it got on since: a store that is away now and then is no reason to end
            self._away_s, self._pause_s = 0.0, POLL_S
        self._reports = reports
        return prepared

    def _see(self, event: Event) -> None:
        if isinstance(event, RunResumed):
            self._taken_up = self._goes_on = True
            self._begun()


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


async def leave_word(store: RunStore, run_id: str, code: str, message: str) -> None:
    """Keep with the run why nobody goes on with it, for 'fm runs logs'. A run that is paused stays so."""
    said = f"The run's coordinator in the cluster does not go on with it: {message}"
    try:
        record = await store.find(run_id)
        paused = await _pause_of(store, run_id) if record.status == "paused" else None
        log = store.reopen(record)
        log.say(StageLogged(at=time(), path="", level="error", message=said, fields={"code": code}))
        if paused is not None:  # being written to is being taken up
            log.append(replace(paused, at=time()))
        await log.close()
    except StoreError:
        return  # somebody else has taken it up, or nothing can be written


async def _pause_of(store: RunStore, run_id: str) -> RunPaused | None:
    """Return the event that paused a run."""
    found: RunPaused | None = None
    async for recorded in store.read(run_id):
        if recorded.event["kind"] == RunPaused.kind:
            event = event_from_json(recorded.event)
            assert isinstance(event, RunPaused)
            found = event
    return found
