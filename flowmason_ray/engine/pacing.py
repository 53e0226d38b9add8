"""What an executor asks while a run goes on: with whom does an attempt of this stage run, and where?

It begins with what is declared and what earlier runs have measured, and learns from every attempt, so that the first items of
a loop teach the rest. Nothing that it says changes what comes of an attempt, so it may say something else after a crash; what
it began with is recorded with the run nevertheless, so that a reader of the log can see why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason_ray.engine.component import Cost
from flowmason_ray.engine.definitions import Definitions, scope_prefixes
from flowmason_ray.engine.fusion import can_carry, keeps_apart, riders_of, runs_in_place
from flowmason_ray.engine.pace import (
    BLOCKING_S,
    CALL_S,
    ENOUGH,
    HYSTERESIS,
    TRIVIAL_S,
    Pace,
    Timing,
    declared_pace,
    measured_pace,
)
from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan

JUDGED_EVERY = 8
"""Attempts between one look at a stage's pace and the next: it is looked at on the way of every attempt."""
MAX_TOGETHER = 128
"""Attempts in one call at most, however quick they are: their bindings are built, and their reports read, in one go."""
NOTEWORTHY = 0.25
"""By how much of itself a duration has to differ from the stored one to be stored again."""


class Pacing:
    """What is known about the paces of one plan's stages, for the run that is under way."""

    def __init__(self, plan: Plan, measured: Mapping[str, Timing] | None = None) -> None:
        """
        Args:
            plan: What is run.
            measured: The durations of earlier runs, by the stages' paths without positions (`Timings`).
        """
        self._plan = plan
        self._lasts: dict[int, float] = {}
        """What is typical of stages, in seconds: by earlier runs, then by this one."""
        self._limits: dict[int, int] = {}
        self._timings: dict[int, Timing] = {}
        self._paces: dict[int, Pace] = {}
        self._riders: dict[int, tuple[int, ...]] = {}
        self._scopes: dict[int, ScopePlan] = {}
        self._in_place: dict[int, bool] = {}
        self.moved: dict[str, float] = {}
        """The stages that earlier runs have moved to another pace, with the seconds that they typically take."""
        if measured:
            self._take_over(measured)

    def _take_over(self, measured: Mapping[str, Timing]) -> None:
        for scope, prefix in zip(self._plan.scopes, scope_prefixes(self._plan), strict=True):
            for stage in scope.stages:
                timing = measured.get(prefix + stage.id)
                if timing is None:
                    continue
                self._lasts[id(stage)] = timing.typical_s
                pace = measured_pace(stage, timing.typical_s, declared_pace(stage))
                if pace is not declared_pace(stage):
                    self._paces[id(stage)] = pace
                    self.moved[prefix + stage.id] = round(timing.typical_s, 6)

    # -- what an executor asks --------------------------------------------------------------------------------------------

    def pace(self, stage: PlanStage) -> Pace:
        """Return a stage's pace, as far as it is known by now."""
        return self._paces.get(id(stage)) or declared_pace(stage)

    def lasts_s(self, stage: PlanStage) -> float | None:
        """Return how long an attempt of a stage takes; None: nobody has measured any."""
        return self._lasts.get(id(stage))

    def in_coordinator(self, stage: PlanStage) -> bool:
        """Tell whether an attempt of a stage may run in the coordinator, given that all it reads is there."""
        found = self._in_place.get(id(stage))
        if found is None:
            found = self._in_place[id(stage)] = runs_in_place(stage, self.pace)
        return found

    def riders(self, stage: PlanStage) -> tuple[int, ...]:
        """Return the positions, in the same scope, of the stages that ride along in a call for a stage."""
        found = self._riders.get(id(stage))
        if found is None:
            found = ()
            if can_carry(stage):
                found = riders_of(self._scope_of(stage), stage, self.pace, self.lasts_s)
            self._riders[id(stage)] = found
        return found

    def limit(self, stage: PlanStage) -> int:
        """Return how many attempts that start in the same moment may share a call with one of `stage`; 1: it has its own."""
        found = self._limits.get(id(stage))
        if found is None:
            found = self._limits[id(stage)] = self._find_limit(stage)
        return found

    def _find_limit(self, stage: PlanStage) -> int:
        if stage.fuse == "never" or keeps_apart(stage) is not None:
            return 1
        if self.pace(stage) is Pace.STEADY and stage.fuse != "always":
            return 1
        lasts_s = self._call_s(stage)
        return MAX_TOGETHER if lasts_s <= CALL_S / MAX_TOGETHER else max(1, int(CALL_S / lasts_s))

    def _call_s(self, stage: PlanStage) -> float:
        """Return how long an attempt and its riders take."""
        lasts_s = self._guess_s(stage)
        riders = self.riders(stage)
        if riders:
            stages = self._scope_of(stage).stages
            lasts_s += sum(self._guess_s(stages[rider]) for rider in riders)
        return lasts_s

    def _guess_s(self, stage: PlanStage) -> float:
        known = self.lasts_s(stage)
        if known is not None:
            return known
        return TRIVIAL_S if self.pace(stage) is Pace.QUICK else CALL_S

    def _scope_of(self, stage: PlanStage) -> ScopePlan:
        if not self._scopes:
            self._scopes = {id(each): scope for scope in self._plan.scopes for each in scope.stages}
        return self._scopes[id(stage)]

    # -- what it learns ---------------------------------------------------------------------------------------------------

    def measured(self, stage: PlanStage, duration_s: float) -> None:
        """Take in how long an attempt took, as its executor has measured it."""
        key = id(stage)
        timing = self._timings.get(key)
        if timing is None:
            if stage.cost is Cost.TRIVIAL and duration_s < BLOCKING_S / HYSTERESIS:
                return  # as it says of itself: nothing is decided by it, and most stages of most runs are like that
            timing = self._timings[key] = Timing()
        timing.add(duration_s)
        if stage.component is None or (timing.count != ENOUGH and timing.count % JUDGED_EVERY):
            return
        typical_s = self._lasts[key] = timing.typical_s
        self._limits.clear()
        before = self._paces.get(key) or declared_pace(stage)
        now = measured_pace(stage, typical_s, before)
        if now is not before:
            self._paces[key] = now
            self._riders.clear()
            self._in_place.pop(key, None)

    # -- what is remembered -----------------------------------------------------------------------------------------------

    def worth_keeping(self, definitions: Definitions, stored: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what later runs should know, the stored form of before with this run's durations; None: nothing new.

        Trivial stages are left out as long as they are: nothing would be decided by it.
        """
        kept, news = dict(stored), False
        for scope, prefix in zip(self._plan.scopes, definitions.prefixes, strict=True):
            for stage in scope.stages:
                timing = self._timings.get(id(stage))
                if timing is None or stage.component is None:
                    continue
                name, digest = prefix + stage.id, definition_id(definitions, stage)
                before = stored_timing(stored.get(name), digest)
                if before is None:
                    moved = measured_pace(stage, timing.typical_s, Pace.QUICK) is Pace.STEADY
                    wanted = stage.cost is not Cost.TRIVIAL or moved
                else:
                    wanted = abs(timing.typical_s - before.typical_s) > NOTEWORTHY * before.typical_s
                    timing = before.joined(timing)
                if wanted:
                    kept[name] = {"is": digest, **timing.to_json()}
                    news = True
        return kept if news else None


def definition_id(definitions: Definitions, stage: PlanStage) -> str:
    """Return what tells apart stages whose durations have nothing to do with one another."""
    return definitions.of(stage).digest.hex()[:16]


def stored_timing(entry: Any, digest: str) -> Timing | None:
    """Return a stored duration; None: there is none, or it is that of a stage which was defined differently."""
    return Timing.from_json(entry) if isinstance(entry, dict) and entry.get("is") == digest else None  # pyright: ignore[reportUnknownMemberType]  # JSON of any kind
