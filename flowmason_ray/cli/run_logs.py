"""`fm runs logs`: what the stages of a run said, with `context.log` or by printing it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from flowmason_ray.cli.run_story import is_at, unknown_path
from flowmason_ray.cli.terminal import json_bytes, note, painter, write_bytes
from flowmason_ray.errors import InvalidCall, nearest

if TYPE_CHECKING:
    from flowmason_ray.cli.terminal import Paint
    from flowmason_ray.engine.run_log import RunRecord, RunStore, Said

LEVELS = ("debug", "info", "warning", "error")
_COLOURS = {"debug": "dim", "warning": "yellow", "error": "red"}
POLL_S = 0.2
"""How often a follower looks: what is said is no event, so no store tells of it."""
_BATCH = 200
"""Lines that are written at a time."""


async def print_logs(store: RunStore, run: str, path: str | None, *, level: str, follow: bool, as_json: bool) -> None:
    """Write what was said to stdout, in order.

    Args:
        store: Where the run is recorded.
        run: Its id, the beginning of it, or `last`.
        path: Only this stage instance and what is inside it; None: all.
        level: The least level that is shown.
        follow: Go on until the run stops.
        as_json: One JSON document a line.

    Raises:
        RunNotFound: there is no such run.
        InvalidCall: there is no such level, or nothing in the run has this path.
    """
    if level not in LEVELS:
        close = nearest(level, LEVELS)
        hint = f" Did you mean {close!r}?" if close else ""
        raise InvalidCall(f"There is no level {level!r}; there is: {', '.join(LEVELS)}.{hint}")
    record = await store.find(run)
    path = None if path is None else path.strip("/")
    least = LEVELS.index(level)
    paint = painter(sys.stdout)
    lines: list[bytes] = []
    found = False
    async for said in followed_logs(store, record) if follow else store.said(record.run_id):
        if path is not None and not is_at(said.path, path):
            continue
        found = True
        if said.level in LEVELS and LEVELS.index(said.level) < least:
            continue
        lines.append(_document(said) if as_json else _line(said, record, paint))
        if follow or len(lines) >= _BATCH:
            write_bytes(b"".join(lines))
            lines.clear()
    if lines:
        write_bytes(b"".join(lines))
    if not found:
        await _explain_nothing(store, record, path)


async def followed_logs(store: RunStore, record: RunRecord, after: int = 0) -> AsyncIterator[Said]:
    """Yield what is said in a run until it ends, pauses or is interrupted."""
    while True:
        goes_on = (await store.find(record.run_id)).status == "running"
        async for said in store.said(record.run_id, after=after):
            after = said.number
            yield said
        if not goes_on:
            return
        await asyncio.sleep(POLL_S)


async def _explain_nothing(store: RunStore, record: RunRecord, path: str | None) -> None:
    """Say that there is nothing, and whether that is because nothing has this path."""
    if path is None:
        note(f"The stages of run {record.run_id} have said nothing.")
        return
    others: dict[str, None] = {}
    async for recorded in store.read(record.run_id):
        where = str(recorded.event.get("path", ""))
        if is_at(where, path):
            note(f"{path} of run {record.run_id} has said nothing.")
            return
        if where and len(others) < 100_000:
            others[where] = None
    raise InvalidCall(unknown_path(path, others, record))


def _document(said: Said) -> bytes:
    document = {
        "number": said.number,
        "at": said.at,
        "path": said.path,
        "attempt": said.attempt,
        "level": said.level,
        "message": said.message,
        "fields": said.fields,
    }
    return json_bytes(document) + b"\n"


def _line(said: Said, record: RunRecord, paint: Paint) -> bytes:
    offset = max(0.0, said.at - record.created_at)
    where = said.path if said.attempt <= 1 else f"{said.path} (attempt {said.attempt})"
    fields = dict(said.fields)
    level = str(fields.pop("stream", said.level))
    colour = _COLOURS.get(said.level)
    words = said.message + "".join(f" {name}={value!r}" for name, value in fields.items())
    head = f"{paint(f'{offset:>10.3f} s', 'dim')}  {where}  {paint(level, colour) if colour else level}: "
    return (head + words + "\n").encode("utf-8", "backslashreplace")
