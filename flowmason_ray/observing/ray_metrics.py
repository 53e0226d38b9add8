"""Counts runs and attempts for Ray's metrics port: an observer that adds up, and hands over once a second.

Handing a value to Ray takes 5-10 µs, as much as a whole fused stage; so only sums and the durations of stages that are worth
a call go there, and from a thread of their own. Labels are names of pipelines and components: as many as there are files, not
runs.
"""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections import deque
from contextlib import suppress
from typing import Any

import ray
from ray.util import metrics

from flowmason_ray.engine.component import Cost
from flowmason_ray.engine.events import (
    ATTEMPT_ENDED,
    RUN_ENDED,
    Event,
    RunPaused,
    StageFailed,
    StageStarted,
    StageSucceeded,
)
from flowmason_ray.engine.plan import Plan
from flowmason_ray.observing.places import Places

HANDOVER_S = 1.0
"""How often sums are handed to Ray, which exports them every few seconds."""
MOST_DURATIONS = 1_000
"""Durations that wait at most; of more in one second the oldest are left out."""
BOUNDS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]
"""The histograms' buckets: from a quick call to a model that is trained. Close together, because Ray 2.60 makes a histogram's sum
of the buckets' middles."""

_STATUS = {
    "stage_succeeded": "succeeded",
    "stage_reused": "reused",
    "stage_failed": "failed",
    "stage_declined": "declined",
    "stage_stopped": "stopped",
}
_ray: Any = ray  # under this name without types: those of Ray are partly unknown
_lock = threading.Lock()
_instruments: dict[str, Any] = {}


def _instrument(kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
    """Return the process's instrument of this name: Ray knows each once."""
    if name not in _instruments:
        _instruments[name] = kind(name, description=text, tag_keys=("pipeline", *labels), **more)
    return _instruments[name]


def is_joined() -> bool:
    """Tell whether this process is connected to a cluster that it did not start itself, and that outlives it therefore."""
    node: Any = getattr(_ray._private.worker, "_global_node", None)  # Ray 2.60 tells it nowhere else
    return _ray.is_initialized() and node is not None and not node.head


class RayMetrics:
    """Counts one run. An observer; `close` ends it, also when the run has no end that it is shown."""

    def __init__(self, plan: Plan) -> None:
        self._pipeline = plan.name
        self._places = Places(plan)
        self._started: Tally[str] = Tally()
        self._ended: Tally[tuple[str, str]] = Tally()
        self._runs: Tally[str] = Tally()
        self._in_flight: dict[str, int] = {}
        self._begun: dict[str, tuple[str, float, bool]] = {}
        """Attempts under way: component, start, and whether they are worth timing."""
        self._durations: deque[tuple[str, float, float]] = deque(maxlen=MOST_DURATIONS)
        self._lock = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._hand_over_often, name="flowmason-metrics", daemon=True).start()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            self._take(event)

    def _take(self, event: Event) -> None:
        if type(event) is StageStarted:
            stage = self._places.stage(event.path)
            if stage is not None and stage.component is not None:
                name = stage.component.name
                timed = stage.component.cost is not Cost.TRIVIAL
                self._begun[event.path] = (name, event.at, timed)
                self._started[name] += 1
                self._in_flight[name] = self._in_flight.get(name, 0) + 1
        elif isinstance(event, ATTEMPT_ENDED):
            begun = self._begun.pop(event.path, None)
            if begun is not None:
                name, at, timed = begun
                self._in_flight[name] -= 1
                self._ended[name, _STATUS[event.kind]] += 1
                if timed and isinstance(event, StageSucceeded | StageFailed):
                    self._durations.append((name, event.duration_s, max(0.0, event.at - at - event.duration_s)))
        elif isinstance(event, (*RUN_ENDED, RunPaused)):
            self._runs[event.kind.removeprefix("run_")] += 1
            self._end()

    def close(self) -> None:
        """Hand over what is left, and end."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        for name in self._in_flight:
            self._in_flight[name] = 0
        self._over.set()

    def _hand_over_often(self) -> None:
        while not self._over.wait(HANDOVER_S):
            self._hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        """Give Ray what has been counted since the last time. Its errors are none of the run's."""
        with suppress(Exception), _lock:  # Ray may be going down
            self._record()

    def _record(self) -> None:
        pipeline = {"pipeline": self._pipeline}
        by = ("component",)
        started = _instrument(metrics.Counter, "flowmason_attempts_started", "Attempts handed out.", *by)
        for name, count in self._taken(self._started):
            started.inc(count, {**pipeline, "component": name})
        ended = _instrument(metrics.Counter, "flowmason_attempts_ended", "Attempts by how they ended.", *by, "status")
        for (name, status), count in self._taken(self._ended):
            ended.inc(count, {**pipeline, "component": name, "status": status})
        flying = _instrument(metrics.Gauge, "flowmason_attempts_in_flight", "Attempts under way.", *by)
        for name, count in list(self._in_flight.items()):
            flying.set(count, {**pipeline, "component": name})
        runs = _instrument(metrics.Counter, "flowmason_runs_ended", "Runs by how they ended.", "status")
        for status, count in self._taken(self._runs):
            runs.inc(count, {**pipeline, "status": status})
        bounds = {"boundaries": BOUNDS_S}
        took = _instrument(metrics.Histogram, "flowmason_attempt_seconds", "Time in components.", *by, **bounds)
        waited = _instrument(metrics.Histogram, "flowmason_queue_seconds", "Time around components.", *by, **bounds)
        for _ in range(len(self._durations)):
            name, duration_s, queue_s = self._durations.popleft()
            took.observe(duration_s, {**pipeline, "component": name})
            waited.observe(queue_s, {**pipeline, "component": name})

    def _taken(self, sums: Tally[Any]) -> list[tuple[Any, int]]:
        """Take what was added up."""
        with self._lock:
            taken = list(sums.items())
            sums.clear()
        return taken
