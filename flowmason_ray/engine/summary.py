"""What a run came to, stage by stage: a reader of events, live ones and recorded ones alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowmason_ray.engine.events import (
    Event,
    RunPaused,
    RunResumed,
    StageDeclined,
    StageEnded,
    StageFailed,
    StageReused,
    StageSkipped,
    StageStarted,
    StageStopped,
    StageSucceeded,
)
from flowmason_ray.engine.usage import Totals, entries_of
from flowmason_ray.errors import Failure


@dataclass(slots=True)
class StageSummary:
    """One stage instance: how it ended, in how many attempts, and how long they took in all."""

    status: str = "running"
    """`succeeded`, `fallback`, `failed`, `skipped`, `cancelled`, or not over yet: `running`, `paused`."""
    attempts: int = 0
    duration_s: float = 0.0
    failure: Failure | None = None
    reason: str | None = None
    """Why it was skipped."""
    reused: Mapping[str, Any] | None = None
    """Where its result comes from, when its component was not called: the run, and how."""

    @property
    def word(self) -> str:
        """The status as it is shown: a success whose component was not called is `reused`."""
        return "reused" if self.reused is not None and self.status == "succeeded" else self.status

    def to_json(self) -> dict[str, Any]:
        """Return the form that `--json` prints: `error` is there for a failure, `reason` for a skip, `reused` for what was."""
        data: dict[str, Any] = {
            "status": self.status,
            "attempts": self.attempts,
            "duration_ms": round(self.duration_s * 1000, 3),
        }
        if self.failure is not None:
            data["error"] = self.failure.to_json()
        if self.reason is not None:
            data["reason"] = self.reason
        if self.reused is not None:
            data["reused"] = dict(self.reused)
        return data


class Summary:
    """Collects the summaries of a run's stages while its events go by."""

    def __init__(self) -> None:
        self.stages: dict[str, StageSummary] = {}
        self._used = Totals()

    @property
    def usage(self) -> dict[str, Any]:
        """What all attempts used of models, failed ones too (`engine.usage.Totals`); empty when none was asked."""
        return self._used.to_json()

    def __call__(self, event: Event) -> None:
        """Take one event; those about hidden stages (`$output`, `$collect`) and about the run itself are passed over."""
        if isinstance(event, StageStarted):
            summary = self._of(event.path)
            if summary is not None:
                summary.attempts += 1
                summary.status = "running"
        elif isinstance(event, StageSucceeded):
            summary = self._of(event.path)
            if summary is not None:
                summary.duration_s += event.duration_s
                if summary.status == "running" and event.decision is None:  # control flow ends when its bodies have
                    summary.status = "succeeded"
                    summary.failure = None  # that of an attempt before, which was repeated
            self._use(event.usage)
        elif isinstance(event, StageReused):
            summary = self._of(event.path)
            if summary is not None:
                summary.attempts -= 1  # nothing was attempted
                summary.reused = event.source
                if summary.status == "running" and event.decision is None:
                    summary.status = "succeeded"
                    summary.failure = None
        elif isinstance(event, (StageFailed, StageSkipped, StageEnded, StageDeclined, StageStopped)):
            self._less_frequent(event)
        elif isinstance(event, RunPaused):
            self.stand_still("paused")
        elif isinstance(event, RunResumed):
            for summary in self.stages.values():
                if summary.status == "paused":
                    summary.status = "running"

    def stand_still(self, status: str) -> None:
        """Nothing of the run is under way: what has not ended is `paused`, or `interrupted`."""
        for summary in self.stages.values():
            if summary.status == "running":
                summary.status = status

    def _of(self, path: str) -> StageSummary | None:
        summary = self.stages.get(path)
        if summary is None:
            if path.rpartition("/")[2].startswith("$"):
                return None
            summary = self.stages[path] = StageSummary()
        return summary

    def _use(self, usage: Mapping[str, Any] | None) -> None:
        for entry in entries_of(usage):
            self._used.add(entry)

    def _less_frequent(self, event: Event) -> None:
        if isinstance(event, StageFailed | StageStopped):
            self._use(event.usage)
        if isinstance(event, StageFailed):
            summary = self._of(event.path)
            if summary is not None:
                summary.duration_s += event.duration_s
                summary.failure = event.failure
        elif isinstance(event, StageSkipped):
            summary = self._of(event.path)
            if summary is not None:
                summary.status, summary.reason = "skipped", event.reason.value
        elif isinstance(event, StageEnded):
            summary = self._of(event.path)
            if summary is not None:
                summary.status = event.status
                summary.failure = event.failure
