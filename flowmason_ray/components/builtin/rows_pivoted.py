"""`pivot` and `unpivot`: from long to wide and back, of a list of objects or of a table."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.rows import Rows, as_it_came, as_table, is_carried, is_list, require_fields
from flowmason_ray.components.builtin.rows_chosen import Chosen
from flowmason_ray.components.builtin.table_errors import table_errors
from flowmason_ray.components.builtin.table_shape import in_64_bits
from flowmason_ray.components.extras import needs
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

with needs("The table components", extra="tables"):
    import polars as pl

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
        fill: int | float | str | None = Field(
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
        if input.columns in (*index, input.values) or input.values in index:
            raise PermanentError(
                f"'index', 'columns' and 'values' are different fields; found {index}, {input.columns!r}, {input.values!r}.",
                code="invalid_input",
            )
        moved = [input.values] if input.aggregate in (None, "first", "last", "count") else []
        table = as_table(input.data, only=[*index, input.columns, input.values], moved=moved)
        if not table.height:
            return self.Output(data=as_it_came(table, input.data), count=0, columns=[])
        if any(map(is_carried, table[input.columns].head(1))):
            raise PermanentError(
                f"{input.columns!r} holds objects or lists, which cannot be names of fields.", code="invalid_input"
            )
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
            if how == "sum" and table.schema[input.values].is_integer():
                table = table.with_columns(table[input.values].cast(pl.Int128))  # 64 bits would wrap around
            wide = table.pivot(on=input.columns, index=index, values=input.values, aggregate_function=how)
            columns = [name for name in wide.columns if name not in index]
            wide = in_64_bits(wide, columns)
            if input.fill is not None and is_frame(input.data):
                wide = _filled(wide, columns, input.fill)
        done: Any = as_it_came(wide, input.data)
        if input.fill is not None and is_list(done):  # objects take any value, and the others keep their type
            new_fields = frozenset(columns)
            done = [{n: input.fill if v is None and n in new_fields else v for n, v in r.items()} for r in done]
        return self.Output(data=done, count=wide.height, columns=columns)


def _filled(table: Any, columns: list[str], fill: float | str) -> Any:
    for name in columns:
        if not (table.schema[name] == pl.String if isinstance(fill, str) else table.schema[name].is_numeric()):
            raise PermanentError(
                f"'fill' {fill!r} does not fit column {name!r} of the type {table.schema[name]}, and a column has one type.",
                code="invalid_input",
            )
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
        only = None if input.columns is None else [*index, *input.columns]
        table = as_table(input.data, only=only, moved=index)
        if not table.height:
            return self.Output(data=as_it_came(table, input.data), count=0)
        on = [n for n in table.columns if n not in index] if input.columns is None else input.columns
        _require_one_type({n: table.schema[n] for n in on if not table[n].is_null().all()})
        with table_errors("Unpivoting", table.columns):
            long = table.unpivot(
                on=input.columns, index=index, variable_name=input.names_to, value_name=input.values_to
            )
        return self.Output(data=as_it_came(long, input.data), count=long.height)


def _require_one_type(found: dict[str, Any]) -> None:
    kinds: dict[str, str] = {}
    for name, each in found.items():
        kinds.setdefault("number" if each.is_numeric() and not each.is_decimal() else str(each), name)
    if len(kinds) > 1:
        (one, a), (other, b) = list(kinds.items())[:2]
        raise PermanentError(
            f"Field {a!r} is of the type {one} and {b!r} of the type {other}; what becomes one field has one type. "
            "Name the fields in 'columns', or make them one type before.",
            code="table_error",
        )
