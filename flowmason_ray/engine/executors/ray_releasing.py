"""Lets actors of a run's pools go: which, when, and how.

    look       those that have been idle for long enough go, and those that hold what others on the cluster wait for (`pressure`)
    see_off    one that has left its pool is torn down, then ended
    close      all that are on their way are ended

Which of them are needed is the pools' to say; what they do with calls is of no interest here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError

from flowmason_ray.engine.executors.actor_sizing import may_give_way, to_release
from flowmason_ray.engine.executors.instances import TEARDOWN_S
from flowmason_ray.engine.executors.pressure import Idle, Pressure, to_give_way, without
from flowmason_ray.engine.executors.ray_pressure import NotTold

if TYPE_CHECKING:
    from flowmason_ray.engine.executors.ray_pool import Actor, Pool

SETTLES_S = 3.0
"""How long it may take until Ray tells that an actor has gone: it collects what waits and what is free every second (Ray 2.60,
`gcs_pull_resource_loads_period_milliseconds`). For as long, others are to have waited before an actor of the last `min` goes."""


class Releasing:
    """Lets actors of one run's pools go."""

    def __init__(
        self,
        *,
        pools: Callable[[], Collection[Pool]],
        pressure: Callable[[], Pressure],
        warn: Callable[[str, str], None],
        when_done: Callable[[Any, Callable[[Any], None]], None],
    ) -> None:
        """
        Args:
            pools: Returns the pools.
            pressure: Returns what waits for room on the cluster, and what is free; may take its time. If it raises `NotTold`, it is
                not asked again.
            warn: Says something about a component.
            when_done: Calls on the loop with what is behind a reference, or with the error.
        """
        self._pools = pools
        self._pressure: Callable[[], Pressure] | None = pressure
        self._warn = warn
        self._when_done = when_done
        self._loop = asyncio.get_running_loop()
        self._leaving: dict[Actor, asyncio.Future[Any]] = {}
        self._seen_off: dict[Actor, tuple[float, Pool]] = {}
        """Actors that have left lately, and when."""
        self._short_since: float | None = None
        """Since when others have waited for what only the last `min` actors of a pool could give."""

    # -- which --------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Let go of actors that have been idle for long enough, or that hold what others wait for."""
        for pool in self._pools():
            release(pool)
        able = [pool for pool in self._pools() if yielding(pool)]
        if not able or self._pressure is None:
            self._short_since = None
            return
        try:
            pressure = await asyncio.to_thread(self._pressure)
        except (RayError, OSError):  # its head is away just now: it is asked again soon
            return
        except NotTold as exc:
            self._pressure = None
            self._warn(able[0].component.name, str(exc))
            return
        self._make_room(pressure)

    def _make_room(self, pressure: Pressure) -> None:
        """Let idle actors go that hold what others wait for: before others those that are not to be kept."""
        pools, now = self._pools(), monotonic()
        able = [(below, actor, pool) for pool in pools for below, actor in yielding(pool)]
        able.sort(key=lambda each: (each[0], each[1].idle_since))
        needless = [pool.holding for pool in pools for _ in range(pool.superfluous())]
        self._seen_off = {
            actor: (at, pool)
            for actor, (at, pool) in self._seen_off.items()
            if now - at < SETTLES_S or actor in self._leaving
        }
        going = [_held(pool, actor) for actor, (_, pool) in self._seen_off.items()]
        idle = [_held(pool, actor) for _, actor, pool in able]
        chosen = [able[number] for number in to_give_way(without(pressure, needless), idle, going)]
        if not any(below for below, _, _ in chosen):
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        for below, actor, pool in chosen:
            if not below or (self._short_since is not None and now - self._short_since >= SETTLES_S):
                pool.give_way(actor)

    # -- how ----------------------------------------------------------------------------------------------------------

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
                self._warn(pool.component.name, str(said))

        def end(_: Any) -> None:
            limit.cancel()
            self._leaving.pop(actor, None)
            actor.kill()

        over.add_done_callback(end)
        self._when_done(actor.handle.tear_down.remote(), torn_down)

    async def close(self) -> None:
        """Wait for those that are being torn down, as long as a teardown may take; end them."""
        try:
            if self._leaving:
                await asyncio.wait(list(self._leaving.values()), timeout=TEARDOWN_S)
        finally:
            for actor in list(self._leaving):
                actor.kill()


def release(pool: Pool) -> None:
    """Let actors of a pool go that have been idle for long enough."""
    idle, now = pool.idle(), monotonic()
    for actor in idle[: to_release(pool.bounds, [now - a.idle_since for a in idle], pool.staying())]:
        pool.let_go(actor)


def yielding(pool: Pool) -> list[tuple[bool, Actor]]:
    """Return the actors that go when others wait for room: whether that leaves fewer than are to be kept, and the actor."""
    spare, now = pool.staying() - pool.bounds.min, monotonic()
    able = [actor for actor in pool.idle() if may_give_way(pool.bounds, now - actor.idle_since)]
    return [(number >= spare, actor) for number, actor in enumerate(able)]


def _held(pool: Pool, actor: Actor) -> Idle:
    return Idle(node=actor.node, holds=pool.holding)
