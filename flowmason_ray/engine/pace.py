"""How long attempts of a stage take: what its component declares, corrected by what was measured.

A declared cost class says what a component is for; how long it takes also depends on what it is given. Durations of earlier
attempts move a stage between two paces. A *quick* one costs less than the hop to a worker, so it is worth while to do several
in one; a *steady* one is worth a hop, and a core, of its own. A pace decides where and with what an attempt runs, never what
comes of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp, log
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
REMEMBERED = 32
"""How many attempts an average goes back: a stage that has become slower is noticed."""
CALL_S = 0.005
"""How long a call with several quick attempts is to last: long beside what the call itself costs, short beside what anybody
notices."""
SHORTEST_S = 1e-7
"""What is shorter cannot be measured."""
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
    """How many attempts were measured."""
    known_s: float = 0.0
    """What was typical of those that are not among the recent ones."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def add(self, duration_s: float) -> None:
        """Take in an attempt."""
        self.count += 1
        self.recent.append(duration_s)

    @property
    def typical_s(self) -> float:
        """The average of the recent attempts, without the slowest quarter.

        Those had to wait for their processor, or were the first in their process. Where more than a quarter are slow, slow is
        what they are.
        """
        if not self.recent:
            return self.known_s
        usual = sorted(self.recent)[: max(1, len(self.recent) * 3 // 4)]
        return sum(usual) / len(usual)

    def joined(self, newer: Timing) -> Timing:
        """Return this timing with a newer one taken in; of many old attempts, only as many count as are remembered.

        It is the geometric mean: where each run has but one attempt of a stage, one that had to wait for its processor would
        else outweigh dozens that had not.
        """
        before, now = min(self.count, REMEMBERED), len(newer.recent)
        if not before or not now:
            return Timing(before + now, self.typical_s if before else newer.typical_s)
        logs = log(max(self.typical_s, SHORTEST_S)) * before + log(max(newer.typical_s, SHORTEST_S)) * now
        return Timing(before + now, exp(logs / (before + now)))

    def to_json(self) -> dict[str, Any]:
        """Return the form in which it is stored."""
        return {"count": self.count, "typical_s": round(self.typical_s, 9)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the stored form."""
        return cls(int(data["count"]), float(data["typical_s"]))


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
