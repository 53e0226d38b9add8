"""The in-process executor: everything in this process, without Ray.

Trivial components run in place: the report is there before `start` returns, and no event loop, task or thread is involved.
Other asynchronous components run on a loop in a thread of its own, synchronous ones in a thread each (`threads`), as many
at once as the machine has room for (`slots`). Handles are the values themselves;
large ones that a loop makes are `Kept`, if the run is recorded with blobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from time import perf_counter, time
from typing import Any, Self

from flowmason_ray.engine.attempt import DECLINED, SetupFailed, Value, at_once, fail, finish, is_final, prepare
from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage
from flowmason_ray.engine.component import Cost, Effect
from flowmason_ray.engine.context import AttemptContext, InstanceContext, LocalScope
from flowmason_ray.engine.digests import item_content, part_of
from flowmason_ray.engine.events import (
    Event,
    StageBegan,
    StageDeclined,
    StageFailed,
    StageLogged,
    StageStopped,
    StageSucceeded,
)
from flowmason_ray.engine.executor import STOP_GRACE_S, Deliver, RunInfo
from flowmason_ray.engine.executors.instances import TEARDOWN_S, Instance, Instances, teardown_failed
from flowmason_ray.engine.executors.prints import close_ears, open_ears
from flowmason_ray.engine.executors.slots import Demand, Slots
from flowmason_ray.engine.executors.surroundings import surroundings
from flowmason_ray.engine.executors.threads import AttemptStopped, ComponentLoop, ThreadJob, WorkerThreads
from flowmason_ray.engine.kept import Kept, Shelf, gathered, plain, read_value
from flowmason_ray.engine.pace import Pace
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.scope import Scope
from flowmason_ray.engine.values import INLINE_LIMIT_BYTES
from flowmason_ray.errors import Failure, StageError, StoreError
from flowmason_ray.stores.encoding import Decoder

HEARTBEAT_S = 1.0
"""How often the components' loop is asked for a sign of life; one that misses two is taken to be blocked."""

BEAT_S = 0.25
"""How long that loop has for a sign of life when a setup on it takes too long."""


class _Attempt:
    """An attempt that is not over yet."""

    __slots__ = ("command", "context", "demand", "needs", "stop", "stopping", "wait")

    def __init__(self, command: StartStage, demand: Demand) -> None:
        self.command = command
        self.context: AttemptContext | None = None
        self.demand = demand
        self.needs: Instance | None = None
        """The instance that has to be set up before it begins."""
        self.stop: Callable[[], None] | None = None
        self.stopping: asyncio.TimerHandle | None = None
        self.wait = True
        """Whether it is still waiting for room."""


class InProcessExecutor:
    """Runs the stages of one run in this process."""

    tells_beginning = True

    def __init__(self, *, slots: Slots | None = None) -> None:
        self._slots = slots or Slots()
        self._threads = WorkerThreads("flowmason-stage")
        self._component_loop: ComponentLoop | None = None
        self._abandoned_loops: list[ComponentLoop] = []
        self._heartbeat: asyncio.TimerHandle | None = None
        self._attempts: dict[str, _Attempt] = {}
        self._instances = Instances()
        self._setups: dict[Instance | SetupFailed, asyncio.TimerHandle] = {}
        """When it is looked whether a setup takes too long; and by the error of one that did, when its attempts fail."""
        self._shelf: Shelf | None = None
        self._listens = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for attempt in list(self._attempts.values()):
            if attempt.stopping is not None:
                attempt.stopping.cancel()
            if attempt.stop is not None:
                attempt.stop()
        self._attempts.clear()
        for timer in (self._heartbeat, *self._setups.values()):
            if timer is not None:
                timer.cancel()
        try:
            for instance in self._instances.leave():
                await self._tear_down(instance)
        finally:
            if self._listens:
                close_ears()
            self._threads.close()
            for loop in (self._component_loop, *self._abandoned_loops):
                if loop is not None:
                    loop.close()

    async def _tear_down(self, instance: Instance) -> None:
        over: asyncio.Future[BaseException | None] = self._loop.create_future()

        def tell(error: BaseException | None) -> None:
            if not over.done():
                over.set_result(error)

        def done(_: Any, error: BaseException | None) -> None:
            with suppress(RuntimeError):  # the runner's loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(tell, error)

        if instance.component.is_async:
            self._components().submit(instance.tear_down_async, instance.component.name, done)
        else:
            self._threads.submit(ThreadJob(instance.tear_down, done))
        await asyncio.wait([over], timeout=TEARDOWN_S)
        if not over.done() or over.result() is not None:
            error = over.result() if over.done() else None
            self._warn(instance.component.name, teardown_failed(instance.component, error))

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        """Begin to serve a run."""
        self._run = run
        if run.listens:
            open_ears()
            self._listens = True
        self._pacing = run.pacing
        self._deliver = deliver

    async def fetch(self, handle: Any) -> Any:
        """Return the value; lists inside it may be lazy."""
        return read_value(handle)

    def part_content(self, handle: Any, key: str | None) -> bytes | None:
        """Return what stands for a value in fingerprints."""
        return part_of(handle, key)

    def item_content(self, items: Any, position: int) -> bytes | None:
        """Return what stands for an item of a loop in fingerprints."""
        return item_content(items, position)

    # -- attempts -----------------------------------------------------------------------------------------------------

    def start(self, command: StartStage) -> Event | None:
        """Begin an attempt; trivial ones are over when this returns."""
        stage = command.stage
        component = stage.component
        if component is None or (component.cost is Cost.TRIVIAL and component.is_async and self._is_quick(stage)):
            return self._run_in_place(command)
        try:
            demand = self._slots.demand(stage)
        except StageError as exc:
            return self._failed(command, exc)
        attempt = self._attempts[command.path] = _Attempt(command, demand)
        self._slots.take(attempt, demand, lambda: self._begin(attempt))
        return None

    def _is_quick(self, stage: PlanStage) -> bool:
        """Tell whether a stage may keep the runner's loop: unless it was measured to take milliseconds."""
        return self._pacing is None or self._pacing.pace(stage) is Pace.QUICK

    def _run_in_place(self, command: StartStage) -> Event:
        stage = command.stage
        component = stage.component
        started = perf_counter()
        try:
            given = prepare(stage, self._scope_of(command))
            if given is DECLINED:
                return StageDeclined(at=time(), path=command.path, attempt=command.attempt)
            if component is None:
                value: Value = given
            else:
                execute = self._instances.of(component).object.execute
                if component.file is None:  # an installed one: it prints nothing and traces nothing
                    result = at_once(component, execute(given, self._context(command)))
                else:
                    with self._around(command):
                        result = at_once(component, execute(given, self._context(command)))
                value = finish(component, result, stage.schema)
        except KeyboardInterrupt:
            raise  # somebody's Ctrl-C: this is the program's own thread
        except BaseException as exc:  # foreign code runs here: whatever it raises is a failed attempt
            return self._failed(command, exc, perf_counter() - started)
        return self._succeeded(command, value, perf_counter() - started)

    def _begin(self, attempt: _Attempt) -> None:
        command = attempt.command
        component = command.stage.component
        assert component is not None
        attempt.wait = False
        instance = self._instances.of(component)
        began = StageBegan(path=command.path, attempt=command.attempt) if command.stage.timeout_s is not None else None
        if began is not None and not instance.waits:
            self._deliver(began)
            began = None  # else it begins when it has been set up: that does not use up its time
        started = perf_counter()
        try:
            given = prepare(command.stage, self._scope_of(command))
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # a template that fails, or a validator of the component's Input: foreign code too
            self._report_later(attempt, self._failed(command, exc))
            return
        if given is DECLINED:
            self._report_later(attempt, StageDeclined(at=time(), path=command.path, attempt=command.attempt))
            return
        context = attempt.context = self._context(command)
        loop = self._loop

        def done(result: Any, error: BaseException | None) -> None:
            duration_s = perf_counter() - started
            with suppress(RuntimeError):  # the runner's loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._ended, attempt, result, error, duration_s)

        attempt.needs = instance if instance.waits else None

        def say() -> InstanceContext:
            with suppress(RuntimeError):  # as above
                loop.call_soon_threadsafe(self._look_at_setup, instance)
            return InstanceContext(self._run, command.path, self._tell)

        if component.is_async:

            async def call() -> Any:
                ready = await instance.ready_async(say)
                attempt.needs = None
                if began is not None:
                    self._tell(began)
                with self._around(command):
                    return await ready.execute(given, context)

            attempt.stop = self._components().submit(call, command.path, done)
        else:

            def call_in_thread() -> Any:
                ready = instance.ready(say)
                attempt.needs = None
                if began is not None:
                    self._tell(began)
                with self._around(command):
                    return ready.execute(given, context)

            job = ThreadJob(call_in_thread, done)
            attempt.stop = job.stop
            self._threads.submit(job)

    def _look_at_setup(self, instance: Instance) -> None:
        """Look whether a setup takes too long: then all who wait for it fail, and are not waited for; else look again when it would."""
        timer = self._setups.pop(instance, None)
        if timer is not None:
            timer.cancel()
        left_s = instance.left_s()
        if left_s is not None and left_s > 0:
            self._setups[instance] = self._loop.call_later(left_s, self._look_at_setup, instance)
        error = None if left_s is None or left_s > 0 else instance.give_up()
        if error is None:
            return
        waiting = [each for each in self._attempts.values() if each.needs is instance]
        loop = self._component_loop if instance.component.is_async else None
        if loop is None:
            self._setup_failed(error, waiting, None)
        else:  # the next attempt must not queue on a loop that is blocked
            loop.beat()
            self._setups[error] = self._loop.call_later(BEAT_S, self._setup_failed, error, waiting, loop)

    def _setup_failed(self, error: SetupFailed, waiting: list[_Attempt], loop: ComponentLoop | None) -> None:
        self._setups.pop(error, None)
        paths = {attempt.command.path for attempt in waiting}
        if loop is not None and loop is self._component_loop and not loop.beat() and loop.blocked_by() in paths:
            self._abandon(loop)
        for attempt in waiting:
            if attempt.stopping is None:  # else it ends as stopped
                self._report(attempt, self._failed(attempt.command, error))
            if attempt.stop is not None:
                attempt.stop()

    def _report_later(self, attempt: _Attempt, event: Event) -> None:
        """Report from the event loop's next turn: a report must not come before `start` has returned."""
        self._loop.call_soon(self._report, attempt, event)

    def _ended(self, attempt: _Attempt, result: Any, error: BaseException | None, duration_s: float) -> None:
        command = attempt.command
        component = command.stage.component
        assert component is not None
        usage = None if attempt.context is None else attempt.context.close()
        if isinstance(error, (AttemptStopped, asyncio.CancelledError)):
            event: Event = StageStopped(at=time(), path=command.path, attempt=command.attempt, usage=usage)
        elif error is not None:
            event = self._failed(command, error, duration_s, usage)
        else:
            try:
                event = self._succeeded(command, finish(component, result, command.stage.schema), duration_s, usage)
            except KeyboardInterrupt:
                raise
            except BaseException as exc:  # a serializer of the component's Output: foreign code too
                failed = self._failed(command, exc, duration_s, usage)
                # An effect that is done is not done again because something was wrong with what came of it.
                done = command.stage.effect is Effect.EFFECTFUL
                event = replace(failed, final=True) if done else failed
        self._report(attempt, event)

    def _report(self, attempt: _Attempt, event: Event) -> None:
        if self._attempts.get(attempt.command.path) is not attempt:
            return  # let go of before
        del self._attempts[attempt.command.path]
        if attempt.stopping is not None:
            attempt.stopping.cancel()
        self._slots.give_back(attempt.demand)
        self._deliver(event)

    def cancel(self, command: CancelStage) -> None:
        """Stop an attempt; after `STOP_GRACE_S` it is let go of, whatever it does."""
        attempt = self._attempts.get(command.path)
        if attempt is None or attempt.command.attempt != command.attempt or attempt.stopping is not None:
            return
        stopped = StageStopped(at=time(), path=command.path, attempt=command.attempt)
        if attempt.wait and self._slots.forget(attempt):
            del self._attempts[command.path]
            self._loop.call_soon(self._deliver, stopped)
            return
        if attempt.stop is not None:
            attempt.stop()
        attempt.stopping = self._loop.call_later(STOP_GRACE_S, self._let_go, attempt, stopped)

    def _let_go(self, attempt: _Attempt, stopped: StageStopped) -> None:
        if self._attempts.get(attempt.command.path) is attempt:
            self._warn(
                attempt.command.path, "It was stopped but does not end (it sits in a call that cannot be interrupted)."
            )
            if attempt.context is not None:
                stopped = replace(stopped, usage=attempt.context.close())
        self._report(attempt, stopped)

    # -- constructs ---------------------------------------------------------------------------------------------------

    def gather(self, command: GatherResults) -> Event:
        """Put a construct's value together: the handles are the values."""
        try:
            base: dict[str, Any] = plain(command.base) or {}
            value: dict[str, Any] = {**base, **command.head, **{n: gathered(p) for n, p in command.parts.items()}}
        except StoreError as exc:  # a part lies in a blob that cannot be read
            failure = fail(exc, command.path, command.attempt)
            return StageFailed(at=time(), path=command.path, attempt=command.attempt, failure=failure)
        return StageSucceeded(at=time(), path=command.path, attempt=command.attempt, value=value)

    # -- the pieces ---------------------------------------------------------------------------------------------------

    def _scope_of(self, command: StartStage) -> LocalScope:
        return LocalScope(
            self._run, command.scope, command.stage, command.path, command.attempt, command.first_started_at
        )

    def _context(self, command: StartStage) -> AttemptContext:
        return AttemptContext(
            self._run,
            stage_id=command.stage.id,
            path=command.path,
            attempt=command.attempt,
            first_started_at=command.first_started_at,
            tell=self._tell,
            key=command.idempotency_key,
            llm=command.stage.llm,
        )

    def _around(self, command: StartStage) -> AbstractContextManager[None]:
        return surroundings(self._run, self._tell, command.path, command.attempt)

    def _tell(self, event: Event) -> None:
        """Pass on a live event, from whatever thread it comes."""
        with suppress(RuntimeError):  # the runner's loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._deliver, event)

    def _succeeded(
        self, command: StartStage, value: Value, duration_s: float, usage: Mapping[str, Any] | None = None
    ) -> StageSucceeded:
        if self._pacing is not None:
            self._pacing.measured(command.stage, duration_s)
        return StageSucceeded(
            at=time(),
            path=command.path,
            attempt=command.attempt,
            value=self._handle(command, value),
            decision=value.decision,
            duration_s=duration_s,
            usage=usage,
            size_bytes=value.size_bytes,
        )

    def _handle(self, command: StartStage, value: Value) -> Any:
        """Return the handle of a value: itself, unless it is large and one of many that a loop makes."""
        if value.size_bytes <= INLINE_LIMIT_BYTES or value.decision is not None or self._run.blobs is None:
            return value.value
        scope: Scope | None = command.scope
        while scope is not None and not scope.plan.variables:
            scope = scope.parent
        if scope is None:
            return value.value
        if self._shelf is None:
            self._shelf = Shelf(Decoder(self._run.blobs).packed)
        return Kept(self._shelf, size_bytes=value.size_bytes, value=value.value)

    @staticmethod
    def _failed(
        command: StartStage, exc: BaseException, duration_s: float = 0.0, usage: Mapping[str, Any] | None = None
    ) -> StageFailed:
        failure: Failure = fail(exc, command.path, command.attempt)
        return StageFailed(
            at=time(),
            path=command.path,
            attempt=command.attempt,
            failure=failure,
            duration_s=duration_s,
            final=is_final(exc),
            usage=usage,
        )

    # -- the components' loop -----------------------------------------------------------------------------------------

    def _components(self) -> ComponentLoop:
        if self._component_loop is None:
            self._component_loop = ComponentLoop()
            if self._heartbeat is None:
                self._listen_later(0)
        return self._component_loop

    def _listen_later(self, missed: int) -> None:
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._listen, missed, self._loop.time() + HEARTBEAT_S)

    def _listen(self, missed: int, due: float) -> None:
        """Find out whether a component blocks the loop that it shares; if so, say which, and use another loop."""
        loop = self._component_loop
        if loop is not None:
            stood_still = (
                self._loop.time() - due > HEARTBEAT_S / 2
            )  # the whole process, and that is no component's fault
            missed = 0 if loop.beat() else missed if stood_still else missed + 1
            if missed >= 2:
                self._abandon(loop)
                missed = 0
        self._listen_later(missed)

    def _abandon(self, loop: ComponentLoop) -> None:
        name = loop.blocked_by()
        if name is not None:
            attempt = self._attempts.get(name)
            method = "execute" if attempt is None or attempt.needs is None else "setup"
            hint = f"Its 'async def {method}' blocks the event loop; make it a plain 'def', and it gets a thread."
            self._warn(name, hint)
        self._abandoned_loops.append(loop)
        self._component_loop = None

    def _warn(self, path: str, message: str) -> None:
        self._deliver(StageLogged(at=time(), path=path, level="warning", message=message))
