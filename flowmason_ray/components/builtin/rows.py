"""`Rows`: data that comes as a list of objects or as a table, and leaves in the form in which it came.

A list stays exactly the objects that it held, whatever else is in them; a table stays a table, whole columns at a time.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeGuard, cast

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from flowmason_ray.components.frames import is_frame, to_frame
from flowmason_ray.engine.json_values import json_row
from flowmason_ray.errors import PermanentError, nearest


def _rows(value: object) -> object:
    if is_frame(value):
        return value
    if not isinstance(value, list):
        raise PydanticCustomError(
            "rows_type", "expected a list of objects or a table, found {found}", {"found": type(value).__name__}
        )
    for index, row in enumerate(cast("list[object]", value)):
        if not isinstance(row, dict):
            raise PydanticCustomError(
                "rows_item",
                "expected objects in the list, and item {index} is of type {found}",
                {"index": index, "found": type(row).__name__},
            )
    return cast("object", value)


Rows = Annotated[Any, BeforeValidator(_rows)]
"""A list of objects, or a table (polars DataFrame)."""


def is_list(data: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Tell whether `data` (a `Rows`) is a list of objects."""
    return isinstance(data, list)


def as_table(data: Any) -> Any:
    """Return `data` (a `Rows`) as a polars DataFrame.

    Raises:
        PermanentError: its objects do not form columns (`table_error`).
    """
    try:
        return to_frame(data)
    except PydanticCustomError as exc:
        raise PermanentError(f"The objects do not form columns: {exc.message()}.", code="table_error") from exc


def as_it_came(table: Any, data: Any) -> Any:
    """Return a DataFrame in the form that `data` (a `Rows`) has: itself, or its rows as objects of JSON."""
    return table if is_frame(data) else [json_row(row) for row in table.to_dicts()]


def require_fields(wanted: list[str], data: Any, name: str) -> None:
    """Refuse fields that no object of the list, or no column of the table, has.

    Raises:
        PermanentError: `unknown_column`, with the nearest name.
    """
    known: list[str] = list(dict.fromkeys(k for row in data for k in row)) if is_list(data) else list(data.columns)
    if is_list(data) and not data:
        return  # of no objects nobody knows the fields
    for each in wanted:
        if each not in known:
            near = nearest(each, known)
            raise PermanentError(
                f"{name}: no object has a field {each!r}.{f' Did you mean {near!r}?' if near else ''} "
                f"There are {', '.join(map(repr, known[:20])) or 'none'}.",
                code="unknown_column",
            )
