"""Keeps a run from going on with values that its log does not give back as they were.

Secrets are recorded as `***`, NaN and the infinities as null; such events say `lossy`. Replayed, these values would be passed on
in place of the real ones: `***` would be sent where a password belongs. So a run is taken up where it was only when nothing
that is still to run reads one of them. Under `--pipeline` they do no harm: what is not recorded exactly is made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flowmason_ray.engine.definitions import scope_prefixes
from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan
from flowmason_ray.engine.summary import StageSummary

_POSITION = re.compile(r"\[\d+\]")
_VALUED = frozenset({"stage_succeeded", "stage_reused", "approval_answered"})


class Faithfulness:
    """What is known about the values in one run's log: is shown its events as they are recorded."""

    def __init__(self) -> None:
        self.input_exact = True
        self.masked: dict[str, None] = {}
        """The paths of instances whose latest value is not recorded as it was, in order."""

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one recorded event."""
        kind = event["kind"]
        if kind in _VALUED:
            if event.get("lossy"):
                self.masked[event["path"]] = None
            elif self.masked:
                self.masked.pop(event["path"], None)
        elif kind == "run_created":
            self.input_exact = not event.get("lossy")

    def still_read(self, plan: Plan, stages: Mapping[str, StageSummary]) -> tuple[str, str] | None:
        """Return a value that is not recorded as it was, and a stage that has yet to read it; None: nothing has.

        Args:
            plan: The run's plan.
            stages: How its stage instances are, by path.
        """
        return _Readers(plan, stages).find(self.masked) if self.masked else None


class _Readers:
    def __init__(self, plan: Plan, stages: Mapping[str, StageSummary]) -> None:
        self._stages = stages
        self._prefixes = tuple(scope_prefixes(plan))
        self._by_path: dict[str, PlanStage] = {}
        self._readers: dict[str, list[str]] = {}
        """By path without positions: the paths of the stages that read it."""
        self._of_variables: list[str] = []
        for scope in plan.scopes:
            for stage in scope.stages:
                path = self._prefixes[scope.index] + stage.id
                self._by_path[path] = stage
                if path == "$output":
                    continue  # the result of the run is masked wherever it is looked at later
                for read in _read_by(plan, scope, stage, self._prefixes):
                    self._readers.setdefault(read, []).append(path)
                if "vars" in stage.roots:
                    self._of_variables.append(path)

    def _over(self, path: str) -> bool:
        found = self._stages.get(path)
        return found is not None and found.status not in ("running", "paused")

    def find(self, masked: Mapping[str, None]) -> tuple[str, str] | None:
        for path in masked:
            stage = self._by_path.get(_POSITION.sub("", path))
            if stage is not None and stage.body_scope is not None and not self._over(path):
                return path, path  # its bodies go on with what it was given
            value = path
            while value:
                reader = self._reader(value)
                if reader is not None:
                    return path, reader
                around = value.rpartition("/")[0]  # what is open around it will have the value in its own
                value = re.sub(r"\[\d+\]$", "", around)
                if value and self._over(value):
                    break
        return None

    def _reader(self, path: str) -> str | None:
        """Return an instance that is not over and reads a value, or holds what reads it."""
        static = _POSITION.sub("", path)
        around, slash, _ = path.rpartition("/")
        stage = self._by_path.get(static)
        readers = self._readers.get(static, [])
        if stage is not None and stage.component is not None and stage.component.name == "variable_set":
            readers = [*readers, *self._of_variables]
        above = _POSITION.sub("", around + slash)
        for reader in readers:
            if not reader.startswith(above):
                return reader  # a variable that is read elsewhere
            name = reader[len(above) :].partition("/")[0]
            if not name.startswith("$") and not self._over(f"{around}{slash}{name}"):
                return f"{around}{slash}{name}"
        return None


def _read_by(plan: Plan, scope: ScopePlan, stage: PlanStage, prefixes: tuple[str, ...]) -> Iterator[str]:
    for target in stage.targets.values():
        where = scope
        for _ in range(target.levels):
            assert where.parent is not None
            where = plan.scopes[where.parent]
        yield prefixes[where.index] + where.stages[target.index].id
