"""The run-log port: an append-only record of a run's events, in one order, with one writer.

`append` only queues; `flush` says when everything queued is durable. A store groups what is queued into one commit, so the
price of durability is paid per flush, not per event.

Whoever writes holds a *lease* on the run, with a number that grows at every change of hands, the *epoch*. The lease is
renewed while the process lives, by the store's own clock; every commit checks the epoch, so a process that was stopped,
replaced and continued can write nothing any more (`Fenced`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flowmason_ray.engine.events import Event, StageLogged, StageSucceeded


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known about a run without reading its events."""

    run_id: str
    pipeline: str
    version: str
    status: str
    """`running`, `paused`, `succeeded`, `failed`, `cancelled`, or `interrupted`: its process has gone without ending it, or
    has not renewed its lease in time."""
    created_at: float
    """Seconds since the epoch."""
    ended_at: float | None = None
    file: str | None = None
    """The pipeline file, as an absolute path; None when the pipeline was not in a file."""
    failure: Mapping[str, Any] | None = None
    based_on: str | None = None
    """The run that this one goes on with, under an edited pipeline (`RunCreated.based_on`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event as a log returns it: its position (from 1) and its recorded form (`kind`, `at` and the fields)."""

    position: int
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody, perhaps in another process, asks of a run that is under way.

    `kind` is `answer` (`body`: `path`, `data`, `by`), `cancel` (`body`: `message`) or `pause` (`body`: `by`).
    """

    number: int
    """Counts the requests of a run, from 1."""
    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedResult:
    """What a stage with `cache` returned before, perhaps in another run."""

    value: Any
    decision: Mapping[str, Any] | None = None
    run_id: str
    """The run that made it."""
    created_at: float
    """Seconds since the epoch, by the store's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a stage said, as it is kept beside the log."""

    number: int
    """Counts what was said in the run, from 1."""
    at: float
    """Seconds since the epoch."""
    path: str
    attempt: int
    level: str
    message: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or with `dry_run` would be."""

    runs: Sequence[str]
    results: int
    """Cached results that had expired."""
    blobs: int
    blob_bytes: int


class RunLog(Protocol):
    """The log of one run, for its writer."""

    durable: bool
    """Whether a flush costs anything: False for logs that live in memory."""
    remembers: bool
    """Whether anybody can read it later: without, attempts need no fingerprints."""
    epoch: int
    """Counts the writers of this run, from 1."""
    asked_before: int
    """The number of the last request that was made before this writer took the run over; 0: none was."""

    def append(self, event: Event) -> None:
        """Queue an event.

        Raises:
            StoreUnavailable: the log could not be written; nothing that was flushed is lost.
        """
        ...

    async def flush(self) -> None:
        """Return when everything appended so far is durable.

        Raises:
            StoreUnavailable: it could not be written.
            Fenced: another process has taken the run over; nothing of what was not flushed before is in the log.
        """
        ...

    def say(self, said: StageLogged) -> None:
        """Queue what a stage said, to be kept beside the log. What cannot be kept any more is passed over."""
        ...

    def check_lease(self) -> None:
        """Make sure, without waiting, that this process may still act for the run; called before every effect.

        Raises:
            Fenced: the lease may have run out since it was last renewed, as after a long stop of the process. The next
                flush renews it, unless somebody else has taken the run over.
        """
        ...

    def keep_result(self, fingerprint: str, event: StageSucceeded, *, ttl_s: float | None) -> None:
        """Queue a stage's result for reuse by later runs, behind the events that are queued already.

        A result that the log cannot give back as it was (it held a secret, which is masked) is not kept.
        """
        ...

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return the result kept under a fingerprint, unless it has expired or cannot be read any more."""
        ...

    async def requests(self, *, after: int) -> Sequence[Request]:
        """Return what was asked of the run behind request number `after`."""
        ...

    async def close(self) -> None:
        """Flush, end writing, and give the lease back: a run that has not ended can be taken up again at once."""
        ...


class RunStore(Protocol):
    """Where the logs of all runs are. `blobs`, where a store has that, is where their large values are (`stores.blobs`)."""

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> RunLog:
        """Begin the log of a new run, which is there for others as soon as its first events are recorded.

        Wherever one of `secrets` stands in a text, `***` is recorded. A run is gone on with once (`RunRecord.based_on`): of two
        that go on with the same one, the first flush of the second is refused with `Fenced`, or this is.
        """
        ...

    def reopen(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> RunLog:
        """Become the writer of a run that is paused or interrupted, with the next epoch.

        Raises:
            Fenced: it is neither (any more).
            StoreUnavailable: the store cannot be reached or written.
        """
        ...

    async def list_runs(
        self, *, limit: int = 50, pipeline: str | None = None, status: str | None = None, since: float | None = None
    ) -> list[RunRecord]:
        """Return the newest runs first; with `since` (seconds since the epoch) only those created then or later."""
        ...

    async def find(self, run_id: str) -> RunRecord:
        """Return a run by its id, or by the beginning of its id if that fits one run only; `last` is the newest.

        Raises:
            RunNotFound: there is none, or there are several.
        """
        ...

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return a result that a run has kept (`RunLog.keep_result`), unless it has expired or cannot be read any more."""
        ...

    async def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> None:
        """Ask something of a run (`Request`); its coordinator takes it up within a second."""
        ...

    def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run, from the one behind position `after`, up to the last one that is there now."""
        ...

    def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run as they are recorded, until one of them ends or pauses the run, or it is interrupted."""
        ...

    def said(self, run_id: str, *, after: int = 0) -> AsyncIterator[Said]:
        """Yield what the stages of a run said, from what comes behind number `after`, up to the last that is there now."""
        ...

    async def prune(
        self, *, older_than_s: float | None = None, keep: int | None = None, dry_run: bool = False
    ) -> Pruned:
        """Remove ended runs, expired results, and the blobs that nothing refers to any more.

        A blob that a run under way may still refer to is never removed, whatever other processes do meanwhile.

        Without `older_than_s` and `keep` no runs are removed. With both, a run has to be old and not among those that are kept.

        Args:
            older_than_s: Remove runs that ended longer ago than this; None: however long ago.
            keep: Keep this many of the ended runs, those that ended last; None: none because of their number.
            dry_run: Only tell what would be removed.
        """
        ...
