"""Pools of actors: one per component that gets ready once (`setup()`), and per shape of resources it is asked with.

    submit   a call goes to an actor that is free, else it waits here and the pool grows (`actor_sizing`)
    arrived  its actor is free again; worn out, it is replaced
    cancel   the attempt is stopped inside its actor; if that does not help, the actor is killed and replaced
    close    everything is torn down and given back

An actor serves one run. One that dies takes its calls with it: whether they are repeated is the engine's decision, the pool
only replaces the actor. One whose setup fails, or that dies in it, fails the calls that wait for it and is not started again
until another call comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic, time
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayError, TaskCancelledError

from flowmason_ray.engine.component import ComponentSpec, Cost
from flowmason_ray.engine.events import Event, StageBegan, StageLogged
from flowmason_ray.engine.executors.actor_sizing import DEFAULT, Load, may_give_way, to_release, to_start, worn
from flowmason_ray.engine.executors.capacity import Node
from flowmason_ray.engine.executors.instances import TEARDOWN_S
from flowmason_ray.engine.executors.pressure import Idle, Pressure, to_give_way, without
from flowmason_ray.engine.executors.ray_actor import Ready, remote_actor
from flowmason_ray.engine.executors.ray_calls import Call, take_values, words_of
from flowmason_ray.engine.executors.ray_messages import CallReport, Report
from flowmason_ray.engine.executors.ray_pressure import Cluster, holdings
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.errors import Failure

TICK_S = 0.5
"""How often it is looked at whether actors are idle, and whether waiting calls need more of them."""
SETTLES_S = 3.0
"""How long it may take until Ray tells that an actor has gone: it collects what waits and what is free every second (Ray 2.60,
`gcs_pull_resource_loads_period_milliseconds`). For as long, others are to have waited before an actor of the last `min` goes."""
PAUSE_AFTER_FAILURE_S = 5.0
"""How long a pool does not grow after a setup has failed while other actors of it work."""

_ray: Any = ray  # under this name without types: those of Ray are partly unknown

Outcome = CallReport | BaseException
Told = Sequence[tuple[int, Event]]


def wants_actors(stage: PlanStage) -> bool:
    """Tell whether a stage's attempts run in actors of its component."""
    component = stage.component
    return component is not None and (component.has_setup or component.actors is not None or component.cost is Cost.GPU)


class Actor:
    """One actor of a pool."""

    __slots__ = ("calls", "created", "handle", "idle_since", "name", "node", "running", "state", "stuck", "taking")

    def __init__(self, handle: Any, name: str) -> None:
        self.handle = handle
        self.name = name
        self.state: Literal["starting", "ready", "leaving", "gone"] = "starting"
        self.running: set[Call] = set()
        self.stuck: set[Call] = set()
        """Calls that were stopped and did not end."""
        self.taking = 0
        """Values that are being fetched from it."""
        self.calls = 0
        self.node = ""
        self.created = self.idle_since = monotonic()

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self.running and not self.taking

    def stop(self, call: Call) -> None:
        """Stop the attempts of a call."""
        for member in call.members:
            with suppress(RayError):
                self.handle.stop.remote(member.path, member.attempt)

    def kill(self) -> None:
        """End the process at once."""
        self.state = "gone"
        with suppress(RayError, ValueError):
            _ray.kill(self.handle, no_restart=True)


class Pool:
    """The actors of one component with one shape of resources."""

    def __init__(self, host: Pools, component: ComponentSpec, options: Mapping[str, Any], reference: Any) -> None:
        self.component = component
        self.actors: list[Actor] = []
        self.waiting: deque[tuple[Call, bytes, list[Any]]] = deque()
        self._host = host
        self._bounds = component.actors or DEFAULT
        self._options = {name: value for name, value in options.items() if name not in ("max_retries", "name")}
        self._reference = reference
        self.holding = holdings(self._options)
        """What each actor holds, by Ray's resource names."""
        self._call_s: float | None = None
        self._setup_s: float | None = None
        self._not_before = 0.0
        self._gave_way = False
        """Whether actors below the lower bound have made room for others, and no call has needed them since."""

    # -- calls --------------------------------------------------------------------------------------------------------

    def submit(self, call: Call, data: bytes, arguments: list[Any]) -> None:
        """Have a call carried out as soon as an actor is free."""
        call.pool = self
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
        able = [a for a in self.actors if a.state == "ready" and len(a.running) < self._bounds.concurrency]
        return min(able, key=lambda a: (a.node != call.near, len(a.running)), default=None)

    def _send(self, actor: Actor, call: Call, data: bytes, arguments: list[Any]) -> None:
        call.actor = actor
        actor.running.add(call)
        for member in call.members:
            if member.wanted and member.stage is not None and member.stage.timeout_s is not None:
                self._host.deliver(StageBegan(path=member.path, attempt=member.attempt))
        call.report = actor.handle.run.options(name=call.name).remote(data, *arguments)
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
            if actor.state == "ready" and worn(self._bounds, actor.calls, outcome.rss_mib):
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
        bounds = replace(self._bounds, min=0) if self._gave_way else self._bounds
        if ready and monotonic() < self._not_before:
            return  # those that are ready do the work meanwhile; without any, nobody would
        if load.waiting or ready:
            for _ in range(to_start(bounds, self._room(), load)):
                self._start()

    def _room(self) -> int:
        """Return how many actors the cluster could hold if it were empty."""
        cores = float(self._options.get("num_cpus") or 0.0)
        gpus = float(self._options.get("num_gpus") or 0.0)
        found = 0
        for node in self._host.nodes():
            fits = [
                int(node.resources.get(name, 0.0) / amount)
                for name, amount in (("CPU", cores), ("GPU", gpus))
                if amount > 0
            ]
            found += min(fits, default=int(node.resources.get("CPU", 1.0)))
        return max(1, found)

    def _start(self) -> None:
        number = self._host.number()
        name = f"{self.component.name} {self._host.run_id} {number}"
        handle = self._host.make(self._bounds.concurrency, {**self._options, "name": name}, self._reference)
        path = self.waiting[0][0].members[0].path if self.waiting else self.component.name
        actor = Actor(handle, name)
        self.actors.append(actor)
        self._host.when_done(
            handle.set_up.remote(path, -number, self._host.mailbox),
            lambda ready: self._is_set_up(actor, (path, -number), ready),
        )
        self._host.when_done(handle.watch.remote(), lambda _: self._died(actor))

    def _is_set_up(self, actor: Actor, who: tuple[str, int], ready: Ready | BaseException) -> None:
        if actor.state != "starting":
            return
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
        self._setup_failed(failure, final)

    def _setup_failed(self, failure: Failure, final: bool) -> None:
        if any(actor.state == "ready" for actor in self.actors):
            self._not_before = monotonic() + PAUSE_AFTER_FAILURE_S
            self._host.deliver(
                StageLogged(at=time(), path=self.component.name, level="warning", message=failure.message)
            )
            return
        waiting, self.waiting = list(self.waiting), deque()
        for call, _, _ in waiting:
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

    def _leave(self, actor: Actor) -> None:
        """Let an idle actor go: torn down, then ended."""
        self.actors.remove(actor)
        actor.state = "leaving"
        self._host.see_off(self, actor)

    def _retire(self, actor: Actor) -> None:
        """Let an actor that is to leave go as soon as nothing in it may still end well."""
        if actor.state != "leaving" or actor.taking:
            return
        if not actor.running:
            self._leave(actor)
        elif actor.running <= actor.stuck:
            self._bury(actor)

    def idle(self) -> list[Actor]:
        """Return the actors that nobody needs now, those first that have been idle for longest."""
        if self.waiting:
            return []
        return sorted((a for a in self.actors if a.idle and a.state == "ready"), key=lambda a: a.idle_since)

    def release(self) -> None:
        """Let actors go that have been idle for long enough."""
        idle, now = self.idle(), monotonic()
        for actor in idle[: to_release(self._bounds, [now - a.idle_since for a in idle], self._total())]:
            self._leave(actor)

    def _total(self) -> int:
        return sum(actor.state != "leaving" for actor in self.actors)

    def yielding(self) -> list[tuple[bool, Actor]]:
        """Return the actors that go when others wait for room: whether that leaves fewer than are to be kept, and the actor."""
        spare, now = self._total() - self._bounds.min, monotonic()
        able = [actor for actor in self.idle() if may_give_way(self._bounds, now - actor.idle_since)]
        return [(number >= spare, actor) for number, actor in enumerate(able)]

    def give_way(self, actor: Actor) -> None:
        """Let an idle actor go because others wait for what it holds."""
        self._gave_way = self._gave_way or self._total() <= self._bounds.min
        self._leave(actor)

    def holds(self, actor: Actor) -> Idle:
        """Return what an actor holds."""
        return Idle(node=actor.node, holds=self.holding)

    def superfluous(self) -> int:
        """Return how many of the actors that are being started nobody waits for any more."""
        return 0 if self.waiting else sum(actor.state == "starting" for actor in self.actors)


class Pools:
    """The pools of one run."""

    def __init__(
        self,
        *,
        run_id: str,
        packed_run: bytes,
        mailbox: tuple[str, str] | None,
        watch: Callable[[Call], None],
        ended: Callable[[Call, Outcome], None],
        deliver: Callable[[Event], None],
        told: Callable[[str, int, Told], None],
        nodes: Callable[[], list[Node]],
        pressure: Callable[[], Pressure] | None = None,
    ) -> None:
        """
        Args:
            run_id: The run's.
            packed_run: What actors know about it.
            mailbox: Where what setups say while they run is posted.
            watch: Has `arrived` called when a call's report is there.
            ended: Takes how a call ended.
            deliver: Takes live events.
            told: Takes what a setup has said, as reports carry it.
            nodes: Returns the cluster's nodes.
            pressure: Returns what waits for room on the cluster, and what is free; may take its time. None: asks Ray.
        """
        self.run_id = run_id
        self.mailbox = mailbox
        self.watch = watch
        self.ended = ended
        self.deliver = deliver
        self.told = told
        self.nodes = nodes
        self._packed_run = packed_run
        self._pressure = pressure or Cluster().pressure
        self._loop = asyncio.get_running_loop()
        self._pools: dict[tuple[str, str], Pool] = {}
        self._numbers = 0
        self._ticking: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._leaving: dict[Actor, asyncio.Future[Any]] = {}
        self._seen_off: dict[Actor, tuple[float, Pool]] = {}
        """Actors that have left lately, and when."""
        self._short_since: float | None = None
        """Since when others have waited for what only the last `min` actors of a pool could give."""
        self._closed = False
        self.classes: Mapping[str, Any] = {}

    def pool(self, component: ComponentSpec, options: Mapping[str, Any], reference: Any) -> Pool:
        """Return the pool for a component's calls with these options."""
        kept = {n: v for n, v in options.items() if n not in ("max_retries", "name") and not _is_preference(v)}
        key = (component.name, repr(sorted(kept.items(), key=str)))
        found = self._pools.get(key)
        if found is None:
            found = self._pools[key] = Pool(self, component, kept, reference)
        return found

    def number(self) -> int:
        """Return the number of the next actor."""
        self._numbers += 1
        return self._numbers

    def make(self, concurrency: int, options: Mapping[str, Any], reference: Any) -> Any:
        """Create an actor."""
        return remote_actor(concurrency).options(**options).remote(self.classes, self._packed_run, reference)

    def later(self, act: Callable[[], None]) -> None:
        """Do something in the loop's next turn."""
        self._loop.call_soon(act)

    def when_done(self, reference: Any, then: Callable[[Any], None]) -> None:
        """Call `then` on the loop with what is behind a reference, or with the error."""

        def hand_over(future: Any) -> None:  # on one of Ray's threads
            error = future.exception()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(act, error if error is not None else future.result())

        def act(outcome: Any) -> None:
            if not self._closed:
                then(outcome)

        reference.future().add_done_callback(hand_over)

    def when_all(self, references: list[Any], then: Callable[[list[BaseException | None]], None]) -> None:
        """Call `then` on the loop when all are there, with their errors."""
        errors: list[BaseException | None] = []

        def one(outcome: Any) -> None:
            errors.append(outcome if isinstance(outcome, BaseException) else None)
            if len(errors) == len(references):
                then(errors)

        for reference in references:
            self.when_done(reference, one)

    # -- giving back --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Begin to look at idle actors now and then."""
        if self._ticking is None and not self._closed:
            self._ticking = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        if any(pool.actors or pool.waiting for pool in self._pools.values()):
            self.tick()  # first, so that nothing that goes wrong below is the last thing that is done
        for pool in self._pools.values():
            pool.tick()
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self.look())

    async def look(self) -> None:
        """Let go of actors that have been idle for long enough, or that hold what others wait for."""
        for pool in self._pools.values():
            pool.release()
        if not any(pool.yielding() for pool in self._pools.values()):
            self._short_since = None
            return
        try:
            pressure = await asyncio.to_thread(self._pressure)
        except RayError:  # its head is away just now: it is asked again soon
            return
        self._make_room(pressure)

    def _make_room(self, pressure: Pressure) -> None:
        """Let idle actors go that hold what others wait for: before others those that are not to be kept."""
        pools, now = list(self._pools.values()), monotonic()
        able = [(below, actor, pool) for pool in pools for below, actor in pool.yielding()]
        able.sort(key=lambda each: (each[0], each[1].idle_since))
        needless = [pool.holding for pool in pools for _ in range(pool.superfluous())]
        self._seen_off = {
            actor: (at, pool)
            for actor, (at, pool) in self._seen_off.items()
            if now - at < SETTLES_S or actor in self._leaving
        }
        going = [pool.holds(actor) for actor, (_, pool) in self._seen_off.items()]
        idle = [pool.holds(actor) for _, actor, pool in able]
        chosen = [able[number] for number in to_give_way(without(pressure, needless), idle, going)]
        if not any(below for below, _, _ in chosen):
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        for below, actor, pool in chosen:
            if not below or (self._short_since is not None and now - self._short_since >= SETTLES_S):
                pool.give_way(actor)

    def see_off(self, pool: Pool, actor: Actor) -> None:
        """End an actor that has left its pool, after its teardown."""
        self._seen_off[actor] = (monotonic(), pool)
        if not pool.component.has_teardown:
            actor.kill()
            return
        over = self._leaving[actor] = self._loop.create_future()
        limit = self._loop.call_later(TEARDOWN_S, lambda: over.done() or over.set_result(None))

        def torn_down(said: Any) -> None:
            if not over.done():
                over.set_result(None)
            if said is not None and not isinstance(said, RayError):
                self.deliver(StageLogged(at=time(), path=pool.component.name, level="warning", message=str(said)))

        def end(_: Any) -> None:
            limit.cancel()
            self._leaving.pop(actor, None)
            actor.kill()

        over.add_done_callback(end)
        self.when_done(actor.handle.tear_down.remote(), torn_down)

    async def close(self) -> None:
        """Tear everything down and give it back."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._looking is not None:
            self._looking.cancel()
        for pool in self._pools.values():
            pool.waiting.clear()
            for actor in pool.actors:
                if actor.state == "ready" and not actor.running:
                    self.see_off(pool, actor)
                else:
                    actor.kill()
            pool.actors.clear()
        try:
            if self._leaving:
                await asyncio.wait(list(self._leaving.values()), timeout=TEARDOWN_S)
        finally:
            for actor in list(self._leaving):
                actor.kill()
            self._closed = True


def _is_preference(value: Any) -> bool:
    """Tell whether an option says where a call had better run: a pool serves all such calls."""
    return type(value).__name__ == "NodeAffinitySchedulingStrategy" and bool(getattr(value, "soft", False))


def preferred_node(options: Mapping[str, Any]) -> str | None:
    """Return the node on which a call had better run, if its options name one."""
    strategy = options.get("scheduling_strategy")
    return str(strategy.node_id) if strategy is not None and _is_preference(strategy) else None
