"""`parallel`: all branches run at once; the construct ends when enough of them have succeeded, and stops the others.

`wait_for` says how many are enough: all, one (`any`), or a number. As soon as so many have failed that it can no longer be
reached, the construct fails with the failure that decided it. A branch in which every stage was skipped has succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.commands import Each
from flowmason_ray.engine.control_flow.base import (
    Body,
    ConfigProblem,
    Construct,
    Run,
    Shape,
    named_lists,
    region_result,
)
from flowmason_ray.engine.events import BranchTaken, Success
from flowmason_ray.errors import Failure

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope


@dataclass(slots=True, kw_only=True)
class _Race:
    """What an open construct remembers."""

    completed: list[str] = field(default_factory=list[str])
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    decided: bool = False


class Parallel(Construct):
    """Explicit races and quorums. `options` is how many branches must succeed."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the branches and how many of them are awaited."""
        branches = config.get("branches")
        if branches is None:
            return Shape()  # the component's Input says that it is missing
        bodies = tuple(
            Body(name=name, members=members, concurrent=True) for name, members in named_lists(branches, "/branches")
        )
        if not bodies:
            raise ConfigProblem("'branches' is empty: name the stages of at least one branch.", "/branches")
        wait_for = config.get("wait_for", "all")
        needed = {"all": len(bodies), "any": 1}.get(wait_for, wait_for) if isinstance(wait_for, str) else wait_for
        if not isinstance(needed, int) or isinstance(needed, bool) or not 1 <= needed <= len(bodies):
            message = f"'wait_for' is 'all', 'any' or a number from 1 to {len(bodies)}; found {wait_for!r}."
            raise ConfigProblem(message, "/wait_for")
        return Shape(bodies=bodies, options=needed)

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Open every branch."""
        race = _Race()
        assert scope.constructs is not None
        scope.constructs[index] = race
        for name, region in scope.plan.stages[index].bodies.items():
            if race.decided:  # a branch without stages ends while it is opened
                break
            run.emit(BranchTaken(at=run.now, path=event.path, branch=name))
            run.open_region(scope, region)

    def body_ended(self, run: Run, scope: Scope, index: int, region: int) -> None:
        """A branch has succeeded."""
        assert scope.constructs is not None
        race: _Race = scope.constructs[index]
        race.completed.append(scope.plan.regions[region].name)
        if not race.decided and len(race.completed) >= scope.plan.stages[index].options:
            race.decided = True
            run.abort(self._others(scope, index, race), lambda: self._finish(run, scope, index, race), early=True)

    def body_failed(self, run: Run, scope: Scope, index: int, region: int, failure: Failure) -> None:
        """A branch has failed: it may still be enough without it."""
        assert scope.constructs is not None
        race: _Race = scope.constructs[index]
        stage = scope.plan.stages[index]
        race.errors.append(
            {
                "branch": scope.plan.regions[region].name,
                "code": failure.code,
                "message": failure.message,
                "stage": failure.stage,
            }
        )
        if not race.decided and len(stage.bodies) - len(race.errors) < stage.options:
            race.decided = True
            run.abort(self._others(scope, index, race), lambda: run.fail(scope, index, failure))

    @staticmethod
    def _others(scope: Scope, index: int, race: _Race) -> list[tuple[Scope, int]]:
        ended = {*race.completed, *(error["branch"] for error in race.errors)}
        return [(scope, region) for name, region in scope.plan.stages[index].bodies.items() if name not in ended]

    @staticmethod
    def _finish(run: Run, scope: Scope, index: int, race: _Race) -> None:
        bodies = scope.plan.stages[index].bodies
        results = [region_result(scope, region) if name in race.completed else None for name, region in bodies.items()]
        head = {"completed": race.completed, "winner": next(iter(race.completed), None), "errors": race.errors}
        run.gather(scope, index, head, {"results": Each(results)})
