"""Which stages of a plan a name means: for mocks, assertions and coverage.

A stage *instance* has a path, `each[3]/extract`; the stage of the plan that it is an instance of has the same path without
positions, `each/extract`. Patterns name either: `extract` means every stage of that id wherever it is, `each/extract` that
one in all iterations, `each[3]/extract` one iteration, and `*` any text within one part of a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan

_POSITION = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage of a plan, and where it is."""

    path: str
    """Without positions."""
    stage: PlanStage
    own: bool
    """Whether it belongs to the pipeline itself, not to one that it calls."""


def without_positions(path: str) -> str:
    """Return the path of the stage that a path is an instance of."""
    return _POSITION.sub("", path) if "[" in path else path


def is_hidden(path: str) -> bool:
    """Tell whether a path is that of a stage which nobody wrote (`$output`, `$collect`)."""
    return path.rpartition("/")[2].startswith("$")


def planned_stages(plan: Plan) -> Mapping[str, PlannedStage]:
    """Return every written stage of a plan by its path, called pipelines included."""
    return {found.path: found for found in _below(plan, plan.root, "", own=True)}


def _below(plan: Plan, scope: ScopePlan, prefix: str, *, own: bool) -> Iterator[PlannedStage]:
    for stage in scope.stages:
        if is_hidden(stage.id):
            continue
        path = prefix + stage.id
        yield PlannedStage(path=path, stage=stage, own=own)
        if stage.body_scope is not None:
            inner = plan.scopes[stage.body_scope]
            yield from _below(plan, inner, f"{path}/", own=own and not inner.isolated)


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> re.Pattern[str]:
    parts: list[str] = []
    for part in pattern.split("/"):
        named = re.escape(part).replace(r"\*", "[^/]*")
        # A part without a position means all positions; one with a position, that one.
        parts.append(named if part.endswith("]") else rf"{named}(?:\[\d+\])?")
    return re.compile(("" if "/" in pattern else r"(?:.*/)?") + "/".join(parts))


def fits(pattern: str, path: str) -> bool:
    """Tell whether a pattern means the stage instance at `path`."""
    return _regex(pattern).fullmatch(path) is not None


def fits_stage(pattern: str, path: str) -> bool:
    """Tell whether a pattern may mean an instance of the stage of the plan at `path` (without positions)."""
    return _regex(without_positions(pattern)).fullmatch(path) is not None
