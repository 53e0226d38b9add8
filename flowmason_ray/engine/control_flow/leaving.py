"""`return`, `break_loop` and `continue_loop`: ending a scope before all its stages have run.

What runs in the scope is stopped, what has not started is skipped; then the scope ends with the given value as if it had
run to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.control_flow.base import Construct, Run, Shape, constant_truth
from flowmason_ray.engine.events import Success

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope


class Leaving(Construct):
    """The base of the three: `always` in the shape tells the plan that nothing after it can run."""

    bare_expressions = ("condition",)

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Note whether the condition is always true."""
        return Shape(always_leaves="condition_expression" not in config and constant_truth(config, "condition") is True)


class Return(Leaving):
    """Ends the pipeline, or the subpipeline, that it stands in."""

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Leave, if so decided."""
        if not (event.decision or {}).get("returns"):
            run.end(scope, index, event.value)
            return
        target = scope
        while not target.plan.isolated:
            assert target.parent is not None
            target = target.parent
        run.leave(scope, index, target, event.value)


class Continue(Leaving):
    """Ends the iteration that it stands in."""

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Leave, if so decided."""
        if (event.decision or {}).get("taken"):
            run.leave(scope, index, scope, event.value)
        else:
            run.end(scope, index, event.value)


class Break(Leaving):
    """Ends the iteration that it stands in, and the loop with it."""

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Leave, if so decided."""
        if not (event.decision or {}).get("taken"):
            run.end(scope, index, event.value)
            return
        assert scope.parent is not None
        loop = scope.parent.plan.stages[scope.owner].construct
        assert loop is not None
        loop.broken(run, scope.parent, scope.owner, scope)
        run.leave(scope, index, scope, event.value)
