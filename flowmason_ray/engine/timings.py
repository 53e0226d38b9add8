"""Durations that runs leave to later runs of the same pipeline: read once at the start, written once at the end.

They lie among the results that a store keeps, under a key of their own, as one small object per pipeline: starting a run reads
no events of earlier ones. A stage counts as the same as long as its definition does (`engine.definitions`): its durations are
forgotten when its component, its code or its config changes. Of two runs that end at the same time, one is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import time
from typing import Any, Protocol, cast

from flowmason_ray.engine.definitions import Definitions
from flowmason_ray.engine.events import StageSucceeded
from flowmason_ray.engine.pace import Timing
from flowmason_ray.engine.pacing import Pacing, definition_id, stored_timing
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.run_log import CachedResult, RunLog

KEPT_S = 90 * 86_400.0
"""How long durations are kept after the last run that had something new to say."""
READ_S = 1.0
"""How long a run waits for what earlier ones have left: it can do without."""


class KeepsResults(Protocol):
    """Where kept results can be read: a run log, or a store."""

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return the result kept under a fingerprint."""
        ...


class Timings:
    """The stored durations of one pipeline, as they were when they were read."""

    def __init__(self, plan: Plan, definitions: Definitions, stored: Mapping[str, Any]) -> None:
        self._plan = plan
        self._definitions = definitions
        self._stored = stored

    @classmethod
    async def read(cls, source: KeepsResults, plan: Plan, definitions: Definitions) -> Timings:
        """Read what earlier runs have left for the pipeline of `plan`. That nothing is there, or can be read, is no error."""
        try:
            found = await asyncio.wait_for(source.kept_result(_key(plan)), READ_S)
        except Exception:  # a store's own trouble ends the run where it records something, not where it only saves time
            found = None
        value: Any = None if found is None else found.value
        stored: Any = cast("dict[str, Any]", value).get("stages") if isinstance(value, dict) else None
        return cls(plan, definitions, cast("dict[str, Any]", stored) if isinstance(stored, dict) else {})

    def usable(self) -> dict[str, Timing]:
        """Return the durations of the stages that are still what they were, by path without positions."""
        found: dict[str, Timing] = {}
        if self._stored:
            for scope, prefix in zip(self._plan.scopes, self._definitions.prefixes, strict=True):
                for stage in scope.stages:
                    entry = self._stored.get(prefix + stage.id)
                    if entry is not None:
                        timing = stored_timing(entry, definition_id(self._definitions, stage))
                        if timing is not None:
                            found[prefix + stage.id] = timing
        return found

    def keep(self, log: RunLog, pacing: Pacing) -> None:
        """Queue what a run has measured, if that says anything new."""
        stages = pacing.worth_keeping(self._definitions, self._stored)
        if stages is not None:
            known = StageSucceeded(at=time(), path="", attempt=0, value={"stages": stages})
            log.keep_result(_key(self._plan), known, ttl_s=KEPT_S)


def _key(plan: Plan) -> str:
    return f"durations of {plan.name}"
