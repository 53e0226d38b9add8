"""The state of one run: takes events, returns commands. No clock, no randomness, no I/O, no executor.

The story of a stage instance: it waits for the stages of its region; when they have ended it is considered (skipped, or
started); its attempt ends in success, failure or a stop; a failure is retried or final; a construct opens bodies before it
ends. What a construct does with its bodies is its own affair (`engine.control_flow`): it calls the verbs at the end of
this file. Everything that a stimulus sets off happens before `handle` returns; `_todo` takes the place of recursion, so
that a chain of ten thousand skipped stages is a loop.

Reports are fenced by path and attempt: one that is late or comes twice finds nothing to end and changes nothing.

Stopping is one mechanism for failure, cancellation, races and early returns: `abort` stops what runs inside some regions,
waits until the executor has said that it is over, and then goes on. A later abort of something larger takes over what an
earlier one still waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from flowmason_ray.engine.commands import CancelStage, GatherResults, Output, StartStage, StartTimer
from flowmason_ray.engine.events import (
    ApprovalAnswered,
    CancelRequested,
    Event,
    RunCancelled,
    RunCreated,
    RunFailed,
    RunSucceeded,
    SkipReason,
    StageDeclined,
    StageEnded,
    StageFailed,
    StageRetrying,
    StageReused,
    StageSkipped,
    StageStarted,
    StageStopped,
    StageSucceeded,
    Success,
    TimerFired,
)
from flowmason_ray.engine.plan import Plan, PlanStage
from flowmason_ray.engine.retry import delay_before, wants_retry
from flowmason_ray.engine.scope import Scope, Status
from flowmason_ray.engine.usage import Budget
from flowmason_ray.errors import Failure

WAITING, READY, RUNNING, RETRYING, OPEN = 0, 1, 2, 3, 4
SUCCEEDED, FALLBACK, FAILED, SKIPPED, CANCELLED = 5, 6, 7, 8, 9
# Plain numbers: this is the hottest code of the engine, and comparing IntEnum members costs ten times as much.
assert tuple(Status) == (*range(CANCELLED), Status.CANCELLED)
assert Status.CANCELLED == CANCELLED


class _Abort:
    """Something that is being stopped: how many reports are still missing, and what comes then."""

    __slots__ = ("missing", "then")

    def __init__(self, then: Callable[[], None]) -> None:
        self.missing = 0
        self.then = then


class _Active:
    """An attempt, a gathering or a retry delay that is under way."""

    __slots__ = ("abort", "attempt", "gathering", "index", "scope")

    def __init__(self, scope: Scope, index: int, attempt: int, gathering: bool) -> None:
        self.scope = scope
        self.index = index
        self.attempt = attempt
        self.gathering = gathering
        self.abort: _Abort | None = None


class RunState:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.now = 0.0
        """The time of the stimulus being handled, seconds since the epoch."""
        self.root: Scope | None = None
        self.ended = False
        self.cancelling: CancelRequested | None = None
        self.in_flight = 0
        """Attempts handed to the executor and not yet reported; never more than the plan's `max_parallel`."""
        self.active: dict[str, _Active] = {}
        self.asked: dict[str, tuple[Scope, int]] = {}
        """The stages that wait for a person's answer, by path."""
        self._open: dict[str, tuple[Scope, int]] = {}
        """The constructs whose bodies are running, in the order in which they opened."""
        self.timed: dict[str, tuple[Scope, int, int]] = {}
        """The open constructs that have set a timer, each with the attempt that the timer carries."""
        self._ready: deque[tuple[Scope, int]] = deque()
        self._todo: deque[tuple[Scope, int]] = deque()
        self._out: list[Output] = []
        self._budget: Budget | None = None

    # -- stimuli ------------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Output]:
        """Take one stimulus; return what is to be done and told because of it, in order."""
        out: list[Output] = []
        self._out = out
        self.now = event.at
        kind = type(event)
        overspent = None if self._budget is None else self._spend(self._budget, event)
        if kind is StageSucceeded or kind is StageReused:
            self._succeeded(event)  # pyright: ignore[reportArgumentType]  # type() is compared, which pyright does not narrow by
        elif isinstance(event, StageFailed):
            self._failed(event)
        elif isinstance(event, StageDeclined):
            self._declined(event)
        elif isinstance(event, StageStopped):
            self._stopped(event)
        elif isinstance(event, TimerFired):
            self._timer_fired(event)
        elif isinstance(event, CancelRequested):
            self._cancel(event)
        elif isinstance(event, ApprovalAnswered):
            self._answered(event)
        elif isinstance(event, RunCreated):
            self._created(event)
        if overspent is not None:
            self._cancel(CancelRequested(at=event.at, code="budget_exceeded", message=overspent))
        self._work()
        return out

    def _spend(self, budget: Budget, event: Event) -> str | None:
        """Count what an attempt used; return what is to be said when the run has no budget left for more."""
        if not isinstance(event, StageSucceeded | StageFailed | StageStopped):
            return None
        active = self.active.get(event.path)
        if active is None or active.attempt != event.attempt or active.gathering:
            return None  # doubled, or too late to matter
        return budget.spend(event.usage)

    def _created(self, event: RunCreated) -> None:
        if self.root is None and not self.ended:
            self._budget = Budget.from_options(event.options)
            self.root = Scope(self.plan.root, parent=None, owner=-1, prefix="", input=event.input)
            self.open_region(self.root, 0)

    def _succeeded(self, event: Success) -> None:
        active = self._take(event.path, event.attempt)
        if active is None:
            return
        scope, index = active.scope, active.index
        construct = scope.plan.stages[index].construct
        if construct is None:
            self.end(scope, index, event.value)
        elif active.gathering:
            construct.gathered(self, scope, index, event.value)
        else:
            scope.status[index] = OPEN
            self._open[event.path] = (scope, index)
            if scope.constructs is None:
                scope.constructs = {}
            construct.decided(self, scope, index, event)

    def _failed(self, event: StageFailed) -> None:
        active = self._take(event.path, event.attempt)
        if active is None:
            return
        scope, index = active.scope, active.index
        stage = scope.plan.stages[index]
        policy = stage.retry
        if not active.gathering and wants_retry(
            policy, event.failure, event.attempt, final=event.final, effect=stage.effect
        ):
            delay = delay_before(policy, event.failure, event.attempt, event.draw)
            scope.status[index] = RETRYING
            self.active[event.path] = _Active(scope, index, event.attempt, gathering=False)
            self.emit(
                StageRetrying(at=self.now, path=event.path, attempt=event.attempt, delay_s=delay, failure=event.failure)
            )
            self._out.append(StartTimer(path=event.path, attempt=event.attempt, delay_s=delay))
        else:
            self.fail(scope, index, event.failure)

    def _declined(self, event: StageDeclined) -> None:
        active = self._take(event.path, event.attempt)
        if active is not None:
            self._skip(active.scope, active.index, SkipReason.WHEN)

    def _stopped(self, event: StageStopped) -> None:
        active = self._take(event.path, event.attempt)
        if active is not None:  # nobody asked: the executor lost it
            message = "The attempt was stopped by its executor."
            self.fail(active.scope, active.index, Failure(code="stopped", message=message, stage=event.path))

    def _answered(self, event: ApprovalAnswered) -> None:
        asked = self.asked.pop(event.path, None)
        if asked is not None:
            scope, index = asked
            construct = scope.plan.stages[index].construct
            if construct is not None and scope.status[index] == OPEN:
                construct.answered(self, scope, index, event)

    def _timer_fired(self, event: TimerFired) -> None:
        timed = self.timed.get(event.path)
        if timed is not None and timed[2] == event.attempt:  # not the late timer of an earlier attempt's retry
            del self.timed[event.path]
            scope, index, _ = timed
            construct = scope.plan.stages[index].construct
            if construct is not None and scope.status[index] == OPEN and event.path not in self.active:
                construct.timer_fired(self, scope, index)
            return
        active = self.active.get(event.path)
        if active is not None and active.attempt == event.attempt:
            scope, index = active.scope, active.index
            if scope.status[index] == RETRYING:
                del self.active[event.path]
                scope.tries[index] = event.attempt
                self._make_ready(scope, index)

    def _cancel(self, event: CancelRequested) -> None:
        if self.ended or self.cancelling is not None:
            return
        self.cancelling = event
        if self.root is None:
            self._finish_cancelled()
        else:
            self.abort([(self.root, 0)], self._finish_cancelled)

    def _finish_cancelled(self) -> None:
        assert self.cancelling is not None
        failure = Failure(code=self.cancelling.code, message=self.cancelling.message)
        self.ended = True
        if self.cancelling.code in ("cancelled", "superseded"):
            self.emit(RunCancelled(at=self.now, failure=failure))
        else:
            self.emit(RunFailed(at=self.now, failure=failure))

    def _take(self, path: str, attempt: int) -> _Active | None:
        """Remove and return what `path` has under way. None: the report is late or doubled, or an abort swallows it."""
        active = self.active.get(path)
        if active is None or active.attempt != attempt:
            return None
        status = active.scope.status
        if status[active.index] == RETRYING:
            return None
        del self.active[path]
        if not active.gathering:
            self.in_flight -= 1
        if active.abort is None:
            return active
        abort = active.abort
        abort.missing -= 1
        if abort.missing == 0:
            abort.then()
        return None

    # -- moving on ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        todo, ready, limit = self._todo, self._ready, self.plan.max_parallel
        while True:
            while todo:
                scope, index = todo.popleft()
                if scope.status[index] == WAITING:
                    self._consider(scope, index)
            if not ready or (limit is not None and self.in_flight >= limit):
                return
            scope, index = ready.popleft()
            if scope.status[index] == READY:
                self._start(scope, index)

    def _consider(self, scope: Scope, index: int) -> None:
        stage = scope.plan.stages[index]
        if not stage.enabled:
            self._skip(scope, index, SkipReason.DISABLED)
        elif stage.upstreams and self._all_skipped(scope, stage):
            self._skip(scope, index, SkipReason.UPSTREAMS_SKIPPED)
        else:
            self._make_ready(scope, index)

    def _all_skipped(self, scope: Scope, stage: PlanStage) -> bool:
        for target in stage.upstreams:
            status = scope.status if target.levels == 0 else scope.at(target)[0].status
            if status[target.index] != SKIPPED:
                return False
        return True

    def _make_ready(self, scope: Scope, index: int) -> None:
        if self.plan.max_parallel is None:
            self._start(scope, index)
        else:
            scope.status[index] = READY
            self._ready.append((scope, index))

    def _start(self, scope: Scope, index: int) -> None:
        stage = scope.plan.stages[index]
        path = scope.prefix + stage.id
        now = self.now
        if index in scope.tries:
            attempt = scope.tries[index] + 1
            first = scope.first_started[index]
        else:
            attempt = 1
            first = now
            if stage.retry.max_attempts > 1:
                scope.first_started[index] = now
        scope.status[index] = RUNNING
        self.active[path] = _Active(scope, index, attempt, False)
        self.in_flight += 1
        self._out.append(StageStarted(at=now, path=path, attempt=attempt))
        self._out.append(StartStage(path=path, stage=stage, scope=scope, attempt=attempt, first_started_at=first))

    def _skip(self, scope: Scope, index: int, reason: SkipReason) -> None:
        self._out.append(StageSkipped(at=self.now, path=scope.path(index), reason=reason))
        for region in scope.plan.nested[index]:
            self.skip_region(scope, region, SkipReason.UPSTREAMS_SKIPPED)
        self._close(scope, index, SKIPPED)

    def _close(self, scope: Scope, index: int, status: int) -> None:
        """A stage instance has ended: tell the stages that wait for it, and its region."""
        scope.status[index] = status
        plan = scope.plan
        waiting = scope.waiting
        for other in plan.downstream[index]:
            waiting[other] -= 1
            if not waiting[other]:
                self._todo.append((scope, other))
        stage = plan.stages[index]
        region = stage.region
        if region < 0:  # the hidden stage that makes the scope's value
            self._scope_ended(scope, scope.values[index], None)
            return
        scope.remaining[region] -= 1
        if not scope.remaining[region]:
            self._region_ended(scope, region)

    def _region_ended(self, scope: Scope, region: int) -> None:
        plan = scope.plan
        if region:
            owner = plan.regions[region].owner
            assert owner is not None
            construct = plan.stages[owner].construct
            assert construct is not None
            construct.body_ended(self, scope, owner, region)
        elif plan.result is not None and plan.result_hidden:
            self._make_ready(scope, plan.result)
        else:
            self._scope_ended(scope, None if plan.result is None else scope.values[plan.result], None)

    def _scope_ended(self, scope: Scope, value: Any, failure: Failure | None) -> None:
        if scope.parent is not None:
            construct = scope.parent.plan.stages[scope.owner].construct
            assert construct is not None
            construct.iteration_ended(self, scope.parent, scope.owner, scope, value, failure)
            return
        if self.cancelling is not None:
            return
        self.ended = True
        if failure is None:
            self.emit(RunSucceeded(at=self.now, value=value))
        else:
            self.emit(RunFailed(at=self.now, failure=failure))

    def _body_failed(self, scope: Scope, region: int, failure: Failure) -> None:
        if region == 0:
            self._scope_ended(scope, None, failure)
            return
        owner = scope.plan.regions[region].owner
        assert owner is not None
        construct = scope.plan.stages[owner].construct
        assert construct is not None
        construct.body_failed(self, scope, owner, region, failure)

    # -- the verbs that constructs use (control_flow.base.Run) ----------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Narrate a consequence."""
        self._out.append(event)

    def open_region(self, scope: Scope, region: int) -> None:
        """Let the stages of a body run: those that wait for nothing are considered now."""
        members = scope.plan.regions[region].members
        if not members:
            self._region_ended(scope, region)
            return
        waiting, todo = scope.waiting, self._todo
        for index in members:
            if not waiting[index]:
                todo.append((scope, index))

    def skip_region(self, scope: Scope, region: int, reason: SkipReason) -> None:
        """Decide that a body, and all inside it, will not run."""
        for index in scope.plan.regions[region].members:
            if scope.status[index] == WAITING:
                scope.status[index] = SKIPPED
                self._out.append(StageSkipped(at=self.now, path=scope.path(index), reason=reason))
                for inner in scope.plan.nested[index]:
                    self.skip_region(scope, inner, reason)

    def open_iteration(self, scope: Scope, index: int, *, position: int, key: int, items: Any) -> Scope:
        """Start one iteration of the loop at `index`."""
        stage = scope.plan.stages[index]
        assert stage.body_scope is not None
        plan = self.plan.scopes[stage.body_scope]
        inner = Scope(plan, parent=scope, owner=index, prefix=f"{scope.prefix}{stage.id}[{key}]/", input=scope.input)
        inner.items = items
        inner.position = position
        self.open_region(inner, 0)
        return inner

    def make_scope(self, scope: Scope, index: int, *, prefix: str, input: Any, further: int = 0) -> Scope:
        """Make an instance of the scope that belongs to a construct, or of one `further` behind it."""
        body = scope.plan.stages[index].body_scope
        assert body is not None
        return Scope(self.plan.scopes[body + further], parent=scope, owner=index, prefix=prefix, input=input)

    def leave(self, scope: Scope, index: int, target: Scope, value: Any) -> None:
        """End `target`, a scope around a stage that has succeeded, with `value`."""
        path = scope.path(index)
        scope.values[index] = value
        scope.status[index] = SUCCEEDED
        self._forget(scope, index, path)
        self.emit(StageEnded(at=self.now, path=path, status="succeeded"))
        self.abort([(target, 0)], lambda: self._scope_ended(target, value, None), early=True)

    def set_timer(self, scope: Scope, index: int, delay_s: float) -> None:
        """Have the construct's `timer_fired` called after a while."""
        path, attempt = scope.path(index), scope.tries.get(index, 0) + 1
        self.timed[path] = (scope, index, attempt)
        self._out.append(StartTimer(path=path, attempt=attempt, delay_s=delay_s))

    def await_answer(self, scope: Scope, index: int) -> None:
        """Have the construct's `answered` called when somebody answers."""
        self.asked[scope.path(index)] = (scope, index)

    def gather(
        self, scope: Scope, index: int, head: dict[str, Any], parts: dict[str, Any], *, base: Any = None
    ) -> None:
        """Have the construct's value put together by the executor.

        That is no attempt, and has the number 0: a doubled report of the construct's own attempt cannot be taken for it.
        """
        path = scope.path(index)
        # Not counted in `in_flight`: no component runs, and a loop must not wait for a place to end.
        self.active[path] = _Active(scope, index, 0, gathering=True)
        self._out.append(GatherResults(path=path, attempt=0, head=head, parts=parts, base=base))

    def end(self, scope: Scope, index: int, value: Any) -> None:
        """End a stage with success."""
        scope.values[index] = value
        if scope.plan.stages[index].construct is not None:
            path = scope.path(index)
            self._forget(scope, index, path)
            self._out.append(StageEnded(at=self.now, path=path, status="succeeded"))
        self._close(scope, index, SUCCEEDED)

    def fail(self, scope: Scope, index: int, failure: Failure) -> None:
        """End a stage with a failure for good; its `on_error` says what follows."""
        stage = scope.plan.stages[index]
        if stage.construct is not None:
            self._forget(scope, index, scope.path(index))
        if scope.failures is None:
            scope.failures = {}
        scope.failures[index] = failure
        fallback = stage.on_error == "fallback"
        status = FALLBACK if fallback else FAILED
        self.emit(
            StageEnded(
                at=self.now, path=scope.path(index), status="fallback" if fallback else "failed", failure=failure
            )
        )
        if stage.on_error == "fail":
            scope.status[index] = status
            if stage.region < 0:
                self._scope_ended(scope, None, failure)
            else:
                region = stage.region
                self.abort([(scope, region)], lambda: self._body_failed(scope, region, failure))
        else:
            for region in scope.plan.nested[index]:
                self.skip_region(scope, region, SkipReason.ENDED_EARLY)
            scope.values[index] = stage.fallback_output if fallback else None
            self._close(scope, index, status)

    def _forget(self, scope: Scope, index: int, path: str) -> None:
        """A construct has ended: drop what was remembered while it was open."""
        self._open.pop(path, None)
        self.asked.pop(path, None)
        self.timed.pop(path, None)
        if scope.constructs is not None:
            scope.constructs.pop(index, None)

    def abort(self, targets: Sequence[tuple[Scope, int]], then: Callable[[], None], *, early: bool = False) -> None:
        """Stop everything inside `targets`; go on with `then` when nothing of it runs any more."""
        abort = _Abort(then)
        inside = {(id(scope), region) for scope, region in targets}
        for path, active in list(self.active.items()):
            if not _is_inside(active.scope, active.index, inside):
                continue
            if active.scope.status[active.index] == RETRYING:
                del self.active[path]
                self._cancelled(active.scope, active.index)
                continue
            if active.abort is None:
                self._out.append(CancelStage(path=path, attempt=active.attempt))
                if active.gathering:
                    self._forget(active.scope, active.index, path)
                self._cancelled(active.scope, active.index)
            active.abort = abort
            abort.missing += 1
        for scope, index in self._drop_queued(inside):
            if index in scope.tries:  # it was to be repeated and waited for a free place
                self._cancelled(scope, index)
        for path, (scope, index) in reversed(list(self._open.items())):
            if _is_inside(scope, index, inside):
                self._forget(scope, index, path)
                self._cancelled(scope, index)
        for scope, region in targets:
            self._cancel_region(scope, region, early)
        if not abort.missing:
            then()

    def _drop_queued(self, inside: set[tuple[int, int]]) -> list[tuple[Scope, int]]:
        """Take out of the queues what lies inside the targets of an abort; return what was ready."""
        dropped: list[tuple[Scope, int]] = []
        for queue in (self._todo, self._ready):
            if queue:
                entries = list(queue)
                queue.clear()
                for entry in entries:
                    if not _is_inside(*entry, inside):
                        queue.append(entry)
                    elif queue is self._ready:
                        dropped.append(entry)
        return dropped

    def _cancelled(self, scope: Scope, index: int) -> None:
        scope.status[index] = CANCELLED
        self.emit(StageEnded(at=self.now, path=scope.path(index), status="cancelled"))

    def _cancel_region(self, scope: Scope, region: int, early: bool) -> None:
        """Mark what has not ended in a region, so that nothing of it is considered or started any more."""
        status = scope.status
        for index in scope.plan.regions[region].members:
            if status[index] < SUCCEEDED:
                skipped = early and status[index] <= READY
                status[index] = SKIPPED if skipped else CANCELLED
                if skipped:
                    reason = SkipReason.ENDED_EARLY
                    self.emit(StageSkipped(at=self.now, path=scope.path(index), reason=reason))
            for inner in scope.plan.nested[index]:
                self._cancel_region(scope, inner, early)
        if region == 0 and scope.plan.result_hidden and scope.plan.result is not None:
            status[scope.plan.result] = CANCELLED


def _is_inside(scope: Scope, index: int, targets: set[tuple[int, int]]) -> bool:
    """Tell whether a stage instance lies, at any depth, in one of the (scope, region) pairs."""
    while True:
        region = max(scope.plan.stages[index].region, 0)  # a hidden stage belongs to its scope's top level
        while True:
            if (id(scope), region) in targets:
                return True
            if region == 0:
                break
            owner = scope.plan.regions[region].owner
            assert owner is not None
            region = scope.plan.stages[owner].region
        if scope.parent is None:
            return False
        scope, index = scope.parent, scope.owner
