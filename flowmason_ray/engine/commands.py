"""What the state machine wants done: the only way in which it acts on the world.

The runner hands each command to the executor or to its timers. Events that the state machine emits travel in the same
list, so that what is narrated keeps its place between the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    idempotency_key: str | None = None
    """The attempt's; None: the one that follows from the run and the path (`context.idempotency_key`)."""


@dataclass(frozen=True, slots=True)
class Each:
    """A part of a gathered value: the list of what these parts give."""

    parts: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Several:
    """A part of a gathered value: the object of what these parts give."""

    parts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherResults:
    """Put together the value of a construct from the values of its bodies, and report it as the success of `path`.

    The value is the object `base` (a handle; None: nothing), then `head`, then every one of `parts`. A part is a handle, an
    `Each` or a `Several`; None stands for null.
    """

    path: str
    attempt: int
    head: dict[str, Any]
    parts: dict[str, Any]
    base: Any = None


def resolve_part(part: Any, value_of: Callable[[Any], Any]) -> Any:
    """Return what a part gives, when `value_of` gives the values of handles."""
    if type(part) is Each:
        return [resolve_part(each, value_of) for each in part.parts]
    if type(part) is Several:
        return {name: resolve_part(each, value_of) for name, each in part.parts.items()}
    return None if part is None else value_of(part)


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
