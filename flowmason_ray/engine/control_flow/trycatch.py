"""`trycatch`: stages that are tried, stages that run when one of them fails, and stages that run in either case.

An error that is not to be caught, and an error of the catching stages themselves, propagate when the last body has run;
an error of the last body replaces whatever was to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flowmason_ray.engine.control_flow.base import (
    Body,
    ConfigProblem,
    Construct,
    Run,
    Shape,
    region_result,
    stage_list,
)
from flowmason_ray.engine.events import BranchTaken, SkipReason, Success
from flowmason_ray.errors import Failure

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class TryOptions:
    """What the config fixes when the plan is made."""

    propagate: bool
    catches: frozenset[str]
    """Codes and exception names; empty: everything."""

    def caught(self, failure: Failure) -> bool:
        """Tell whether a failure is one of those to catch."""
        return not self.catches or failure.code in self.catches or (failure.error_type or "") in self.catches


@dataclass(slots=True, kw_only=True)
class _Try:
    """What an open construct remembers."""

    given: Any
    error: Failure | None = None
    recovered: bool = False
    outcome: Failure | None = None
    """What the construct will fail with when its last body has run."""


class TryCatch(Construct):
    """One body, another one on failure, a third in either case."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the three bodies and which errors are caught."""
        scope = config.get("error_scope", "propagate")
        if scope not in ("propagate", "continue"):
            raise ConfigProblem(f"'error_scope' is 'propagate' or 'continue'; found {scope!r}.", "/error_scope")
        types: Any = config.get("catch_error_types", [])
        if not isinstance(types, list) or not all(isinstance(t, str) for t in cast("list[Any]", types)):
            message = f"'catch_error_types' is a list of error codes or exception names; found {types!r}."
            raise ConfigProblem(message, "/catch_error_types")
        names = cast("list[str]", types)
        return Shape(
            bodies=(
                Body(name="try", members=stage_list(config, "try_stages")),
                Body(name="catch", members=stage_list(config, "catch_stages"), after=("try",)),
                Body(name="finally", members=stage_list(config, "finally_stages"), after=("try", "catch")),
            ),
            options=TryOptions(propagate=scope == "propagate", catches=frozenset(names)),
        )

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Try."""
        assert scope.constructs is not None
        scope.constructs[index] = _Try(given=event.value)
        self._open(run, scope, index, "try")

    @staticmethod
    def _open(run: Run, scope: Scope, index: int, body: str) -> None:
        run.emit(BranchTaken(at=run.now, path=scope.path(index), branch=body))
        run.open_region(scope, scope.plan.stages[index].bodies[body])

    def body_ended(self, run: Run, scope: Scope, index: int, region: int) -> None:
        """A body has run to its end."""
        assert scope.constructs is not None
        memory: _Try = scope.constructs[index]
        bodies = scope.plan.stages[index].bodies
        if region == bodies["try"]:
            run.skip_region(scope, bodies["catch"], SkipReason.BRANCH_NOT_TAKEN)
            self._open(run, scope, index, "finally")
        elif region == bodies["catch"]:
            memory.recovered = True
            self._open(run, scope, index, "finally")
        elif memory.outcome is not None:
            run.fail(scope, index, memory.outcome)
        else:
            self._finish(run, scope, index, memory)

    def body_failed(self, run: Run, scope: Scope, index: int, region: int, failure: Failure) -> None:
        """A body has failed."""
        assert scope.constructs is not None
        memory: _Try = scope.constructs[index]
        stage = scope.plan.stages[index]
        if region == stage.bodies["finally"]:
            run.fail(scope, index, failure)
        elif region == stage.bodies["catch"]:
            memory.outcome = failure
            self._open(run, scope, index, "finally")
        else:
            options: TryOptions = stage.options
            memory.error = failure
            if options.caught(failure):
                memory.outcome = failure if options.propagate else None
                self._open(run, scope, index, "catch")
            else:
                memory.outcome = failure
                run.skip_region(scope, stage.bodies["catch"], SkipReason.BRANCH_NOT_TAKEN)
                self._open(run, scope, index, "finally")

    @staticmethod
    def _finish(run: Run, scope: Scope, index: int, memory: _Try) -> None:
        bodies = scope.plan.stages[index].bodies
        error = memory.error
        head = {
            "status": "success" if error is None else "caught",
            "error_occurred": error is not None,
            "error_message": error.message if error else None,
            "error_type": (error.error_type or error.code) if error else None,
            "error": error.to_json() if error else None,
            "recovered": memory.recovered,
        }
        values = {
            "try_result": region_result(scope, bodies["try"]) if error is None else None,
            "catch_result": region_result(scope, bodies["catch"]) if memory.recovered else None,
        }
        run.gather(scope, index, head, values, base=memory.given)
