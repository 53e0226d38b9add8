"""`aggregate` and `join`: what `table_aggregate` and `table_join` do, for lists of objects as well.

The table components do the work; a list becomes a table for it, and its result a list again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.rows import Rows, as_it_came, as_table, is_list, require_fields
from flowmason_ray.components.builtin.rows_chosen import Chosen
from flowmason_ray.components.builtin.table_shape import Aggregation, TableAggregate, TableJoin, names, parsed
from flowmason_ray.components.extras import needs
from flowmason_ray.engine.component import Context

with needs("The table components", extra="tables"):
    import polars as pl

_ORDERS = [
    {"city": "Oslo", "total": 10},
    {"city": "Rome", "total": 5},
    {"city": "Oslo", "total": 2},
]


@operator(effect="pure", cost="cpu", category="rows", tags=("data",))
class Aggregate:
    """Groups a list of objects, or a table, and sums up each group."""

    class Input(BaseModel):
        """The rows, the groups and what to compute."""

        model_config = closed(
            {
                "data": _ORDERS,
                "group_by": ["city"],
                "aggregations": {"total": "sum(total)", "orders": "count()"},
            }
        )

        data: Rows = Field(description="A list of objects, or a table.")
        group_by: list[str] | str = Field(default=[], description="The fields that make a group; none: all is one.")
        aggregations: dict[str, str | Aggregation] = Field(
            min_length=1,
            description="{new field: 'sum(price)', 'quantile(delay, 0.9)', 'count()' for the rows, or {op, column}}.",
        )
        sort: list[str] = Field(
            default=[], description="Fields of the result to sort by, '-name' downwards; default: by first appearance."
        )
        limit: int | None = Field(default=None, ge=0, description="The most groups, after sorting.")

    class Output(Chosen):
        """One row for each group."""

    def execute(self, input: Input, context: Context) -> Output:
        """Aggregate.

        Raises:
            PermanentError: `unknown_column`, `unknown_operation`, `duplicate_column`, `table_error`.
        """
        groups = [input.group_by] if isinstance(input.group_by, str) else input.group_by
        fields = _fields(groups, input.aggregations)
        require_fields(fields, input.data, "aggregate")
        wanted = TableAggregate.Input(
            table=as_table(input.data, empty=dict.fromkeys(fields, pl.Int64()), only=fields),
            group_by=groups,
            aggregations=input.aggregations,
            sort=input.sort,
            limit=input.limit,
        )
        done = TableAggregate().execute(wanted, context)
        return self.Output(data=as_it_came(done.table, input.data), count=done.rows)


@operator(effect="pure", cost="cpu", category="rows", tags=("data",))
class Join:
    """Joins two lists of objects, or two tables, by their keys. The result has the form of the left one."""

    class Input(BaseModel):
        """The two sides and their keys."""

        model_config = closed(
            {"left": _ORDERS, "right": [{"city": "Oslo", "country": "Norway"}], "on": "city", "how": "left"}
        )

        left: Rows = Field(description="A list of objects, or a table.")
        right: Rows = Field(description="A list of objects, or a table.")
        on: list[str] | str | None = Field(default=None, description="The keys, when both sides name them alike.")
        left_on: list[str] | str | None = Field(default=None, description="The left side's keys.")
        right_on: list[str] | str | None = Field(default=None, description="The right side's keys, in the same order.")
        how: Literal["inner", "left", "right", "full", "semi", "anti", "cross"] = Field(
            default="inner", description="Which rows stay; semi and anti: the left ones with and without a partner."
        )
        suffix: str = Field(
            default="_right", description="Put behind names of the right side that the left one has too."
        )
        unique_right: bool = Field(default=False, description="Fail when a key occurs twice on the right side.")

    class Output(Chosen):
        """The joined rows."""

    def execute(self, input: Input, context: Context) -> Output:
        """Join.

        Raises:
            PermanentError: `invalid_input` for keys that do not pair up, `unknown_column`, `table_error`.
        """
        facts: dict[str, Any] = {
            n: getattr(input, n) for n in ("on", "left_on", "right_on", "how", "suffix", "unique_right")
        }
        left_keys, right_keys = names(input.on or input.left_on), names(input.on or input.right_on)
        left = as_table(input.left, moved=_but(left_keys, input.left))
        right = as_table(input.right, like=input.left, moved=_but(right_keys, input.right))
        if input.how == "cross" and not (left.height and right.height):
            return self.Output(data=as_it_came(left.clear(), input.left), count=0)
        # A list without objects has no fields: its keys are like the other side's.
        keys = list(zip(left_keys, right_keys, strict=False))
        if is_list(input.left) and not input.left:
            left = pl.DataFrame(schema={a: right.schema.get(b, pl.Int64()) for a, b in keys})
        if is_list(input.right) and not input.right:
            right = pl.DataFrame(schema={b: left.schema.get(a, pl.Int64()) for a, b in keys})
        done = TableJoin().execute(TableJoin.Input(left=left, right=right, **facts), context)
        return self.Output(data=as_it_came(done.table, input.left), count=done.rows)


def _fields(groups: list[str], aggregations: Mapping[str, str | Aggregation]) -> list[str]:
    named = (parsed(name, each) if isinstance(each, str) else each for name, each in aggregations.items())
    return [*groups, *(each.column for each in named if each.column)]


def _but(keys: list[str], data: Any) -> set[str]:
    """Return the fields of a list's objects that are no keys."""
    return {name for row in data for name in row} - {*keys} if is_list(data) else set()
