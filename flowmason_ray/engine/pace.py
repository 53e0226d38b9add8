"""How long attempts of a stage take: what its component declares, corrected by what was measured.

A declared cost class says what a component is for; how long it takes also depends on what it is given. Durations of earlier
attempts move a stage between two paces. A *quick* one costs less than the hop to a worker, so it is worth while to do several
in one; a *steady* one is worth a hop, and a core, of its own. A pace decides where and with what an attempt runs, never what
comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from flowmason_ray.engine.component import Cost
from flowmason_ray.engine.plan import PlanStage

QUICK_S = 0.001
"""Up to here a computing stage is quick: a Ray call costs 0.2 to 1.3 ms (`engine.md`), so it is mostly hop."""
BLOCKING_S = 0.005
"""From here on a stage that is declared trivial is steady: it would keep the coordinator for a whole turn
(`engine.runner.TURN_S`)."""
HYSTERESIS = 2.0
"""A stage that has moved moves back when it is slower or faster than the limit by this factor, so that it does not flutter."""
ENOUGH = 3
"""Attempts of the run under way that outweigh what is declared and what earlier runs measured: the first on every worker also
compile the stage."""
REMEMBERED = 64
"""How many attempts at most an average goes back: a stage that has become slower is noticed."""
CALL_S = 0.005
"""How long a call with several quick attempts is to last: long beside what the call itself costs, short beside what anybody
notices."""
TRIVIAL_S = 0.000_05
"""What an attempt of a trivial stage is taken to last when nothing is measured."""


class Pace(StrEnum):
    """What an attempt takes."""

    QUICK = "quick"
    """Less than the hop to a worker."""
    STEADY = "steady"
    """More than that."""


@dataclass(slots=True)
class Timing:
    """The durations of a stage's attempts, as far as they are needed to tell what the next one will take."""

    count: int = 0
    total_s: float = 0.0
    slowest_s: float = 0.0

    def add(self, duration_s: float) -> None:
        """Take in an attempt."""
        if self.count >= REMEMBERED:
            self.halve()
        self.count += 1
        self.total_s += duration_s
        if duration_s > self.slowest_s:
            self.slowest_s = duration_s

    def halve(self) -> None:
        """Let what was measured so far weigh half as much."""
        self.total_s = self.typical_s * (self.count // 2)
        self.count //= 2
        self.slowest_s = 0.0

    @property
    def typical_s(self) -> float:
        """The average without the slowest: the first attempt in a process compiles and imports."""
        if self.count < 2 or not self.slowest_s:
            return self.total_s / self.count if self.count else 0.0
        return (self.total_s - self.slowest_s) / (self.count - 1)

    def joined(self, newer: Timing) -> Timing:
        """Return this timing with a newer one taken in; of many old attempts, half of those that are remembered count."""
        count = min(self.count, REMEMBERED // 2)
        typical_s = self.typical_s
        slowest_s = max(typical_s, newer.slowest_s)
        return Timing(count + newer.count, typical_s * count + newer.total_s, slowest_s if newer.count else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the form in which it is stored."""
        return {"count": self.count, "typical_s": round(self.typical_s, 9)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the stored form."""
        count = int(data["count"])
        return cls(count, float(data["typical_s"]) * count)


def declared_pace(stage: PlanStage) -> Pace:
    """Return the pace that a stage's component declares."""
    return Pace.QUICK if stage.cost is Cost.TRIVIAL else Pace.STEADY


def measured_pace(stage: PlanStage, typical_s: float, before: Pace) -> Pace:
    """Return the pace of a stage whose attempts take `typical_s`, and that had the pace `before`.

    What waits or computes on an accelerator is never quick, however long it took: it holds what others wait for.
    """
    if stage.cost is Cost.TRIVIAL:
        limit_s = BLOCKING_S if before is Pace.QUICK else BLOCKING_S / HYSTERESIS
        return Pace.STEADY if typical_s >= limit_s else Pace.QUICK
    if stage.cost is not Cost.CPU:
        return Pace.STEADY
    limit_s = QUICK_S if before is Pace.STEADY else QUICK_S * HYSTERESIS
    return Pace.QUICK if typical_s <= limit_s else Pace.STEADY
