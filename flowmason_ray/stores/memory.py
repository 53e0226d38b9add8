"""Run logs in memory: for programs that only want the result, for tests, and as the measure of what a log costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any

from flowmason_ray.engine.events import RUN_ENDED, Event, RunCancelled, RunFailed, RunSucceeded, StageSucceeded
from flowmason_ray.engine.run_log import CachedResult, Recorded, Request, RunRecord
from flowmason_ray.engine.values import Packed
from flowmason_ray.errors import Fenced, RunNotFound
from flowmason_ray.stores.encoding import event_to_json, find_run

KeptResult = tuple[CachedResult, "float | None"]
"""A result, and when it expires (seconds since the epoch; None: never)."""


class MemoryRunLog:
    """The events of one run, as they are."""

    durable = False
    remembers = True

    def __init__(self, record: RunRecord, results: dict[str, KeptResult] | None = None, *, epoch: int = 1) -> None:
        """`results`: the results that runs have left for each other; None: this run has its own."""
        self.record = record
        self.epoch = epoch
        self.events: list[Event] = []
        self.asked: list[Request] = []
        self._results: dict[str, KeptResult] = {} if results is None else results

    def append(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)
        if isinstance(event, RUN_ENDED):
            self.record = ended_record(self.record, event)

    async def flush(self) -> None:
        """Nothing to do: memory is as durable as it gets."""

    def check_lease(self) -> None:
        """Nothing to do: nobody else has access to this process's memory."""

    def keep_result(self, fingerprint: str, event: StageSucceeded, *, ttl_s: float | None) -> None:
        """Keep a result; one that is not in this process's memory (it lies on a cluster) is not kept."""
        if not isinstance(event.value, Packed):
            now = time()
            result = CachedResult(value=event.value, decision=event.decision, run_id=self.record.run_id, created_at=now)
            self._results[fingerprint] = (result, None if ttl_s is None else now + ttl_s)

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return the result kept under a fingerprint, unless it has expired."""
        result, expires = self._results.get(fingerprint, (None, None))
        return None if expires is not None and expires <= time() else result

    async def requests(self, *, after: int) -> Sequence[Request]:
        """Return what was asked of the run behind request number `after`."""
        return self.asked[after:]

    async def close(self) -> None:
        """Nothing to do."""


class ForgettingRunLog(MemoryRunLog):
    """The log of a run of which only the result is wanted: nothing is kept, so that values can go as soon as they are read."""

    remembers = False

    def append(self, event: Event) -> None:
        """Keep nothing of an event."""

    def keep_result(self, fingerprint: str, event: StageSucceeded, *, ttl_s: float | None) -> None:
        """Keep nothing."""


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
        self._results: dict[str, KeptResult] = {}

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> MemoryRunLog:
        """Begin the log of a new run. `secrets` need no masking: nothing leaves this process."""
        log = self.logs[record.run_id] = MemoryRunLog(record, self._results)
        return log

    def reopen(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> MemoryRunLog:
        """Become the writer of a run that is paused or interrupted."""
        log = self.logs.get(record.run_id)
        status = "gone" if log is None else log.record.status
        if log is None or status not in ("paused", "interrupted"):
            raise Fenced(f"Run {record.run_id!r} is {status}: only one that is paused or interrupted can be taken up.")
        log.epoch += 1
        return log

    async def list_runs(
        self, *, limit: int = 50, pipeline: str | None = None, status: str | None = None
    ) -> list[RunRecord]:
        """Return the newest runs first."""
        records = sorted((log.record for log in reversed(self.logs.values())), key=lambda r: r.created_at, reverse=True)
        return [r for r in records if pipeline in (None, r.pipeline) and status in (None, r.status)][:limit]

    async def find(self, run_id: str) -> RunRecord:
        """Return a run by its id, or by the beginning of its id."""
        ids = [record.run_id for record in await self.list_runs(limit=len(self.logs))]
        return self.logs[find_run(run_id, ids[::-1])].record

    async def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> None:
        """Ask something of a run of this process."""
        log = self.logs.get(run_id)
        if log is None:
            raise RunNotFound(f"There is no run {run_id!r}.")
        log.asked.append(Request(number=len(log.asked) + 1, kind=kind, body=dict(body)))

    async def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run."""
        log = self.logs.get(run_id)
        if log is None:
            raise RunNotFound(f"There is no run {run_id!r}.")
        for position, event in enumerate(log.events[after:], after + 1):
            yield Recorded(position=position, event=event_to_json(event))
