"""What happened in a run, in order: in words for people, as JSON lines for programs. Read in pages, so of any length."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.terminal import json_bytes, painter, write_bytes, write_text
from flowmason_ray.cli.usage_words import usage_words
from flowmason_ray.cli.words import COLOURS, REASONS, counted, duration, reused_from, when
from flowmason_ray.engine.usage import total_of
from flowmason_ray.errors import InvalidCall, nearest

if TYPE_CHECKING:
    from flowmason_ray.engine.run_log import Recorded, RunRecord, RunStore

_BATCH = 200
"""Lines that are written at a time."""


async def tell(store: RunStore, run: str, path: str | None, *, as_json: bool) -> None:
    """Write the story to stdout.

    Raises:
        RunNotFound: there is no such run.
        InvalidCall: nothing in the run has this path; names the nearest.
    """
    record = await store.find(run)
    if path is not None:
        path = path.strip("/")
    paint = painter(sys.stdout)
    lines: list[str] = []
    if not as_json:
        lines.append(
            paint(f"run {record.run_id} of {record.pipeline} {record.version}, {when(record.created_at)}", "bold")
        )
    narrator = Narrator()
    others: dict[str, None] = {}
    found = path is None
    async for recorded in store.read(record.run_id):
        event = recorded.event
        where = str(event.get("path", ""))
        if path is not None:
            if not is_at(where, path):
                if not found and where and len(others) < 100_000:
                    others[where] = None
                continue
            found = True
        words = narrator.words(event)
        offset = max(0.0, float(event["at"]) - record.created_at)
        if as_json:
            told = {"position": recorded.position, "at": event["at"], "offset_s": round(offset, 6)}
            lines.append(json_bytes({**told, "path": where, "kind": event["kind"], "text": words}).decode())
        else:
            colour = _colour(event)
            shown = paint(words, colour) if colour else words
            lines.append(f"{paint(f'{offset:>10.3f} s', 'dim')}  {f'{_shown_path(where)}  ' if where else ''}{shown}")
        if len(lines) >= _BATCH:
            write_text("\n".join(lines) + "\n")
            lines.clear()
    if not found:
        raise InvalidCall(unknown_path(path or "", others, record))
    if lines:
        write_text("\n".join(lines) + "\n")


def unknown_path(path: str, others: Mapping[str, None], record: RunRecord) -> str:
    """Say that nothing has this path, and what is near: an instance, or the same stage elsewhere."""
    same = next((other for other in others if re.sub(r"\[\d+\]", "", other) == re.sub(r"\[\d+\]", "", path)), None)
    close = same or nearest(path, others)
    hint = f" Did you mean {close!r}?" if close else ""
    return f"Nothing with the path {path!r} happened in run {record.run_id!r}.{hint}"


def _shown_path(path: str) -> str:
    """Return a path; for a hidden stage, what it makes."""
    around, _, name = path.rpartition("/")
    if not name.startswith("$"):
        return path
    if name == "$mapped":
        return f"{around} (what it keeps)"
    return f"{around} (its result)" if around else "(the result)"


def is_at(where: str, path: str) -> bool:
    """Tell whether `where` is `path` itself or inside it: `each` holds `each[3]/load`, `each[3]` does too."""
    return where == path or (where.startswith(path) and where[len(path)] in "/[")


async def print_events(store: RunStore, run: str, *, follow: bool) -> None:
    """Write a run's events to stdout, one JSON document a line.

    Raises:
        RunNotFound: there is no such run.
    """
    record = await store.find(run)
    if follow:
        async for recorded in store.follow(record.run_id):
            write_bytes(_line(recorded))  # each at once: nobody knows when the next one comes
        return
    lines: list[bytes] = []
    async for recorded in store.read(record.run_id):
        lines.append(_line(recorded))
        if len(lines) >= _BATCH:
            write_bytes(b"".join(lines))
            lines.clear()
    if lines:
        write_bytes(b"".join(lines))


def _line(recorded: Recorded) -> bytes:
    return json_bytes({"position": recorded.position, **recorded.event}) + b"\n"


def _colour(event: Mapping[str, Any]) -> str | None:
    match event["kind"]:
        case "stage_failed" | "run_failed":
            return "red"
        case "stage_retrying" | "run_cancelled" | "cancel_requested":
            return "yellow"
        case "stage_skipped":
            return "dim"
        case "run_succeeded":
            return "green"
        case "stage_ended":
            return COLOURS.get(str(event["status"]))
        case _:
            return None


class Narrator:
    """Says in words what recorded events say; remembers which constructs have decided, because what follows reads alike."""

    def __init__(self) -> None:
        self._decided: set[str] = set()
        self._paused = False
        self._untouched = False
        """Whether the run was handed over and nobody has done anything for it yet."""

    def words(self, event: Mapping[str, Any]) -> str:
        """Return what one event says."""
        path = str(event.get("path", ""))
        if event["kind"] == "stage_succeeded":
            if event.get("decision") is not None:
                self._decided.add(path)
                return f"has decided after {duration(event.get('duration_s', 0))}"
            if path in self._decided:
                return "puts its results together"
        elif event["kind"] == "stage_ended":
            self._decided.discard(path)
        elif event["kind"] == "run_created":
            options: Mapping[str, Any] = event.get("options") or {}
            self._untouched = bool(options.get("handed_over"))
        elif event["kind"] == "run_resumed" and self._untouched:
            self._untouched = False
            return "the run goes on in another process"
        elif event["kind"] == "run_paused":
            self._paused = True
        elif event["kind"] == "run_resumed" and self._paused:
            self._paused = False
            return f"the run goes on{_again(event.get('repeated'))}"
        return narrate(event)


def _again(paths: Sequence[str] | None) -> str:
    return f"; begins again: {', '.join(paths)}" if paths else ""


def narrate(event: Mapping[str, Any]) -> str:
    """Return what a recorded event says by itself, in words."""
    failure: Mapping[str, Any] = event.get("failure") or {}
    why = f"{failure.get('message', '')} [{failure.get('code', '')}]" if failure else ""
    match event["kind"]:
        case "run_created":
            based_on = f"; it goes on with run {event['based_on']}" if event.get("based_on") else ""
            return f"the run was accepted (plan {str(event['plan_digest'])[:16]}){based_on}"
        case "run_resumed":
            return f"the run was interrupted, and goes on{_again(event.get('repeated'))}"
        case "run_paused":
            by = f" by {event['by']}" if event.get("by") else ""
            stopped = ", ".join(event.get("stopped") or ())
            return f"the run was paused{by}{f'; stopped: {stopped}' if stopped else ''}"
        case "stage_started":
            return f"attempt {event['attempt']} starts" if event["attempt"] > 1 else "starts"
        case "stage_succeeded":
            return f"succeeded in {duration(event.get('duration_s', 0))}{_decided(event)}"
        case "stage_reused":
            return f"reused {reused_from(event.get('source') or {})}"
        case "stage_failed":
            return f"attempt {event['attempt']} failed after {duration(event.get('duration_s', 0))}: {why}"
        case "stage_declined":
            return "declined: its 'when' is false"
        case "stage_stopped":
            return "stopped"
        case "stage_skipped":
            return f"skipped: {REASONS.get(event['reason'], event['reason'])}"
        case "stage_retrying":
            return f"will be tried again in {duration(event['delay_s'])}"
        case "stage_ended":
            return f"ended: {event['status']}{f' ({why})' if why else ''}"
        case "branch_taken":
            return f"takes the branch {event['branch']!r}" if event.get("branch") is not None else "takes no branch"
        case "loop_expanded":
            return f"has {counted(event['count'], 'item')}"
        case "item_ended":
            return f"item {event['index']} {f'failed: {why}' if why else 'is done'}"
        case "variable_set":
            return f"sets {', '.join(event['names'])}"
        case "approval_requested":
            return f"asks a person: {event['message']}"
        case "approval_answered":
            return f"is answered by {event['by']}" if event.get("by") else "is answered"
        case "timer_fired":
            return "the delay is over"
        case "cancel_requested":
            return f"asked to stop: {event.get('message', '')}"
        case "run_succeeded":
            return "the run succeeded"
        case "run_failed":
            return f"the run failed: {why}"
        case "run_cancelled":
            return "the run was cancelled"
        case kind:
            return str(kind).replace("_", " ")


def _decided(event: Mapping[str, Any]) -> str:
    usage = total_of(event.get("usage")).to_json()
    return f" ({usage_words(usage)})" if usage else ""
