"""`wait_for_approval`: the run waits at this stage until a person answers, or until the time for it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flowmason_ray.engine.control_flow.base import ConfigProblem, Construct, Run, Shape
from flowmason_ray.engine.events import ApprovalAnswered, ApprovalRequested, Success
from flowmason_ray.errors import Failure
from flowmason_ray.spec.input_schema import check_schema

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalOptions:
    """What the config fixes when the plan is made."""

    form: Mapping[str, Any] | None
    timeout_s: float | None
    fails: bool


class WaitForApproval(Construct):
    """A question to a person."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the form and the time limit."""
        form: Any = config.get("form")
        timeout_ms, on_timeout = config.get("timeout_ms"), config.get("on_timeout", "fail")
        if form is not None and not isinstance(form, Mapping):
            raise ConfigProblem(f"'form' is a JSON Schema; found {form!r}.", "/form")
        for problem in check_schema(cast("Mapping[str, Any]", form)) if form is not None else ():
            raise ConfigProblem(problem.message, f"/form{problem.path}")
        if timeout_ms is not None and (not isinstance(timeout_ms, int) or timeout_ms < 1):
            raise ConfigProblem(f"'timeout_ms' is a whole number of at least 1; found {timeout_ms!r}.", "/timeout_ms")
        if on_timeout not in ("fail", "continue"):
            raise ConfigProblem(f"'on_timeout' is 'fail' or 'continue'; found {on_timeout!r}.", "/on_timeout")
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        return Shape(
            options=ApprovalOptions(
                form=cast("Mapping[str, Any] | None", form), timeout_s=timeout_s, fails=on_timeout == "fail"
            )
        )

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Ask; unless the answer is known from an earlier run, which is the event's value then."""
        if (event.decision or {}).get("answered"):
            run.end(scope, index, event.value)
            return
        options: ApprovalOptions = scope.plan.stages[index].options
        message = str((event.decision or {}).get("message", ""))
        run.await_answer(scope, index)
        run.emit(ApprovalRequested(at=run.now, path=event.path, message=message, form=options.form))
        if options.timeout_s is not None:
            run.set_timer(scope, index, options.timeout_s)

    def answered(self, run: Run, scope: Scope, index: int, event: ApprovalAnswered) -> None:
        """Somebody has answered."""
        run.end(scope, index, {"answered": True, "data": event.data, "answered_by": event.by})

    def timer_fired(self, run: Run, scope: Scope, index: int) -> None:
        """Nobody has."""
        options: ApprovalOptions = scope.plan.stages[index].options
        if options.fails:
            message = f"Nobody answered within {options.timeout_s:g} s."
            run.fail(scope, index, Failure(code="timeout", message=message, stage=scope.path(index)))
        else:
            run.end(scope, index, {"answered": False, "data": None, "answered_by": None})
