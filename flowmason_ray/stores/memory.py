"""Run logs in memory: for programs that only want the result, for tests, and as the measure of what a log costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowmason_ray.engine.events import RUN_ENDED, Event, RunCancelled, RunFailed, RunSucceeded
from flowmason_ray.engine.run_log import Recorded, Request, RunRecord
from flowmason_ray.errors import RunNotFound
from flowmason_ray.stores.encoding import event_to_json, find_run


class MemoryRunLog:
    """The events of one run, as they are."""

    durable = False

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.events: list[Event] = []
        self.asked: list[Request] = []

    def append(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)
        if isinstance(event, RUN_ENDED):
            self.record = ended_record(self.record, event)

    async def flush(self) -> None:
        """Nothing to do: memory is as durable as it gets."""

    async def requests(self, *, after: int) -> Sequence[Request]:
        """Return what was asked of the run behind request number `after`."""
        return self.asked[after:]

    async def close(self) -> None:
        """Nothing to do."""


class ForgettingRunLog(MemoryRunLog):
    """The log of a run of which only the result is wanted: nothing is kept, so that values can go as soon as they are read."""

    def append(self, event: Event) -> None:
        """Keep nothing of an event."""


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

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> MemoryRunLog:
        """Begin the log of a new run. `secrets` need no masking: nothing leaves this process."""
        log = self.logs[record.run_id] = MemoryRunLog(record)
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
