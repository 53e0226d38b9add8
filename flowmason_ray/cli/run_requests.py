"""What is asked of a run from another process: to take an answer, to pause, to stop. Each waits until the run's log says that
it was done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from flowmason_ray.cli.errors import CANCELLED
from flowmason_ray.cli.reactions import PATIENCE_S, POLL_S, Reactions
from flowmason_ray.cli.terminal import note
from flowmason_ray.engine.events import RUN_ENDED
from flowmason_ray.errors import InvalidCall, InvalidInput, nearest

if TYPE_CHECKING:
    from flowmason_ray.engine.run_log import RunRecord, RunStore

_RECORDING_S = 1.0
"""How long is waited for a question that is not in the log yet: a person sees it a moment before it is recorded."""
_LEAVING = "Ctrl-C ends the waiting, not what was asked."
_ENDED = frozenset(event.kind for event in RUN_ENDED)


async def answer_stage(store: RunStore, run: str, path: str, text: str, by: str | None) -> None:
    """Answer the stage at `path`.

    Raises:
        InvalidCall: the answer is not JSON, the run is over, the stage does not ask, or the run did not react.
        InvalidInput: the answer does not fit the form.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        hint = """A text is written in quotes: --data '"yes"'."""
        raise InvalidCall(f"--data is not JSON: {exc}. {hint}") from None
    record = await _under_way(store, run)
    deadline = monotonic() + _RECORDING_S
    asking, position = await _asking(store, record)
    while path not in asking and monotonic() < deadline:  # another process writes the log: no event tells
        await asyncio.sleep(POLL_S)
        asking, position = await _asking(store, record)
    if path not in asking:
        close = nearest(path, asking)
        waiting = f" Waiting: {', '.join(asking)}." if asking else " Nothing in it waits for an answer now."
        hint = f" Did you mean {close!r}?" if close else ""
        raise InvalidCall(f"Stage {path!r} of run {record.run_id!r} does not wait for an answer.{hint}{waiting}")
    form = asking[path]
    if form is not None:
        from flowmason_ray.spec.input_schema import InputSchema

        problems = InputSchema(form).violations(data, subject="answer")
        if problems:
            raise InvalidInput(problems)
    await store.request(record.run_id, "answer", {"path": path, "data": data, "by": by or _user()})
    reactions = Reactions(store, record, after=position)
    if not await reactions.seen(lambda e: e["kind"] == "approval_answered" and e.get("path") == path):
        raise InvalidCall(f"Run {record.run_id!r} did not take the answer within {PATIENCE_S:g} s; is it still there?")
    note(f"Answered {path} of run {record.run_id}.")


async def cancel_run(store: RunStore, run: str) -> int:
    """Cancel a run that is under way, or could be taken up again; return the exit code.

    Raises:
        InvalidCall: it is over, or did not react.
    """
    message = f"The run was cancelled (by {_user()}, 'fm cancel')."
    record = await store.find(run)
    if record.status in ("paused", "interrupted"):
        await _end_stopped(store, record, message)
        return 0
    record = await _under_way(store, run)
    reactions = Reactions(store, record)
    await reactions.catch_up()
    await store.request(record.run_id, "cancel", {"message": message})

    def say(waited_for: str, under_way: str) -> str:
        what = f"; under way: {under_way}" if under_way else ""
        return f"Waiting until run {record.run_id} has ended, up to {PATIENCE_S:g} s{what}. {_LEAVING}"

    try:
        ended = await reactions.seen(_has_stopped, say=say)
    except asyncio.CancelledError:  # Ctrl-C: nobody else cancels what a command does
        note(f"No longer waiting; run {record.run_id} is still to end.")
        return CANCELLED
    if not ended:
        raise InvalidCall(f"Run {record.run_id!r} did not end within {PATIENCE_S:g} s; is its process still there?")
    record = await store.find(record.run_id)
    if record.status == "paused":  # somebody was a moment faster, and it hears nothing any more
        await _end_stopped(store, record, message)
    else:
        note(f"Run {record.run_id} has ended: {record.status}.")
    return 0


async def _end_stopped(store: RunStore, record: RunRecord, message: str) -> None:
    from flowmason_ray.resuming import end_stopped

    await end_stopped(store, record, code="cancelled", message=message)
    note(f"Run {record.run_id} has ended: cancelled.")


def _has_stopped(event: Mapping[str, Any]) -> bool:
    return event["kind"] == "run_paused" or event["kind"] in _ENDED


async def pause_run(store: RunStore, run: str) -> int:
    """Pause a run; return the exit code.

    Raises:
        InvalidCall: it is not under way, or did not react.
    """
    record = await _under_way(store, run)
    reactions = Reactions(store, record)
    await reactions.catch_up()
    await store.request(record.run_id, "pause", {"by": _user()})

    def say(waited_for: str, under_way: str) -> str:
        head = f"Waiting until run {record.run_id} has paused, up to {PATIENCE_S:g} s"
        if waited_for:
            return f"{head}: what {waited_for} does must not be repeated, so it is not interrupted. {_LEAVING}"
        what = f"; under way: {under_way}" if under_way else ""
        return f"{head}{what}. An effect that must not be repeated is not interrupted. {_LEAVING}"

    try:
        stopped = await reactions.seen(_has_stopped, say=say)
    except asyncio.CancelledError:  # as in `cancel_run`
        note(f"No longer waiting; run {record.run_id} is still to pause.")
        return CANCELLED
    if not stopped:
        raise InvalidCall(
            f"Run {record.run_id!r} has not paused within {PATIENCE_S:g} s. It pauses as soon as the stages whose effects must "
            "not be repeated have ended ('fm runs show' lists what runs), if its process is still there."
        )
    status = (await store.find(record.run_id)).status
    if status == "paused":
        note(f"Run {record.run_id} is paused. Go on with it: fm resume {record.run_id}")
    else:
        note(f"Run {record.run_id} ended before it could pause: {status}.")
    return 0


async def _under_way(store: RunStore, run: str) -> RunRecord:
    record = await store.find(run)
    if record.status != "running":
        further = f" It goes on with: fm resume {record.run_id}" if record.status in ("paused", "interrupted") else ""
        raise InvalidCall(f"Run {record.run_id!r} is not under way: it is {record.status}.{further}")
    return record


async def _asking(store: RunStore, record: RunRecord) -> tuple[dict[str, Mapping[str, Any] | None], int]:
    """Return the stages that wait for an answer with their forms, and the position up to which that holds."""
    asking: dict[str, Mapping[str, Any] | None] = {}
    position = 0
    async for recorded in store.read(record.run_id):
        position, event = recorded.position, recorded.event
        if event["kind"] == "approval_requested":
            asking[event["path"]] = event.get("form")
        elif event["kind"] in ("approval_answered", "stage_ended"):
            asking.pop(event["path"], None)
    return asking, position


def _user() -> str:
    from getpass import getuser

    try:
        return getuser()
    except (OSError, KeyError):  # no such user in the system's list, as in some containers
        return "somebody"


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")
