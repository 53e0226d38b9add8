"""Riders: attempts that share a call with one that they read, before the state machine has asked for them.

`engine.fusion` says which stages may ride. Their results are kept here until the state machine starts them,
and that is when they are reported; so it stays the only one that decides. Only pure stages ride, and what is never asked
for is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.events import Event
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.scope import Scope, Status

KEPT_RIDES = 10_000
"""Results that nobody has asked for yet: more are never waited for by one turn of the state machine, and older ones are just
computed when they are asked for."""


def passengers(command: StartStage, riders: Sequence[int]) -> list[PlanStage]:
    """Return those of `riders` of which an attempt can ride along with `command` as things stand, in order."""
    scope, found = command.scope, list[PlanStage]()
    aboard = {command.stage.index}
    for index in riders:
        stage = scope.plan.stages[index]
        if may_ride(stage) and scope.status[index] == Status.WAITING and _at_hand(scope, stage, aboard):
            found.append(stage)
            aboard.add(index)
    return found


def may_ride(stage: PlanStage) -> bool:
    """Tell whether an attempt of `stage` may share a call at all: repeating it, or running it for nothing, does no harm."""
    return stage.effect is Effect.PURE and stage.timeout_s is None and stage.enabled


def _at_hand(scope: Scope, stage: PlanStage, aboard: set[int]) -> bool:
    """Tell whether everything that `stage` waits for or reads has ended, or is aboard."""
    if not all(other in aboard or scope.status[other] >= Status.SUCCEEDED for other in stage.waits_for):
        return False
    for target in stage.targets.values():
        if not target.levels and target.index in aboard:
            continue
        at, index = scope.at(target)
        if at.status[index] < Status.SUCCEEDED:
            return False
    return True


class Rides:
    """The results of attempts that rode along and have not been asked for yet."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Scope, tuple[Event, ...]]] = OrderedDict()

    def keep(self, path: str, scope: Scope, told: tuple[Event, ...]) -> None:
        """Keep what there is to tell about the first attempt at `path`; the last of it is its end."""
        self._known[path] = (scope, told)
        while len(self._known) > KEPT_RIDES:
            self._known.popitem(last=False)

    def take(self, command: StartStage) -> tuple[Event, ...] | None:
        """Return what is known about the attempt that is to be started; None: nothing, it has to be run."""
        known = self._known.pop(command.path, None)
        if known is None or known[0] is not command.scope or command.attempt != 1:
            return None
        return known[1]
