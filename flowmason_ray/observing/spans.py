"""Spans of a run and of its attempts, made from its events (OpenTelemetry).

One span for the run, one for every attempt; those inside a loop or a called pipeline lie in the span of that. A span is made when
it ends, with the times of the events: what is traced is what is recorded. Spans of a run whose process is killed are lost with
it, like all that was not exported yet; who takes the run up again goes on in the same trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowmason_ray import telemetry
from flowmason_ray.engine.events import (
    ATTEMPT_ENDED,
    RUN_ENDED,
    Event,
    RunCreated,
    RunPaused,
    RunResumed,
    RunSucceeded,
    StageEnded,
    StageFailed,
    StageReused,
    StageStarted,
    StageSucceeded,
)
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.plan import Plan
from flowmason_ray.errors import Failure
from flowmason_ray.observing.places import Places, around
from flowmason_ray.telemetry import Tracing


@dataclass(slots=True)
class _Open:
    """An attempt that has not ended."""

    attempt: int
    started_at: float
    parent: str
    span: str
    decided: bool = False
    """Whether it is a construct's and its bodies are under way."""


_STATUS = {
    "stage_succeeded": "succeeded",
    "stage_reused": "reused",
    "stage_failed": "failed",
    "stage_declined": "declined",
}


class Spans:
    """Makes the spans of one run. An observer."""

    def __init__(self, tracing: Tracing, plan: Plan, run: RunInfo, *, parent: str | None) -> None:
        """
        Args:
            tracing: Where spans go.
            plan: What is run.
            run: The run; its `trace` is set.
            parent: The span that the run lies in; None: it is the first of its trace.
        """
        assert run.trace is not None
        self._tracing = tracing
        self._run = run
        self._trace = run.trace
        self._parent = parent
        self._places = Places(plan)
        self._open: dict[str, _Open] = {}
        self._began_at = run.started_at
        self._resumed = False

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if type(event) is StageStarted:
            self._start(event)
        elif isinstance(event, ATTEMPT_ENDED):
            self._end_attempt(event)
        elif type(event) is StageEnded:
            opened = self._open.pop(event.path, None)
            if opened is not None and opened.decided:
                self._attempt(event.path, opened, event, event.status, event.failure)
        elif type(event) in (RunCreated, RunResumed):
            self._began_at = event.at
            self._resumed = type(event) is RunResumed
        elif isinstance(event, (*RUN_ENDED, RunPaused)):
            self._end_run(event)

    def _start(self, event: StageStarted) -> None:
        outer = self._open.get(around(event.path))
        parent = self._trace if outer is None else outer.span
        span = telemetry.attempt_span(self._trace, event.path, event.attempt)
        self._open[event.path] = _Open(event.attempt, event.at, parent, span)

    def _end_attempt(self, event: Any) -> None:
        opened = self._open.get(event.path)
        if opened is None or opened.decided:
            return
        if isinstance(event, StageSucceeded | StageReused) and event.decision is not None:
            opened.decided = True
            return
        del self._open[event.path]
        failure = event.failure if isinstance(event, StageFailed) else None
        self._attempt(event.path, opened, event, _STATUS.get(event.kind, "stopped"), failure)

    def _attempt(self, path: str, opened: _Open, event: Event, status: str, failure: Failure | None) -> None:
        stage = self._places.stage(path)
        if stage is None or stage.component is None:
            return
        attributes: dict[str, Any] = {
            telemetry.RUN_ID: self._run.run_id,
            telemetry.STAGE: stage.id,
            telemetry.STAGE_PATH: path,
            telemetry.COMPONENT: stage.component.name,
            telemetry.ATTEMPT: opened.attempt,
            telemetry.ATTEMPT_STATUS: status,
        }
        if isinstance(event, StageReused):
            attributes[telemetry.REUSED_FROM] = str(event.source.get("run", ""))
        name = f"{telemetry.ATTEMPT_SPAN} {stage.id}"
        self._emit(name, opened.span, opened.parent, (opened.started_at, event.at), attributes, failure)

    def _end_run(self, event: Event) -> None:
        for path, opened in list(self._open.items()):  # of constructs that the run's end has cut off
            self._attempt(path, opened, event, "stopped", None)
        self._open.clear()
        run = self._run
        status = "succeeded" if isinstance(event, RunSucceeded) else event.kind.removeprefix("run_")
        attributes: dict[str, Any] = {
            telemetry.RUN_ID: run.run_id,
            telemetry.RUN_STATUS: status,
            telemetry.PIPELINE: run.pipeline,
            telemetry.PIPELINE_VERSION: run.version,
            telemetry.RUN_RESUMED: self._resumed,
        }
        failure: Failure | None = getattr(event, "failure", None)
        name = f"{telemetry.RUN_SPAN} {run.pipeline}"
        self._emit(name, self._trace, self._parent, (self._began_at, event.at), attributes, failure)

    def _emit(
        self,
        name: str,
        span: str,
        parent: str | None,
        times: tuple[float, float],
        attributes: dict[str, Any],
        failure: Failure | None,
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        tracing = self._tracing
        _, trace_id, span_id, flags = span.split("-")
        if flags == "00":
            return  # this trace is not recorded
        around = Context() if parent is None else telemetry.remote_context(parent)
        if failure is not None:
            attributes[telemetry.ERROR_CODE] = failure.code
        with tracing.lock:
            tracing.next_span, tracing.next_trace = int(span_id, 16), int(trace_id, 16)
            made = tracing.tracer.start_span(name, context=around, start_time=_ns(times[0]), attributes=attributes)
            tracing.next_span = tracing.next_trace = None
        if failure is not None:
            made.set_status(trace.Status(trace.StatusCode.ERROR, failure.message))
        made.end(end_time=_ns(max(times)))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
