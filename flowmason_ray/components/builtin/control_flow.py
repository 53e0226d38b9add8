"""The control-flow components: what their configs hold, and how they decide.

A component only decides (which branch, which items); what follows from the decision is the engine's affair
(`engine.control_flow`).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from flowmason_ray.components.base import control_flow
from flowmason_ray.engine.component import Context, Cost
from flowmason_ray.engine.values import Decision, Items, is_frame
from flowmason_ray.errors import PermanentError
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


@control_flow(
    name="foreach",
    cost=Cost.TRIVIAL,
    category="control_flow",
    expressions=("filter_expression",),
    raw=(
        "loop_stages",
        "collect",
        "item_variable",
        "index_variable",
        "parallel",
        "max_parallel",
        "break_on_error",
        "min_success_ratio",
    ),
)
class Foreach:
    """Runs its body once per item, several at a time, and collects the results in the order of the items."""

    class Input(BaseModel):
        """The items, the body, and how the loop runs."""

        items: Any = Field(description="A list, or a frame (its rows as objects).")
        loop_stages: list[str] = Field(description="The stages of the body.")
        item_variable: str = Field(default="item", description="What the body calls the current item.")
        index_variable: str = Field(default="index", description="What the body calls its index, from 0.")
        parallel: bool | None = Field(
            default=None, description="Whether several items run at a time; default: whether `max_parallel` is given."
        )
        max_parallel: int = Field(default=5, ge=1, description="How many items run at a time, at most.")
        break_on_error: bool = Field(
            default=True,
            description="Whether the first failed item ends the loop; otherwise it is listed under `errors`.",
        )
        min_success_ratio: float = Field(
            default=0, ge=0, le=1, description="The share of items that must succeed when errors do not break the loop."
        )
        filter_expression: str | None = Field(
            default=None, description="An expression over `item` and `index`; items for which it is false are left out."
        )
        collect: Any = Field(
            default=None, description="A template for an item's result; default: the output of the body's last stage."
        )
        batch_size: int | None = Field(default=None, ge=1, description="Hand items to the body in lists of this many.")

    class Output(BaseModel):
        """What the iterations returned."""

        results: list[Any] = Field(description="Per item, in their order: its result; null for a failed one.")
        errors: list[dict[str, Any]] = Field(
            description="Per failed item: `index`, `code`, `message`, `stage`, `attempts`."
        )
        total_items: int = Field(description="How many items were processed.")
        succeeded_items: int = Field(description="How many of them succeeded.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Find the items that are to be processed."""
        source = input.items
        if isinstance(source, tuple):
            source = list(source)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if not isinstance(source, list) and not is_frame(source):
            kind = "null" if source is None else type(source).__name__
            raise PermanentError(f"'items' is a list or a frame; found {kind}.", code="invalid_config")
        indices: list[int] | None = None
        if input.filter_expression is not None:
            keep = parse_expression(input.filter_expression)
            everything = Items(source)
            indices = [
                i for i in range(len(everything)) if keep.evaluate(DictScope({"item": everything.item(i), "index": i}))
            ]
        items = Items(source, indices)
        if input.batch_size is not None:
            rows = [items.item(i) for i in range(len(items))]
            items = Items([rows[i : i + input.batch_size] for i in range(0, len(rows), input.batch_size)])
        facts: dict[str, Any] = {"count": len(items)}
        if items.indices is not None:
            facts["indices"] = list(items.indices)
        return Decision(facts=facts, value=items)
