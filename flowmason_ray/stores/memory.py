"""Run logs in memory: for programs that only want the result, for tests, and as the measure of what a log costs.

What is promised of every store is promised here too, within one process: epochs, kept results, following, pruning. Events are
kept as they are; only results that later runs may use are written down, because what a run hands out may change hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from time import time
from typing import Any

from flowmason_ray.engine.events import (
    RUN_ENDED,
    Event,
    RunCancelled,
    RunFailed,
    RunSucceeded,
    StageLogged,
    StageSucceeded,
)
from flowmason_ray.engine.run_log import CachedResult, Pruned, Recorded, Request, RunRecord, Said
from flowmason_ray.errors import Fenced, RunNotFound, StoreError
from flowmason_ray.stores.blobs import StoredBlob, verified
from flowmason_ray.stores.encoding import Encoder, event_to_json, find_run
from flowmason_ray.stores.following import follow
from flowmason_ray.stores.group_commit import STATUS_OF
from flowmason_ray.stores.records import ENDED, gone, gone_on_with, may_take_over, result_of

_POLL_S = 0.02


class MemoryBlobs:
    """Blobs in memory."""

    address = "memory"

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._claims: set[str] = set()

    def put(self, content: bytes) -> str:
        """Keep content."""
        digest = f"sha256:{sha256(content).hexdigest()}"
        self._contents[digest] = content
        return digest

    def get(self, digest: str) -> bytes:
        """Return the content."""
        if digest not in self._contents:
            raise StoreError(f"Blob {digest} is not in memory.")
        return verified(digest, self._contents[digest], "memory")

    def confirm(self, digests: Iterable[str]) -> set[str]:
        """Return those that are not there."""
        return set(digests) - self._contents.keys()

    def claim(self, store_id: str) -> None:
        """Remember who uses these blobs."""
        self._claims.add(store_id)

    def claims(self) -> set[str]:
        """Return who uses these blobs."""
        return set(self._claims)

    def old(self) -> Iterator[StoredBlob]:
        """Yield all of them: nobody else can be about to refer to one."""
        for digest, content in list(self._contents.items()):
            yield StoredBlob(digest=digest, size_bytes=len(content))

    def remove(self, blobs: Iterable[StoredBlob]) -> list[StoredBlob]:
        """Remove blobs."""
        return [blob for blob in blobs if self._contents.pop(blob.digest, None) is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    run_id: str
    created_at: float
    expires_at: float | None
    body: str


class MemoryRunLog:
    """The events of one run, as they are."""

    durable = False
    remembers = True

    def __init__(self, record: RunRecord, store: MemoryRunStore | None = None, *, before: MemoryRunLog | None = None):
        """
        Args:
            record: The run.
            store: Where its results are kept for others; None: nowhere.
            before: Its log so far, in other hands.
        """
        self.record = record
        self.epoch = 1 if before is None else before.epoch + 1
        self.events: list[Event] = [] if before is None else before.events
        self.asked: list[Request] = [] if before is None else before.asked
        self.said: list[Said] = [] if before is None else before.said
        self.asked_before = len(self.asked)
        self.closed = False
        self._store = store

    def append(self, event: Event) -> None:
        """Keep an event."""
        self.check_lease()
        if self.closed:
            raise StoreError("The log of this run is closed.")
        self.events.append(event)
        name = STATUS_OF.get(type(event))
        if name is not None:
            ended = isinstance(event, RUN_ENDED)
            self.record = ended_record(self.record, event) if ended else replace(self.record, status=name)

    def say(self, said: StageLogged) -> None:
        """Keep what a stage said."""
        if not self.closed:
            self.said.append(
                Said(
                    number=len(self.said) + 1,
                    at=said.at,
                    path=said.path,
                    attempt=said.attempt,
                    level=said.level,
                    message=said.message,
                    fields=dict(said.fields),
                )
            )

    async def flush(self) -> None:
        """Nothing to do but to see that the run is still ours: memory is as durable as it gets."""
        self.check_lease()

    def check_lease(self) -> None:
        """Make sure that nobody has taken the run over."""
        if self._store is not None and self._store.logs.get(self.record.run_id) is not self:
            raise Fenced(f"Run {self.record.run_id!r} was taken over, or removed.")

    def keep_result(self, fingerprint: str, event: StageSucceeded, *, ttl_s: float | None) -> None:
        """Keep a stage's result for later runs."""
        if self._store is not None:
            self._store.keep(self.record.run_id, fingerprint, event, ttl_s)

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return the result kept under a fingerprint."""
        return None if self._store is None else self._store.kept(fingerprint)

    async def requests(self, *, after: int) -> Sequence[Request]:
        """Return what was asked of the run behind request number `after`."""
        return self.asked[after:]

    async def close(self) -> None:
        """Give the run back: one that has not ended is interrupted now."""
        self.closed = True
        if self.record.status == "running":
            self.record = replace(self.record, status="interrupted")


class ForgettingRunLog(MemoryRunLog):
    """The log of a run of which only the result is wanted: nothing is kept, so that values can go as soon as they are read."""

    remembers = False

    def append(self, event: Event) -> None:
        """Keep nothing of an event."""

    def say(self, said: StageLogged) -> None:
        """Keep nothing of what is said."""


def ended_record(record: RunRecord, event: Event) -> RunRecord:
    """Return the record of a run with how it ended."""
    words: dict[type[Event], str] = {RunSucceeded: "succeeded", RunFailed: "failed", RunCancelled: "cancelled"}
    status = words[type(event)]
    failure: Any = getattr(event, "failure", None)
    return replace(record, status=status, ended_at=event.at, failure=failure.to_json() if failure else None)


class MemoryRunStore:
    """Run logs in memory."""

    def __init__(self) -> None:
        self.logs: dict[str, MemoryRunLog] = {}
        self._results: dict[str, _Kept] = {}
        self._result_blobs = MemoryBlobs()

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> MemoryRunLog:
        """Begin the log of a new run. `secrets` need no masking: nothing leaves this process."""
        if record.run_id in self.logs:
            raise StoreError(f"There is a run {record.run_id!r} already.")
        for other in self.logs.values() if record.based_on is not None else ():
            if other.record.based_on == record.based_on and other.events:
                raise gone_on_with(record.based_on or "", other.record.run_id)
        log = self.logs[record.run_id] = MemoryRunLog(record, self)
        return log

    def reopen(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> MemoryRunLog:
        """Become the writer of a run that is paused or interrupted."""
        before = self.logs.get(record.run_id)
        if before is None:
            raise gone(record.run_id)
        may_take_over(before.record)
        log = MemoryRunLog(replace(before.record, status="running"), self, before=before)
        self.logs[record.run_id] = log
        return log

    async def list_runs(
        self, *, limit: int = 50, pipeline: str | None = None, status: str | None = None, since: float | None = None
    ) -> list[RunRecord]:
        """Return the newest runs first."""
        begun = (log.record for log in reversed(self.logs.values()) if log.events)
        records = sorted(begun, key=lambda r: r.created_at, reverse=True)
        return [
            r
            for r in records
            if pipeline in (None, r.pipeline)
            and status in (None, r.status)
            and (since is None or r.created_at >= since)
        ][:limit]

    async def find(self, run_id: str) -> RunRecord:
        """Return a run by its id, or by the beginning of its id."""
        ids = [record.run_id for record in await self.list_runs(limit=len(self.logs))]
        return self.logs[find_run(run_id, ids[::-1])].record

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return a result that a run has kept."""
        return self.kept(fingerprint)

    async def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> None:
        """Ask something of a run of this process."""
        log = self._log(run_id)
        log.asked.append(Request(number=len(log.asked) + 1, kind=kind, body=dict(body)))

    def _log(self, run_id: str) -> MemoryRunLog:
        log = self.logs.get(run_id)
        if log is None:
            raise RunNotFound(f"There is no run {run_id!r}.")
        return log

    async def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run."""
        for position, event in enumerate(self._log(run_id).events[after:], after + 1):
            yield Recorded(position=position, event=event_to_json(event))

    async def said(self, run_id: str, *, after: int = 0) -> AsyncIterator[Said]:
        """Yield what the stages of a run said."""
        for said in self._log(run_id).said[after:]:
            yield said

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run as they are recorded, until one of them ends or pauses it, or it is interrupted."""

        async def news() -> None:
            await asyncio.sleep(_POLL_S)

        async for recorded in follow(self, run_id, after, news):
            yield recorded

    async def prune(
        self, *, older_than_s: float | None = None, keep: int | None = None, dry_run: bool = False
    ) -> Pruned:
        """Forget ended runs and expired results."""
        ended = sorted(
            (log.record for log in reversed(self.logs.values()) if log.record.status in ENDED),
            key=lambda record: record.ended_at or 0.0,
            reverse=True,
        )
        now = time()
        wanted = [
            record.run_id
            for record in ended[keep or 0 :]
            if (older_than_s is not None and (record.ended_at or 0.0) < now - older_than_s)
            or (older_than_s is None and keep is not None)
        ]
        expired = [
            name for name, kept in self._results.items() if kept.expires_at is not None and kept.expires_at <= now
        ]
        if not dry_run:
            for run_id in wanted:
                del self.logs[run_id]
            for name in expired:
                del self._results[name]
        return Pruned(runs=tuple(wanted), results=len(expired), blobs=0, blob_bytes=0)

    # -- for its logs ---------------------------------------------------------------------------------------------------

    def keep(self, run_id: str, fingerprint: str, event: StageSucceeded, ttl_s: float | None) -> None:
        """Keep a result, if its recorded form is faithful."""
        body = Encoder(self._result_blobs).result(event)
        if body is not None:
            now = time()
            until = None if ttl_s is None else now + ttl_s
            self._results[fingerprint] = _Kept(run_id=run_id, created_at=now, expires_at=until, body=body.decode())

    def kept(self, fingerprint: str) -> CachedResult | None:
        """Return a result that has not expired."""
        kept = self._results.get(fingerprint)
        if kept is None or (kept.expires_at is not None and kept.expires_at <= time()):
            return None
        return result_of(self._result_blobs, kept.run_id, kept.created_at, kept.body)
