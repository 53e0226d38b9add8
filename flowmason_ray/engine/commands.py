"""What the state machine wants done: the only way in which it acts on the world.

The runner hands each command to the executor or to its timers. Events that the state machine emits travel in the same
list, so that what is narrated keeps its place between the commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.events import Event

if TYPE_CHECKING:
    from flowmason_ray.engine.plan import PlanStage
    from flowmason_ray.engine.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStage:
    """Begin an attempt of the stage instance at `path`. `scope` is where its references are looked up."""

    path: str
    stage: PlanStage
    scope: Scope
    attempt: int
    first_started_at: float
    """When the first attempt of this instance was started; what `now()` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherResults:
    """Put together the value of a construct from the values of its bodies, and report it as the success of `path`.

    The value is `head` with, for every name in `parts`, the list of those handles' values; None stands for null.
    """

    path: str
    attempt: int
    head: dict[str, Any]
    parts: dict[str, list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelStage:
    """Stop the attempt that is under way; the executor answers with `StageStopped` (or whatever ended it first)."""

    path: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Answer with `TimerFired` after `delay_s`."""

    path: str
    attempt: int
    delay_s: float


Command = StartStage | GatherResults | CancelStage | StartTimer
Output = Command | Event
"""What `RunState.handle` returns a list of."""
