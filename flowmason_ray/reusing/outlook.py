"""What going on under an edited pipeline will reuse, what will run again, and why: told before it happens.

Read from the old run's log and from both definitions. Whether a stage whose inputs come from one that runs again really has
other inputs is known only then: if they turn out the same, it is reused after all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.definitions import differences
from flowmason_ray.engine.past import Past
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.recipes import Recipes
from flowmason_ray.engine.reuse import ReuseRules
from flowmason_ray.engine.upstream import Upstream

_POSITION = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutlook:
    """What will become of one stage. `path`: without positions."""

    path: str
    reused: bool
    why: tuple[str, ...] = ()
    """Why it runs."""
    known: int = 0
    """Of how many of its instances the old run has results."""
    unfinished: int = 0
    """How many it began and did not finish."""
    perhaps: bool = False
    """Whether it is reused nevertheless if what it reads turns out the same."""
    would_repeat: bool = False
    """Whether it has had an effect that it would have again: then it fails, unless that is forced."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that `--dry-run --json` prints."""
        data: dict[str, Any] = {"stage": self.path, "known": self.known, "unfinished": self.unfinished}
        if not self.reused:
            data |= {"why": list(self.why), "perhaps": self.perhaps, "would_repeat": self.would_repeat}
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What will become of all of them, in the order of the plan."""

    stages: tuple[StageOutlook, ...]
    gone: tuple[str, ...] = ()
    """Stages of the old run that the edited pipeline does not have."""
    doubtful: tuple[str, ...] = field(default=())
    """Effectful instances of which nobody knows whether they did their work."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that `--dry-run --json` prints."""
        return {
            "reused": [stage.to_json() for stage in self.stages if stage.reused],
            "runs": [stage.to_json() for stage in self.stages if not stage.reused],
            "gone": list(self.gone),
            "in_doubt": list(self.doubtful),
        }


def doubtful_paths(recipes: Recipes, past: Past) -> tuple[str, ...]:
    """Return the effectful stage instances whose last attempt may have done its work without saying so."""
    effectful = {
        recipes.by_stage[id(stage)].path
        for _, stage in recipes.plan.stages()
        if stage.effect is Effect.EFFECTFUL and stage.component is not None
    }
    return tuple(path for path in sorted(past.doubtful) if _POSITION.sub("", path) in effectful)


def outlook(recipes: Recipes, past: Past, rules: ReuseRules) -> Outlook:
    """Return what will become of each stage."""
    return _Foresight(recipes, past, rules).all()


class _Foresight:
    def __init__(self, recipes: Recipes, past: Past, rules: ReuseRules) -> None:
        self._recipes = recipes
        self._past = past
        self._rules = rules
        self._upstream = Upstream(recipes.plan)
        self._now = recipes.definitions_recorded
        self._known = Counter(_POSITION.sub("", path) for path in past.done)
        self._masked = {_POSITION.sub("", path) for path, record in past.done.items() if not record.exact}
        self._open = Counter(_POSITION.sub("", path) for path in {*past.doubtful, *past.failed} - past.done.keys())
        self._forced = {
            inner
            for stage in self._upstream.stages
            if recipes.by_stage[id(stage)].path in {_POSITION.sub("", name) for name in rules.force}
            for inner in self._upstream.inside(stage)
        }
        self._runs: dict[int, bool] = {}
        """By `id` of a stage: whether its end may be another one than before."""

    def all(self) -> Outlook:
        found: dict[int, StageOutlook] = {}
        for stage in self._upstream.in_order():
            told = self._stage(stage)
            self._runs[id(stage)] = told is not None and not told.reused
            if told is not None:
                found[id(stage)] = told
        written = [stage for _, stage in self._recipes.plan.stages()]
        return Outlook(
            stages=tuple(found[id(stage)] for stage in written if id(stage) in found),
            gone=tuple(sorted(path for path in self._past.definitions if path not in self._now)),
            doubtful=doubtful_paths(self._recipes, self._past),
        )

    def _stage(self, stage: PlanStage) -> StageOutlook | None:
        recipe = self._recipes.by_stage[id(stage)]
        path, known = recipe.path, self._known[recipe.path]
        if not stage.enabled:
            return None
        own, perhaps = list(self._own_reasons(stage, path)), list(self._inherited(stage))
        why = own or perhaps
        if not recipe.looked_up:  # control flow: it decides again, which is worth telling only when that may differ
            if stage.component is None or not why:
                return None
            return StageOutlook(path=path, reused=False, why=("decides again: " + why[0], *why[1:]), known=known)
        effectful = stage.effect is Effect.EFFECTFUL and known > 0
        return StageOutlook(
            path=path,
            reused=not why,
            why=tuple(why),
            known=known,
            unfinished=self._open[path],
            perhaps=not own and bool(perhaps),
            would_repeat=effectful and bool(why) and id(stage) not in self._forced,
        )

    def _own_reasons(self, stage: PlanStage, path: str) -> Iterator[str]:
        before, now = self._past.definitions.get(path), self._now.get(path)
        if id(stage) in self._forced:
            yield "forced"
        if before is None:
            yield "new" if self._past.definitions else "what it was defined to be is not recorded"
        elif now is not None and (changed := differences(before, now)):
            yield f"changed: {', '.join(changed)}"
        elif not self._known[path] and self._recipes.by_stage[id(stage)].looked_up:
            yield "it failed, or did not finish" if self._open[path] else "it did not run"
        elif path in self._masked and self._recipes.by_stage[id(stage)].looked_up:
            yield "what it came to is not recorded as it was (a secret is masked)"

    def _inherited(self, stage: PlanStage) -> Iterator[str]:
        scope = self._recipes.scope_of[id(stage)]
        read = [self._upstream.stage_at(scope, target) for target in stage.targets.values()]
        again = [self._recipes.by_stage[id(other)].path for other in read if self._any_inside(other)]
        if again:
            yield f"reads {', '.join(sorted(again))}"
        for owner in self._upstream.owners(scope, stage):
            if self._runs.get(id(owner)) and not again:
                yield f"is inside of {self._recipes.by_stage[id(owner)].path}"
                return

    def _any_inside(self, stage: PlanStage) -> bool:
        if stage.construct is None:
            return self._runs.get(id(stage), False)
        inside = self._upstream.inside(stage)
        return any(self._runs.get(each, False) for each in inside)
