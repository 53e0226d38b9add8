"""`sort`, `deduplicate`, `sample`: fewer rows, or the same in another order, of a list of objects or of a table.

For lists they need no polars. Both forms answer alike: a test holds them against each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.rows import Rows, is_list, require_fields
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

_PEOPLE = [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 24}, {"name": "Cyd", "age": 36}]


class Chosen(BaseModel):
    """The rows that are left."""

    data: Any = Field(description="The rows, in the form in which they came.")
    count: int = Field(description="How many there are.")


@operator(effect="pure", cost="cpu", category="rows", tags=("data",))
class Sort:
    """Sorts a list of objects, or a table, by one or several fields; rows that are equal keep their order."""

    class Input(BaseModel):
        """The rows and the fields."""

        model_config = closed({"data": _PEOPLE, "by": ["-age", "name"]})

        data: Rows = Field(description="A list of objects, or a table.")
        by: list[str] | str = Field(description="The fields, the most important first; '-age' sorts downwards.")
        descending: bool = Field(default=False, description="Whether all fields without '-' sort downwards.")
        nulls: Literal["first", "last"] = Field(default="last", description="Where null and missing values go.")
        limit: int | None = Field(default=None, ge=0, description="The most rows, after sorting.")

    class Output(Chosen):
        """The rows in order."""

    def execute(self, input: Input, context: Context) -> Output:
        """Sort.

        Raises:
            PermanentError: `unknown_column`, or `invalid_input` for values that cannot be compared.
        """
        keys = [input.by] if isinstance(input.by, str) else input.by
        if not keys:
            raise PermanentError("'by' is empty; name at least one field.", code="invalid_input")
        known: set[str] = {n for row in input.data for n in row} if is_list(input.data) else set(input.data.columns)
        fields = [k[1:] if k.startswith("-") and k not in known else k for k in keys]
        down = [field != key or input.descending for field, key in zip(fields, keys, strict=True)]
        require_fields(fields, input.data, "'by'")
        if is_list(input.data):
            found: Any = _sorted(input.data, fields, down, nulls_last=input.nulls == "last")
        else:
            table: Any = input.data
            found = _sorted_table(table, fields, down, nulls_last=input.nulls == "last")
        found = found if input.limit is None else found[: input.limit]
        return self.Output(data=found, count=len(found))


def _sorted(
    rows: list[dict[str, Any]], fields: Sequence[str], down: Sequence[bool], *, nulls_last: bool
) -> list[dict[str, Any]]:
    found = rows
    # The least important first: every sort keeps the order of what is equal, so the more important ones come on top.
    for field, descending in reversed(list(zip(fields, down, strict=True))):
        missing = [row for row in found if row.get(field) is None]
        odd = [
            row for row in found if row.get(field) != row.get(field)
        ]  # NaN, which is neither more nor less than a number
        there = [row for row in found if row.get(field) is not None and row[field] == row[field]]
        kinds = {_kind(row[field]) for row in there}
        if len(kinds) > 1 or kinds & {"an object", "a list"}:
            raise PermanentError(
                f"The field {field!r} holds {' and '.join(sorted(kinds))}, which cannot be put in order.",
                code="invalid_input",
            )
        there.sort(key=lambda row: row[field], reverse=descending)
        found = [*there, *odd, *missing] if nulls_last else [*missing, *odd, *there]
    return found


def _sorted_table(table: Any, fields: Sequence[str], down: Sequence[bool], *, nulls_last: bool) -> Any:
    import polars as pl  # there is a table, so polars is there; the component itself works without

    from flowmason_ray.components.builtin.table_errors import table_errors

    keys: list[Any] = []
    directions: list[bool] = []
    for field, descending in zip(fields, down, strict=True):
        if table.schema[field].is_float():  # NaN goes where null does, and not above all numbers
            keys.append(pl.col(field).is_nan() | pl.col(field).is_null())
            keys.append(pl.col(field).is_null())
            directions += [not nulls_last, not nulls_last]
        keys.append(pl.col(field))
        directions.append(descending)
    with table_errors("Sorting", table.columns):
        return table.sort(keys, descending=directions, nulls_last=nulls_last, maintain_order=True)


def _kind(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false",
        int: "numbers",
        float: "numbers",
        str: "texts",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "other values")


@operator(effect="pure", cost="cpu", category="rows", tags=("data",))
class Deduplicate:
    """Leaves one of the rows that agree in some fields, or in all."""

    class Input(BaseModel):
        """The rows and the fields."""

        model_config = closed({"data": _PEOPLE, "by": ["age"]})

        data: Rows = Field(description="A list of objects, or a table.")
        by: list[str] | str | None = Field(
            default=None, description="The fields that make rows equal; default, and none: all."
        )
        keep: Literal["first", "last", "none"] = Field(
            default="first", description="Which of equal rows stays; 'none' leaves only those that are alone."
        )

    class Output(Chosen):
        """The rows that are left, in their order."""

        removed: int = Field(description="How many rows went.")

    def execute(self, input: Input, context: Context) -> Output:
        """Look for equal ones.

        Raises:
            PermanentError: `unknown_column`.
        """
        by = [input.by] if isinstance(input.by, str) else input.by or None
        require_fields(by or [], input.data, "'by'")
        if is_list(input.data):
            found: Any = _distinct(input.data, by, input.keep)
        else:
            found = input.data.unique(subset=by or None, keep=input.keep, maintain_order=True)
        return self.Output(data=found, count=len(found), removed=len(input.data) - len(found))


def _distinct(rows: list[dict[str, Any]], by: list[str] | None, keep: str) -> list[dict[str, Any]]:
    # 1 and 1.0 are equal in JSON's eyes; a missing field is null, as it is in a table.
    def key(row: dict[str, Any]) -> str:
        chosen: Any = {n: v for n, v in row.items() if v is not None} if by is None else [row.get(n) for n in by]
        return json.dumps(_plain(chosen), sort_keys=True)

    keys = [key(row) for row in rows]
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, each in enumerate(keys):
        first.setdefault(each, index)
        last[each] = index
    stays = {"first": first, "last": last}.get(keep)
    if stays is None:
        return [row for i, (row, k) in enumerate(zip(rows, keys, strict=True)) if first[k] == last[k] == i]
    return [row for i, (row, k) in enumerate(zip(rows, keys, strict=True)) if stays[k] == i]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(v) for v in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in cast("dict[str, Any]", value).items()}
    return value


@operator(effect="pure", cost="cpu", category="rows", tags=("data",))
class Sample:
    """Draws some of the rows at random; the same seed draws the same rows."""

    class Input(BaseModel):
        """The rows, and how many."""

        model_config = closed({"data": _PEOPLE, "n": 2, "seed": 7})

        data: Rows = Field(description="A list of objects, or a table.")
        n: int | None = Field(default=None, ge=0, description="How many rows; more than there are means all.")
        fraction: float | None = Field(default=None, ge=0, le=1, description="Or which share of them, such as 0.1.")
        seed: int = Field(default=0, description="Which draw; change it to draw others.")
        shuffle: bool = Field(default=False, description="Whether the drawn rows come in random order; else in theirs.")

    class Output(Chosen):
        """The drawn rows."""

    def execute(self, input: Input, context: Context) -> Output:
        """Draw.

        Raises:
            PermanentError: neither or both of `n` and `fraction` (`invalid_input`).
        """
        if (input.n is None) == (input.fraction is None):
            raise PermanentError("Give either 'n' or 'fraction'.", code="invalid_input")
        total = len(input.data)
        wanted = round(total * input.fraction) if input.fraction is not None else min(cast("int", input.n), total)
        drawn = Random(input.seed).sample(range(total), wanted)
        if not input.shuffle:
            drawn.sort()
        found: Any = [input.data[i] for i in drawn] if is_list(input.data) else input.data[drawn]
        return self.Output(data=found, count=wanted)
