"""Which stages run together: what rides with whom in one call, and what needs no call at all.

A call to a worker costs as much as thousands of trivial stages. So a stage runs in one of four ways (`Way`): in the
coordinator, as a *rider* in the call of a stage that it reads (its *carrier*), together with others that start in the same
moment, or in a call of its own. Riding must be provably equal to running alone:

- Whatever rides is pure, and so is its carrier: an attempt whose result nobody asks for has done nothing.
- All that a rider waits for is in the call, or had ended before the call began; so the state machine would have started it.
  Readers of a variable wait for whatever sets it, so they ride like others.
- Rider and carrier ask for the same resources and placement, have no time limit, and draw no time: that of a rider's own start
  is not known while it rides. Their attempts are reported one by one, so each is retried by its own rules.
- Both lie in one body. Control flow may ride, but nothing rides behind it: what it opens is decided by the state machine.

Riding must not cost parallelism either. Quick stages ride wherever they can; a steady one only when nothing else waits for
what is in the call, so that nobody waits for it who did not anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from flowmason_ray.engine.component import Cost, Effect
from flowmason_ray.engine.control_flow.approval import WaitForApproval
from flowmason_ray.engine.drafts import Report
from flowmason_ray.engine.pace import CALL_S, TRIVIAL_S, Pace
from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan, Target

MAX_RIDERS = 64
"""Riders of one call at most: their reports come together, at its end."""
MAX_STEADY_RIDERS = 7
"""Steady riders of one call at most: what they make is recorded only when the call has ended."""
LONG_CALL_S = 5.0
"""How long the steady stages of one call may take together, as far as that is known: a crash of the coordinator loses them all."""

PaceOf = Callable[[PlanStage], Pace]
LastsOf = Callable[[PlanStage], "float | None"]
"""Seconds that a stage is known to last; None: nothing is known."""


class Way(StrEnum):
    """How the attempts of a stage get to run on a cluster."""

    COORDINATOR = "coordinator"
    """In the coordinator, when what it reads is there; else like any quick stage."""
    RIDES = "rides"
    """In the call of another stage."""
    TOGETHER = "together"
    """Several that start in the same moment share a call."""
    OWN = "own"
    """Each in a call of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """How one stage runs, and why."""

    way: Way
    why: str
    """As it is shown: `rides with 'load': reads what that makes`."""
    carrier: int | None = None
    """The position, in the same scope, of the stage that it rides with."""
    riders: tuple[int, ...] = ()
    """The positions of those that ride with it, in the order in which they run."""


def runs_in_place(stage: PlanStage, pace_of: PaceOf) -> bool:
    """Tell whether a stage may run in the coordinator, given that what it reads is there."""
    component = stage.component
    if component is None:
        return True
    in_place = component.cost is Cost.TRIVIAL and component.is_async and stage.fuse != "never"
    return in_place and pace_of(stage) is Pace.QUICK


def keeps_apart(stage: PlanStage) -> str | None:
    """Tell why attempts of a stage can never share a call; None: they can."""
    if stage.component is None:
        return None
    if stage.effect is not Effect.PURE:
        return f"it is {stage.effect.value}"
    if stage.timeout_s is not None:
        return "it has a time limit"
    if isinstance(stage.construct, WaitForApproval):
        return "it waits for a person"
    if stage.component.has_setup or stage.component.actors is not None:
        return "it runs in actors, which have been set up for it"
    return None


def _cannot_ride(stage: PlanStage) -> str | None:
    """Tell why a stage cannot ride with what it reads; None: it can."""
    why = keeps_apart(stage)
    if why is not None:
        return why
    if stage.cache is not None:
        return "its result may be in the cache"
    if stage.template.draws or (stage.when is not None and stage.when.draws):
        return "it draws a time or an identifier"
    return "it reserves room for its bodies" if stage.gang else None


def _place(stage: PlanStage) -> Any:
    """Return what a stage asks for; those that differ cannot share a call."""
    cores = stage.resources.get("num_cpus")
    asked = {name: amount for name, amount in stage.resources.items() if amount and name != "num_cpus"}
    default: Any = "io" if stage.cost is Cost.IO else 1.0
    return (default if cores is None else float(cores), asked, stage.near, stage.strategy)


def check_fusion(stages: Iterable[PlanStage], report: Report) -> None:
    """Warn of stages that say `fuse: always` and share calls with no other in no case."""
    for stage in stages:
        why = keeps_apart(stage) if stage.fuse == "always" else None
        if why is not None:
            message = f"Stage {stage.id!r} is to be fused always, and never can be: {why}. It has calls of its own."
            hint = 'Take \'fuse\' away; a stage that has no effect says so: "effect": "pure".'
            report("cannot_fuse", message, f"{stage.pointer}/placement/fuse", severity="warning", hint=hint)


def may_share(one: PlanStage, other: PlanStage) -> bool:
    """Tell whether attempts of two stages may run on one worker: they ask for the same resources and placement."""
    return one is other or _place(one) == _place(other)


def can_carry(stage: PlanStage) -> bool:
    """Tell whether others may ride with a stage."""
    return (
        stage.enabled
        and stage.component is not None
        and stage.construct is None
        and stage.fuse != "never"
        and keeps_apart(stage) is None
    )


def riders_of(scope: ScopePlan, carrier: PlanStage, pace_of: PaceOf, lasts_of: LastsOf) -> tuple[int, ...]:
    """Return the positions of the stages that ride with `carrier`, in the order in which they run.

    Args:
        scope: Where the carrier lies.
        carrier: Whose call it is.
        pace_of: The pace of a stage.
        lasts_of: How long a stage lasts, if that is known.
    """
    return Ride(scope, carrier, pace_of, lasts_of).riders() if can_carry(carrier) else ()


class Ride:
    """Finds the riders of one call."""

    def __init__(self, scope: ScopePlan, carrier: PlanStage, pace_of: PaceOf, lasts_of: LastsOf) -> None:
        self._scope = scope
        self._carrier = carrier
        self._pace_of = pace_of
        self._lasts_of = lasts_of
        self._members = [carrier.index]
        self._inside = {carrier.index}
        self._ended = set(carrier.waits_for)
        """What has certainly ended when the call begins."""
        self._steady = 0
        self._quick_s = 0.0
        """What the quick riders take that could run side by side."""
        self._lasts_s = lasts_of(carrier) or 0.0

    def riders(self) -> tuple[int, ...]:
        """Return their positions, in the order in which they run."""
        self._take_quick(0)
        while (found := self._next_steady()) is not None:
            self._steady += 1
            self._lasts_s += self._lasts_of(found) or 0.0
            self._take(found)
            self._take_quick(len(self._members) - 1)
        self._take_result()
        return tuple(self._members[1:])

    def _take(self, stage: PlanStage) -> None:
        self._members.append(stage.index)
        self._inside.add(stage.index)

    def _take_quick(self, begin: int) -> None:
        """Take every quick stage that can ride, also behind one another."""
        position = begin
        while position < len(self._members):
            for stage in self._readers(self._members[position]):
                if len(self._members) > MAX_RIDERS:
                    return
                if self._pace_of(stage) is Pace.QUICK and self._fits(stage) and self._affordable(stage, position):
                    self._take(stage)
            position += 1

    def _affordable(self, stage: PlanStage, position: int) -> bool:
        """Tell whether little is lost by not running a stage beside the other quick ones that read the same member."""
        if len(self._scope.downstream[self._members[position]]) == 1:
            return True
        self._quick_s += self._lasts_of(stage) or TRIVIAL_S
        return self._quick_s <= CALL_S

    def _readers(self, member: int) -> Iterator[PlanStage]:
        """Yield the stages that wait for a member and are not in the call."""
        scope = self._scope
        if scope.stages[member].construct is None:
            for index in scope.downstream[member]:
                if index not in self._inside:
                    yield scope.stages[index]

    def _next_steady(self) -> PlanStage | None:
        """Return the stage that nothing is lost by taking: the only one that waits for the call, or one that says `always`."""
        if self._steady >= MAX_STEADY_RIDERS or len(self._members) > MAX_RIDERS:
            return None
        waiting: dict[int, PlanStage] = {}
        for member in self._members:
            for stage in self._readers(member):
                waiting[stage.index] = stage
        for stage in waiting.values():
            wanted = stage.fuse == "always" or (len(waiting) == 1 and self._is_short(stage))
            if wanted and self._pace_of(stage) is Pace.STEADY and self._fits(stage):
                return stage
        return None

    def _is_short(self, stage: PlanStage) -> bool:
        """Tell whether a call with this stage too is not known to take long."""
        return self._lasts_s + (self._lasts_of(stage) or 0.0) <= LONG_CALL_S

    def _fits(self, stage: PlanStage) -> bool:
        return (
            stage.enabled
            and stage.region == self._carrier.region
            and stage.fuse != "never"
            and _cannot_ride(stage) is None
            and self._shares(stage)
            and self._known(stage.waits_for)
        )

    def _shares(self, stage: PlanStage) -> bool:
        """Tell whether a stage may run where the carrier does; a quick one that asks for nothing may run anywhere."""
        quick = self._pace_of(stage) is Pace.QUICK
        if isinstance(stage.near, Target) and not stage.near.levels and stage.near.index in self._inside:
            stage = replace(stage, near=self._carrier.near)  # it will be as near as can be
        modest = not stage.resources and stage.near is None and stage.strategy is None
        return may_share(stage, self._carrier) or (modest and quick)

    def _known(self, awaited: Collection[int]) -> bool:
        """Tell whether all of these are in the call, and no control flow, or have ended before it begins."""
        stages = self._scope.stages
        for index in awaited:
            if index in self._inside:
                if stages[index].construct is not None:
                    return False
            elif index not in self._ended:
                return False
        return True

    def _take_result(self) -> None:
        """Take the hidden stage that makes the scope's value, if everything that it waits for is in the call."""
        scope = self._scope
        if not scope.result_hidden or scope.result is None or self._carrier.region:
            return
        hidden, members = scope.stages[scope.result], scope.regions[0].members
        if len(self._inside) + len(self._ended) < len(members):
            return
        whole = all(m in self._inside or m in self._ended for m in members)
        plain = all(scope.stages[m].construct is None and scope.stages[m].enabled for m in members)
        if whole and plain and _cannot_ride(hidden) is None:
            self._members.append(hidden.index)


# -- the whole plan, as it is shown ---------------------------------------------------------------------------------------


def fusion_of(plan: Plan, pace_of: PaceOf, lasts_of: LastsOf) -> list[list[Fused]]:
    """Return how every stage runs on a cluster: scope by scope, by position."""
    return [_scope_fusion(scope, pace_of, lasts_of) for scope in plan.scopes]


def _scope_fusion(scope: ScopePlan, pace_of: PaceOf, lasts_of: LastsOf) -> list[Fused]:
    carriers: dict[int, int] = {}
    riders: dict[int, tuple[int, ...]] = {}
    for index in _in_order(scope):
        stage = scope.stages[index]
        if index in carriers or runs_in_place(stage, pace_of):
            continue
        riders[index] = tuple(r for r in riders_of(scope, stage, pace_of, lasts_of) if r not in carriers)
        carriers.update(dict.fromkeys(riders[index], index))
    return [
        _told(scope, stage, carriers.get(stage.index), riders.get(stage.index, ()), pace_of) for stage in scope.stages
    ]


def _in_order(scope: ScopePlan) -> list[int]:
    """Return the positions of a scope's stages, each behind those that it waits for."""
    waiting = list(scope.waiting)
    ready = [index for index, count in enumerate(waiting) if not count]
    for index in ready:  # grows while it is walked
        for below in scope.downstream[index]:
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)
    return ready


def _told(scope: ScopePlan, stage: PlanStage, carrier: int | None, riders: tuple[int, ...], pace_of: PaceOf) -> Fused:
    moved = _moved(stage, pace_of)
    if carrier is not None:
        name = scope.stages[carrier].id
        if stage.fuse == "always":
            why = "fuse: always"
        elif pace_of(stage) is Pace.QUICK:
            why = moved or ("trivial, and reads what that makes" if carrier in stage.waits_for else "trivial")
        else:
            why = "nothing else waits for what that makes"
        return Fused(way=Way.RIDES, why=f"rides with {name!r}: {why}", carrier=carrier, riders=())
    if runs_in_place(stage, pace_of):
        return Fused(way=Way.COORDINATOR, why="in the coordinator: trivial")
    if stage.fuse == "never":
        return Fused(way=Way.OWN, why="own task: fuse: never")
    apart = keeps_apart(stage)
    if apart is None and (pace_of(stage) is Pace.QUICK or stage.fuse == "always"):
        why = "fuse: always" if stage.fuse == "always" else moved or "trivial, but not asynchronous"
        return Fused(way=Way.TOGETHER, why=f"together with others that start in the same moment: {why}", riders=riders)
    return Fused(way=Way.OWN, why=f"own task: {_own(stage, moved, apart)}", riders=riders)


def _moved(stage: PlanStage, pace_of: PaceOf) -> str | None:
    """Say that a stage was measured to be other than its component declares; None: it was not."""
    trivial = stage.cost is Cost.TRIVIAL
    if trivial is (pace_of(stage) is Pace.QUICK):
        return None
    return "measured to take milliseconds, though declared trivial" if trivial else "measured to take less than a call"


_OWN = {
    Cost.TRIVIAL: "trivial",
    Cost.CPU: "CPU-bound",
    Cost.IO: "waits",
    Cost.GPU: "computes on an accelerator",
}


def _own(stage: PlanStage, moved: str | None, apart: str | None) -> str:
    if moved is not None and stage.cost is Cost.TRIVIAL:
        return moved
    if apart is not None and (stage.cost is Cost.TRIVIAL or moved is not None):
        return apart
    return _OWN[stage.cost]
