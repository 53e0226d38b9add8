"""A pool of actors: those of one component that gets ready once (`setup()`), with one shape of resources.

    submit   a call goes to an actor that is free, else it waits here and the pool grows (`actor_sizing`); one for which the object
             store has no room has failed
    arrived  its actor is free again; worn out, it is replaced
    cancel   the attempt is stopped inside its actor; if that does not help, the actor is killed and replaced

An actor serves one run. One that dies takes its calls with it: whether they are repeated is the engine's decision, the pool
only replaces the actor. One whose setup fails or takes too long, or that dies in it, fails the calls that wait for it and is not
started again until another call comes. That one is not failed by other setups of the same time, but has the pool grow once more.
Which idle actors go, and when, is not decided here (`ray_releasing`).
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.exceptions import RayActorError, RayError, TaskCancelledError

from flowmason_ray.engine.attempt import fail, setup_overdue
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.events import StageBegan
from flowmason_ray.engine.executors.actor_sizing import DEFAULT, Load, room, to_start, worn
from flowmason_ray.engine.executors.memory_limit import MemoryExceeded
from flowmason_ray.engine.executors.ray_actor import Ready
from flowmason_ray.engine.executors.ray_calls import Call, take_values, words_of
from flowmason_ray.engine.executors.ray_inputs import StoreFull, told_when_full
from flowmason_ray.engine.executors.ray_messages import CallReport, Report
from flowmason_ray.engine.executors.ray_pressure import holdings
from flowmason_ray.errors import Failure

if TYPE_CHECKING:
    from flowmason_ray.engine.executors.ray_actors import Pools

PAUSE_AFTER_FAILURE_S = 5.0
"""How long a pool does not grow after a setup has failed while other actors of it work."""

_ray: Any = ray  # under this name without types: those of Ray are partly unknown

Outcome = CallReport | BaseException


class Actor:
    """One actor of a pool."""

    __slots__ = (
        "calls",
        "created",
        "handle",
        "idle_since",
        "limit",
        "name",
        "node",
        "round",
        "running",
        "state",
        "stuck",
        "taking",
    )

    def __init__(self, handle: Any, name: str, round: int = 0) -> None:
        self.handle = handle
        self.name = name
        self.round = round
        """How many failed setups had failed calls before it was started."""
        self.state: Literal["starting", "ready", "leaving", "gone"] = "starting"
        self.running: set[Call] = set()
        self.stuck: set[Call] = set()
        """Calls that were stopped and did not end."""
        self.taking = 0
        """Values that are being fetched from it."""
        self.calls = 0
        self.node = ""
        self.limit: TimerHandle | None = None
        """Ends its setup when that takes too long."""
        self.created = self.idle_since = monotonic()

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self.running and not self.taking

    def settle(self) -> None:
        """Its setup is over."""
        if self.limit is not None:
            self.limit.cancel()
            self.limit = None

    def stop(self, call: Call) -> None:
        """Stop the attempts of a call."""
        for member in call.members:
            with suppress(RayError):
                self.handle.stop.remote(member.path, member.attempt)

    def kill(self) -> None:
        """End the process at once."""
        self.state = "gone"
        self.settle()
        with suppress(RayError, ValueError):
            _ray.kill(self.handle, no_restart=True)


class Pool:
    """The actors of one component with one shape of resources."""

    def __init__(self, host: Pools, component: ComponentSpec, options: Mapping[str, Any], reference: Any) -> None:
        self.component = component
        self.actors: list[Actor] = []
        self.waiting: deque[tuple[Call, bytes, list[Any]]] = deque()
        self._host = host
        self.bounds = component.actors or DEFAULT
        self._options = {name: value for name, value in options.items() if name not in ("max_retries", "name")}
        self._reference = reference
        self.holding = holdings(self._options)
        """What each actor holds, by Ray's resource names."""
        self._call_s: float | None = None
        self._setup_s: float | None = None
        self._not_before = 0.0
        self._round = 0
        """How many failed setups have failed calls."""
        self._gave_way = False
        """Whether actors below the lower bound have made room for others, and no call has needed them since."""

    # -- calls --------------------------------------------------------------------------------------------------------

    def submit(self, call: Call, data: bytes, arguments: list[Any]) -> None:
        """Have a call carried out as soon as an actor is free."""
        call.pool = self
        call.round = self._round
        self.waiting.append((call, data, arguments))
        self._advance()

    def _advance(self) -> None:
        while self.waiting:
            actor = self._free(self.waiting[0][0])
            if actor is None:
                break
            self._send(actor, *self.waiting.popleft())
        self._grow()

    def _free(self, call: Call) -> Actor | None:
        """Return an actor that takes one more call: on the node where it had better run, then the least busy."""
        able = [a for a in self.actors if a.state == "ready" and len(a.running) < self.bounds.concurrency]
        return min(able, key=lambda a: (a.node != call.near, len(a.running)), default=None)

    def _send(self, actor: Actor, call: Call, data: bytes, arguments: list[Any]) -> None:
        try:
            with told_when_full("The call"):  # Ray puts a large one into the object store
                call.report = actor.handle.run.options(name=call.name).remote(data, *arguments)
        except StoreFull as exc:
            self._host.later(partial(self._host.ended, call, exc))  # whoever submits it does not expect its end yet
            return
        call.actor = actor
        actor.running.add(call)
        for member in call.members:
            if member.wanted and member.stage is not None and member.stage.timeout_s is not None:
                self._host.deliver(StageBegan(path=member.path, attempt=member.attempt))
        self._host.watch(call)

    def arrived(self, call: Call, outcome: Outcome) -> None:
        """Take what came back from an actor."""
        actor = call.actor
        assert actor is not None
        actor.running.discard(call)
        actor.idle_since = monotonic()
        actor.calls += len(call.members)
        if isinstance(outcome, RayActorError):
            self._bury(actor)
        elif isinstance(outcome, CallReport):
            spent_s = sum(report.duration_s for report in outcome.reports)
            self._call_s = spent_s if self._call_s is None else 0.8 * self._call_s + 0.2 * spent_s
            if actor.state == "ready" and (worn(self.bounds, actor.calls, outcome.rss_mib) or _grew(outcome)):
                actor.state = "leaving"
            if any(not report.inline for report in outcome.reports):
                self._take(actor, call, outcome)
                return
        self._over(actor, call, outcome)

    def _take(self, actor: Actor, call: Call, outcome: CallReport) -> None:
        """Fetch the references to values that stayed in the actor: they belong to the coordinator then, and outlive it."""
        actor.taking += 1

        def taken(errors: list[BaseException | None]) -> None:
            actor.taking -= 1
            self._over(actor, call, next((error for error in errors if error is not None), outcome))

        self._host.when_all(take_values(actor.handle, call, outcome), taken)

    def _over(self, actor: Actor, call: Call, outcome: Outcome) -> None:
        self._retire(actor)
        self._host.ended(call, outcome)
        self._advance()

    # -- stopping -----------------------------------------------------------------------------------------------------

    def cancel(self, call: Call, *, force: bool) -> None:
        """Stop a call: inside its actor, or with `force` by killing that. One that others use too is left to end by itself."""
        if call.actor is None:
            for entry in self.waiting:
                if entry[0] is call:
                    self.waiting.remove(entry)
                    self._host.later(lambda: self._host.ended(call, TaskCancelledError()))
                    return
        elif not force:
            call.actor.stop(call)
        elif call.actor.state in ("ready", "leaving"):
            call.actor.stuck.add(call)
            call.actor.state = "leaving"
            self._retire(call.actor)
            self._advance()

    # -- actors -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look again at calls that wait: the pause after a setup that failed may be over, or others take longer than expected."""
        if self.waiting:
            self._advance()

    def _grow(self) -> None:
        ready = [actor for actor in self.actors if actor.state == "ready"]
        if self.waiting:
            self._gave_way = False
        load = Load(
            waiting=len(self.waiting),
            waited_s=monotonic() - self.waiting[0][0].submitted if self.waiting else 0.0,
            running=sum(len(actor.running) for actor in ready),
            ready=len(ready),
            starting=sum(actor.state == "starting" for actor in self.actors),
            call_s=self._call_s,
            setup_s=self._setup_s,
        )
        bounds = replace(self.bounds, min=0) if self._gave_way else self.bounds
        if ready and monotonic() < self._not_before:
            return  # those that are ready do the work meanwhile; without any, nobody would
        if load.waiting or ready:
            for _ in range(to_start(bounds, room(self._host.nodes(), self._options), load)):
                self._start()

    def _start(self) -> None:
        number = self._host.number()
        name = f"{self.component.name} {self._host.run_id} {number}"
        handle = self._host.make(self.bounds.concurrency, {**self._options, "name": name}, self._reference)
        path = self.waiting[0][0].members[0].path if self.waiting else self.component.name
        actor = Actor(handle, name, self._round)
        self.actors.append(actor)
        self._host.when_done(
            handle.set_up.remote(path, -number, self._host.mailbox),
            lambda ready: self._is_set_up(actor, (path, -number), ready),
        )
        self._host.when_done(handle.watch.remote(), lambda _: self._died(actor))
        limit_s = self.component.setup_timeout_s
        if self.component.has_setup and limit_s is not None:
            self._host.when_done(handle.begins.remote(), lambda error: self._setup_begins(actor, path, limit_s, error))

    def _setup_begins(self, actor: Actor, path: str, limit_s: float, error: BaseException | None) -> None:
        """Give a setup its time: from when it begins, because an actor may have to wait for room before."""
        if actor.state == "starting" and error is None:
            actor.limit = self._host.after(limit_s, lambda: self._setup_overdue(actor, path))

    def _setup_overdue(self, actor: Actor, path: str) -> None:
        if actor.state == "starting":
            self._bury(actor)
            self._setup_failed(actor, fail(setup_overdue(self.component), path, 1), final=False)

    def _is_set_up(self, actor: Actor, who: tuple[str, int], ready: Ready | BaseException) -> None:
        if actor.state != "starting":
            return
        actor.settle()
        if isinstance(ready, Ready) and ready.failure is None:
            self._setup_s = monotonic() - actor.created
            actor.state, actor.node, actor.idle_since = "ready", ready.node, monotonic()
            self._host.told(*who, ready.told)
            self._host.tick()
            self._advance()
            return
        if isinstance(ready, Ready):
            assert ready.failure is not None
            failure, final = ready.failure, ready.final
            self._host.told(*who, ready.told)
        else:
            message = (
                f"The actor of component {self.component.name!r} died before its setup() had ended. {words_of(ready)}"
            )
            failure = Failure(code="component_setup_failed", message=message, error_type=type(ready).__name__)
            final = False
        self._bury(actor)
        self._setup_failed(actor, failure, final)

    def _setup_failed(self, failed: Actor, failure: Failure, final: bool) -> None:
        """Fail the calls that wait for a setup that failed: not those that came after a failure of its time.

        What made several setups fail that went on side by side would else use up as many attempts of a call.
        """
        if any(actor.state == "ready" for actor in self.actors):
            self._not_before = monotonic() + PAUSE_AFTER_FAILURE_S
            self._host.warn(self.component.name, failure.message)
            return
        over = [call for call, _, _ in self.waiting if call.round <= failed.round]
        self.waiting = deque(entry for entry in self.waiting if entry[0].round > failed.round)
        if over:
            self._round += 1
        self._grow()  # whoever still waits may have counted on this one
        for call in over:
            reports = [
                Report(
                    status="failed",
                    failure=replace(failure, stage=member.path, attempts=member.attempt),
                    final=final,
                )
                if member.wanted
                else Report(status="not_run")
                for member in call.members
            ]
            self._host.ended(call, CallReport(tuple(reports), ""))

    def _died(self, actor: Actor) -> None:
        """Forget an actor whose process has ended; what it was doing comes back as an error by itself."""
        if actor.state in ("ready", "leaving"):
            actor.state = "gone"
            if actor in self.actors:  # not if it died while it was torn down
                self.actors.remove(actor)
            self._advance()

    def _bury(self, actor: Actor) -> None:
        if actor in self.actors:
            self.actors.remove(actor)
        actor.kill()

    def let_go(self, actor: Actor) -> None:
        """Let an idle actor go: torn down, then ended."""
        self.actors.remove(actor)
        actor.state = "leaving"
        self._host.see_off(self, actor)

    def _retire(self, actor: Actor) -> None:
        """Let an actor that is to leave go as soon as nothing in it may still end well."""
        if actor.state != "leaving" or actor.taking:
            return
        if not actor.running:
            self.let_go(actor)
        elif actor.running <= actor.stuck:
            self._bury(actor)

    def idle(self) -> list[Actor]:
        """Return the actors that nobody needs now, those first that have been idle for longest."""
        if self.waiting:
            return []
        return sorted((a for a in self.actors if a.idle and a.state == "ready"), key=lambda a: a.idle_since)

    def staying(self) -> int:
        """Return how many actors there are that are not to leave."""
        return sum(actor.state != "leaving" for actor in self.actors)

    def give_way(self, actor: Actor) -> None:
        """Let an idle actor go because others wait for what it holds."""
        self._gave_way = self._gave_way or self.staying() <= self.bounds.min
        self.let_go(actor)

    def superfluous(self) -> int:
        """Return how many of the actors that are being started nobody waits for any more."""
        return 0 if self.waiting else sum(actor.state == "starting" for actor in self.actors)


def _grew(outcome: CallReport) -> bool:
    """Tell whether an attempt took more memory than it may: its instance may still hold it."""
    return any(report.failure is not None and report.failure.code == MemoryExceeded.code for report in outcome.reports)
