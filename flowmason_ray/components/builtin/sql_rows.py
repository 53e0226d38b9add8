"""Rows of a database as values of a pipeline: JSON objects, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from flowmason_ray.components.extras import needs
from flowmason_ray.components.frames import Frame
from flowmason_ray.engine.json_values import json_value
from flowmason_ray.errors import PermanentError

ResultForm = Literal["rows", "table"]


class RowsOutput(BaseModel):
    """What a query gave."""

    rows: list[dict[str, Any]] | None = Field(default=None, description="The rows as objects; null for a table.")
    table: Frame | None = Field(default=None, description="The rows as a table, if 'result' asks for one.")
    row_count: int = Field(
        description="How many rows there are; for statements that change rows how many they changed."
    )
    columns: list[str] = Field(description="The names of the columns.")
    truncated: bool = Field(default=False, description="Whether there were more than 'max_rows'.")


def rows_output(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, form: ResultForm, max_rows: int
) -> dict[str, Any]:
    """Return the fields of `RowsOutput` for rows of which one more than `max_rows` was fetched at most.

    Raises:
        PermanentError: two columns have one name (`duplicate_column`), or the rows form no table (`table_error`).
    """
    twice = sorted({name for name in columns if list(columns).count(name) > 1})
    if twice:
        raise PermanentError(
            f"Two columns of the result are called {twice[0]!r}; name one of them with AS.", code="duplicate_column"
        )
    kept = rows[:max_rows]
    facts: dict[str, Any] = {"row_count": len(kept), "columns": list(columns), "truncated": len(rows) > max_rows}
    if form == "table":
        return {**facts, "table": _table(columns, kept)}
    return {**facts, "rows": [{n: json_value(v) for n, v in zip(columns, row, strict=True)} for row in kept]}


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    with needs("A result as a table", extra="tables"):
        import polars as pl
    plain = [[str(v) if isinstance(v, UUID) else v for v in row] for row in rows]
    try:
        return pl.DataFrame(plain, schema=list(columns), orient="row", infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as exc:
        raise PermanentError(
            f"The rows do not form a table: {str(exc).partition(chr(10))[0]}. Take them with result 'rows'.",
            code="table_error",
        ) from exc
