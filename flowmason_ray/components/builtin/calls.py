"""The control-flow components that leave the flow of a pipeline: into another one, out of it, or to a person."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import control_flow
from flowmason_ray.engine.component import Context, Cost
from flowmason_ray.engine.values import Decision
from flowmason_ray.spec.expressions import DictScope, parse_expression


@control_flow(
    name="subpipeline",
    cost=Cost.TRIVIAL,
    category="control_flow",
    raw=("pipeline", "timeout_ms", "on_error"),
)
class Subpipeline:
    """Runs another pipeline as one stage. It sees its input and nothing else of this pipeline."""

    class Input(BaseModel):
        """The pipeline, its input, and what happens when it fails."""

        pipeline: str = Field(description="The pipeline: a name, `name@range`, or a path relative to this file.")
        input_data: dict[str, Any] = Field(default={}, description="Its input; its `input_schema` is enforced.")
        timeout_ms: int | None = Field(default=None, ge=1, description="How long it may take in all, in milliseconds.")
        on_error: Literal["fail", "continue", "default"] = Field(
            default="fail", description="When it fails: fail with it, go on with null, or with `default_result`."
        )
        default_result: Any = Field(default=None, description="The result under `on_error: default`.")

    class Output(BaseModel):
        """What the pipeline returned."""

        result: Any = Field(description="Its result.")
        status: Literal["completed", "failed"] = Field(description="How it ended.")
        error: dict[str, Any] | None = Field(description="Why it failed: `code`, `message`, `stage`, …")
        pipeline: str = Field(description="The pipeline that ran, with its version: `name@version`.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Hand the input over."""
        return Decision(facts={"default_result": input.default_result}, value=input.input_data, checked="input")


@control_flow(name="return", cost=Cost.TRIVIAL, category="control_flow", expressions=("condition_expression",))
class Return:
    """Ends the pipeline at once with a value; what has not run yet is skipped, what runs is stopped."""

    class Input(BaseModel):
        """When, and with which value."""

        condition: Any = Field(default=True, description="Returns if true. A text without braces is an expression.")
        condition_expression: str | None = Field(
            default=None, description="An expression over `value`, the condition's value; its truth decides."
        )
        return_value: Any = Field(default=None, description="The pipeline's result; its `output_schema` is enforced.")
        message: str | None = Field(default=None, description="Why, for whoever reads the run.")

    class Output(BaseModel):
        """What was decided."""

        should_return: bool = Field(description="Whether the pipeline ends here.")
        return_value: Any = Field(default=None, description="The value that was given.")
        message: str | None = Field(default=None, description="The reason that was given.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Decide."""
        returns = bool(input.condition)
        if input.condition_expression is not None:
            scope = DictScope({"value": input.condition})
            returns = bool(parse_expression(input.condition_expression).evaluate(scope))
        if not returns:
            output = {"should_return": False, "return_value": input.return_value, "message": input.message}
            return Decision(facts={"returns": False}, value=output)
        return Decision(facts={"returns": True, "message": input.message}, value=input.return_value, checked="output")


@control_flow(
    name="wait_for_approval", cost=Cost.TRIVIAL, category="control_flow", raw=("form", "timeout_ms", "on_timeout")
)
class WaitForApproval:
    """Waits until a person answers: `fm runs answer RUN PATH --data JSON`."""

    class Input(BaseModel):
        """What is asked, and what happens when nobody answers."""

        message: str = Field(description="What is asked.")
        form: dict[str, Any] | None = Field(default=None, description="JSON Schema of the answer; absent: any JSON.")
        timeout_ms: int | None = Field(
            default=None, ge=1, description="How long to wait, in milliseconds; absent: for ever."
        )
        on_timeout: Literal["fail", "continue"] = Field(
            default="fail",
            description="When nobody has answered by then: fail with code `timeout`, or go on without an answer.",
        )

    class Output(BaseModel):
        """What was answered."""

        answered: bool = Field(description="Whether somebody answered in time.")
        data: Any = Field(description="The answer; null without one.")
        answered_by: str | None = Field(description="Who answered.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Say what is asked."""
        return Decision(facts={"message": input.message})
