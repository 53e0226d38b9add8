"""`Frame`: how a component says that a field is a table.

    class Input(BaseModel):
        table: Frame

A frame is a polars DataFrame. It travels between stages as it is (Arrow), in the output's dump too: whoever stores an
output recognises frames by their type. A LazyFrame is collected by the component that makes it and never leaves it.

Besides DataFrames, a `Frame` field accepts a pyarrow Table (no copy, where the types allow it) and a list of row objects:
rows written literally in a pipeline, or the output of a stage that speaks JSON. That conversion is the only implicit one,
and it goes one way: no frame is ever turned into rows unless a stage asks for it.

polars is imported by the first value that needs it, so that components which merely accept frames load without it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from flowmason_ray.components.extras import needs

if TYPE_CHECKING:
    from polars import DataFrame


def is_frame(value: object) -> TypeGuard[DataFrame]:
    """Tell whether `value` is a polars DataFrame, without importing polars."""
    polars = sys.modules.get("polars")
    return polars is not None and isinstance(value, polars.DataFrame)


def to_frame(value: object) -> DataFrame:
    """Return `value` as a DataFrame: a DataFrame itself, a pyarrow Table, or a list of row objects.

    Raises:
        PydanticCustomError: `value` is none of these (`frame_type`), or its rows do not form columns (`frame_rows`).
        MissingExtra: polars is not installed.
    """
    if is_frame(value):
        return value
    with needs("A table", extra="tables"):
        import polars as pl
    if isinstance(value, pl.LazyFrame):
        raise PydanticCustomError("frame_type", "a LazyFrame must be collected by the component that makes it")
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and isinstance(value, pyarrow.Table):
        return pl.DataFrame(cast("Any", value))
    if isinstance(value, list):
        rows = cast("list[object]", value)
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise PydanticCustomError(
                    "frame_rows",
                    "a table given as a list needs objects as rows, and row {index} is of type {found}",
                    {"index": index, "found": type(row).__name__},
                )
        _one_type_each(cast("list[dict[str, object]]", rows))
        try:
            # Every row is looked at for its type: a column whose first values are null is common in JSON.
            return pl.DataFrame(rows, infer_schema_length=None)
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as exc:
            raise PydanticCustomError(
                "frame_rows", "the rows do not form a table: {why}", {"why": str(exc).partition("\n")[0]}
            ) from exc
    raise PydanticCustomError(
        "frame_type",
        "expected a table (the output 'table' of a table_* stage) or a list of row objects, found {found}",
        {"found": type(value).__name__},
    )


_KINDS: dict[type, str] = {
    bool: "true or false", int: "numbers", float: "numbers", str: "texts", list: "lists", dict: "objects",
}  # fmt: skip
_EXACT = 2**53
"""Whole numbers up to here are floats, too."""


def _one_type_each(rows: list[dict[str, object]]) -> None:
    """Refuse rows in which a column mixes types: polars would write 1 as "1" and true as 1.0, and pair them with others.

    Raises:
        PydanticCustomError: names the column, two rows and their types (`frame_rows`).
    """
    for name in dict.fromkeys(key for row in rows for key in row):
        _check_type(str(name), [row.get(name) for row in rows], range(len(rows)))


def _check_type(name: str, values: list[object], rows: Sequence[int]) -> None:
    types = set(map(type, values))
    kinds = {_KINDS[each] for each in types if each in _KINDS}
    if len(kinds) > 1:
        first = {_KINDS[type(v)]: row for v, row in reversed(list(zip(values, rows, strict=True))) if type(v) in _KINDS}
        (one, a), (other, b) = sorted(first.items(), key=lambda each: each[1])[:2]
        raise _mixed(name, f"{one} (row {a}) and {other} (row {b})")
    if int in types and float in types:
        for value, row in zip(values, rows, strict=True):
            if isinstance(value, int) and abs(value) > _EXACT:
                real = rows[[type(v) for v in values].index(float)]
                raise _mixed(
                    name, f"the whole number {value} (row {row}), which is none beside a fraction (row {real})"
                )
    if dict in types:
        objects = [(cast("dict[str, object]", v), row) for v, row in zip(values, rows, strict=True) if type(v) is dict]
        for key in dict.fromkeys(key for each, _ in objects for key in each):
            _check_type(f"{name}.{key}", [each.get(key) for each, _ in objects], [row for _, row in objects])
    if list in types:
        lists = [(cast("list[object]", v), row) for v, row in zip(values, rows, strict=True) if type(v) is list]
        _check_type(f"{name}[]", [v for each, _ in lists for v in each], [row for each, row in lists for _ in each])


def _mixed(name: str, found: str) -> PydanticCustomError:
    return PydanticCustomError(
        "frame_rows",
        "the rows do not form a table: column {column} holds {found}, and a column has one type; make it one before",
        {"column": repr(name), "found": found},
    )


def _keep(value: object) -> object:
    return value


class _FrameAnnotation:
    """Teaches pydantic the field: validation by `to_frame`, and a dump that leaves the DataFrame untouched."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            to_frame,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _keep, return_schema=core_schema.any_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": "object",
            "x-frame": True,
            "description": "A table (polars DataFrame). A list of row objects is accepted and converted.",
        }


if TYPE_CHECKING:
    Frame = DataFrame
else:
    Frame = Annotated[Any, _FrameAnnotation]
