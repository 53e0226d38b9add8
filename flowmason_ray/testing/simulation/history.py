"""What happened in a simulated run, by stage instance: read from stimuli and narration, never from the state machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flowmason_ray.engine.commands import CancelStage, GatherResults, Output, StartStage, StartTimer
from flowmason_ray.engine.events import (
    RUN_ENDED,
    ApprovalAnswered,
    Event,
    ItemEnded,
    StageDeclined,
    StageEnded,
    StageFailed,
    StageRetrying,
    StageReused,
    StageSkipped,
    StageStopped,
    StageSucceeded,
    TimerFired,
)
from flowmason_ray.errors import Failure

ENDED = frozenset({"succeeded", "fallback", "failed", "skipped", "cancelled"})


@dataclass(slots=True)
class Instance:
    """One stage instance. Positions count stimuli, so that they can be compared."""

    status: str = "never"
    """`never`, `running`, `retrying`, `open`, or how it ended."""
    attempt: int = 0
    started: int = -1
    """Position of the first start."""
    ended: int = -1
    value: Any = None
    failure: Failure | None = None
    reason: str | None = None
    scope: Any = None
    """The scope of its first start command, and its place there: what the engine itself remembers, to be compared."""
    index: int = -1
    opened: bool = False
    """Whether its own attempt has succeeded, for a construct."""
    given: Any = None
    """The value of that attempt."""
    gathered: bool = False
    answered: bool = False
    timed_out: bool = False
    """Whether its own timer fired while it was open."""


@dataclass(slots=True)
class History:
    """All of one run."""

    instances: dict[str, Instance] = field(default_factory=dict[str, Instance])
    items: dict[tuple[str, int], tuple[int, Failure | None]] = field(
        default_factory=dict[tuple[str, int], tuple[int, "Failure | None"]]
    )
    """Per loop and index of an item: the position at which it ended, and its failure."""
    ends: list[Event] = field(default_factory=list[Event])
    """The events that end the run: there may be one."""
    position: int = 0
    constructs: frozenset[str] = frozenset()
    """Ids of the stages that stay open after their own attempt."""
    questions: frozenset[str] = frozenset()
    """Ids of those that ask a person."""

    def status(self, path: str) -> str:
        """Return how an instance stands."""
        found = self.instances.get(path)
        return "never" if found is None else found.status

    def of(self, path: str) -> Instance:
        """Return an instance, made when it is new."""
        found = self.instances.get(path)
        if found is None:
            found = self.instances[path] = Instance()
        return found

    def take(self, event: Event, genuine: bool, outputs: list[Output]) -> None:
        """Take one stimulus and what the state machine made of it."""
        self.position += 1
        if genuine:
            self._report(event)
        for output in outputs:
            self._output(output)

    def _report(self, event: Event) -> None:
        if isinstance(event, ApprovalAnswered):
            instance = self.of(event.path)
            if instance.status == "open":
                instance.answered = True
                instance.value = {"answered": True, "data": event.data, "answered_by": event.by}
            return
        if isinstance(event, TimerFired):
            instance = self.of(event.path)
            instance.timed_out |= instance.status == "open" and not instance.gathered
            return
        if not isinstance(event, (StageSucceeded, StageReused, StageDeclined, StageFailed, StageStopped)):
            return
        instance = self.of(event.path)
        if instance.status == "cancelled" or not isinstance(event, (StageSucceeded, StageReused)):
            return  # how failures and stops count is narrated
        instance.value = event.value
        name = event.path.rpartition("/")[2]
        if name in self.constructs and not instance.gathered:
            instance.status, instance.opened, instance.given = "open", True, event.value
            if name in self.questions:
                instance.value = {"answered": False, "data": None, "answered_by": None}
        elif instance.status == "running":
            self._end(instance, "succeeded")

    def _output(self, output: Output) -> None:
        if isinstance(output, StartStage):
            instance = self.of(output.path)
            instance.status, instance.attempt = "running", output.attempt
            if instance.started < 0:
                instance.started, instance.scope, instance.index = self.position, output.scope, output.stage.index
        elif isinstance(output, GatherResults):
            self.of(output.path).gathered = True
        elif isinstance(output, StageRetrying):
            self.of(output.path).status = "retrying"
        elif isinstance(output, StageSkipped):
            instance = self.of(output.path)
            instance.reason = output.reason.value
            self._end(instance, "skipped")
        elif isinstance(output, StageEnded):
            instance = self.of(output.path)
            instance.failure = output.failure
            self._end(instance, output.status)
        elif isinstance(output, ItemEnded):
            self.items[output.path, output.index] = (self.position, output.failure)
        elif isinstance(output, RUN_ENDED):
            self.ends.append(output)
        else:
            assert isinstance(output, (Event, CancelStage, StartTimer))

    def _end(self, instance: Instance, status: str) -> None:
        instance.status, instance.ended = status, self.position
