"""A simulated world in which stages ride along: what came of them is decided when their carrier's attempt is.

It takes along what an executor would (`engine.fusion`, `ray_riding`), at random paces, renders a rider's templates over what
there is at that moment, and reports that when the state machine starts the rider. The oracle, which knows nothing of calls,
judges the run as any other; and what a rider came to is compared with what it would have come to alone.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from random import Random
from typing import Any

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.events import Event, StageDeclined, StageFailed, StageSucceeded
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.ray_riding import Rides, passengers
from flowmason_ray.engine.fusion import riders_of
from flowmason_ray.engine.pace import Pace
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.scope import Status
from flowmason_ray.testing.simulation.fate import Fate
from flowmason_ray.testing.simulation.invariants import Violation
from flowmason_ray.testing.simulation.world import World


class RidingWorld(World):
    """One coordinator's world, with calls that carry several attempts."""

    def __init__(self, fate: Fate, random: Random, run: RunInfo, now: float) -> None:
        super().__init__(fate, random, run, now)
        self.rode = 0
        """How many attempts were answered with what had ridden along."""
        self._rides = Rides()
        self._riders: dict[int, tuple[int, ...]] = {}

    def _outcome(self, command: StartStage) -> Event:
        known = self._rides.take(command)
        alone = super()._outcome(command)
        if known is not None:
            if _facts(known[-1]) != _facts(alone):
                raise Violation("what_rides_comes_to_the_same", f"{known[-1]} instead of {alone}")
            self.rode += 1
            return known[-1]
        if isinstance(alone, StageSucceeded):
            self._take_along(command, alone)
        return alone

    def _take_along(self, command: StartStage, event: StageSucceeded) -> None:
        """Decide what comes of the riders of an attempt that will succeed."""
        scope, riders = command.scope, self._riders_of(command)
        if not riders:
            return
        seen = copy(scope)
        seen.values, seen.status = list(scope.values), list(scope.status)
        seen.values[command.stage.index], seen.status[command.stage.index] = event.value, Status.SUCCEEDED
        aboard = {command.stage.index}
        for stage in passengers(command, riders):
            read = {*stage.waits_for, *(t.index for t in stage.targets.values() if not t.levels)}
            if any(seen.status[index] != Status.SUCCEEDED for index in read & aboard):
                aboard.add(stage.index)
                continue
            path = scope.path(stage.index)
            ride = StartStage(path=path, stage=stage, scope=seen, attempt=1, first_started_at=command.first_started_at)
            came = super()._outcome(ride)
            aboard.add(stage.index)
            if isinstance(came, StageSucceeded):
                seen.values[stage.index], seen.status[stage.index] = came.value, Status.SUCCEEDED
            if isinstance(came, (StageSucceeded, StageFailed, StageDeclined)):
                self._rides.keep(path, scope, (came,))

    def _riders_of(self, command: StartStage) -> tuple[int, ...]:
        stage = command.stage
        found = self._riders.get(id(stage))
        if found is None:
            found = self._riders[id(stage)] = riders_of(command.scope.plan, stage, self._pace, lambda _: None)
        return found

    def _pace(self, stage: PlanStage) -> Pace:
        return Pace.QUICK if self.fate.number("pace", stage.pointer) < 0.8 else Pace.STEADY


def _facts(event: Event) -> Any:
    """Return what of a report depends on what was read; not the draw, which decides on a delay."""
    return replace(event, draw=0.5) if isinstance(event, StageFailed) else event
