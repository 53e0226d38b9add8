"""`Rows`: data that comes as a list of objects or as a table, and leaves in the form in which it came.

A list stays exactly the objects that it held, whatever else is in them; a table stays a table, whole columns at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
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


_CARRIED = "\0json:"
"""Begins the text as which an object or a list travels through a table: it comes back as it was, whatever is in it."""


def as_table(
    data: Any,
    *,
    like: Any = None,
    empty: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    moved: Collection[str] = (),
) -> Any:
    """Return `data` (a `Rows`) as a polars DataFrame.

    Args:
        data: What becomes a table.
        like: The `Rows` in whose form the result will leave (`as_it_came`), if it is not `data` itself.
        empty: The columns, with polars' types, of a list without objects, whose fields nobody knows.
        only: The fields of a list that are needed; None: all.
        moved: The fields of a list that are neither compared nor computed with; they may hold anything.

    Raises:
        PermanentError: its objects do not form columns (`table_error`).
    """
    if is_list(data) and not data and empty is not None:
        import polars as pl

        return pl.DataFrame(schema=dict(empty))
    try:
        return to_frame(_carried(data, only, moved) if is_list(data) and not is_frame(like) else data)
    except PydanticCustomError as exc:
        raise PermanentError(f"The objects do not form columns: {exc.message()}.", code="table_error") from exc


def as_it_came(table: Any, data: Any) -> Any:
    """Return a DataFrame in the form that `data` (a `Rows`) has: itself, or its rows as objects of JSON."""
    if is_frame(data):
        return table
    return [{n: _back(v) for n, v in json_row(row).items()} for row in table.iter_rows(named=True)]


def _carried(rows: list[dict[str, Any]], only: Collection[str] | None, moved: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows with what is no column as texts: objects and lists, and mixed types in fields that are moved only."""
    types: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and (only is None or name in only):
                types.setdefault(name, set()).add(type(cast("object", value)))
    texts = {n for n, found in types.items() if found <= {dict, list} or (len(found) > 1 and n in moved)}
    if not texts and only is None:
        return rows
    return [
        {
            n: _CARRIED + json.dumps(v, sort_keys=True) if n in texts and v is not None else v
            for n, v in row.items()
            if only is None or n in only
        }
        for row in rows
    ]


def _back(value: Any) -> Any:
    return json.loads(value[len(_CARRIED) :]) if isinstance(value, str) and value.startswith(_CARRIED) else value


def is_carried(value: Any) -> bool:
    """Tell whether a table's value stands for an object or a list."""
    return isinstance(value, dict | list) or (isinstance(value, str) and value.startswith(_CARRIED))


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
