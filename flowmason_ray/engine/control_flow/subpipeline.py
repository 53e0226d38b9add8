"""`subpipeline`: another pipeline as one stage, compiled into the plan as a scope of its own.

Its stages see its input and each other, nothing of the pipeline around it. Its failure is the stage's failure, unless the
config says what holds instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.control_flow.base import ConfigProblem, Construct, Run, Shape
from flowmason_ray.engine.events import Success
from flowmason_ray.errors import Failure

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope

_ON_ERROR = {"fail": "fail", "propagate": "fail", "continue": "continue", "ignore": "continue", "default": "default"}
"""What may be said, older words included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What the config fixes when the plan is made."""

    pipeline: str
    timeout_s: float | None
    """For the whole call: what the config says or the called pipeline itself, whichever is shorter."""
    on_error: str
    called: str = ""
    """`name@version` of the pipeline that was found."""
    mapped_by: int | None = None
    """Of a composition: how many scopes behind the pipeline's the one is that maps its result; None: none does."""


@dataclass(slots=True)
class Call:
    """What an open construct remembers."""

    inner: Scope
    default_result: Any
    mapping: bool = False
    """Of a composition: whether its pipeline has ended, and `inner` is the scope that maps the result."""


class Subpipeline(Construct):
    """A call."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read which pipeline is called, and what its failure means."""
        pipeline, timeout_ms = config.get("pipeline"), config.get("timeout_ms")
        if "pipeline" not in config:
            return Shape()  # the component's Input says that it is missing
        if not isinstance(pipeline, str) or "{{" in pipeline:
            message = f"'pipeline' names the pipeline when the plan is made: a name or a path, written out; found {pipeline!r}."
            raise ConfigProblem(message, "/pipeline")
        if timeout_ms is not None and (not isinstance(timeout_ms, int) or timeout_ms < 1):
            raise ConfigProblem(f"'timeout_ms' is a whole number of at least 1; found {timeout_ms!r}.", "/timeout_ms")
        on_error = config.get("on_error", "fail")
        if on_error not in _ON_ERROR:
            raise ConfigProblem(f"'on_error' is 'fail', 'continue' or 'default'; found {on_error!r}.", "/on_error")
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        return Shape(options=CallOptions(pipeline=pipeline, timeout_s=timeout_s, on_error=_ON_ERROR[on_error]))

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """The input is known: open the scope."""
        options: CallOptions = scope.plan.stages[index].options
        inner = run.make_scope(scope, index, prefix=f"{event.path}/", input=event.value)
        assert scope.constructs is not None
        scope.constructs[index] = Call(inner, (event.decision or {}).get("default_result"))
        if options.timeout_s is not None:
            run.set_timer(scope, index, options.timeout_s)
        run.open_region(inner, 0)

    def iteration_ended(
        self, run: Run, scope: Scope, index: int, iteration: Scope, value: Any, failure: Failure | None
    ) -> None:
        """The called pipeline has ended."""
        options: CallOptions = scope.plan.stages[index].options
        head: dict[str, Any] = {"pipeline": options.called, "status": "completed", "error": None}
        if failure is None:
            run.gather(scope, index, head, {"result": value})
        elif options.on_error == "fail":
            run.fail(scope, index, failure)
        else:
            assert scope.constructs is not None
            call: Call = scope.constructs[index]
            head.update(status="failed", error=failure.to_json())
            head["result"] = call.default_result if options.on_error == "default" else None
            run.gather(scope, index, head, {})

    def timer_fired(self, run: Run, scope: Scope, index: int) -> None:
        """The called pipeline has taken too long."""
        assert scope.constructs is not None
        call: Call = scope.constructs[index]
        options: CallOptions = scope.plan.stages[index].options
        message = f"The pipeline {options.called!r} did not end within {options.timeout_s:g} s and was stopped."
        failure = Failure(code="timeout", message=message, stage=scope.path(index))
        run.abort([(call.inner, 0)], lambda: self.iteration_ended(run, scope, index, call.inner, None, failure))
