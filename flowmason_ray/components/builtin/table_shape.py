"""`table_aggregate` and `table_join`: the two things one does with tables all day, without writing SQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.table_errors import require_columns, table_errors
from flowmason_ray.components.extras import needs
from flowmason_ray.components.frames import Frame
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.json_values import json_row
from flowmason_ray.errors import PermanentError, nearest

with needs("The table components", extra="tables"):
    import polars as pl

_OPERATIONS: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "sum": lambda c: c.sum(),
    "mean": lambda c: c.mean(),
    "avg": lambda c: c.mean(),
    "median": lambda c: c.median(),
    "min": lambda c: c.min(),
    "max": lambda c: c.max(),
    "std": lambda c: c.std(),
    "var": lambda c: c.var(),
    "count": lambda c: c.count(),
    "n_unique": lambda c: c.n_unique(),
    "nulls": lambda c: c.null_count(),
    "first": lambda c: c.first(),
    "last": lambda c: c.last(),
}
_CALL = re.compile(r"\s*(?P<op>\w+)\s*\(\s*(?P<column>.*?)\s*(?:,\s*(?P<q>0?\.\d+|0|1)\s*)?\)\s*", re.DOTALL)


class Aggregation(BaseModel):
    """One aggregated column, spelt out."""

    model_config = ConfigDict(extra="forbid")

    op: str = Field(description=f"One of {', '.join(_OPERATIONS)}, quantile, rows.")
    column: str | None = Field(default=None, description="The column; none for rows.")
    q: float | None = Field(default=None, ge=0, le=1, description="For quantile: which, such as 0.9.")


@operator(effect="pure", cost="cpu", category="tables")
class TableAggregate:
    """Groups a table and aggregates each group."""

    class Input(BaseModel):
        """The table, the groups and what to compute."""

        model_config = ConfigDict(extra="forbid")

        table: Frame = Field(description="The table.")
        group_by: list[str] = Field(
            default=[], description="The columns that make a group; none: the whole table is one."
        )
        aggregations: dict[str, str | Aggregation] = Field(
            min_length=1,
            description="{new column: 'sum(price)', 'quantile(delay, 0.9)', 'count()' for the rows, or {op, column}}. "
            "count(column) counts what is not null.",
        )
        sort: list[str] = Field(
            default=[],
            description="Columns of the result to sort by, '-name' descending; default: groups in order of appearance.",
        )
        limit: int | None = Field(default=None, ge=0, description="The most rows of the result, after sorting.")

    class Output(BaseModel):
        """One row per group."""

        table: Frame = Field(description="The groups' columns, then the aggregated ones.")
        rows: int = Field(description="How many groups.")
        columns: list[str] = Field(description="The names of the columns.")

    def execute(self, input: Input, context: Context) -> Output:
        """Aggregate.

        Raises:
            PermanentError: `unknown_column`, `unknown_operation`, `duplicate_column`, `table_error`.
        """
        available = input.table.columns
        require_columns(input.group_by, available, of="the table")
        made = [_expression(name, wanted, input.table.schema) for name, wanted in input.aggregations.items()]
        with table_errors("Aggregating", available):
            source = cast("Any", input.table)  # polars' own types lean on numpy's, which need not be there
            if input.group_by:
                table = cast("pl.DataFrame", source.group_by(input.group_by, maintain_order=True).agg(made))
            else:
                table = cast("pl.DataFrame", source.select(made))
            table = _sorted(in_64_bits(table, input.aggregations), input.sort)
        if input.limit is not None:
            table = table.head(input.limit)
        return self.Output(table=table, rows=table.height, columns=table.columns)


def _expression(name: str, wanted: str | Aggregation, schema: pl.Schema) -> pl.Expr:
    chosen = parsed(name, wanted) if isinstance(wanted, str) else wanted
    if chosen.op == "rows" or (chosen.op == "count" and not chosen.column):
        return pl.len().alias(name)
    if not chosen.column:
        raise PermanentError(f"Aggregation {name!r}: {chosen.op!r} needs a column.", code="unknown_operation")
    require_columns([chosen.column], schema.names(), of="the table")
    column = pl.col(chosen.column)
    if chosen.op == "quantile":
        if chosen.q is None:
            raise PermanentError(
                f"Aggregation {name!r}: say which quantile, as in quantile({chosen.column}, 0.9).",
                code="unknown_operation",
            )
        return column.quantile(chosen.q, interpolation="linear").alias(name)
    if chosen.op not in _OPERATIONS:
        near = nearest(chosen.op, [*_OPERATIONS, "quantile", "rows"])
        raise PermanentError(
            f"Aggregation {name!r}: unknown operation {chosen.op!r}; there are {', '.join(_OPERATIONS)}, quantile, rows."
            + (f" Did you mean {near!r}?" if near else ""),
            code="unknown_operation",
        )
    if chosen.op == "sum" and schema[chosen.column].is_integer():
        column = column.cast(pl.Int128)  # 64 bits would wrap around
    return _OPERATIONS[chosen.op](column).alias(name)


def in_64_bits(table: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """Return the table with those of the columns that were summed with 128 bits as whole numbers of 64 bits.

    Raises:
        PermanentError: a sum needs more (`table_error`).
    """
    for name in columns:
        if table.schema[name] != pl.Int128:
            continue
        least, most = cast("Any", table[name].min()), cast("Any", table[name].max())
        if least is not None and not (least >= -(2**63) and most < 2**64 and (least >= 0 or most < 2**63)):
            wrong = least if least < -(2**63) else most
            raise PermanentError(
                f"The sum {name!r} is {wrong}, which is no number of 64 bits. Make the column a float before, where "
                "the last digits do not count.",
                code="table_error",
            )
        table = table.with_columns(table[name].cast(pl.Int64 if most is None or most < 2**63 else pl.UInt64))
    return table


def parsed(name: str, text: str) -> Aggregation:
    """Return what `text` asks for, such as "sum(price)".

    Raises:
        PermanentError: it does not read so (`unknown_operation`).
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise PermanentError(
            f"Aggregation {name!r}: {text!r} does not read like 'sum(column)', 'quantile(column, 0.9)' or 'count()'.",
            code="unknown_operation",
        )
    column = match["column"].strip()
    if len(column) > 1 and column[0] == column[-1] and column[0] in "\"'`":
        column = column[1:-1]
    q = float(match["q"]) if match["q"] is not None else None
    return Aggregation(op=match["op"].lower(), column=None if column in ("", "*") else column, q=q)


def _sorted(table: pl.DataFrame, sort: list[str]) -> pl.DataFrame:
    if not sort:
        return table
    by = [s[1:] if s.startswith("-") and s not in table.columns else s for s in sort]
    require_columns(by, table.columns, of="the result")
    descending = [s != b for s, b in zip(sort, by, strict=True)]
    return cast("Any", table).sort(by, descending=descending, nulls_last=True, maintain_order=True)


@operator(effect="pure", cost="cpu", category="tables")
class TableJoin:
    """Joins two tables by their keys."""

    class Input(BaseModel):
        """The tables and their keys."""

        model_config = ConfigDict(extra="forbid")

        left: Frame = Field(description="The left table.")
        right: Frame = Field(description="The right table.")
        on: list[str] | str | None = Field(
            default=None, description="The key columns, when both tables name them alike."
        )
        left_on: list[str] | str | None = Field(default=None, description="The left table's key columns.")
        right_on: list[str] | str | None = Field(
            default=None, description="The right table's key columns, in the same order."
        )
        how: Literal["inner", "left", "right", "full", "semi", "anti", "cross"] = Field(
            default="inner",
            description="Which rows stay; semi and anti keep the left table's rows with and without a partner.",
        )
        suffix: str = Field(
            default="_right", description="Put behind names of the right table that the left one has too."
        )
        unique_right: bool = Field(
            default=False,
            description="Fail when a key occurs twice in the right table, so that no left row is doubled unnoticed.",
        )

    class Output(BaseModel):
        """The joined table."""

        table: Frame = Field(description="The joined table, in the left table's order (how 'right': the right one's).")
        rows: int = Field(description="How many rows it has.")
        columns: list[str] = Field(description="The names of its columns.")

    def execute(self, input: Input, context: Context) -> Output:
        """Join.

        Raises:
            PermanentError: `invalid_input` for keys that do not pair up, `unknown_column`, `table_error`.
        """
        left_on, right_on = _keys(input)
        require_columns(left_on, input.left.columns, of="the left table")
        require_columns(right_on, input.right.columns, of="the right table")
        options: dict[str, Any] = {}
        if input.how != "cross":
            options = {"left_on": left_on, "right_on": right_on, "coalesce": True}
        if input.how in ("semi", "anti"):
            del options["coalesce"]
        if input.unique_right and right_on:
            _require_unique(input.right, right_on)
        order = "right" if input.how == "right" else "left_right" if input.how == "full" else "left"
        with table_errors(f"Joining {left_on} with {right_on}"):
            table = cast("Any", input.left).join(
                input.right, how=input.how, suffix=input.suffix, maintain_order=order, **options
            )
        return self.Output(table=table, rows=table.height, columns=table.columns)


def _require_unique(table: pl.DataFrame, keys: list[str]) -> None:
    found = cast("Any", table).select(keys).drop_nulls()  # null is no key
    twice = found.filter(found.is_duplicated())
    if twice.height:
        raise PermanentError(
            f"The key {json_row(twice.row(0, named=True))!r} occurs more than once in the right table, and 'unique_right' forbids that.",
            code="table_error",
        )


def _keys(input: TableJoin.Input) -> tuple[list[str], list[str]]:
    on, left, right = (names(k) for k in (input.on, input.left_on, input.right_on))
    if input.how == "cross":
        if on or left or right:
            raise PermanentError("A cross join has no keys.", code="invalid_input")
        return [], []
    if on and (left or right):
        raise PermanentError("Give 'on', or 'left_on' with 'right_on', not both.", code="invalid_input")
    left, right = (on, on) if on else (left, right)
    if not left or len(left) != len(right):
        raise PermanentError(
            f"The keys do not pair up: left {left}, right {right}. Give 'on', or 'left_on' and 'right_on' of the same length.",
            code="invalid_input",
        )
    return left, right


def names(keys: list[str] | str | None) -> list[str]:
    """Return one name, several, or none as a list."""
    return [keys] if isinstance(keys, str) else list(keys or [])
