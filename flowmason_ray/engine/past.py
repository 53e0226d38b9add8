"""What earlier runs have left: their results by fingerprint, and how far each stage instance had come.

Read from recorded events, without their values: those are brought back when they are wanted. When a run goes on with another
which had itself gone on with a third, all of them are the past; the newest has the last word about a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from flowmason_ray.engine.context import idempotency_key
from flowmason_ray.engine.retry import OUTCOME_UNKNOWN


@dataclass(slots=True, kw_only=True)
class Record:
    """A result that was recorded."""

    run_id: str
    path: str
    fingerprint: str | None
    body: bytes
    """JSON of the recorded event's `value` or `packed`, and of its `decision`."""
    exact: bool = True
    """Whether the record gives back the very value: no secret was masked in it, no NaN became null."""
    used: bool = False
    """Whether this run has taken it over. What has an effect is taken over once."""


@dataclass(slots=True)
class Past:
    """What is known of one or several earlier runs."""

    runs: list[str] = field(default_factory=list[str])
    """Their ids, the newest first."""
    done: dict[str, Record] = field(default_factory=dict[str, Record])
    """By path: the last success."""
    doubtful: dict[str, str] = field(default_factory=dict[str, str])
    """By path: the run in which the last attempt was ended from outside, or never ended: it may have done its work."""
    failed: set[str] = field(default_factory=set[str])
    """The paths whose last attempt failed."""
    items: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By path of a loop: its items, as recorded."""
    definitions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the stages of the newest run were defined to be, by path without positions."""
    created: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How the newest run began, as recorded."""
    _records: dict[str, list[Record]] = field(default_factory=dict[str, list[Record]])
    _places: dict[tuple[str, str], Record] = field(default_factory=dict[tuple[str, str], Record])
    _keys: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    _taken: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """(run, path) of records that a newer run of the past has taken over: they are its own now."""

    def add(self, run: Reading) -> None:
        """Add a run that is older than those that are there."""
        known = {*self.done, *self.doubtful, *self.failed}
        if not self.runs:
            self.created, self.definitions = run.created, run.definitions
        self.runs.append(run.run_id)
        for record in run.records:
            if (record.run_id, record.path) not in self._taken and record.fingerprint is not None and record.exact:
                self._records.setdefault(record.fingerprint, []).append(record)
                self._places[record.run_id, record.path] = record
        self._taken |= run.taken
        for path, record in run.done.items():
            if path not in known:
                self.done[path] = record
        for path in run.doubtful - known:
            self.doubtful[path] = run.run_id
        self.failed |= run.failed - known
        for path, body in run.items.items():
            self.items.setdefault(path, body)
        for place, key in run.keys.items():
            self._keys.setdefault(place, key)

    def find(self, fingerprint: str | None, path: str, *, once: bool) -> Record | None:
        """Return a result with this fingerprint, best that of the same path.

        Args:
            fingerprint: Of what the attempt is given; None: nothing is found.
            path: Of the attempt.
            once: Whether a result that was taken over already does not count.
        """
        found = [r for r in self._records.get(fingerprint or "", ()) if not (once and r.used)]
        return next((record for record in found if record.path == path), found[0] if found else None)

    def key(self, path: str, fingerprint: str | None) -> str | None:
        """Return the idempotency key under which this work was begun at this path before."""
        return None if fingerprint is None else self._keys.get((path, fingerprint))

    def take(self, run_id: str, path: str) -> None:
        """Note that a record has been taken over, by the run that goes on."""
        record = self._places.get((run_id, path))
        if record is not None:
            record.used = True


class Reading:
    """One run's part, taken from its recorded events one by one."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.created: Mapping[str, Any] = {}
        self.definitions: Mapping[str, Any] = {}
        self.records: list[Record] = []
        self.done: dict[str, Record] = {}
        self.failed: set[str] = set()
        self.items: dict[str, bytes] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.taken: set[tuple[str, str]] = set()
        self.skipped: set[str] = set()
        self.ended: str | None = None
        """The kind of the event that ended the run."""
        self._begun: dict[str, str | None] = {}
        """Attempts that have not ended: path → fingerprint."""
        self._unknown: set[str] = set()
        self._asked: dict[str, str | None] = {}

    @property
    def doubtful(self) -> set[str]:
        """The paths whose last attempt may have done its work without saying so."""
        return {*self._begun, *self._unknown}

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        match event["kind"]:
            case "stage_started":
                self._started(event)
            case "stage_succeeded" | "stage_reused":
                self._succeeded(event)
            case "stage_failed":
                failure: Mapping[str, Any] = event["failure"]
                self._ended(event, failed=True, unknown=failure.get("code") in {*OUTCOME_UNKNOWN, "in_doubt"})
            case "stage_stopped":
                self._ended(event, failed=True, unknown=True)
            case "stage_declined":
                self._ended(event, failed=False, unknown=False)
            case "stage_skipped":
                self.skipped.add(event["path"])
            case "approval_answered":
                self._answered(event)
            case "run_created":
                self.created = event
            case "run_succeeded" | "run_failed" | "run_cancelled":
                self.ended = event["kind"]
            case _:
                pass

    def _started(self, event: Mapping[str, Any]) -> None:
        path, fingerprint = event["path"], event.get("fingerprint")
        self._begun[path] = fingerprint
        self._unknown.discard(path)
        self.failed.discard(path)
        if fingerprint is not None:
            key = event.get("idempotency_key") or idempotency_key(self.run_id, path)
            self.keys.setdefault((path, fingerprint), key)

    def _succeeded(self, event: Mapping[str, Any]) -> None:
        path, decision = event["path"], event.get("decision")
        if event["attempt"] == 0:
            return  # a construct's results, put together
        fingerprint = self._begun.pop(path, None)
        source: Mapping[str, Any] = event.get("source") or {}
        if source.get("how") == "record":
            self.taken.add((source.get("run", ""), source.get("path") or path))
        if decision and "count" in decision:
            self.items[path] = _body(event)
        if decision and "message" in decision and "returns" not in decision:
            self._asked[path] = fingerprint  # a question: its answer is the result
            return
        self._keep(path, fingerprint, _body(event), exact=not event.get("lossy"))

    def _keep(self, path: str, fingerprint: str | None, body: bytes, *, exact: bool) -> None:
        record = Record(run_id=self.run_id, path=path, fingerprint=fingerprint, body=body, exact=exact)
        self.done[path] = record
        self.records.append(record)

    def _answered(self, event: Mapping[str, Any]) -> None:
        """A question's own success said only that it was asked: the record is the answer."""
        path = event["path"]
        if path in self._asked:
            answer = {"answered": True, "data": event.get("data"), "answered_by": event.get("by")}
            body = orjson.dumps({"value": answer, "decision": {"answered": True}})
            self.records = [record for record in self.records if record.path != path]
            self._keep(path, self._asked.pop(path), body, exact=not event.get("lossy"))

    def _ended(self, event: Mapping[str, Any], *, failed: bool, unknown: bool) -> None:
        path = event["path"]
        if event["attempt"] == 0:
            return
        self._begun.pop(path, None)
        if failed:
            self.failed.add(path)
        if unknown:
            self._unknown.add(path)


def _body(event: Mapping[str, Any]) -> bytes:
    return orjson.dumps({name: event[name] for name in ("value", "packed", "decision") if name in event})
