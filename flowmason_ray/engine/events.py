"""What happens in a run, as data: the only thing that the run log holds and every tool reads.

Two sorts share one log, in one order. *Stimuli* come from outside the state machine (a run was created, an attempt ended,
somebody cancelled): feeding them to `RunState.handle` again rebuilds its state. *Consequences* are what the state machine
made of them (a stage was started or skipped, a branch taken): they are narrated for readers, and recomputed on replay.
Live-only events (`StageLogged`, `StageProgressed`) go to whoever follows the run and are not part of the log.

Times are seconds since the epoch, taken by the runner: nothing here or in the state machine looks at a clock. Values are
opaque handles of the executor (`engine.values` says how they are stored).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from flowmason_ray.errors import Failure

FORMAT_VERSION = 1
"""The version of the recorded form of events; a reader refuses what is newer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events. `kind` names it in the log; `stimulus` tells the two sorts apart."""

    kind: ClassVar[str] = "event"
    stimulus: ClassVar[bool] = False
    live: ClassVar[bool] = False

    at: float = 0.0


class SkipReason(StrEnum):
    """Why a stage did not run."""

    DISABLED = "disabled"
    WHEN = "when"
    UPSTREAMS_SKIPPED = "upstreams_skipped"
    BRANCH_NOT_TAKEN = "branch_not_taken"
    ENDED_EARLY = "ended_early"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreated(Event):
    """A run was accepted. `input` is the input with the schema's defaults applied; `seed` is where draws come from.

    `options`: what was asked of the run besides (`reuse`: what it takes from where). `based_on`: the run that it goes on
    with. `definitions`: what its stages are defined to be (`engine.definitions`), by which a later run is compared with it.
    """

    kind: ClassVar[str] = "run_created"
    stimulus: ClassVar[bool] = True

    run_id: str
    pipeline: str
    version: str
    plan_digest: str
    input: Any
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    based_on: str | None = None
    definitions: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    """A run that was interrupted goes on in another process. `repeated`: the attempts that are begun again.

    `options`: `handed_over` when a coordinator in a cluster goes on with it, which is started again when its process dies; and
    with that `asked_before`, the number of the last request that this one passes over as older than its own beginning.
    """

    kind: ClassVar[str] = "run_resumed"

    repeated: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused(Event):
    """The run stops here until it is resumed; nothing of it runs any more.

    Attempts with an effect that cannot be repeated were waited for, so none is in doubt. `stopped`: the other attempts that
    were under way; they begin again when the run is resumed.
    """

    kind: ClassVar[str] = "run_paused"

    by: str | None = None
    stopped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    """An attempt was handed out. `fingerprint`: of what it is given (`engine.fingerprint`), when it has one.

    `idempotency_key`: the attempt's, when it is not the one that follows from this run and the path: one that an earlier run
    has used already for the same work.
    """

    kind: ClassVar[str] = "stage_started"

    path: str
    attempt: int
    fingerprint: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSucceeded(Event):
    """An attempt returned a value.

    `value` is the executor's handle. For control flow `decision` says what was decided (`engine.control_flow`); a plain
    stage has None. `duration_s` is the time in the component itself, as the executor measured it; `usage` what it took of
    models (`engine.usage`).
    """

    kind: ClassVar[str] = "stage_succeeded"
    stimulus: ClassVar[bool] = True

    path: str
    attempt: int
    value: Any
    decision: Mapping[str, Any] | None = None
    duration_s: float = 0.0
    usage: Mapping[str, Any] | None = None
    size_bytes: int = field(default=0, compare=False)
    """About how much `value` is in this process's memory until it is recorded; 0: little. Not part of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReused(Event):
    """An attempt was answered with what was recorded before for the same fingerprint: the component was not called.

    `value` and `decision` are as in `StageSucceeded`. `source` says where they come from: the run, and how (`record`: a
    record of that run; `cache`: a result it left in the cache).
    """

    kind: ClassVar[str] = "stage_reused"
    stimulus: ClassVar[bool] = True

    path: str
    attempt: int
    value: Any
    decision: Mapping[str, Any] | None = None
    source: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailed(Event):
    """An attempt failed. `draw` is a random number in [0, 1) from which the retry's jitter is taken.

    `final`: the component has said that repeating cannot help, whatever the failure's code is.
    """

    kind: ClassVar[str] = "stage_failed"
    stimulus: ClassVar[bool] = True

    path: str
    attempt: int
    failure: Failure
    draw: float = 0.5
    duration_s: float = 0.0
    final: bool = False
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDeclined(Event):
    """An attempt ended at once because the stage's `when` was false."""

    kind: ClassVar[str] = "stage_declined"
    stimulus: ClassVar[bool] = True

    path: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStopped(Event):
    """An attempt ended because it was told to (`CancelStage`). It has no output."""

    kind: ClassVar[str] = "stage_stopped"
    stimulus: ClassVar[bool] = True

    path: str
    attempt: int
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSkipped(Event):
    """A stage will not run."""

    kind: ClassVar[str] = "stage_skipped"

    path: str
    reason: SkipReason


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRetrying(Event):
    """A failed attempt will be repeated after `delay_s`."""

    kind: ClassVar[str] = "stage_retrying"

    path: str
    attempt: int
    delay_s: float
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded(Event):
    """A stage that failed for good, was cancelled, or whose construct (a loop, a branch) is complete.

    A plain stage that succeeds needs no such event: its `StageSucceeded` says it.
    """

    kind: ClassVar[str] = "stage_ended"

    path: str
    status: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchTaken(Event):
    """A construct opened one of its bodies."""

    kind: ClassVar[str] = "branch_taken"

    path: str
    branch: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopExpanded(Event):
    """A loop knows how many iterations it has."""

    kind: ClassVar[str] = "loop_expanded"

    path: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEnded(Event):
    """An iteration of a loop has ended; `failure` is set when the item failed."""

    kind: ClassVar[str] = "item_ended"

    path: str
    index: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableSet(Event):
    """A variable has a new value: the `value` of the output of the stage at `path`."""

    kind: ClassVar[str] = "variable_set"

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested(Event):
    """A stage waits for a person. `form` is the JSON Schema of the answer, if there is one."""

    kind: ClassVar[str] = "approval_requested"

    path: str
    message: str
    form: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAnswered(Event):
    """A person has answered."""

    kind: ClassVar[str] = "approval_answered"
    stimulus: ClassVar[bool] = True

    path: str
    data: Any = None
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Event):
    """A delay that the state machine asked for is over."""

    kind: ClassVar[str] = "timer_fired"
    stimulus: ClassVar[bool] = True

    path: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(Event):
    """Somebody wants the run to stop. `code` is `cancelled`; `timeout` when the run's own time is over; `superseded` when
    another run goes on with it under an edited pipeline."""

    kind: ClassVar[str] = "cancel_requested"
    stimulus: ClassVar[bool] = True

    code: str = "cancelled"
    message: str = "The run was cancelled."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSucceeded(Event):
    """The run ended with a result; `value` is the executor's handle."""

    kind: ClassVar[str] = "run_succeeded"

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(Event):
    """The run ended without a result."""

    kind: ClassVar[str] = "run_failed"

    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(Event):
    """The run ended because somebody cancelled it."""

    kind: ClassVar[str] = "run_cancelled"

    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBegan(Event):
    """An attempt has got its place and runs: what executors that queue attempts tell the runner, so that the time in the
    queue does not count against `timeout_ms`. Live only, and not shown."""

    kind: ClassVar[str] = "stage_began"
    live: ClassVar[bool] = True

    path: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLogged(Event):
    """A component said something: with `context.log`, or it printed a line (`fields` then say on which `stream`).

    Live: it is no part of the log, but kept beside it, within bounds (`engine.stage_logs`).
    """

    kind: ClassVar[str] = "stage_logged"
    live: ClassVar[bool] = True

    path: str
    level: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempt: int = 0
    """The attempt that said it; 0: the one that is under way."""
    shown: bool = field(default=False, compare=False)
    """Whether it has come out on this process's own streams already, so that no view shows it again."""
    dropped: int = field(default=0, compare=False)
    """How many messages this one stands for, which were too many to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgressed(Event):
    """A component said how far it is. Live only."""

    kind: ClassVar[str] = "stage_progressed"
    live: ClassVar[bool] = True

    path: str
    done: float
    total: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStreamed(Event):
    """A model said something more to a component. Live only, and bounded (`engine.streaming`)."""

    kind: ClassVar[str] = "stage_streamed"
    live: ClassVar[bool] = True

    path: str
    attempt: int
    text: str


EVENT_TYPES: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RunCreated,
        RunResumed,
        RunPaused,
        StageStarted,
        StageSucceeded,
        StageReused,
        StageFailed,
        StageDeclined,
        StageStopped,
        StageSkipped,
        StageRetrying,
        StageEnded,
        BranchTaken,
        LoopExpanded,
        ItemEnded,
        VariableSet,
        ApprovalRequested,
        ApprovalAnswered,
        TimerFired,
        CancelRequested,
        RunSucceeded,
        RunFailed,
        RunCancelled,
        StageBegan,
        StageLogged,
        StageProgressed,
        StageStreamed,
    )
}
"""Every event by its `kind`."""

Success = StageSucceeded | StageReused
"""What an attempt that came to a value reports."""

ATTEMPT_ENDED = (StageSucceeded, StageReused, StageFailed, StageDeclined, StageStopped)
"""The events that end an attempt."""

RUN_ENDED: tuple[type[Event], ...] = (RunSucceeded, RunFailed, RunCancelled)
"""The events that end a run."""
