"""What a run came to, as the document that assertions look into.

    {output, status, error, usage, input, stages: {path: {status, output, attempts, duration_ms, error, reason, mocked}}}

The outputs of stages are not in a run's result: they are taken from the reports that pass by, and fetched before the executor
closes, because afterwards they are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage
from flowmason_ray.engine.events import ApprovalAnswered, Event, StageReused, StageSucceeded
from flowmason_ray.engine.executor import Deliver, Executor, RunInfo
from flowmason_ray.engine.values import Items, Packed, presentable
from flowmason_ray.pipeline_tests.stage_paths import is_hidden, planned_stages, without_positions

if TYPE_CHECKING:
    from flowmason_ray.api import RunResult
    from flowmason_ray.engine.plan import Plan


class RecordingExecutor:
    """Remembers the last value of every stage instance; everything else is the affair of the executor behind it."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self.tells_beginning = inner.tells_beginning
        self.values: dict[str, Any] = {}
        """By path; complete when the executor was closed."""

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            for path, handle in self.values.items():
                if isinstance(handle, Packed):
                    self.values[path] = await self._inner.fetch(handle)
        finally:
            await self._inner.__aexit__(*exc)

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        """Begin to serve a run."""

        def remember_and_deliver(event: Event) -> None:
            self._remember(event)
            deliver(event)

        self._inner.open(run, remember_and_deliver)

    def start(self, command: StartStage) -> Event | None:
        """Begin an attempt."""
        return self._remember(self._inner.start(command))

    def gather(self, command: GatherResults) -> Event | None:
        """Put a construct's value together."""
        return self._remember(self._inner.gather(command))

    def cancel(self, command: CancelStage) -> None:
        """Stop an attempt."""
        self._inner.cancel(command)

    async def fetch(self, handle: Any) -> Any:
        """Return the value behind a handle."""
        return await self._inner.fetch(handle)

    def _remember(self, event: Event | None) -> Event | None:
        if isinstance(event, (StageSucceeded, StageReused)) and not is_hidden(event.path):
            self.values[event.path] = event.value
        elif isinstance(event, ApprovalAnswered):
            self.values[event.path] = {"answered": True, "data": event.data, "answered_by": event.by}
        return event


def document_of(
    result: RunResult, plan: Plan, input: Any, values: Mapping[str, Any], mocked: set[str]
) -> dict[str, Any]:
    """Return the document of a run.

    Args:
        result: What the run came to.
        plan: Its plan.
        input: Its input, defaults included.
        values: The outputs of its stage instances, by path (`RecordingExecutor.values`).
        mocked: The paths of those that were mocked.
    """
    planned = planned_stages(plan)
    stages: dict[str, Any] = {}
    for path, summary in result.stages.items():
        output: Any = None
        if summary.status == "succeeded":
            output = values.get(path)
        elif summary.status == "fallback":
            output = planned[without_positions(path)].stage.fallback_output
        facts = summary.to_json()
        stages[path] = {
            "status": facts["status"],
            "output": None if isinstance(output, Items) else presentable(output),
            "attempts": facts["attempts"],
            "duration_ms": facts["duration_ms"],
            "error": facts.get("error"),
            "reason": facts.get("reason"),
            "mocked": path in mocked,
        }
    return {
        "output": presentable(result.output),
        "status": result.status,
        "error": None if result.failure is None else replace(result.failure, traceback=None).to_json(),
        "usage": dict(result.usage),
        "input": presentable(input),
        "stages": stages,
    }


def document_of_refusal(code: str, message: str, input: Any) -> dict[str, Any]:
    """Return the document of a run that was refused before it began: its input does not fit."""
    error = {"code": code, "message": message, "stage": "", "attempts": 0}
    return {"output": None, "status": "failed", "error": error, "usage": {}, "input": input, "stages": {}}
