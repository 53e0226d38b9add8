"""The control-flow components with branches: what their configs hold, and how they decide.

A component only decides (which branch, which items); what follows from the decision is the engine's affair
(`engine.control_flow`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import control_flow
from flowmason_ray.engine.component import Context, Cost
from flowmason_ray.engine.values import Decision
from flowmason_ray.spec.expressions import DictScope, parse_expression


@control_flow(
    name="conditional",
    cost=Cost.TRIVIAL,
    category="control_flow",
    expressions=("condition_expression",),
    raw=("true_branch_stages", "false_branch_stages"),
)
class Conditional:
    """Runs one of two branches; the stages of the other are skipped."""

    class Input(BaseModel):
        """What is decided on, and the stages of either branch."""

        condition: Any = Field(
            description="The condition: any value, true or false by its truth. A text without braces is an expression."
        )
        condition_expression: str | None = Field(
            default=None, description="An expression over `value`, the condition's value; its truth decides."
        )
        true_branch_stages: list[str] = Field(default=[], description="The stages that run when it is true.")
        false_branch_stages: list[str] = Field(default=[], description="The stages that run when it is false.")
        pass_data: Any = Field(default=None, description="Handed on as `data`.")

    class Output(BaseModel):
        """What was decided."""

        branch_taken: str = Field(description="`true` or `false`.")
        condition_value: Any = Field(description="The condition's value.")
        condition_result: bool = Field(description="Its truth.")
        data: Any = Field(default=None, description="What `pass_data` said.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Decide."""
        value = input.condition
        if input.condition_expression is not None:
            result = bool(parse_expression(input.condition_expression).evaluate(DictScope({"value": value})))
        else:
            result = bool(value)
        branch = "true" if result else "false"
        output = {"branch_taken": branch, "condition_value": value, "condition_result": result, "data": input.pass_data}
        return Decision(facts={"branch": branch}, value=output)


def route_of(value: Any) -> str:
    """Return a value as the text that routes are named by: JSON's words for true, false and null."""
    if isinstance(value, str):
        return value
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
    )


@control_flow(
    name="router",
    cost=Cost.TRIVIAL,
    category="control_flow",
    expressions=("value_expression",),
    raw=("routes", "default_route"),
)
class Router:
    """Runs the stages of the route that a value names; the stages of the others are skipped."""

    class Input(BaseModel):
        """The value, and the stages of every route."""

        value: Any = Field(description="The value that names the route.")
        routes: dict[str, list[str]] = Field(description="The stages by route.")
        default_route: list[str] = Field(default=[], description="The stages that run when no route fits.")
        value_expression: str | None = Field(
            default=None, description="An expression over `value`; what it gives names the route."
        )
        case_insensitive: bool = Field(default=False, description="Whether upper and lower case are the same.")
        pass_data: Any = Field(default=None, description="Handed on as `data`.")

    class Output(BaseModel):
        """What was decided."""

        route_taken: str | None = Field(
            description="The route's name; `default` when none fits; null without a default."
        )
        original_value: Any = Field(description="The value that was given.")
        matched_value: Any = Field(description="The value that was compared with the routes.")
        data: Any = Field(default=None, description="What `pass_data` said.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Find the route."""
        value = input.value
        if input.value_expression is not None:
            value = parse_expression(input.value_expression).evaluate(DictScope({"value": value}))
        wanted = route_of(value)
        fold = str.casefold if input.case_insensitive else str
        names = {fold(name): name for name in input.routes}
        taken = names.get(fold(wanted))
        branch = f"route:{taken}" if taken is not None else "default" if input.default_route else None
        output = {
            "route_taken": taken if taken is not None else branch,
            "original_value": input.value,
            "matched_value": value,
            "data": input.pass_data,
        }
        return Decision(facts={"branch": branch}, value=output)


@control_flow(name="parallel", cost=Cost.TRIVIAL, category="control_flow", raw=("branches", "wait_for"))
class Parallel:
    """Runs several branches at once and waits for all of them, for the first, or for some; the others are stopped."""

    class Input(BaseModel):
        """The branches, and for how many to wait."""

        branches: list[list[str]] | dict[str, list[str]] = Field(description="The stages of each branch.")
        wait_for: Literal["all", "any"] | int = Field(
            default="all", description="How many branches must succeed: `all`, `any` (one), or a number."
        )

    class Output(BaseModel):
        """What the branches returned."""

        results: list[Any] = Field(
            description="Per branch, in the order written: the output of its last stage ({id: output} if there are "
            "several); null for one that failed or was stopped."
        )
        completed: list[str] = Field(description="The branches that succeeded, in the order in which they did.")
        winner: str | None = Field(description="The first of them.")
        errors: list[dict[str, Any]] = Field(description="Per failed branch: `branch`, `code`, `message`, `stage`.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Nothing is to be decided: every branch starts."""
        return Decision(facts={})


@control_flow(
    name="trycatch",
    cost=Cost.TRIVIAL,
    category="control_flow",
    raw=("try_stages", "catch_stages", "finally_stages", "error_scope", "catch_error_types"),
)
class TryCatch:
    """Runs stages; when one of them fails, runs others instead; and some in either case."""

    class Input(BaseModel):
        """The three bodies, and which errors are caught."""

        try_stages: list[str] = Field(description="The stages that are tried.")
        catch_stages: list[str] = Field(default=[], description="The stages that run when one of them fails for good.")
        finally_stages: list[str] = Field(default=[], description="The stages that run in either case, at the end.")
        error_scope: Literal["propagate", "continue"] = Field(
            default="propagate",
            description="After a caught error: fail with it all the same when the other stages have run, or go on.",
        )
        catch_error_types: list[str] = Field(
            default=[], description="The codes or exception names that are caught; empty: all. Others propagate."
        )
        pass_data: Any = Field(default=None, description="Handed on as `data`.")

    class Output(BaseModel):
        """How it went."""

        status: Literal["success", "caught"] = Field(description="Whether an error was caught.")
        error_occurred: bool = Field(description="Whether one of the tried stages failed.")
        error_message: str | None = Field(description="Its message.")
        error_type: str | None = Field(description="Its exception's name, or else its code.")
        error: dict[str, Any] | None = Field(description="All about it: `code`, `message`, `stage`, `attempts`, …")
        recovered: bool = Field(description="Whether the catching stages ran to their end.")
        try_result: Any = Field(description="The output of the last tried stage ({id: output} if there are several).")
        catch_result: Any = Field(description="The same of the catching stages.")
        data: Any = Field(default=None, description="What `pass_data` said.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Nothing is to be decided: the first body starts."""
        return Decision(facts={}, value={"data": input.pass_data})
