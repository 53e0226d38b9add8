"""The actors of a run: the pools of its components (`ray_pool`), what those need of the run, and the end of it all.

A component gets a pool per shape of resources that it is asked with. Every now and then it is looked whether waiting calls need
more actors, and whether idle ones may go (`ray_releasing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import time
from typing import Any

from flowmason_ray.engine.component import ComponentSpec, Cost
from flowmason_ray.engine.events import Event, StageLogged
from flowmason_ray.engine.executors.capacity import Node
from flowmason_ray.engine.executors.pressure import Pressure
from flowmason_ray.engine.executors.ray_actor import remote_actor
from flowmason_ray.engine.executors.ray_calls import Call
from flowmason_ray.engine.executors.ray_pool import Outcome, Pool
from flowmason_ray.engine.executors.ray_pressure import Cluster
from flowmason_ray.engine.executors.ray_releasing import Releasing
from flowmason_ray.engine.plan import PlanStage

TICK_S = 0.5
"""How often it is looked at whether actors are idle, and whether waiting calls need more of them."""

Told = Sequence[tuple[int, Event]]


def wants_actors(stage: PlanStage) -> bool:
    """Tell whether a stage's attempts run in actors of its component."""
    component = stage.component
    return component is not None and (component.has_setup or component.actors is not None or component.cost is Cost.GPU)


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
        self._loop = asyncio.get_running_loop()
        self._pools: dict[tuple[str, str], Pool] = {}
        self._numbers = 0
        self._ticking: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self.releasing = Releasing(
            pools=self._pools.values,
            pressure=pressure or Cluster().pressure,
            warn=self.warn,
            when_done=self.when_done,
        )
        self.see_off = self.releasing.see_off
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

    def warn(self, component: str, message: str) -> None:
        """Say something about a component."""
        self.deliver(StageLogged(at=time(), path=component, level="warning", message=message))

    def later(self, act: Callable[[], None]) -> None:
        """Do something in the loop's next turn."""
        self._loop.call_soon(act)

    def after(self, seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Do something after so many seconds, unless it is cancelled."""
        return self._loop.call_later(seconds, act)

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
            self._looking = self._loop.create_task(self.releasing.look())

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
            await self.releasing.close()
        finally:
            self._closed = True


def _is_preference(value: Any) -> bool:
    """Tell whether an option says where a call had better run: a pool serves all such calls."""
    return type(value).__name__ == "NodeAffinitySchedulingStrategy" and bool(getattr(value, "soft", False))


def preferred_node(options: Mapping[str, Any]) -> str | None:
    """Return the node on which a call had better run, if its options name one."""
    strategy = options.get("scheduling_strategy")
    return str(strategy.node_id) if strategy is not None and _is_preference(strategy) else None
