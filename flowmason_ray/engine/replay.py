"""Rebuilds the state of a run from its recorded stimuli, and says what has to be begun again: the base of resume.

The state machine is deterministic, so feeding it the recorded stimuli gives back the state and the narration. What no
recorded report has answered was under way when the recording ended. Nothing of that is lost by beginning it again, except
for an *effectful* attempt: whether it did its work is not known, so it is in doubt and left to whoever resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flowmason_ray.engine.commands import CancelStage, GatherResults, Output, StartStage, StartTimer
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.events import RUN_ENDED, Event, RunPaused, RunResumed, StageRetrying
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.run_state import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """What was under way when the recording ended, each in the order in which it was begun."""

    repeat: Sequence[StartStage | GatherResults] = ()
    """Attempts to begin again, under the same numbers (so with the same idempotency keys), and results to gather."""
    in_doubt: Sequence[StartStage] = ()
    """Effectful attempts whose outcome is unknown. Report for each what is decided: a success, a failure, a stop."""
    stopped: Sequence[CancelStage] = ()
    """Attempts that were told to stop and have not answered. With their executor gone, each is to be reported as stopped."""
    timers: Sequence[StartTimer] = ()
    """Delays that were not over, as they were asked for."""
    due_at: Sequence[float] = ()
    """Per timer: when it was to fire, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A run as it was when the recording ended."""

    state: RunState
    outstanding: Outstanding
    ended: Event | None = None
    """How the run ended, when only the record of that was missing."""
    decided: Sequence[Event] = ()
    """Reports for attempts in doubt, from whoever resumes."""
    handed_over: bool = False
    """Whether it is a coordinator in a cluster that goes on with it (`RunResumed.options`)."""
    heeded_after: int | None = None
    """Requests behind this number were made of the same hand-over, and are heeded; None: only those made from now on."""


def replay(
    plan: Plan,
    stimuli: Iterable[Event],
    *,
    observe: Callable[[Event, list[Output]], None] | None = None,
    make_state: Callable[[Plan], RunState] = RunState,
) -> Replayed:
    """Feed recorded stimuli to a new state machine.

    Args:
        plan: The plan that the run was made with.
        stimuli: The recorded events, in order. Of those that are no stimuli only pauses and resumptions matter.
        observe: Is shown each stimulus with what the state machine made of it.
        make_state: Makes the state machine.

    Returns:
        The state, and what is to be begun again.
    """
    state = make_state(plan)
    begun: dict[str, StartStage | GatherResults] = {}
    delays: dict[str, tuple[StartTimer, float]] = {}
    stops: dict[str, CancelStage] = {}
    paused: set[str] = set()
    ended: Event | None = None
    for event in stimuli:
        if not event.stimulus:
            if isinstance(event, RunPaused):
                paused = set(begun)  # none of these is under way any more, and none did its work
            elif isinstance(event, RunResumed):
                paused = set()
            continue
        outputs = state.handle(event)
        if observe is not None:
            observe(event, outputs)
        path: str | None = getattr(event, "path", None)
        if path is not None and path not in state.active:  # a fenced report leaves what is under way there
            begun.pop(path, None)
            delays.pop(path, None)
            stops.pop(path, None)
        for output in outputs:
            _note(output, event.at, begun, delays, stops)
            if isinstance(output, RUN_ENDED):
                ended = output
    return Replayed(state=state, outstanding=_outstanding(state, begun, delays, stops, paused), ended=ended)


def _note(
    output: Output,
    now: float,
    begun: dict[str, StartStage | GatherResults],
    delays: dict[str, tuple[StartTimer, float]],
    stops: dict[str, CancelStage],
) -> None:
    if isinstance(output, (StartStage, GatherResults)):
        begun.pop(output.path, None)  # a gathering follows its construct's own attempt: it is the younger
        begun[output.path] = output
        delays.pop(output.path, None)
    elif isinstance(output, StartTimer):
        delays[output.path] = (output, now + output.delay_s)
    elif isinstance(output, StageRetrying):
        begun.pop(output.path, None)
    elif isinstance(output, CancelStage):
        stops[output.path] = output


def _outstanding(
    state: RunState,
    begun: dict[str, StartStage | GatherResults],
    delays: dict[str, tuple[StartTimer, float]],
    stops: dict[str, CancelStage],
    paused: set[str],
) -> Outstanding:
    active = state.active
    repeat: list[StartStage | GatherResults] = []
    in_doubt: list[StartStage] = []
    for path, command in begun.items():
        if path not in active or path in stops:
            continue
        if isinstance(command, StartStage) and command.stage.effect is Effect.EFFECTFUL and path not in paused:
            in_doubt.append(command)
        else:
            repeat.append(command)
    timers = [entry for path, entry in delays.items() if path in active or path in state.timed]
    return Outstanding(
        repeat=repeat,
        in_doubt=in_doubt,
        stopped=[command for path, command in stops.items() if path in active],
        timers=[timer for timer, _ in timers],
        due_at=[due for _, due in timers],
    )
