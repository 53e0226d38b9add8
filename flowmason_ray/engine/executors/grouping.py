"""Which attempts share a call: the policy's port, and how what was held back is divided among calls.

A hop to a worker costs hundreds of microseconds, whatever is done there. Attempts that cost less than that are better off
together. Who may share is decided elsewhere (the plan, measured durations); here is only what the executor needs to know.
"""

from __future__ import annotations

from typing import Protocol

from flowmason_ray.engine.fusion import runs_in_place
from flowmason_ray.engine.pace import declared_pace
from flowmason_ray.engine.plan import PlanStage


class Grouping(Protocol):
    """Decides which attempts share a call."""

    def limit(self, stage: PlanStage) -> int:
        """Return how many attempts may share a call with one of this stage, itself included; 1: it goes alone.

        Asked for every attempt, of pure stages without a time limit only: others always go alone.
        """
        ...

    def in_coordinator(self, stage: PlanStage) -> bool:
        """Tell whether attempts of a stage may run in the coordinator, given that all they read is there."""
        ...

    def riders(self, stage: PlanStage) -> tuple[int, ...]:
        """Return the positions, in the same scope, of the stages that ride along with one, in the order in which they run."""
        ...

    def measured(self, stage: PlanStage, duration_s: float) -> None:
        """Take note of how long an attempt took on its worker."""
        ...


class Alone:
    """The policy under which every attempt goes alone, but for those that need no worker."""

    def limit(self, stage: PlanStage) -> int:
        """Return 1."""
        return 1

    def in_coordinator(self, stage: PlanStage) -> bool:
        """Go by what is declared."""
        return runs_in_place(stage, declared_pace)

    def riders(self, stage: PlanStage) -> tuple[int, ...]:
        """Return none."""
        return ()

    def measured(self, stage: PlanStage, duration_s: float) -> None:
        """Do nothing."""


def shares(count: int, limit: int, idle: int) -> list[int]:
    """Divide `count` attempts among calls of at most `limit`, as evenly as possible.

    There are at least as many calls as there are `idle` workers, so that grouping never costs parallelism; not more, so that
    the calls of a loop's window do not get ever smaller.
    """
    calls = max(-(-count // limit), min(count, max(idle, 1)))
    least, more = divmod(count, calls) if calls else (0, 0)
    return [least + 1] * more + [least] * (calls - more)
