"""The Ray executor: one task per attempt, values straight from producer to consumer.

Handles are values (small ones, which a worker's report carries) or `RemoteValue`s (references into Ray's object store). A
consumer's task gets the references as arguments, so Ray schedules it near its data and brings the data there. Trivial
stages whose inputs are all at hand run in the coordinator itself: a hop would cost a thousand times what they do; `fuse:
never` sends them to Ray nevertheless.

Ray repeats tasks by itself only for pure stages (a lost worker, a lost object); every other repetition is the engine's
decision. A cancelled task gets `STOP_GRACE_S` to end, then its worker is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic, time
from typing import Any, Self

import orjson
import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError, TaskCancelledError, WorkerCrashedError

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage, resolve_part
from flowmason_ray.engine.component import ComponentSpec, Cost
from flowmason_ray.engine.digests import item_in, part_in
from flowmason_ray.engine.events import Event, StageDeclined, StageFailed, StageStopped, StageSucceeded
from flowmason_ray.engine.executor import STOP_GRACE_S, Deliver, RunInfo
from flowmason_ray.engine.executors.in_process import InProcessExecutor
from flowmason_ray.engine.executors.placement import PURE_RETRIES, Feasibility, options_of, resources_of
from flowmason_ray.engine.executors.ray_bindings import RemoteValue, bind, binding, reads_remote, stage_data
from flowmason_ray.engine.executors.ray_cluster import connect
from flowmason_ray.engine.executors.ray_worker import (
    AttemptData,
    Report,
    StageData,
    gather_results,
    pack_run,
    portable,
    restore,
    run_attempt,
)
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.values import INLINE_LIMIT_BYTES
from flowmason_ray.errors import Failure, FlowMasonError

SETTLED_S = 0.25
"""How old a task is before it is cancelled. One that is cancelled while Ray still resolves its arguments ends this whole process
(Ray 2.60: a failed check in `ReferenceCounter::RemoveSubmittedTaskReferences`, called from `NormalTaskSubmitter::SubmitTask`)."""


def _attempt_with(classes: Mapping[str, Any]) -> Any:
    """Return the remote function that runs attempts, with the classes that workers cannot import sent along once."""

    def attempt(data: AttemptData, *arguments: Any) -> tuple[Report, Any]:
        return run_attempt(classes, data, *arguments)

    return ray.remote(attempt)


_ray: Any = ray
_cloudpickle: Any = cloudpickle
# Under these names without types: those of Ray are partly unknown.

# Made once: Ray exports a remote function to the cluster again for every object that `ray.remote` returns.
_plain_attempt: Any = _attempt_with({})
_remote_gather: Any = ray.remote(gather_results)


class ValueLost(FlowMasonError):
    """A value in the object store is gone, and Ray could not make it again."""

    code = "value_lost"


class _Task:
    """An attempt or a gathering that Ray is running."""

    __slots__ = ("attempt", "cancelled", "command", "kill", "path", "report", "submitted", "value")

    def __init__(self, path: str, attempt: int, report: Any, value: Any) -> None:
        self.path = path
        self.attempt = attempt
        self.report = report
        self.value = value
        self.submitted = monotonic()
        self.kill: asyncio.TimerHandle | None = None
        self.cancelled = False

    def settles_in(self) -> float:
        """Return how long it must not be cancelled yet, in seconds (`SETTLED_S`)."""
        return max(0.0, SETTLED_S - (monotonic() - self.submitted))


class RayTasksExecutor:
    """Runs the stages of one run as Ray tasks."""

    tells_beginning = False  # Ray does not say when a queued task gets its place

    def __init__(self, *, address: str | None = None) -> None:
        self._address = address
        self._local = InProcessExecutor()
        self._tasks: dict[str, _Task] = {}
        self._stages: dict[int, StageData] = {}
        self._feasible = Feasibility()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await connect(self._address)
        await self._local.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            if task.kill is not None:
                task.kill.cancel()
        if tasks:
            await asyncio.sleep(max(task.settles_in() for task in tasks))
        for task in tasks:
            _cancel(task, force=True)
        await self._local.__aexit__(*exc)

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        """Begin to serve a run."""
        self._run = run
        self._deliver = deliver
        self._local.open(run, deliver)
        self._packed_run = pack_run(run)
        self._input: Any = None
        self._classes: dict[str, Any] = {}
        self._remote_attempt = _plain_attempt

    async def fetch(self, handle: Any) -> Any:
        """Bring a value here.

        Raises:
            ValueLost: it is gone.
        """
        if not isinstance(handle, RemoteValue):
            return await self._local.fetch(handle)
        try:
            return restore(await handle.reference)
        except RayError as exc:
            raise ValueLost(f"A value of {handle.size_bytes} bytes is gone from the cluster: {_words(exc)}") from exc

    def part_content(self, handle: Any, key: str | None) -> bytes | None:
        """Return what stands for a value in fingerprints."""
        if not isinstance(handle, RemoteValue):
            return self._local.part_content(handle, key)
        return None if handle.contents is None else part_in(handle.contents, key)

    def item_content(self, items: Any, position: int) -> bytes | None:
        """Return what stands for an item of a loop in fingerprints."""
        if not isinstance(items, RemoteValue):
            return self._local.item_content(items, position)
        return None if items.contents is None else item_in(items.contents, position)

    # -- attempts -----------------------------------------------------------------------------------------------------

    def start(self, command: StartStage) -> Event | None:
        """Begin an attempt: in place when it is trivial and its inputs are here, else as a Ray task."""
        stage = command.stage
        trivial = stage.component is None or (stage.component.cost is Cost.TRIVIAL and stage.component.is_async)
        if trivial and stage.fuse != "never" and not reads_remote(command.scope, stage):
            return self._local.start(command)
        asked = resources_of(stage)
        missing = self._feasible.missing(asked, dict(stage.resources.get("labels") or {}))
        if missing is not None:
            message = f"Stage {stage.id!r} can never run on this cluster. {missing}"
            failure = Failure(
                code="infeasible_resources", message=message, stage=command.path, attempts=command.attempt
            )
            return StageFailed(at=time(), path=command.path, attempt=command.attempt, failure=failure)
        self._submit(command, options_of(stage, command.path, asked))
        return None

    def _submit(self, command: StartStage, options: dict[str, Any]) -> None:
        stage = command.stage
        arguments: list[Any] = []
        data = AttemptData(
            stage=self._stage_data(stage),
            bindings=bind(command.scope, stage, arguments, self._input_handle),
            path=command.path,
            attempt=command.attempt,
            first_started_at=command.first_started_at,
            run_id=self._run.run_id,
            idempotency_key=command.idempotency_key,
            run=self._packed_run,
        )
        report, value = self._remote_attempt.options(num_returns=2, **options).remote(data, *arguments)
        self._watch(_Task(command.path, command.attempt, report, value))

    def _input_handle(self, value: Any) -> Any:
        """Return the handle of an input: a large one is put into the object store once."""
        if value is not self._run.input:
            return value
        if self._input is None:
            size = len(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))
            if size <= INLINE_LIMIT_BYTES:
                self._input = value
            else:
                self._input = RemoteValue(reference=_ray.put(portable(value)), packed=None, size_bytes=size)
        return self._input

    def _stage_data(self, stage: PlanStage) -> StageData:
        key = id(stage)
        data = self._stages.get(key)
        if data is None:
            data = self._stages[key] = stage_data(stage)
            component = stage.component
            if component is not None and component.name not in self._classes and _travels_by_value(component):
                self._classes = {**self._classes, component.name: component.create}
                self._remote_attempt = _attempt_with(self._classes)
        return data

    def _watch(self, task: _Task) -> None:
        self._tasks[task.path] = task
        loop = self._loop

        def ended(future: Any) -> None:  # on one of Ray's threads
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, task, future)

        task.report.future().add_done_callback(ended)

    def _ended(self, task: _Task, future: Any) -> None:
        if self._tasks.get(task.path) is not task:
            return
        del self._tasks[task.path]
        if task.kill is not None:
            task.kill.cancel()
        error = future.exception()
        if error is None:
            self._deliver_report(task, future.result())
        else:
            self._deliver(self._lost(task, error))

    def _deliver_report(self, task: _Task, report: Report) -> None:
        for event in report.told:
            self._deliver(event)
        facts: dict[str, Any] = {"at": time(), "path": task.path, "attempt": task.attempt}
        if report.status == "declined":
            self._deliver(StageDeclined(**facts))
        elif report.status == "failed":
            assert report.failure is not None
            self._deliver(
                StageFailed(**facts, failure=report.failure, duration_s=report.duration_s, final=report.final)
            )
        else:
            value = report.value
            if not report.inline:
                value = RemoteValue(
                    reference=task.value,
                    packed=report.packed,
                    size_bytes=report.size_bytes,
                    contents=report.contents,
                )
            self._deliver(StageSucceeded(**facts, value=value, decision=report.decision, duration_s=report.duration_s))

    def _lost(self, task: _Task, error: BaseException) -> Event:
        """Say how a task ended of which no report came back."""
        stopped = isinstance(error, TaskCancelledError) or (isinstance(error, RayTaskError) and task.cancelled)
        if stopped or (task.cancelled and isinstance(error, RayError)):
            return StageStopped(at=time(), path=task.path, attempt=task.attempt)
        died = isinstance(error, WorkerCrashedError)
        code = "worker_died" if died else "value_lost" if "Lost" in type(error).__name__ else "executor_error"
        message = (
            "The worker process that ran the attempt died (killed, out of memory, or crashed)."
            if died
            else _words(error)
        )
        failure = Failure(
            code=code, message=message, stage=task.path, attempts=task.attempt, error_type=type(error).__name__
        )
        return StageFailed(at=time(), path=task.path, attempt=task.attempt, failure=failure)

    def cancel(self, command: CancelStage) -> None:
        """Stop an attempt: Ray interrupts it, and kills its worker if it does not end."""
        task = self._tasks.get(command.path)
        if task is None:
            self._local.cancel(command)
        elif task.attempt == command.attempt and not task.cancelled:
            task.cancelled = True
            wait_s = task.settles_in()
            if wait_s:
                task.kill = self._loop.call_later(wait_s, self._interrupt, task)
            else:
                self._interrupt(task)

    def _interrupt(self, task: _Task) -> None:
        _cancel(task, force=False)
        task.kill = self._loop.call_later(STOP_GRACE_S, self._kill, task)

    def _kill(self, task: _Task) -> None:
        _cancel(task, force=True)
        task.kill = self._loop.call_later(
            STOP_GRACE_S, self._give_up, task, StageStopped(at=time(), path=task.path, attempt=task.attempt)
        )

    def _give_up(self, task: _Task, stopped: StageStopped) -> None:
        if self._tasks.pop(task.path, None) is task:
            self._deliver(stopped)

    # -- constructs ---------------------------------------------------------------------------------------------------

    def gather(self, command: GatherResults) -> Event | None:
        """Put a construct's value together: here when all is here, else on a worker."""
        arguments: list[Any] = []
        parts = {name: resolve_part(part, lambda h: binding(h, arguments)) for name, part in command.parts.items()}
        base = binding(command.base, arguments)
        if not arguments:
            return self._local.gather(command)
        options = {"num_returns": 2, "num_cpus": 0, "name": command.path, "max_retries": PURE_RETRIES}
        report, value = _remote_gather.options(**options).remote(
            command.head, parts, base, self._packed_run, *arguments
        )
        self._watch(_Task(command.path, command.attempt, report, value))
        return None


def _travels_by_value(component: ComponentSpec) -> bool:
    """Tell whether a component's class is sent to workers itself, because they may not be able to import it.

    So it is with classes of a script, a test or a notebook. Installed packages and a project's `components/` are imported.
    """
    module = sys.modules.get(component.module)
    file = str(getattr(module, "__file__", None) or "")
    if component.file is not None or (component.module.startswith("flowmason_ray.") or "site-packages" in file):
        return False
    if module is not None and component.module != "__main__":
        _cloudpickle.register_pickle_by_value(module)
    return True


def _cancel(task: _Task, *, force: bool) -> None:
    with suppress(RayError, ValueError, TypeError):  # it has ended meanwhile: its report is on the way
        _ray.cancel(task.report, force=force)


def _words(error: BaseException) -> str:
    """Return what an error of Ray's says: of one that wraps another, the other; its last line, where its point is."""
    cause = getattr(error, "cause", None)
    if isinstance(error, RayTaskError) and isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
