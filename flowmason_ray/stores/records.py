"""From a store's rows to what the engine knows, for every store with tables. A row that makes no sense is a damaged store."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import orjson

from flowmason_ray.engine.run_log import CachedResult, Recorded, Request, RunRecord, Said
from flowmason_ray.errors import Fenced, RunNotFound, StoreError
from flowmason_ray.stores.blobs import BlobStore
from flowmason_ray.stores.encoding import Decoder
from flowmason_ray.stores.owners import Owner

COLUMNS = (
    "run_id, pipeline, version, status, created_at, ended_at, file, failure, host, pid, pid_started, boot, based_on,"
    " lease_until"
)
"""What `record_of` takes, and behind it the store's time."""
ENDED = ("succeeded", "failed", "cancelled")


@contextmanager
def sound(where: str) -> Generator[None]:
    """Turn what a damaged row leads to into a clear error."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, IndexError) as exc:
        raise StoreError(
            f"{where} holds what no FlowMason has written ({exc}): it is damaged, or something else has changed it."
        ) from exc


def record_of(row: Sequence[Any]) -> RunRecord:
    """Return what is known about a run; whether it is interrupted is judged here."""
    (
        run_id,
        pipeline,
        version,
        status,
        created_at,
        ended_at,
        file,
        failure,
        host,
        pid,
        started,
        boot,
        based_on,
        lease,
        now,
    ) = row
    if status == "running":
        late = lease is not None and lease < now
        if late or Owner(host=host, boot=boot, pid=int(pid), started=started).has_gone():
            status = "interrupted"
    return RunRecord(
        run_id=_text(run_id),
        pipeline=_text(pipeline),
        version=_text(version),
        status=_text(status),
        created_at=float(created_at),
        ended_at=None if ended_at is None else float(ended_at),
        file=file,
        failure=_object(failure) if failure else None,
        based_on=based_on,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {value!r}")
    return value


def _object(text: str | bytes) -> dict[str, Any]:
    found = orjson.loads(text)
    if not isinstance(found, dict):
        raise TypeError("what should be an object is none")
    return cast("dict[str, Any]", found)


def recorded_of(position: int, at: float, kind: str, path: str | None, body: str | None) -> Recorded:
    """Return an event as it was recorded."""
    event: dict[str, Any] = {"kind": _text(kind), "at": float(at)}
    if path is not None:
        event["path"] = path
    if body is not None:
        event.update(_object(body))
    return Recorded(position=position, event=event)


def request_of(number: int, kind: str, body: str) -> Request:
    """Return what was asked of a run."""
    return Request(number=number, kind=_text(kind), body=_object(body))


def said_of(number: int, at: float, path: str, attempt: int, level: str, message: str, fields: str | None) -> Said:
    """Return what a stage said."""
    return Said(
        number=number,
        at=float(at),
        path=_text(path),
        attempt=int(attempt),
        level=_text(level),
        message=_text(message),
        fields=_object(fields) if fields else {},
    )


def result_of(blobs: BlobStore | None, run_id: str, created_at: float, body: str) -> CachedResult | None:
    """Return a result that was kept; None when it cannot be read any more."""
    try:
        data = _object(body)
        value = Decoder(blobs, run_id=run_id).value(data)
        decision: Mapping[str, Any] | None = data.get("decision")
    except (StoreError, ValueError, TypeError):
        return None
    return CachedResult(value=value, decision=decision, run_id=run_id, created_at=created_at)


def gone(run_id: str) -> Fenced:
    """Return the error for a run that is not there any more."""
    return Fenced(f"Run {run_id!r} is gone: somebody has removed it.")


def gone_on_with(run_id: str, successor: str) -> Fenced:
    """Return the error for a run that another one has gone on with: both would do the same work."""
    return Fenced(
        f"Run {successor!r} has gone on with run {run_id!r} already; going on with both would do the same work twice. "
        f"Go on with that one: fm resume {successor}"
    )


def may_take_over(record: RunRecord) -> None:
    """Make sure that a run can be taken up again.

    Raises:
        Fenced: it cannot; says why.
    """
    if record.status not in ("interrupted", "paused"):
        raise Fenced(
            f"Run {record.run_id!r} is {record.status}: only one that was interrupted or paused can be taken up again."
        )


def only_one(wanted: str, found: Sequence[RunRecord]) -> RunRecord:
    """Return the run that was meant, out of the first few whose ids begin so.

    Raises:
        RunNotFound: there is none, or there are several.
    """
    exact = [record for record in found if record.run_id == wanted]
    if exact or len(found) == 1:
        return (exact or found)[0]
    if not found:
        raise RunNotFound(f"There is no run {wanted!r}. 'fm runs list' shows the runs of this project.")
    shown = ", ".join(record.run_id for record in found[:5])
    raise RunNotFound(f"Run id {wanted!r} is ambiguous: several runs begin so ({shown}). Write more of it.")
