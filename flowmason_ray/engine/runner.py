"""Drives one run: the state machine decides, the executor acts, the log remembers.

The loop: take a stimulus, record it, let the state machine handle it, record what it narrates, hand its commands to the
executor. Reports that are there at once are handled in the same turn, so a chain of trivial stages never touches the event
loop; the loop yields every few milliseconds nevertheless, so that cancelling and watching work.

Time limits are kept by `engine.deadlines`, requests from outside are taken by `engine.requests`, a pause is brought about by
`engine.pausing`. Before an attempt with an effect starts, everything recorded so far is made durable, and the lease on the
run is looked at; pure stages never wait.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from time import perf_counter, time
from typing import Any, Literal

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage, StartTimer
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.deadlines import Deadlines
from flowmason_ray.engine.events import (
    ATTEMPT_ENDED,
    RUN_ENDED,
    ApprovalRequested,
    CancelRequested,
    Event,
    RunCreated,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSucceeded,
    StageBegan,
    StageFailed,
    StageLogged,
    StageStarted,
    StageStopped,
    StageStreamed,
    StageSucceeded,
    TimerFired,
)
from flowmason_ray.engine.executor import Executor, Preparing, RunInfo
from flowmason_ray.engine.kept import plain
from flowmason_ray.engine.pausing import WAITED_FOR, Pause
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.replay import Replayed
from flowmason_ray.engine.requests import Requests
from flowmason_ray.engine.reuse import Reusing
from flowmason_ray.engine.run_log import RunLog
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.engine.secrecy import Masking
from flowmason_ray.engine.stage_logs import StageLogs
from flowmason_ray.engine.timings import Timings
from flowmason_ray.errors import Failure, FlowMasonError, StoreError

Observer = Callable[[Event], None]
"""Is shown every event, recorded and live ones, in order."""

Durability = Literal["none", "run", "stage"]
"""What is durable when: `run` (the default) before every effect and at the end, `stage` after every stage, `none` at the end."""

TURN_S = 0.005
"""How long the runner keeps the event loop: short enough for a live view at 20 frames a second."""


UNWRITTEN_BYTES = 32 * 2**20
"""How much of values may wait for the log before the run waits for it: what makes them may be faster than the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended, or that it was paused: the event that says so, and the value for a success."""

    event: Event
    value: Any = None


class Runner:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        log: RunLog,
        run: RunInfo,
        *,
        observers: Sequence[Observer] = (),
        durability: Durability = "run",
        resumed: Replayed | None = None,
        reusing: Reusing | None = None,
        timings: Timings | None = None,
    ) -> None:
        """
        Args:
            plan: What is run.
            executor: Who carries it out; opened and closed here.
            log: Where it is recorded; closed here.
            run: What attempts know about the run.
            observers: Are shown every event.
            durability: What is durable when.
            resumed: The state of a run that was interrupted; None: a new run.
            reusing: What knows results of earlier runs; None: everything is executed.
            timings: Where the durations of this run are left for later ones (`RunInfo.pacing`); None: nowhere.
        """
        self._plan = plan
        self._executor = executor
        self._log = log
        self._run = run
        self._observers = tuple(observers)
        self._durability = durability if log.durable else "none"
        self._resumed = resumed
        self._reusing = reusing
        self._timings = timings
        self._state = RunState(plan) if resumed is None else resumed.state
        self._masking = Masking(run.hidden)
        self._said = StageLogs() if log.remembers else None
        self._inbox: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._deadlines = Deadlines(executor.cancel)
        self._pause = Pause(executor.cancel)
        self._asked_before = log.asked_before
        """The last request that is passed over: it was made of whoever had the run before."""
        if resumed is not None and resumed.heeded_after is not None:
            self._asked_before = min(resumed.heeded_after, log.asked_before)
        self._requests = Requests(
            self._state,
            log,
            self._deliver,
            pause=self._begin_pause,
            lost=self._lose,
            asked_before=self._asked_before,
        )
        self._lost: StoreError | None = None
        """Why this process may not go on with the run."""
        self._tells_beginning: bool = getattr(executor, "tells_beginning", False)
        self._held: dict[str, StartStage] = {}
        """Attempts that wait until the log is durable."""
        self._waiting: dict[str, StartStage] = {}
        """Those of them for which it is being made durable."""
        self._flushing: asyncio.Task[None] | None = None
        self._unwritten = 0
        """Bytes of values in events that may not have been written yet."""
        self._last: Event | None = None
        self._random = random.Random(run.seed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancel_first: str | None = None
        """Why the run was cancelled before it began."""
        self._pause_first: tuple[str | None] | None = None
        """Who paused the run before it began."""

    def cancel(self, message: str = "The run was cancelled.") -> None:
        """Ask the run to stop. May be called from any thread, any number of times."""
        loop = self._loop
        if loop is None:
            self._cancel_first = message
        if (loop := self._loop) is not None:  # asked again: the run may have begun in between
            with suppress(RuntimeError):  # the loop is closed: the run is over
                loop.call_soon_threadsafe(self._deliver, CancelRequested(at=time(), message=message))

    def pause(self, by: str | None = None) -> None:
        """Ask the run to stop where it is, to be resumed later. May be called from any thread."""
        self._pause_first = (by,)
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop is closed: the run is over
                loop.call_soon_threadsafe(self._begin_pause, by)

    def answer(self, path: str, data: Any, by: str | None = None) -> None:
        """Answer what the stage at `path` asks. May be called from any thread; what is not asked for is passed over."""
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop is closed: the run is over
                loop.call_soon_threadsafe(self._requests.answer, path, data, by)

    async def run(self) -> Ended:
        """Drive the run to its end.

        Raises:
            StoreError: the log cannot be written; what was acknowledged is safe, and the run can be taken up again.
            CancelledError: the task was cancelled. The run was cancelled first, in order, and its log says so.
        """
        self._loop = asyncio.get_running_loop()
        try:
            ended, interrupted = await self._drive()
        finally:
            await self._log.close()
        for observer in self._observers:
            observer(ended.event)
        if interrupted is not None:
            raise interrupted
        return ended

    async def accept(self) -> None:
        """Record that the run was made, and nothing else: another process takes it up from its log.

        Raises:
            StoreError: the log cannot be written.
        """
        created = self._created()
        self._log.append(replace(created, options={**created.options, "handed_over": True}))
        await self._log.close()

    async def _drive(self) -> tuple[Ended, asyncio.CancelledError | None]:
        """Turn until the run has ended; return how, and the cancellation of our task if that is why."""
        assert self._loop is not None
        executor: AbstractAsyncContextManager[Any] = self._executor  # pyright: ignore[reportAssignmentType]  # its Self is narrower
        limit: asyncio.TimerHandle | None = None
        listening: asyncio.Task[None] | None = None
        interrupted: asyncio.CancelledError | None = None
        async with executor:
            try:
                self._executor.open(self._run, self._deliver)
                refused = self._prepare()
                if self._reusing is not None:
                    self._reusing.open(self._record, self._start, self._deliver, self._arrived.set)
                if self._plan.timeout_s is not None:
                    limit = self._loop.call_later(self._plan.timeout_s, self._run_overdue)
                if refused is not None:
                    self._record(self._created())
                    self._last = RunFailed(at=time(), failure=refused)
                elif self._resumed is None:
                    self._inbox.appendleft(
                        self._created()
                    )  # before a cancellation that came while the executor was opened
                else:
                    self._go_on(self._resumed)
                    if self._resumed.heeded_after is not None:  # before an effect begins that somebody asked to stop
                        await self._requests.look()
                listening = asyncio.create_task(self._requests.listen())
                if self._cancel_first is not None:
                    self._inbox.append(CancelRequested(at=time(), message=self._cancel_first))
                if self._pause_first is not None:
                    self._begin_pause(*self._pause_first)
                while self._last is None:
                    try:
                        await self._turn()
                    except asyncio.CancelledError as exc:
                        if interrupted is not None:
                            raise  # asked twice: let go of everything at once
                        interrupted = exc
                        message = "The task that ran it was cancelled."
                        self._deliver(CancelRequested(at=time(), message=message))
                return await self._finish(self._last), interrupted
            finally:
                self._deadlines.close()
                if self._reusing is not None:
                    self._reusing.close()
                for handle in (*self._timers.values(), *([limit] if limit else ())):
                    handle.cancel()
                for task in (self._flushing, listening):
                    if task is not None:
                        task.cancel()

    def _prepare(self) -> Failure | None:
        """Tell the executor what is to come; return why nothing of it can be begun, if so."""
        if not isinstance(self._executor, Preparing):
            return None
        again = self._resumed is not None or (self._reusing is not None and self._reusing.takes_over)
        try:
            self._executor.prepare(self._plan, check=not again)
        except FlowMasonError as exc:
            return Failure(code=exc.code, message=exc.message)
        return None

    def _created(self) -> RunCreated:
        run = self._run
        facts: dict[str, Any] = {} if self._reusing is None else self._reusing.created()
        if run.pacing is not None and run.pacing.moved:
            facts["options"] = {**facts.get("options", {}), "measured": run.pacing.moved}
        if run.budget:
            facts["options"] = {**facts.get("options", {}), "budget": dict(run.budget)}
        if run.trace is not None:
            facts["options"] = {**facts.get("options", {}), "trace": run.trace}
        if self._durability == "none" and self._log.durable:
            facts["options"] = {**facts.get("options", {}), "durability": "none"}
        return RunCreated(
            at=time(),  # now, not when the run was prepared: starting an executor may have taken a while
            run_id=run.run_id,
            pipeline=run.pipeline,
            version=run.version,
            plan_digest=self._plan.digest,
            input=run.input,
            seed=run.seed,
            **facts,
        )

    def _go_on(self, resumed: Replayed) -> None:
        """Begin again what an interrupted run had under way."""
        now, left = time(), resumed.outstanding
        self._last = resumed.ended
        self._inbox.extend(replace(event, at=now) for event in resumed.decided)
        options = {"handed_over": True, "asked_before": self._asked_before} if resumed.handed_over else {}
        self._record(RunResumed(at=now, repeated=tuple(command.path for command in left.repeat), options=options))
        for command in left.repeat:
            if isinstance(command, GatherResults):
                self._gather(command)
            else:
                self._hand_out(StageStarted(at=now, path=command.path, attempt=command.attempt), command)
        for stop in left.stopped:
            self._inbox.append(StageStopped(at=now, path=stop.path, attempt=stop.attempt))
        for timer, due in zip(left.timers, left.due_at, strict=True):
            self._start_timer(replace(timer, delay_s=max(0.0, due - now)))

    # -- the loop -----------------------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Handle what has arrived, for at most `TURN_S`; wait when there is nothing."""
        if self._lost is not None:
            raise self._lost
        inbox = self._inbox
        deadline = perf_counter() + TURN_S
        while inbox and self._last is None:
            self._handle(inbox.popleft())
            if perf_counter() > deadline or self._unwritten > UNWRITTEN_BYTES:
                break
        if self._unwritten > UNWRITTEN_BYTES:
            await self._log.flush()
            self._unwritten = 0
        if self._held and self._flushing is None:
            self._flushing = asyncio.create_task(self._start_held())
        if self._flushing is not None and self._flushing.done():
            flushed, self._flushing = self._flushing, None
            flushed.result()  # a log that cannot be written ends the run here
            return
        if self._last is not None:
            return
        if self._pause.complete and not inbox:
            self._last = RunPaused(at=time(), by=self._pause.by, stopped=self._pause.stopped)
        elif inbox:
            await asyncio.sleep(0)
        else:
            self._arrived.clear()
            await self._arrived.wait()

    def _deliver(self, event: Event) -> None:
        """Take a report or a live event from the executor, or a request to cancel."""
        if type(event) is StageBegan:
            self._deadlines.begin(event.path, event.attempt)
        elif event.live:
            masked = self._masked(event)
            if self._said is not None and type(masked) is StageLogged:
                self._keep_said(masked)
            self._show(masked)
        else:
            self._inbox.append(event)
            self._arrived.set()

    def _keep_said(self, event: StageLogged) -> None:
        """Keep what a stage said beside the log."""
        assert self._said is not None
        for kept in self._said.kept(event):
            self._log.say(kept)

    def _handle(self, event: Event) -> None:
        """One stimulus and everything that the state machine makes of it."""
        if self._deadlines.watching:
            event = self._deadlines.completed(event)
        if self._pause.watching and self._pause.takes(event):
            return
        if type(event) is StageSucceeded:
            self._unwritten += event.size_bytes
        elif isinstance(event, StageFailed):
            event = self._masked(replace(event, draw=self._random.random()))
        if self._said is not None and self._said.watching and isinstance(event, ATTEMPT_ENDED):
            for kept in self._said.ended(event.path, event.at):
                self._log.say(kept)
        self._record(event)
        if self._reusing is not None and self._reusing.keeps and type(event) is StageSucceeded:
            self._reusing.keep(event)
        started: Any = None
        for output in self._state.handle(event):
            kind = type(output)
            if kind is StageStarted:
                started = output  # its command comes next: it is recorded with what that is given
            elif kind is StartStage:
                self._hand_out(started, output)  # pyright: ignore[reportArgumentType]  # type() is compared, which pyright does not narrow by
            elif isinstance(output, Event):
                if isinstance(output, RUN_ENDED):
                    self._last = output
                else:
                    self._record(self._masked(output) if type(output) is ApprovalRequested else output)
            elif isinstance(output, GatherResults):
                self._gather(output)
            elif isinstance(output, CancelStage):
                self._cancel(output)
            elif isinstance(output, StartTimer):
                self._start_timer(output)

    def _masked(self, event: Event) -> Event:
        """Return an event without secrets in what it says in words."""
        masking = self._masking
        if not masking.needed:
            return event
        if isinstance(event, StageFailed):
            return replace(event, failure=masking.failure(event.failure))
        if isinstance(event, StageLogged):
            return replace(event, message=masking.text(event.message), fields=masking.value(event.fields))
        if isinstance(event, ApprovalRequested):
            return replace(event, message=masking.text(event.message))
        if isinstance(event, StageStreamed):
            return replace(event, text=masking.text(event.text))
        return event

    def _record(self, event: Event) -> None:
        self._log.append(event)
        for observer in self._observers:
            observer(event)

    def _show(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)

    # -- attempts -----------------------------------------------------------------------------------------------------

    def _hand_out(self, started: StageStarted, command: StartStage) -> None:
        if self._said is not None and started.attempt > 1:
            self._said.started(started)
        if self._pause.asked:
            self._pause.hold(command)  # told as started when it begins, after the pause
        elif self._reusing is not None:
            self._reusing.hand_out(started, command)
        else:
            self._record(started)
            self._start(command)

    def _start(self, command: StartStage) -> None:
        effect = command.stage.effect
        if self._pause.asked:
            self._pause.hold(command)
        elif self._durability == "none" or (self._durability == "run" and effect is Effect.PURE):
            self._begin(command)
        else:
            self._held[command.path] = command

    async def _start_held(self) -> None:
        """Make the log durable, then begin the attempts that waited for that."""
        held, self._held = self._held, {}
        waiting = self._waiting = held
        try:
            await self._log.flush()
        finally:
            self._waiting = {}
            self._arrived.set()
        if any(isinstance(event, CancelRequested) for event in self._inbox):
            self._held = {**waiting, **self._held}  # what has not begun yet is not to begin any more
            return
        for command in list(waiting.values()):
            self._log.check_lease()
            self._begin(command)

    def _begin(self, command: StartStage) -> None:
        if command.stage.timeout_s is not None:
            self._deadlines.watch(command, begun=not self._tells_beginning)
        report = self._executor.start(command)
        if report is not None:
            self._inbox.append(report)
        else:
            self._pause.began(command)

    def _gather(self, command: GatherResults) -> None:
        if self._pause.asked:
            self._pause.hold(command)
            return
        report = self._executor.gather(command)
        if report is not None:
            self._inbox.append(report)
        else:
            self._pause.began(command)

    def _begin_pause(self, by: str | None) -> None:
        """Take up the wish to pause; the run has paused when nothing of it is under way any more."""
        if self._pause.asked or self._last is not None or self._state.cancelling is not None:
            return
        self._pause.ask(by)
        for held in (self._held, self._waiting):
            for command in held.values():
                self._pause.hold(command)
            held.clear()
        for path in self._pause.waits_for:
            self._deliver(StageLogged(at=time(), path=path, level="warning", message=WAITED_FOR))
        self._arrived.set()

    def _lose(self, error: StoreError) -> None:
        """End here and now: another process has taken the run over."""
        self._lost = error
        self._arrived.set()

    def _cancel(self, command: CancelStage) -> None:
        stopped = self._pause.cancelled(command) if self._pause.asked else None
        if stopped is not None:
            self._inbox.append(replace(stopped, at=time()))
            return
        if self._reusing is not None and self._reusing.cancel(command.path):
            self._inbox.append(StageStopped(at=time(), path=command.path, attempt=command.attempt))
            return
        for held in (self._held, self._waiting):
            if held.pop(command.path, None) is not None:  # it never began
                self._inbox.append(StageStopped(at=time(), path=command.path, attempt=command.attempt))
                return
        self._executor.cancel(command)

    def _start_timer(self, command: StartTimer) -> None:
        assert self._loop is not None
        fired = TimerFired(path=command.path, attempt=command.attempt)
        self._timers[command.path] = self._loop.call_later(command.delay_s, self._timer_over, fired)

    def _timer_over(self, fired: TimerFired) -> None:
        self._timers.pop(fired.path, None)
        self._deliver(replace(fired, at=time()))

    def _run_overdue(self) -> None:
        message = f"The run did not end within {self._plan.timeout_s:g} s."
        self._deliver(CancelRequested(at=time(), code="timeout", message=message))

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _finish(self, event: Event) -> Ended:
        """Record how the run ended; a success only when its value is really there."""
        value: Any = None
        if isinstance(event, RunSucceeded):
            try:
                fetched = await self._executor.fetch(event.value)
                value = plain(fetched)
                event = replace(event, value=fetched)
            except FlowMasonError as exc:
                failure = Failure(code=exc.code, message=f"The result cannot be fetched: {exc.message}")
                event = RunFailed(at=time(), failure=failure)
        if self._timings is not None and self._run.pacing is not None:
            self._timings.keep(self._log, self._run.pacing)
        self._log.append(event)
        await self._log.flush()
        return Ended(event=event, value=value)
