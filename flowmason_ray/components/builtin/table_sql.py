"""`table_sql`: one SQL query over named tables, run by polars.

Values belong into `parameters` and are written into the query as literals, so that a quote in a value stays a quote:

    "query": "select * from flights where origin = :airport", "parameters": {"airport": "{{item}}"}

polars' table functions (`read_csv('…')` and its siblings) would open any file or URL past the project's borders: refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.sql_text import TOKEN, unknown_parameter
from flowmason_ray.components.builtin.table_errors import brief, shown, table_errors
from flowmason_ray.components.extras import needs
from flowmason_ray.components.frames import Frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, nearest

with needs("The table components", extra="tables"):
    import polars as pl
    from polars.exceptions import SQLInterfaceError, SQLSyntaxError

_READS_FILES = re.compile(r"""\bread_\w+["`\]]?\s*\(""", re.IGNORECASE)
"""A call of a table function, in a query without texts and comments."""
_SCAN = re.compile(r"^\s*\w+(?: \w+){0,3} SCAN \[", re.MULTILINE)
"""How polars' plan shows a file that it would read: the second lock, should the first one be picked."""


@operator(effect="pure", cost="cpu", category="tables")
class TableSql:
    """Runs a SQL query over named tables."""

    class Input(BaseModel):
        """The tables and the query."""

        model_config = ConfigDict(extra="forbid")

        tables: dict[str, Frame] = Field(description="{name in the query: table}.")
        query: str = Field(description="One SQL query (polars' dialect: joins, window functions, CTEs, …).")
        parameters: dict[str, Any] = Field(
            default={},
            description="{name: value} for :name in the query: texts, numbers, booleans, null, or a list for 'in :name'.",
        )

    class Output(BaseModel):
        """The result."""

        table: Frame = Field(description="The result of the query.")
        rows: int = Field(description="How many rows it has.")
        columns: list[str] = Field(description="The names of its columns.")

    def execute(self, input: Input, context: Context) -> Output:
        """Run the query.

        Raises:
            PermanentError: `sql_error`, `unknown_table`, `unknown_column`, `unknown_parameter`, `table_error`.
        """
        if _READS_FILES.search(_code(input.query)):
            raise _no_files()
        query = with_parameters(input.query, input.parameters)
        columns = sorted({c for t in input.tables.values() for c in t.columns})
        with table_errors("The query", columns, of="the tables of the query"):
            try:
                lazy = pl.SQLContext(cast("Any", input.tables)).execute(query)
                if _SCAN.search(lazy.explain(optimized=False)):
                    raise _no_files()
                table = lazy.collect()
            except (SQLInterfaceError, SQLSyntaxError) as exc:
                raise _sql_error(exc, input) from exc
        return self.Output(table=table, rows=table.height, columns=table.columns)


def _code(query: str) -> str:
    """Return the query with a blank for each text and each comment: what is left are names, numbers and signs."""
    return TOKEN.sub(lambda token: token.group() if token.group()[0] in '":' else " ", query)


def _no_files() -> PermanentError:
    return PermanentError(
        "A query reads the tables that it is given, no files. Read the file with table_read and pass its table.",
        code="sql_error",
    )


def _sql_error(exc: Exception, input: TableSql.Input) -> PermanentError:
    missing = re.search(r"relation '([^']*)' was not found", str(exc))
    if missing is None:
        return PermanentError(f"The query cannot be run: {brief(exc)}", code="sql_error")
    near = nearest(missing[1], input.tables)
    hint = f" Did you mean {near!r}?" if near else ""
    tables = shown(list(input.tables)) if input.tables else "no tables"
    return PermanentError(
        f"There is no table {missing[1]!r} in the query.{hint} It has {tables}.", code="unknown_table"
    )


def with_parameters(query: str, parameters: Mapping[str, Any]) -> str:
    """Return `query` with each `:name` outside texts, quoted names and comments replaced by its value as a literal.

    Raises:
        PermanentError: a name that has no value (`unknown_parameter`), or a value that SQL has no literal for.
    """

    def put(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match.group()
        if name not in parameters:
            raise unknown_parameter(name, parameters)
        return literal(parameters[name], name)

    return TOKEN.sub(put, query)


def literal(value: Any, name: str) -> str:
    """Return `value` as SQL writes it; a list in parentheses, as `in` wants it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return f"({value})" if value < 0 else str(value)
    if isinstance(value, float) and math.isfinite(value):
        return f"CAST('{value!r}' AS DOUBLE)"  # a bare 1.1 would be a decimal
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list) and value:
        return "(" + ", ".join(literal(v, name) for v in cast("list[Any]", value)) + ")"
    raise PermanentError(
        f"The parameter {name!r} must be a text, a number, a boolean, null or a non-empty list of these, found {type(cast('object', value)).__name__!r}.",
        code="invalid_parameter",
    )
