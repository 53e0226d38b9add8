"""`pivot` and `unpivot`: from long to wide and back, of a list of objects or of a table."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.rows import Rows, as_it_came, as_table, require_fields
from flowmason_ray.components.builtin.rows_chosen import Chosen
from flowmason_ray.components.builtin.table_errors import table_errors
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

_LONG = [
    {"city": "Oslo", "month": "jan", "rain": 49},
    {"city": "Oslo", "month": "feb", "rain": 36},
    {"city": "Rome", "month": "jan", "rain": 67},
]
_WIDE = [{"city": "Oslo", "jan": 49, "feb": 36}]
MAX_COLUMNS = 1000
"""More new columns than this are a mistake, and take all memory."""


@operator(effect="pure", cost="cpu", category="rows", tags=("data",))
class Pivot:
    """Turns the values of one field into fields of their own."""

    class Input(BaseModel):
        """The rows, and which fields go where."""

        model_config = closed({"data": _LONG, "index": ["city"], "columns": "month", "values": "rain"})

        data: Rows = Field(description="A list of objects, or a table.")
        index: list[str] | str = Field(description="The fields that make a row of the result.")
        columns: str = Field(description="The field whose values become fields.")
        values: str = Field(description="The field whose values stand in them.")
        aggregate: Literal["first", "last", "sum", "mean", "min", "max", "median", "count"] | None = Field(
            default=None, description="What to do with several values for one place; default: that is an error."
        )
        fill: float | str | None = Field(
            default=None, description="What stands where there is no value; default: null."
        )

    class Output(Chosen):
        """One row for each combination of 'index', in order of appearance."""

        columns: list[str] = Field(description="The new fields, in order of appearance.")

    def execute(self, input: Input, context: Context) -> Output:
        """Pivot.

        Raises:
            PermanentError: `unknown_column`, `duplicate_values`, `too_many_columns`, `table_error`.
        """
        index = [input.index] if isinstance(input.index, str) else input.index
        require_fields([*index, input.columns, input.values], input.data, "pivot")
        table = as_table(input.data)
        if not table.height:
            return self.Output(data=as_it_came(table, input.data), count=0, columns=[])
        new = table[input.columns].n_unique()
        if new > MAX_COLUMNS:
            raise PermanentError(
                f"{input.columns!r} has {new} different values, which would be as many fields; up to {MAX_COLUMNS} are made.",
                code="too_many_columns",
            )
        places = table.select([*index, input.columns])
        if input.aggregate is None and places.n_unique() < table.height:
            raise PermanentError(
                f"Several rows have the same {index} and {input.columns!r}; say with 'aggregate' what becomes of them.",
                code="duplicate_values",
            )
        how = "len" if input.aggregate == "count" else input.aggregate
        with table_errors("Pivoting", table.columns):
            wide = table.pivot(on=input.columns, index=index, values=input.values, aggregate_function=how)
            columns = [name for name in wide.columns if name not in index]
            if input.fill is not None:
                wide = _filled(wide, columns, input.fill)
        return self.Output(data=as_it_came(wide, input.data), count=wide.height, columns=columns)


def _filled(table: Any, columns: list[str], fill: float | str) -> Any:
    import polars as pl

    return table.with_columns([pl.col(name).fill_null(fill) for name in columns])


@operator(effect="pure", cost="cpu", category="rows", tags=("data",))
class Unpivot:
    """Turns fields into rows: each becomes a name and a value."""

    class Input(BaseModel):
        """The rows, and which fields go where."""

        model_config = closed({"data": _WIDE, "index": ["city"], "names_to": "month", "values_to": "rain"})

        data: Rows = Field(description="A list of objects, or a table.")
        index: list[str] | str = Field(default=[], description="The fields that stay, repeated in each row.")
        columns: list[str] | None = Field(default=None, description="The fields that become rows; default: all others.")
        names_to: str = Field(default="name", description="The field for their names.")
        values_to: str = Field(default="value", description="The field for their values.")

    class Output(Chosen):
        """One row for each field of each row, field by field."""

    def execute(self, input: Input, context: Context) -> Output:
        """Unpivot.

        Raises:
            PermanentError: `unknown_column`, `duplicate_column`, `table_error`.
        """
        index = [input.index] if isinstance(input.index, str) else input.index
        require_fields([*index, *(input.columns or [])], input.data, "unpivot")
        table = as_table(input.data)
        if not table.height:
            return self.Output(data=as_it_came(table, input.data), count=0)
        with table_errors("Unpivoting", table.columns):
            long = table.unpivot(
                on=input.columns, index=index, variable_name=input.names_to, value_name=input.values_to
            )
        return self.Output(data=as_it_came(long, input.data), count=long.height)
