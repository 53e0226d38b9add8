"""Calls to workers, seen from the coordinator: what is under way, what has come back, and how it ended.

A call serves one or more attempts (`ray_messages`). Each of them is reported on its own; one that is cancelled while others
go on is reported as stopped at once, and its result is dropped.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

from flowmason_ray.engine.events import Event, StageDeclined, StageFailed, StageStopped, StageSucceeded
from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.executors.ray_losses import lost_failure, lost_object
from flowmason_ray.engine.executors.ray_messages import CallReport, Report, VersionMismatch, unpack
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.scope import Scope
from flowmason_ray.errors import Failure, FlowMasonError

if TYPE_CHECKING:
    from flowmason_ray.engine.executors.ray_pool import Actor, Pool

_ray: Any = ray
# Under this name without types: those of Ray are partly unknown.


SETTLED_S = 0.25
"""How old a task is before it is cancelled. One that is cancelled while Ray still resolves its arguments ends this whole process
(Ray 2.60: a failed check in `ReferenceCounter::RemoveSubmittedTaskReferences`, called from `NormalTaskSubmitter::SubmitTask`)."""


_NOT_IMPORTED = "failed to import on the worker"
"""What Ray says of a function or a class that it cannot unpickle (2.60, `ray/_private/function_manager.py`)."""
_ARGUMENT_FAILED = "input arguments for this task could not be computed"
"""What Ray says when a call was not begun because of what made one of its arguments (2.60, `RayTaskError.__str__`)."""
_RAISED = re.compile(r"\s*\w+Error: ")


class UnreadableReport(Exception):
    """A call has ended, and how cannot be told."""


class Member:
    """An attempt of a call, or a gathering."""

    __slots__ = ("attempt", "over", "path", "scope", "stage", "wanted")

    def __init__(
        self, path: str, attempt: int, scope: Scope | None = None, stage: PlanStage | None = None, wanted: bool = True
    ) -> None:
        self.path = path
        self.attempt = attempt
        self.scope = scope
        """The scope instance and the stage of an attempt; None for a gathering."""
        self.stage = stage
        self.wanted = wanted
        """Whether the state machine has asked for it; else it rides along."""
        self.over = False
        """Whether it has been reported already."""


class Call:
    """A call that Ray is carrying out, or that waits for an actor."""

    __slots__ = (
        "actor",
        "cancelled",
        "cores",
        "kill",
        "members",
        "name",
        "near",
        "pool",
        "report",
        "round",
        "submitted",
        "values",
    )

    def __init__(
        self,
        members: list[Member],
        report: Any = None,
        values: Sequence[Any] = (),
        *,
        name: str = "",
        near: str | None = None,
        cores: float = 0.0,
    ) -> None:
        self.members = members
        self.report = report
        """Reference to the `CallReport`; None: it waits for an actor."""
        self.values: list[Any] = list(values)
        """References to the members' values, those that are too large for the report."""
        self.name = name
        self.near = near
        """The id of the node on which it had better run."""
        self.cores = cores
        """How many cores it asks for."""
        self.pool: Pool | None = None
        """The actors that carry it out; None: it is a task."""
        self.actor: Actor | None = None
        """The one of them that it was sent to."""
        self.round = 0
        """How many failed setups of those had failed calls before it came."""
        self.kill: asyncio.TimerHandle | None = None
        self.cancelled = False
        self.submitted = monotonic()

    def settles_in(self) -> float:
        """Return how long it must not be cancelled yet, in seconds (`SETTLED_S`)."""
        return 0.0 if self.pool is not None else max(0.0, SETTLED_S - (monotonic() - self.submitted))

    def key(self, member: Member) -> tuple[Any, ...]:
        """Return under which key its actor keeps a member's value."""
        return (member.path, member.attempt)

    def waited_for(self) -> list[Member]:
        """Return the members whose reports are still missing."""
        return [member for member in self.members if member.wanted and not member.over]

    def waits_for(self, path: str, attempt: int) -> bool:
        """Tell whether the report of that attempt is still missing."""
        return any(m.path == path and m.attempt == attempt and m.wanted and not m.over for m in self.members)

    def cancel(self, *, force: bool) -> None:
        """Have Ray stop it: interrupted, or with `force` killed with its worker."""
        self.cancelled = True
        if self.pool is not None:
            self.pool.cancel(self, force=force)
            return
        with suppress(RayError, ValueError, TypeError):  # it has ended meanwhile: its report is on the way
            _ray.cancel(self.report, force=force)


class Arrivals:
    """Brings what Ray's threads hand over to the event loop: all of it that is there at once, in one go."""

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[Call, Any], None]) -> None:
        self._loop = loop
        self._take = take
        self._queue: deque[tuple[Call, Any]] = deque()
        self._woken = False

    def watch(self, call: Call) -> None:
        """Have `take(call, future of its report)` called on the event loop when it has ended."""

        def ended(future: Any) -> None:  # on one of Ray's threads
            self._queue.append((call, future))
            if not self._woken and not self._loop.is_closed():
                self._woken = True
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._drain)

        call.report.future().add_done_callback(ended)

    def _drain(self) -> None:
        self._woken = False  # before the queue is looked at: what comes from here on wakes the loop again
        while self._queue:
            call, future = self._queue.popleft()
            try:
                self._take(call, future)
            except BaseException:
                self._loop.call_soon(self._drain)  # the others' ends are not to wait for the next one
                raise


def take_values(handle: Any, call: Call, report: CallReport) -> list[Any]:
    """Take the references to values that stayed in an actor: they belong to the coordinator then, and outlive it.

    Returns:
        References to what is there when a value has been handed out, one per value.
    """
    missing: list[Any] = []
    call.values = [None] * len(call.members)
    for i, (member, each) in enumerate(zip(call.members, report.reports, strict=True)):
        if not each.inline:
            there, call.values[i] = handle.take.remote(*call.key(member))
            missing.append(there)
    return missing


def end_of(member: Member, report: Report, value: Any, node: str) -> Event:
    """Return the event that reports how an attempt ended.

    Args:
        member: The attempt.
        report: What its worker says.
        value: The reference to its value, if that is not in the report.
        node: The id of the node on which it ran.
    """
    now, path, attempt = time(), member.path, member.attempt
    if report.status == "declined":
        return StageDeclined(at=now, path=path, attempt=attempt)
    if report.status == "failed":
        assert report.failure is not None
        return StageFailed(
            at=now,
            path=path,
            attempt=attempt,
            failure=report.failure,
            duration_s=report.duration_s,
            final=report.final,
            usage=report.usage,
        )
    if report.status == "stopped":
        return StageStopped(at=now, path=path, attempt=attempt, usage=report.usage)
    made = report.value
    if not report.inline:
        made = RemoteValue(
            reference=value, packed=report.packed, size_bytes=report.size_bytes, contents=report.contents, node=node
        )
    return StageSucceeded(
        at=now,
        path=path,
        attempt=attempt,
        value=made,
        decision=report.decision,
        duration_s=report.duration_s,
        usage=report.usage,
    )


def lost(call: Call, member: Member, error: BaseException) -> Event:
    """Say how an attempt ended of whose call no report came back."""
    if isinstance(error, TaskCancelledError) or (call.cancelled and isinstance(error, RayError)):
        return stopped(member)
    reference = lost_object(error)
    if reference is not None:
        failure = lost_failure(reference, member.path, member.attempt)
    else:
        code, message = _code_of(error)
        failure = Failure(
            code=code, message=message, stage=member.path, attempts=member.attempt, error_type=type(error).__name__
        )
    return StageFailed(at=time(), path=member.path, attempt=member.attempt, failure=failure)


def _code_of(error: BaseException) -> tuple[str, str]:
    if isinstance(error, OutOfMemoryError):
        message = "Ray killed the worker process that ran the attempt, because the memory of its node was running out."
        return "out_of_memory", message
    full = getattr(error, "cause", error)
    if isinstance(full, (ObjectStoreFullError, OutOfDiskError)):
        what = "What the attempt made has no room in the cluster"
        if _ARGUMENT_FAILED in str(error):  # then it has not run
            what = "A value that it reads found no room in the cluster when it was made"
        return "object_store_full", f"{what}: {_without_tips(full)}"
    if isinstance(error, (WorkerCrashedError, RayActorError, NodeDiedError)):
        return "worker_died", "The worker process that ran the attempt died (killed, out of memory, or crashed)."
    unimportable = _failed_import(error)
    if unimportable is not None:
        return "not_importable", unimportable
    cause = getattr(error, "cause", error)
    if isinstance(cause, FlowMasonError):
        return cause.code, cause.message
    return "executor_error", _last_words_of(error)


def _without_tips(error: BaseException) -> str:
    """Return what an error of Ray's says over several lines in one, without its tips, which are about Ray's own commands."""
    lines = str(error).partition("Tip:")[0].strip().splitlines()
    return " ".join(line if line.endswith(".") else f"{line}." for line in map(str.strip, lines) if line)


def stopped(member: Member) -> StageStopped:
    """Say that an attempt was stopped."""
    return StageStopped(at=time(), path=member.path, attempt=member.attempt)


def words_of(error: BaseException) -> str:
    """Return what an error of Ray's says: of one that wraps another, the other; its last line, where its point is."""
    return _failed_import(error) or _last_words_of(error)


def _failed_import(error: BaseException) -> str | None:
    """Return what to do about an import that fails on a worker; None: the error is another."""
    text = str(error)
    if _NOT_IMPORTED not in text:
        return None
    # Ray's words, with the whole `sys.path`, are around the traceback.
    why = next((line for line in reversed(text.splitlines()) if _RAISED.match(line)), "the import fails")
    return (
        f"The worker cannot import what a component needs. {why.strip()}. Install the same packages on every node of the cluster, "
        "or send the project along ('fm submit')."
    )


def _last_words_of(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(error, RayTaskError) and isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def outcome_of(future: Any) -> CallReport | BaseException:
    """Return what came back of a call, or why nothing did."""
    error = future.exception()
    if error is not None:
        return error
    try:
        return unpack(future.result())
    except VersionMismatch as exc:
        return exc
    except Exception as exc:  # what a pickle raises has no bounds
        return UnreadableReport(
            f"The worker's report cannot be read ({type(exc).__name__}: {exc}). Is another version of FlowMason installed on its node?"
        )
