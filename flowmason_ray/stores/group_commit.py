"""The writer of a run's log, for every store that commits: a queue, a thread that commits it in groups, and the lease.

`append` only queues. The thread takes what is queued, writes it down (`Encoder`, blobs included), and has it committed by the
store's `Journal` in one transaction, which checks the epoch: the price of a commit is shared, and a group is recorded whole or
not at all. The thread also renews the lease, with the commits or, when there are none, by itself.

When the connection to the store is lost the group is kept and tried again for a bounded time. Nobody knows then whether the
last commit came through; positions are looked up before anything is written again, so nothing is lost and nothing doubled.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowmason_ray.engine.events import (
    Event,
    RunCancelled,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSucceeded,
    StageLogged,
    StageSucceeded,
)
from flowmason_ray.engine.run_log import CachedResult, Request
from flowmason_ray.engine.values import Packed
from flowmason_ray.errors import Fenced, StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import BlobStore
from flowmason_ray.stores.encoding import Encoder
from flowmason_ray.stores.owners import LEASE_S, MARGIN, RENEWALS, clock

GROUP_DELAY_S = 0.01
"""How long the writer gathers events when nobody waits for them: a reader is at most this far behind."""
IDLE_S = 0.1
"""How often a writer without work looks whether there is some."""
GROUP_LIMIT = 2_000
"""Events in one commit at most: what is written down for it is in memory until it is there."""
PATIENCE_S = 30.0
"""How long a writer that has lost its store tries again: a database that is restarted needs a few seconds."""
BLOB_TRIES = 20
"""How often a group is written down again because a blob of it is gone."""

Row = tuple[int, float, str, str | None, str | None]
"""An event as it is stored: position, time, kind, path, body (JSON; None: nothing more to say)."""

STATUS_OF: dict[type[Event], str] = {
    RunSucceeded: "succeeded",
    RunFailed: "failed",
    RunCancelled: "cancelled",
    RunPaused: "paused",
    RunResumed: "running",
}
"""What a run is when one of these is recorded."""


SaidRow = tuple[int, float, str, int, str, str, str | None]
"""What a stage said, as it is stored: number, time, path, attempt, level, message, fields (JSON; None: there are none)."""


class ConnectionLost(StoreUnavailable):
    """The store is not reached any more, perhaps only now. Whether the last commit came through is not known."""


class BlobsGone(StoreError):
    """Blobs that a group refers to were removed while it waited: it has to be written down again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a run's row changes with a group."""

    name: str
    ended_at: float | None = None
    failure: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResult:
    """A result that later runs may use: what is queued for it, or with `body` what is recorded."""

    fingerprint: str
    event: StageSucceeded
    ttl_s: float | None
    body: str = ""
    digests: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Group:
    """What is committed together. An empty one only renews the lease."""

    rows: list[Row] = field(default_factory=list[Row])
    results: list[KeptResult] = field(default_factory=list[KeptResult])
    said: list[SaidRow] = field(default_factory=list[SaidRow])
    digests: set[str] = field(default_factory=set[str])
    """Blobs that the rows refer to."""
    status: Status | None = None


class Journal(Protocol):
    """One run in a store's tables, for its writer. Used by the writer's thread alone, but for what reads."""

    where: str
    """Names the store in messages."""
    store_id: str
    epoch: int
    recorded: int
    """The position of the last event that was recorded when the journal was opened."""
    asked_before: int
    """The number of the last request that was made of the run when it was taken over; 0 for a new run."""
    said: int
    """The number of the last thing that a stage had said when the journal was opened."""

    def write(self, group: Group, *, renew: bool) -> None:
        """Commit a group, and with `renew` a longer lease, in one transaction that checks the epoch.

        Raises:
            Fenced: the epoch is not ours any more; nothing was written.
            BlobsGone: blobs that the group refers to are not there; nothing was written.
            ConnectionLost: the store cannot be reached; whether it was written is not known.
            StoreUnavailable: it cannot be written.
        """
        ...

    def recover(self) -> int:
        """Reach the store again after `ConnectionLost`; return the position of the last recorded event.

        Raises:
            ConnectionLost: it still cannot be reached.
            Fenced: the epoch is not ours any more.
        """
        ...

    def idle(self) -> None:
        """Do what can wait until there is nothing to commit. Errors are passed over."""
        ...

    def requests(self, after: int) -> Sequence[Request]:
        """Return what was asked of the run. May be called from any thread."""
        ...

    def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return a result that is kept. May be called from any thread."""
        ...

    def release(self) -> None:
        """Give the lease of a run that goes on back, if it is still ours. Errors are passed over: it runs out by itself."""
        ...

    def close(self) -> None:
        """Let go of every connection."""
        ...


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """Somebody in `flush`: is answered when this many items are committed, and the lease was renewed after `since`."""

    wanted: int
    since: float
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class CommittingRunLog:
    """The log of one run, for its writer: events are queued, a thread commits them in groups."""

    durable = True
    remembers = True

    def __init__(
        self,
        journal: Journal,
        blobs: BlobStore | None,
        secrets: Iterable[str] = (),
        *,
        since: float,
        lease_s: float = LEASE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """
        Args:
            journal: The run in its store, opened: its lease is ours.
            blobs: Where large values go.
            secrets: What is masked.
            since: `clock()` before the journal was opened: the lease began then or later.
            lease_s: How long a lease lasts.
            patience_s: How long a store that was lost is tried again.
        """
        self.epoch = journal.epoch
        self.asked_before = journal.asked_before
        self._journal = journal
        self._blobs = blobs
        self._encoder = Encoder(blobs, secrets=secrets, without=_IN_COLUMNS)
        self._claimed = False
        self._queue: deque[Event | KeptResult] = deque()
        self._position = journal.recorded
        self._said = journal.said
        # Counts of queued items: all, those that should be committed without delay, and those that are.
        self._appended = self._wanted = self._committed = 0
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._renewed = since
        """When, by `clock`, the last renewal that succeeded was begun."""
        self._renewal_wanted = False
        self._leased = True
        """Whether a lease is held at all: not when the run has ended or paused."""
        self._wake = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._error: StoreError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._write, name="flowmason-run-log", daemon=True)
        self._thread.start()

    def append(self, event: Event) -> None:
        """Queue an event."""
        if self._error is not None:
            raise self._error
        if self._closing:
            raise StoreError("The log of this run is closed.")
        self._queue.append(event)
        self._appended += 1

    def keep_result(self, fingerprint: str, event: StageSucceeded, *, ttl_s: float | None) -> None:
        """Queue a stage's result for reuse by later runs, behind the events that are queued already."""
        if self._error is None and not self._closing:
            self._queue.append(KeptResult(fingerprint=fingerprint, event=event, ttl_s=ttl_s))
            self._appended += 1

    def say(self, said: StageLogged) -> None:
        """Queue what a stage said, to be kept beside the log; what is said too late is passed over."""
        if self._error is None and not self._closing:
            self._queue.append(said)
            self._appended += 1

    def check_lease(self) -> None:
        """Make sure, without waiting, that this process may still act for the run."""
        if self._error is not None:
            raise self._error
        if self._overdue():
            raise Fenced(
                f"The lease on this run was last renewed {clock() - self._renewed:.0f} s ago and may have run out: this process "
                "was stopped, or its store could not be reached. Nothing is begun until it is renewed."
            )

    def _overdue(self) -> bool:
        return self._leased and clock() - self._renewed > self._lease_s * (1 - MARGIN)

    async def flush(self) -> None:
        """Return when everything appended so far is durable, and the lease is ours."""
        if self._error is not None:
            raise self._error
        if self._committed < self._appended or self._overdue():
            await self._next_commit()
        while self._overdue():  # the commit took about as long as the lease that it renewed: nobody has taken that
            await self._next_commit()

    async def _next_commit(self) -> None:
        """Return when what is queued is committed; the lease was renewed with that if it was overdue before."""
        overdue = self._overdue()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._wake:
            if self._error is not None:  # the writer gave up just now; it answers nobody any more
                raise self._error
            self._wanted = self._appended
            self._renewal_wanted = self._renewal_wanted or overdue
            since = clock() if overdue else 0.0
            self._waiting.append(_Waiting(wanted=self._appended, since=since, loop=loop, done=done))
            self._wake.notify()
        await done

    async def requests(self, *, after: int) -> Sequence[Request]:
        """Return what was asked of the run behind request number `after`."""
        return await asyncio.to_thread(self._journal.requests, after)

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return the result kept under a fingerprint."""
        return await asyncio.to_thread(self._journal.kept_result, fingerprint)

    async def close(self) -> None:
        """Flush, end the writer thread, and give the lease back."""
        try:
            await self.flush()
        finally:
            with self._wake:
                self._closing = True
                self._wake.notify()
            await asyncio.to_thread(self._thread.join)

    # -- the writer thread ----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        try:
            while self._error is None:
                with self._wake:
                    waits = self._wanted <= self._committed and not self._closing and not self._renewal_wanted
                    if waits or (self._queue and _is_pending(self._queue[0])):
                        self._wake.wait(GROUP_DELAY_S if self._queue else IDLE_S)
                    closing = self._closing
                if (self._queue and not _is_pending(self._queue[0])) or (not closing and self._renewal_due()):
                    self._commit_next()
                elif closing and not self._queue:
                    return
                else:
                    self._journal.idle()
        finally:
            self._journal.release()
            self._journal.close()
            self._answer()

    def _renewal_due(self) -> bool:
        return self._leased and (self._renewal_wanted or clock() - self._renewed > self._lease_s / RENEWALS)

    def _commit_next(self) -> None:
        """Commit what is queued now and can be written down, or only a longer lease."""
        items: list[Event | KeptResult] = []
        while self._queue and len(items) < GROUP_LIMIT and not _is_pending(self._queue[0]):
            items.append(self._queue.popleft())
        try:
            group = self._committed_group(items)
        except StoreError as exc:
            self._error = exc
        except Exception as exc:  # a value that cannot be encoded: the thread must not die without saying so
            self._error = StoreError(f"An event cannot be recorded: {exc}.")
        else:
            if group.rows:
                self._position = group.rows[-1][0]
            if group.said:
                self._said = group.said[-1][0]
            if group.status is not None:
                self._leased = group.status.name == "running"
            self._committed += len(items)
        self._answer()

    def _committed_group(self, items: Sequence[Event | KeptResult]) -> Group:
        """Write items down and commit them, again while the store is lost or a blob is gone."""
        group = self._encoded(items)
        lost_at: float | None = None
        tries = 0
        while True:
            begun = clock()
            renew = self._renewal_due()
            try:
                if lost_at is not None and self._is_recorded(group):
                    return group
                self._journal.write(group, renew=renew)
            except BlobsGone:
                tries += 1
                if tries == BLOB_TRIES:
                    raise
                self._encoder.anew = True
                try:
                    group = self._encoded(items)
                finally:
                    self._encoder.anew = False
            except ConnectionLost as exc:
                lost_at = begun if lost_at is None else lost_at
                if clock() - lost_at > self._patience_s:
                    raise StoreUnavailable(
                        f"{exc.message} It was tried again for {self._patience_s:g} s. What was acknowledged is in the log; "
                        "the run can be taken up again with 'fm resume'."
                    ) from exc
                time.sleep(min(1.0, 0.05 + (clock() - lost_at) / 4))
            else:
                if renew or (group.status is not None and group.status.name == "running"):
                    self._renewed = begun
                    self._renewal_wanted = False
                return group

    def _is_recorded(self, group: Group) -> bool:
        """Reach the store again, and tell whether the group got there after all."""
        recorded = self._journal.recover()
        if not group.rows:
            return False
        if recorded not in (self._position, group.rows[-1][0]):
            raise StoreError(
                f"{self._journal.where} holds {recorded} events of this run, where {self._position} were acknowledged: "
                "it was put back to an older state. The run cannot go on."
            )
        return recorded == group.rows[-1][0]

    def _encoded(self, items: Sequence[Event | KeptResult]) -> Group:
        """Write items down."""
        encoder, group, position = self._encoder, Group(), self._position
        encoder.digests.clear()
        add, encode = group.rows.append, encoder.body
        for item in items:
            if isinstance(item, KeptResult):
                if (kept := self._result(item)) is not None:
                    group.results.append(kept)
                continue
            if type(item) is StageLogged:
                group.said.append(self._said_row(item, self._said + len(group.said) + 1))
                continue
            position += 1
            body = encode(item)
            add((position, item.at, item.kind, getattr(item, "path", None), None if body == _EMPTY else body.decode()))
            if type(item) in STATUS_OF:
                group.status = status_after(item, STATUS_OF[type(item)])
        group.digests = set(encoder.digests)
        if self._blobs is not None and not self._claimed and (group.digests or group.results):
            self._blobs.claim(self._journal.store_id)
            self._claimed = True
        return group

    def _said_row(self, said: StageLogged, number: int) -> SaidRow:
        fields = self._encoder.plain(dict(said.fields)).decode() if said.fields else None
        return (number, said.at, said.path, said.attempt, said.level, said.message, fields)

    def _result(self, kept: KeptResult) -> KeptResult | None:
        before = set(self._encoder.digests)
        self._encoder.digests.clear()
        body = self._encoder.result(kept.event)
        digests = frozenset(self._encoder.digests)
        self._encoder.digests = before  # a result refers to its blobs by itself: it outlives its run
        if body is None:
            return None
        return KeptResult(
            fingerprint=kept.fingerprint, event=kept.event, ttl_s=kept.ttl_s, body=body.decode(), digests=digests
        )

    def _answer(self) -> None:
        """Tell those who wait in `flush` what has become of it."""
        with self._wake:
            still: list[_Waiting] = []
            for each in self._waiting:
                late = self._leased and self._renewed < each.since
                if self._error is None and (each.wanted > self._committed or late):
                    still.append(each)
                else:
                    with suppress(RuntimeError):  # its loop is closed: it waits no more
                        each.loop.call_soon_threadsafe(_settle, each.done, self._error)
            self._waiting = still


def _is_pending(item: Event | KeptResult) -> bool:
    """Tell whether an item has to wait: its value is still being written, behind the run. Everything after it waits too."""
    event = item.event if isinstance(item, KeptResult) else item
    return isinstance(value := getattr(event, "value", None), Packed) and value.pending


_IN_COLUMNS = frozenset({"path"})
_EMPTY = b"{}"


def status_after(event: Event, name: str) -> Status:
    """Return how a run's row changes with an event that makes its status `name`."""
    if name in ("running", "paused"):
        return Status(name=name)
    failure: Any = getattr(event, "failure", None)
    return Status(name=name, ended_at=event.at, failure=failure.to_json() if failure else None)


def _settle(done: asyncio.Future[None], error: StoreError | None) -> None:
    if not done.done():
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


__all__ = [
    "BlobsGone",
    "CommittingRunLog",
    "ConnectionLost",
    "Group",
    "Journal",
    "KeptResult",
    "Status",
]
