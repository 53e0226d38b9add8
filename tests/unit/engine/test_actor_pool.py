"""A pool of actors keeps going whatever happens to its actors. Without Ray: the test is the cluster, and says what happens when."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

pytest.importorskip("ray")

from flowmason_ray import Actors, operator
from flowmason_ray.components.base import spec_of
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.events import Event, StageBegan, StageLogged
from flowmason_ray.engine.executors import ray_pool, ray_releasing
from flowmason_ray.engine.executors.capacity import Demand, Node
from flowmason_ray.engine.executors.pressure import Pressure, Waiting
from flowmason_ray.engine.executors.ray_actor import Ready
from flowmason_ray.engine.executors.ray_actors import Pools
from flowmason_ray.engine.executors.ray_calls import Call, Member
from flowmason_ray.engine.executors.ray_inputs import StoreFull
from flowmason_ray.engine.executors.ray_messages import CallReport, Report
from flowmason_ray.engine.executors.ray_pool import Actor, Outcome, Pool
from flowmason_ray.engine.executors.ray_pressure import NotTold
from flowmason_ray.engine.executors.ray_releasing import release, yielding
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.errors import Failure

OutOfDiskError: Any = importlib.import_module("ray.exceptions").OutOfDiskError
RayActorError: Any = importlib.import_module("ray.exceptions").RayActorError
RayError: Any = importlib.import_module("ray.exceptions").RayError

READY = Ready(None, False, (), "n1", 0.0)
FAILED = Ready(Failure(code="component_setup_failed", message="no room", stage="a"), False, (), "", 0.0)
DONE = CallReport((Report(status="succeeded", duration_s=0.1),), "n1")


class Nothing(BaseModel):
    """A model without fields."""


class Remote:
    """A method of an actor: what it returns is told apart by its name."""

    def __init__(self, handle: Handle, name: str) -> None:
        self._handle = handle
        self._name = name

    def options(self, **_: Any) -> Remote:
        return self

    def remote(self, *_: Any) -> tuple[Handle, str]:
        if self._name == "run" and self._handle.cluster.refuses():
            raise OutOfDiskError("The disk is full.")
        return self._handle, self._name


class Handle:
    """An actor's handle."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        for name in ("set_up", "begins", "run", "stop", "take", "tear_down", "watch"):
            setattr(self, name, Remote(self, name))


class Timer:
    """Something that is to happen later."""

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act = act
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Cluster:
    """What a pool knows of its run, and its clock."""

    run_id, mailbox = "r", None

    def __init__(self) -> None:
        self.now = 1000.0
        self.killed: list[Any] = []
        self.outcomes: list[tuple[Call, Outcome]] = []
        self.watched: list[Call] = []
        self.said: list[Event] = []
        self.warnings: list[str] = []
        self._setups: list[Callable[[Any], None]] = []
        self._beginnings: list[Callable[[Any], None]] = []
        self._timers: list[Timer] = []
        self._deaths: dict[Handle, Callable[[Any], None]] = {}
        self.refusals = 0
        """How many of the next calls find no room in the object store."""

    def monotonic(self) -> float:
        return self.now

    def kill(self, handle: Any, *, no_restart: bool) -> None:
        self.killed.append(handle)

    def rule(self, patch: pytest.MonkeyPatch) -> None:
        """Be what the modules take for Ray, and for the time."""
        patch.setattr(ray_pool, "_ray", self)
        for module in (ray_pool, ray_releasing):
            patch.setattr(module, "monotonic", self.monotonic)

    # -- what a pool asks of its host

    def nodes(self) -> list[Node]:
        return [Node(id="n1", resources={"CPU": 4.0})]

    def number(self) -> int:
        return 1

    def make(self, concurrency: int, options: Mapping[str, Any], reference: Any) -> Handle:
        return Handle(self)

    def when_done(self, reference: tuple[Handle, str], then: Callable[[Any], None]) -> None:
        if reference[1] == "set_up":
            self._setups.append(then)
        elif reference[1] == "begins":
            self._beginnings.append(then)
        elif reference[1] == "watch":
            self._deaths[reference[0]] = then

    def after(self, seconds: float, act: Callable[[], None]) -> Timer:
        self._timers.append(Timer(self.now + seconds, act))
        return self._timers[-1]

    def see_off(self, pool: Pool, actor: Actor) -> None:
        actor.kill()

    def ended(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append((call, outcome))

    def later(self, act: Callable[[], None]) -> None:
        act()

    def deliver(self, event: Event) -> None:
        self.said.append(event)

    def warn(self, component: str, message: str) -> None:
        self.warnings.append(message)

    def told(self, *_: Any) -> None: ...

    def watch(self, call: Call) -> None:
        self.watched.append(call)

    def tick(self) -> None: ...

    # -- what the test says

    def setups(self, *how: Ready) -> None:
        """End the setups that are under way, the oldest first; there are so many of them."""
        ending, self._setups = self._setups, []
        for then, ready in zip(ending, how, strict=True):
            then(ready)

    def setup(self, how: Ready) -> None:
        """End the oldest setup, if there is one."""
        if self._setups:
            self._setups.pop(0)(how)

    def refuses(self) -> bool:
        """Tell whether a call finds no room."""
        self.refusals -= 1
        return self.refusals >= 0

    def begin(self) -> None:
        """Have all setups begin that have not."""
        beginning, self._beginnings = self._beginnings, []
        for then in beginning:
            then(None)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and what is to happen meanwhile."""
        self.now += seconds
        for timer in [timer for timer in self._timers if timer.at <= self.now]:
            self._timers.remove(timer)
            if not timer.cancelled:
                timer.act()

    def arrive(self, pool: Pool, call: Call, outcome: Outcome) -> None:
        """Have a call's report come back."""
        self.watched.remove(call)
        pool.arrived(call, outcome)

    def bury(self, pool: Pool) -> None:
        """Have the calls of actors that were killed come back, and say that those are gone."""
        for call in [call for call in self.watched if call.actor is not None and call.actor.handle in self.killed]:
            self.arrive(pool, call, RayActorError())
        for handle in self.killed:
            if handle in self._deaths:
                self._deaths.pop(handle)(RayActorError())

    @property
    def settled(self) -> bool:
        """Whether no setup is under way."""
        return not self._setups


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    cluster.rule(monkeypatch)
    return cluster


def component_of(**bounds: Any) -> ComponentSpec:
    @operator(name="loads", effect="pure", cost="cpu", actors=Actors(**bounds))
    class Loads:
        """Loads something."""

        Input = Output = Nothing

        def setup(self, context: Any) -> None: ...

        async def execute(self, input: Nothing, context: Any) -> Nothing:
            return input

    component = spec_of(Loads)
    assert component is not None
    return component


def pool_of(cluster: Cluster, **bounds: Any) -> Pool:
    return Pool(cast(Pools, cluster), component_of(**bounds), {"num_cpus": 1.0}, None)


def submit(pool: Pool, cluster: Cluster, count: int = 1, stage: PlanStage | None = None) -> list[Call]:
    calls = [Call([Member("a", 1, stage=stage)]) for _ in range(count)]
    for call in calls:
        call.submitted = cluster.now
        pool.submit(call, b"", [])
    return calls


def running(pool: Pool) -> set[Call]:
    return {call for actor in pool.actors for call in actor.running}


def test_when_the_last_actor_is_gone_nobody_waits_for_the_pause_after_a_failed_setup(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=2)
    calls = submit(pool, cluster, 4)
    cluster.setups(READY, FAILED)
    assert cluster.settled, "the pool pauses: another actor works"
    [actor] = pool.actors
    pool.arrived(calls[0], RayActorError())
    assert actor not in pool.actors
    assert len(pool.actors) == 2
    cluster.setups(READY, READY)
    assert running(pool) == set(calls[1:3])


def test_after_the_pause_the_pool_grows_by_itself(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=2)
    submit(pool, cluster, 4)
    cluster.setups(READY, FAILED)
    pool.tick()
    assert len(pool.actors) == 1
    cluster.now += ray_pool.PAUSE_AFTER_FAILURE_S + 1
    pool.tick()
    assert len(pool.actors) == 2


def test_a_setup_has_its_time_from_when_it_begins(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=1, setup_timeout_s=60)
    [call] = submit(pool, cluster)
    [actor] = pool.actors
    cluster.pass_time(3600)  # there is no room for it yet
    cluster.begin()
    cluster.pass_time(59)
    assert (pool.actors, cluster.killed) == ([actor], [])
    cluster.pass_time(1)
    assert (pool.actors, cluster.killed) == ([], [actor.handle])
    [(failed, outcome)] = cluster.outcomes
    assert failed is call
    assert isinstance(outcome, CallReport)
    [report] = outcome.reports
    assert report.failure is not None
    assert (report.failure.code, report.failure.stage, report.final) == ("component_setup_failed", "a", False)
    assert "'loads' did not end within 60 s" in report.failure.message
    assert "setup_timeout_s" in report.failure.message
    cluster.setups(READY)  # what comes late is of no interest
    assert pool.actors == []
    submit(pool, cluster)
    assert len(pool.actors) == 1, "the next call has it tried again"


def test_a_setup_that_ends_in_time_is_not_ended_later(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=1, setup_timeout_s=60)
    [call] = submit(pool, cluster)
    cluster.begin()
    cluster.setups(READY)
    cluster.pass_time(61)
    assert (cluster.killed, running(pool)) == ([], {call})


def test_a_failed_setup_fails_no_call_that_came_after_another_of_its_time_had_failed(cluster: Cluster) -> None:
    """Else a service that is away for a moment would use up the retries: every actor that had looked for it would fail another."""
    pool = pool_of(cluster, max=3)
    first = submit(pool, cluster, 3)
    cluster.setup(FAILED)
    assert {call for call, _ in cluster.outcomes} == set(first), "what waits for a setup fails with it"
    cluster.outcomes.clear()
    again = submit(pool, cluster, 3)
    assert len(pool.actors) == 3
    cluster.setup(FAILED)
    cluster.setup(FAILED)
    assert cluster.outcomes == []
    assert len(pool.actors) == 3, "those that wait get actors of their own"
    cluster.setups(READY, READY, READY)
    assert running(pool) == set(again)


def test_a_repeated_call_fails_with_a_setup_of_its_own_time(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=2)
    submit(pool, cluster, 2)
    cluster.setup(FAILED)
    cluster.outcomes.clear()
    again = submit(pool, cluster, 1)
    cluster.setup(FAILED)  # that of the first call's time
    [actor] = pool.actors
    assert (cluster.outcomes, actor.state) == ([], "starting")
    cluster.setup(FAILED)
    assert [call for call, _ in cluster.outcomes] == again
    assert (pool.actors, cluster.settled) == ([], True), "it is not tried again before another call comes"


def test_a_late_setup_that_takes_too_long_fails_no_call_that_came_after_the_failure(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=2, setup_timeout_s=60)
    submit(pool, cluster, 2)
    cluster.begin()
    cluster.setup(FAILED)
    cluster.outcomes.clear()
    cluster.pass_time(30)
    [again] = submit(pool, cluster)
    cluster.pass_time(30)
    assert cluster.outcomes == []
    cluster.setups(READY, READY)  # the first of them is of no interest any more
    assert running(pool) == {again}


def test_while_others_work_a_setup_that_takes_too_long_is_warned_of(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=2, setup_timeout_s=60)
    submit(pool, cluster, 2)
    cluster.begin()
    cluster.setup(READY)
    cluster.pass_time(60)
    assert (len(cluster.killed), cluster.outcomes) == (1, [])
    [warning] = cluster.warnings
    assert "did not end within 60 s" in warning


def test_without_a_limit_a_setup_may_take_for_ever(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=1, setup_timeout_s=None)
    submit(pool, cluster)
    cluster.begin()
    cluster.pass_time(1e9)
    assert (len(pool.actors), cluster.killed) == (1, [])


def test_a_call_that_finds_no_room_fails_and_the_next_ones_are_made(cluster: Cluster) -> None:
    cluster.refusals = 2
    pool = pool_of(cluster, max=1)
    timed = cast(PlanStage, SimpleNamespace(timeout_s=1.0))
    *refused, third, fourth = submit(pool, cluster, 4, timed)
    cluster.setups(READY)
    assert [call for call, _ in cluster.outcomes] == refused
    for call, outcome in cluster.outcomes:
        assert isinstance(outcome, StoreFull)
        assert call.actor is None
    [actor] = pool.actors
    assert (actor.running, cluster.watched) == ({third}, [third])
    assert [type(event) for event in cluster.said] == [StageBegan], "time runs for those that were sent"
    cluster.arrive(pool, third, DONE)
    assert running(pool) == {fourth}


def test_that_a_call_finds_no_room_is_not_said_before_its_turn_is_over(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=1)
    [first] = submit(pool, cluster)
    cluster.setups(READY)
    cluster.arrive(pool, first, DONE)
    cluster.outcomes.clear()
    later: list[Callable[[], None]] = []

    def keep(act: Callable[[], None]) -> None:
        later.append(act)

    cluster.later = keep
    cluster.refusals = 1
    [refused] = submit(pool, cluster)
    assert cluster.outcomes == []
    [act] = later
    act()
    assert [call for call, _ in cluster.outcomes] == [refused]
    assert [actor.idle for actor in pool.actors] == [True]


def test_an_actor_in_which_only_stuck_calls_are_left_is_killed_and_replaced(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=1, concurrency=3)
    first, second, third = submit(pool, cluster, 3)
    cluster.setups(READY)
    [fourth] = submit(pool, cluster)
    [actor] = pool.actors
    pool.cancel(first, force=True)
    pool.cancel(second, force=True)
    assert not cluster.killed, "the third may still end well"
    pool.arrived(third, DONE)
    assert cluster.outcomes[-1] == (third, DONE)
    assert cluster.killed == [actor.handle]
    cluster.setups(READY)
    assert running(pool) == {fourth}


def test_an_actor_whose_calls_are_all_stuck_is_killed_at_once(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=1, concurrency=2)
    stuck = submit(pool, cluster, 2)
    cluster.setups(READY)
    [waiting] = submit(pool, cluster)
    [actor] = pool.actors
    for call in stuck:
        pool.cancel(call, force=True)
    assert cluster.killed == [actor.handle]
    for call in stuck:
        pool.arrived(call, RayActorError())
    cluster.setups(READY)
    assert running(pool) == {waiting}


def test_an_actor_in_which_an_attempt_took_too_much_memory_is_replaced(cluster: Cluster) -> None:
    pool = pool_of(cluster, max=1)
    first, second = submit(pool, cluster, 2)
    cluster.setups(READY)
    [actor] = pool.actors
    failure = Failure(code="out_of_memory", message="too much", stage="a")
    pool.arrived(first, CallReport((Report(status="failed", failure=failure),), "n1"))
    assert actor not in pool.actors
    cluster.setups(READY)
    assert running(pool) == {second}


def test_calls_behind_a_long_one_get_an_actor_of_their_own(cluster: Cluster) -> None:
    pool = pool_of(cluster)
    [short] = submit(pool, cluster)
    cluster.now += 5
    cluster.setups(READY)  # it took 5 s
    pool.arrived(short, DONE)
    [long] = submit(pool, cluster)
    [waiting] = submit(pool, cluster)
    assert len(pool.actors) == 1, "on average the first would be through sooner than another would be ready"
    cluster.now += 4
    pool.tick()
    assert len(pool.actors) == 1
    cluster.now += 2
    pool.tick()
    cluster.setups(READY)
    assert running(pool) == {long, waiting}


def test_a_pool_that_made_room_does_not_fill_up_again_before_a_call_needs_it(cluster: Cluster) -> None:
    pool = pool_of(cluster, min=2, idle_s=600)
    first, second = submit(pool, cluster, 2)
    cluster.setups(READY, READY)
    pool.arrived(first, DONE)
    cluster.now += 1
    [(below, actor)] = yielding(pool)
    assert below
    pool.give_way(actor)
    pool.arrived(second, DONE)
    assert len(pool.actors) == 1
    submit(pool, cluster, 1)
    assert len(pool.actors) == 1, "there is one that is free"
    submit(pool, cluster, 1)
    assert len(pool.actors) == 2


def test_without_pressure_the_lower_bound_is_kept(cluster: Cluster) -> None:
    pool = pool_of(cluster, min=1, idle_s=1)
    calls = submit(pool, cluster, 3)
    cluster.setups(READY, READY, READY)
    for call in calls:
        pool.arrived(call, DONE)
    cluster.now += 3600
    release(pool)
    assert len(pool.actors) == 1
    assert [below for below, _ in yielding(pool)] == [True]


class Looking(Pools):
    """The pools of a run on a cluster that is the test's."""

    def __init__(self, cluster: Cluster) -> None:
        self.waiting = 0
        self.asked = 0
        self.error: Exception | None = None
        super().__init__(
            run_id="r",
            packed_run=b"",
            mailbox=None,
            watch=cluster.watch,
            ended=cluster.ended,
            deliver=cluster.deliver,
            told=cluster.told,
            nodes=cluster.nodes,
            pressure=self._told,
        )
        self.make = cluster.make
        self.when_done = cluster.when_done

    def _told(self) -> Pressure:
        self.asked += 1
        if self.error is not None:
            raise self.error
        waiting = Waiting(together=(Demand(amounts={"CPU": 1.0}),), count=self.waiting)
        return Pressure(waiting=(waiting,), free=(Node(id="n1", resources={"CPU": 0.0}),))

    def tick(self) -> None:
        """The test looks when it wants to."""


async def idle_pool(cluster: Cluster, count: int, **bounds: Any) -> tuple[Looking, Pool]:
    pools = Looking(cluster)
    pool = pools.pool(component_of(**bounds), {"num_cpus": 1.0}, None)
    calls = submit(pool, cluster, count)
    cluster.setups(*[READY] * count)
    for call in calls:
        pool.arrived(call, DONE)
    cluster.now += 1
    return pools, pool


def test_as_many_go_as_others_need_even_if_that_is_seen_late(cluster: Cluster) -> None:
    async def play() -> list[int]:
        pools, pool = await idle_pool(cluster, 4, idle_s=600)
        left: list[int] = []
        for waiting in (0, 2, 2, 3):
            pools.waiting = waiting
            await pools.releasing.look()
            left.append(len(pool.actors))
        cluster.now += ray_releasing.SETTLES_S
        await pools.releasing.look()
        return [*left, len(pool.actors)]

    assert asyncio.run(play()) == [4, 2, 2, 1, 0]


def test_the_last_ones_go_when_others_have_waited_for_a_while(cluster: Cluster) -> None:
    async def play() -> list[int]:
        pools, pool = await idle_pool(cluster, 1, min=1)
        left: list[int] = []
        for waiting, later in ((1, 2.0), (1, 2.0), (0, 2.0), (1, 2.0), (1, 2.0), (1, 0.0)):
            pools.waiting = waiting
            await pools.releasing.look()
            left.append(len(pool.actors))
            cluster.now += later
        return left

    assert asyncio.run(play()) == [1, 1, 1, 1, 1, 0]


def test_a_ray_that_does_not_tell_is_asked_once_and_idle_actors_go_by_their_time(cluster: Cluster) -> None:
    async def play() -> list[int]:
        pools, pool = await idle_pool(cluster, 2, idle_s=60, min=1)
        pools.waiting, pools.error = 2, NotTold("Ray 9.9 does not say what waits.")
        left: list[int] = []
        for later in (5.0, 5.0, 60.0, 0.0):
            await pools.releasing.look()
            left.append(len(pool.actors))
            cluster.now += later
        assert pools.asked == 1
        return left

    assert asyncio.run(play()) == [2, 2, 2, 1]
    [warning] = cluster.said
    assert isinstance(warning, StageLogged)
    assert (warning.path, warning.level, warning.message) == ("loads", "warning", "Ray 9.9 does not say what waits.")


def test_a_head_that_is_away_is_asked_again(cluster: Cluster) -> None:
    async def play() -> list[int]:
        pools, pool = await idle_pool(cluster, 2, idle_s=600)
        left: list[int] = []
        pools.waiting = 2
        for pools.error in (RayError(), OSError("down"), None):
            await pools.releasing.look()
            left.append(len(pool.actors))
        return left

    assert asyncio.run(play()) == [2, 2, 0]
    assert cluster.said == []


STEPS = st.sampled_from(["submit", "ready", "failed", "done", "dies", "stuck", "tick", "idle", "full"])


@given(
    st.builds(Actors, min=st.integers(0, 2), max=st.integers(2, 3), concurrency=st.integers(1, 2)),
    st.lists(st.tuples(STEPS, st.integers(0, 9)), max_size=30),
)
@settings(max_examples=300)
def test_whatever_happens_every_call_ends(bounds: Actors, steps: list[tuple[str, int]]) -> None:
    cluster = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        cluster.rule(patch)
        pool = pool_of(cluster, min=bounds.min, max=bounds.max, concurrency=bounds.concurrency)
        calls: list[Call] = []
        stuck: set[Call] = set()
        for step, number in steps:
            able = [call for call in cluster.watched if call not in stuck]
            call = able[number % len(able)] if able else None
            if step == "submit":
                calls += submit(pool, cluster)
            elif step in ("ready", "failed"):
                cluster.setup(READY if step == "ready" else FAILED)
            elif step == "tick":
                cluster.now += number
                pool.tick()
            elif step == "full":
                cluster.refusals = number
            elif step == "idle":
                for _, actor in yielding(pool)[:1]:
                    pool.give_way(actor)
            elif call is not None and call.actor is not None:
                if step == "done":
                    cluster.arrive(pool, call, DONE)
                elif step == "dies":
                    cluster.killed.append(call.actor.handle)
                else:
                    stuck.add(call)
                    pool.cancel(call, force=True)
            cluster.bury(pool)
            most = bounds.max or 0
            assert sum(actor.state in ("starting", "ready") for actor in pool.actors) <= most
        for _ in range(3 * len(calls) + 3):
            cluster.setup(READY)
            for call in [call for call in cluster.watched if call not in stuck]:
                cluster.arrive(pool, call, DONE)
            cluster.bury(pool)
            cluster.now += ray_pool.PAUSE_AFTER_FAILURE_S
            pool.tick()
        assert {call for call, _ in cluster.outcomes} == set(calls)
        assert len(cluster.outcomes) == len(calls), "each of them once"
