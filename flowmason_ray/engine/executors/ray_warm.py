"""Warm workers: actors without CPU that take the calls of cheap pure stages, because a call to an actor costs half of a task.

They hold nothing: every call brings what it needs, so one that dies is no loss. Its calls are made again, as tasks. They belong to the
process that coordinates, not to a run, because a run of many cheap stages takes no longer than starting them does: the first
run that has many such calls has them started, and makes its calls as tasks until they are there. They hold no cores, so they never
keep anybody from running, and end with the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from flowmason_ray.engine.executors.ray_calls import Call, Member
from flowmason_ray.engine.executors.ray_inputs import told_when_full
from flowmason_ray.engine.executors.ray_messages import CallData, CallReport, pack, unpack
from flowmason_ray.engine.executors.ray_worker import execute, node_id, run_attempts

WARM_AFTER = 16
"""After how many calls that they could take warm workers are started: starting one costs as much as a thousand calls."""
MOST_WARM = 8
"""Each takes some 100 MB of memory; with calls this short a coordinator cannot keep more of them busy."""

_ray: Any = ray  # under this name without types: those of Ray are partly unknown


class _Worker:
    """The actor."""

    def __init__(self) -> None:
        self._classes: Mapping[str, Any] = {}
        self._kept: dict[tuple[int, str, int], Any] = {}

    def learn(self, classes: Mapping[str, Any]) -> None:
        """Take component classes that cannot be imported here, by name."""
        self._classes = classes

    def run(self, number: int, packed: bytes, *arguments: Any) -> bytes:
        """Run a call (`ray_worker.run_call`); values that are too large for the report stay here until they are taken.

        `number` is the call's: runs that go on side by side have stages of the same paths.
        """
        call: CallData = unpack(packed, "driver")
        reports, kept = run_attempts(self._classes, call, arguments, execute)
        for data, report, value in zip(call.attempts, reports, kept, strict=True):
            if report.status == "succeeded" and not report.inline:
                self._kept[number, data.path, data.attempt] = value
        return pack(CallReport(reports, node_id()))

    @_ray.method(num_returns=2)
    def take(self, number: int, path: str, attempt: int) -> tuple[None, Any]:
        """Hand out a value that stayed here, after something small whose arrival tells that it is handed out."""
        return None, self._kept.pop((number, path, attempt))


class Lane:
    """One warm worker."""

    __slots__ = ("handle", "knows", "ready", "started")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.started: Any = handle.learn.remote({})
        """Reference to the end of its start."""
        self.ready = False
        self.knows: Mapping[str, Any] = {}
        """The classes that it was told last."""


_numbers = count()
"""The numbers of this process's calls."""
_lanes: list[Lane] = []
_cluster: list[str] = []
"""The cluster that the lanes are in."""
_remote_worker: Any = _ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")(_Worker)


class WarmCall(Call):
    """A call that a warm worker carries out."""

    __slots__ = ("arguments", "data", "lane", "number", "options")

    def __init__(self, call: Call, lane: Lane, data: bytes, arguments: list[Any], options: Mapping[str, Any]) -> None:
        super().__init__(call.members, name=call.name, cores=call.cores)
        self.lane = lane
        self.number = next(_numbers)
        self.data = data
        self.arguments = arguments
        self.options = options
        """What it takes to make it again as a task."""

    def key(self, member: Member) -> tuple[Any, ...]:
        """Return under which key its worker keeps a member's value."""
        return (self.number, *super().key(member))

    def cancel(self, *, force: bool) -> None:
        """Cancel it if it has not begun; with `force`, kill its worker."""
        self.cancelled = True
        with suppress(RayError, ValueError, TypeError):  # it has ended meanwhile: its report is on the way
            if force:
                _bury(self.lane)
            else:
                _ray.cancel(self.report)


class Warm:
    """The warm workers, as one run uses them."""

    def __init__(
        self,
        when_done: Callable[[Any, Callable[[Any], None]], None],
        watch: Callable[[Call], None],
        cores: Callable[[], int],
    ) -> None:
        """
        Args:
            when_done: Calls back with what is behind a reference.
            watch: Has a call's end noticed.
            cores: Returns how many cores the cluster has.
        """
        self._when_done = when_done
        self._watch = watch
        self._cores = cores
        self._wishes = 0
        self._looked = False
        self._load: dict[Lane, int] = {}
        """Calls under way."""

    def lane(self) -> Lane | None:
        """Return the worker that has least to do; None: there is none yet."""
        self._wishes += 1
        if not self._looked or self._wishes == WARM_AFTER:
            self._looked = True
            self._look()
        return min((lane for lane in _lanes if lane.ready), key=lambda lane: self._load.get(lane, 0), default=None)

    def _look(self) -> None:
        """Forget workers of another cluster; start as many as are missing, if it pays."""
        context = _ray.get_runtime_context()
        here = f"{context.gcs_address} {context.get_job_id()}"
        if _cluster != [here]:
            _cluster[:] = [here]
            _lanes.clear()
        if self._wishes >= WARM_AFTER:
            for _ in range(min(self._cores(), MOST_WARM) - len(_lanes)):
                _lanes.append(Lane(_remote_worker.remote()))
        for lane in _lanes:
            if not lane.ready:
                self._when_done(lane.started, partial(_started, lane))

    def send(self, call: WarmCall, classes: Mapping[str, Any]) -> None:
        """Make a call.

        Raises:
            StoreFull: there is no room to send it; nothing is under way then.
        """
        lane = call.lane
        with told_when_full("The call"):  # Ray puts a large one into the object store
            if lane.knows is not classes:
                lane.handle.learn.remote(classes)
                lane.knows = classes
            call.report = lane.handle.run.options(name=call.name).remote(call.number, call.data, *call.arguments)
        self._load[lane] = self._load.get(lane, 0) + 1
        self._watch(call)

    def arrived(self, call: WarmCall, outcome: Any) -> bool:
        """Take what came back of a call; returns whether it has to be made again, as a task."""
        self._load[call.lane] = self._load.get(call.lane, 1) - 1
        if isinstance(outcome, RayActorError):
            _bury(call.lane)
            self._load.pop(call.lane, None)
            return not call.cancelled
        return False


def _started(lane: Lane, outcome: Any) -> None:
    if isinstance(outcome, BaseException):
        _bury(lane)
    else:
        lane.ready = True


def _bury(lane: Lane) -> None:
    lane.ready = False
    if lane in _lanes:
        _lanes.remove(lane)
    with suppress(RayError, ValueError):
        _ray.kill(lane.handle, no_restart=True)
