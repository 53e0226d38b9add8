"""The run-log port: an append-only record of a run's events, in one order, with one writer.

`append` only queues; `flush` says when everything queued is durable. A store groups what is queued into one commit, so the
price of durability is paid per flush, not per event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flowmason_ray.engine.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known about a run without reading its events."""

    run_id: str
    pipeline: str
    version: str
    status: str
    """`running`, `succeeded`, `failed`, `cancelled`, or `interrupted` (its process has gone without ending it)."""
    created_at: float
    """Seconds since the epoch."""
    ended_at: float | None = None
    file: str | None = None
    """The pipeline file, as an absolute path; None when the pipeline was not in a file."""
    failure: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event as a log returns it: its position (from 1) and its recorded form (`kind`, `at` and the fields)."""

    position: int
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody, perhaps in another process, asks of a run that is under way.

    `kind` is `answer` (`body`: `path`, `data`, `by`) or `cancel` (`body`: `message`).
    """

    number: int
    """Counts the requests of a run, from 1."""
    kind: str
    body: Mapping[str, Any]


class RunLog(Protocol):
    """The log of one run, for its writer."""

    durable: bool
    """Whether a flush costs anything: False for logs that live in memory."""

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
        """
        ...

    async def requests(self, *, after: int) -> Sequence[Request]:
        """Return what was asked of the run behind request number `after`."""
        ...

    async def close(self) -> None:
        """Flush, and end writing."""
        ...


class RunStore(Protocol):
    """Where the logs of all runs are."""

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> RunLog:
        """Begin the log of a new run. Wherever one of `secrets` stands in a text, `***` is recorded."""
        ...

    async def list_runs(
        self, *, limit: int = 50, pipeline: str | None = None, status: str | None = None
    ) -> list[RunRecord]:
        """Return the newest runs first."""
        ...

    async def find(self, run_id: str) -> RunRecord:
        """Return a run by its id, or by the beginning of its id if that fits one run only; `last` is the newest.

        Raises:
            RunNotFound: there is none, or there are several.
        """
        ...

    async def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> None:
        """Ask something of a run (`Request`); its coordinator takes it up within a second."""
        ...

    def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run, from the one behind position `after`."""
        ...
