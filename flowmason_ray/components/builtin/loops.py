"""The loop components: what their configs hold, and how they find their items.

A component only finds the items, or decides that a loop ends; the iterations are the engine's affair
(`engine.control_flow`).
"""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel, Field

from flowmason_ray.components.base import control_flow, operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.engine.component import Context, Cost, Effect
from flowmason_ray.engine.values import Decision, Items, is_frame
from flowmason_ray.errors import PermanentError
from flowmason_ray.spec.expressions import DictScope, LazyList, parse_expression


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

        items: Any = Field(
            description="A list, a frame (its rows as objects), or a file of the project that is read as the loop goes on: "
            '`{"dataset": "path", "format": …}` with the format ndjson, csv, tsv, parquet or arrow.'
        )
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
        total_items: int = Field(description="How many items there were to process.")
        succeeded_items: int = Field(description="How many of them succeeded.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Find the items that are to be processed."""
        source = _source(input.items, context)
        indices: list[int] | None = None
        if input.filter_expression is not None:
            keep = parse_expression(input.filter_expression)
            everything = Items(source)
            indices = [
                i for i in range(len(everything)) if keep.evaluate(DictScope({"item": everything.item(i), "index": i}))
            ]
        items = Items(source, indices, input.batch_size)
        facts: dict[str, Any] = {"count": len(items)}
        if indices is not None and items.batch is None:
            facts["indices"] = indices
        return Decision(facts=facts, value=items)


def _source(items: Any, context: Context) -> Any:
    """Return what the items are taken from.

    Raises:
        PermanentError: they are neither a list nor a frame nor a dataset, or the dataset cannot be read.
    """
    if isinstance(items, tuple):
        return list(items)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(items, (list, LazyList)) or is_frame(items):
        return items  # pyright: ignore[reportUnknownVariableType]
    if isinstance(items, dict) and "dataset" in items:
        from flowmason_ray.components.datasets import open_dataset

        return open_dataset(cast("dict[str, Any]", items), context.project_dir)
    kind = "null" if items is None else type(items).__name__  # pyright: ignore[reportUnknownArgumentType]
    raise PermanentError(f"'items' is a list, a frame or a dataset; found {kind}.", code="invalid_config")


@control_flow(name="break_loop", cost=Cost.TRIVIAL, category="control_flow")
class BreakLoop:
    """Ends the loop around it: no further item starts, items in flight are stopped."""

    class Input(BaseModel):
        """When, and with which result for the current item."""

        condition: Any = Field(
            default=True, description="Ends the loop if true. A text without braces is an expression."
        )
        result: Any = Field(default=None, description="The current item's result then.")
        message: str | None = Field(default=None, description="Why, for whoever reads the run.")

    class Output(BaseModel):
        """What was decided."""

        broken: bool = Field(description="Whether the loop was ended.")
        result: Any = Field(default=None, description="The result that was given.")
        message: str | None = Field(default=None, description="The reason that was given.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Decide."""
        if input.condition:
            return Decision(facts={"taken": True, "message": input.message}, value=input.result)
        return Decision(facts={"taken": False}, value={"broken": False, "result": None, "message": None})


@control_flow(name="continue_loop", cost=Cost.TRIVIAL, category="control_flow")
class ContinueLoop:
    """Ends the current item of the loop around it; the loop goes on with the next."""

    class Input(BaseModel):
        """When, and with which result for the current item."""

        condition: Any = Field(
            default=True, description="Ends the item if true. A text without braces is an expression."
        )
        result: Any = Field(default=None, description="The current item's result then.")
        message: str | None = Field(default=None, description="Why, for whoever reads the run.")

    class Output(BaseModel):
        """What was decided."""

        continued: bool = Field(description="Whether the item was ended.")
        result: Any = Field(default=None, description="The result that was given.")
        message: str | None = Field(default=None, description="The reason that was given.")

    async def execute(self, input: Input, context: Context) -> Decision:
        """Decide."""
        if input.condition:
            return Decision(facts={"taken": True, "message": input.message}, value=input.result)
        return Decision(facts={"taken": False}, value={"continued": False, "result": None, "message": None})


@operator(name="loop", cost=Cost.TRIVIAL, effect=Effect.PURE, category="core")
class Loop:
    """Splits a list into batches, for a `foreach` or for what takes several items at a time."""

    class Input(BaseModel):
        """The items, and how they are split."""

        model_config = closed({"items": ["a", "b", "c"], "batch_size": 2})

        items: list[Any] = Field(description="The items.")
        batch_size: int = Field(
            default=1, ge=1, le=1000, description="How many items a batch has; the last may have less."
        )
        max_iterations: int | None = Field(default=None, ge=1, description="How many batches are made, at most.")
        start_index: int = Field(default=0, ge=0, description="The first item that is taken, from 0.")
        include_metadata: bool = Field(default=True, description="Whether `metadata` is filled.")

    class Output(BaseModel):
        """The batches."""

        batches: list[list[Any]] = Field(description="The items in batches.")
        total_items: int = Field(description="How many items there are.")
        total_batches: int = Field(description="How many batches were made.")
        has_more: bool = Field(description="Whether items are left behind `max_iterations`.")
        metadata: dict[str, Any] = Field(
            default={}, description="`start_index`, `end_index` (exclusive), `batch_size`."
        )

    async def execute(self, input: Input, context: Context) -> Loop.Output:
        """Split the list."""
        size, start, items = input.batch_size, input.start_index, input.items
        end = len(items)
        if input.max_iterations is not None:
            end = min(end, start + size * input.max_iterations)
        batches = [items[i : min(i + size, end)] for i in range(start, end, size)]
        metadata = {"start_index": start, "end_index": end, "batch_size": size} if input.include_metadata else {}
        return self.Output(
            batches=batches,
            total_items=len(items),
            total_batches=len(batches),
            has_more=end < len(items),
            metadata=metadata,
        )
