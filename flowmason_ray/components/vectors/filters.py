"""Conditions on metadata: `{"team": "hr", "year": {"gte": 2024}}`, and what they mean, for every store alike.

A path of keys is joined by dots. A value is compared with values of its own type only: the number 1 is not the text "1" and
not true. What is not there meets no condition but `exists: false`, `ne` and `not_in`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, cast, get_args

from flowmason_ray.errors import PermanentError, nearest

Operator = Literal["eq", "ne", "in", "not_in", "gt", "gte", "lt", "lte", "contains", "exists"]
OPERATORS: tuple[str, ...] = get_args(Operator)
_ORDER = ("gt", "gte", "lt", "lte")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One condition on one path."""

    path: tuple[str, ...]
    operator: Operator
    value: Any
    """`eq`, `ne`, `contains`: null, a boolean, number or text; `in`, `not_in`: a list of those; else a number or text; `exists`: a boolean."""


def conditions(filters: Mapping[str, Any]) -> list[Condition]:
    """Return the conditions that a stage writes; all must hold. An object with operators is several; a list is `in`.

    Raises:
        PermanentError: an unknown operator, or a value that the operator cannot take (`invalid_filter`).
    """
    found: list[Condition] = []
    for written, wanted in filters.items():
        path = tuple(written.split("."))
        if not all(path) or '"' in written:
            raise PermanentError(
                f"Filter {written!r} is no path: keys joined by dots, without quotes.", code="invalid_filter"
            )
        if isinstance(wanted, dict):
            operators = cast("dict[str, Any]", wanted)
        else:
            operators = {"in" if isinstance(wanted, list) else "eq": cast("Any", wanted)}
        if not operators:
            raise PermanentError(f"Filter {written!r} is an empty object: it has no operator.", code="invalid_filter")
        for operator, value in operators.items():
            _check(written, operator, value)
            found.append(Condition(path=path, operator=cast("Operator", operator), value=value))
    return found


def _check(written: str, operator: str, value: Any) -> None:
    if operator not in OPERATORS:
        near = nearest(operator, OPERATORS)
        raise PermanentError(
            f"Filter {written!r}: there is no operator {operator!r}; there are {', '.join(OPERATORS)}."
            + (f" Did you mean {near!r}?" if near else ""),
            code="invalid_filter",
        )
    if operator in ("in", "not_in"):
        fits = isinstance(value, list) and all(map(_plain, cast("list[Any]", value)))
        expected = "a list of texts, numbers, booleans or nulls"
    elif operator == "exists":
        fits, expected = isinstance(value, bool), "true or false"
    elif operator in _ORDER:
        fits, expected = isinstance(value, int | float | str) and not isinstance(value, bool), "a number or a text"
    else:
        fits, expected = _plain(value), "a text, a number, a boolean or null"
    if not fits:
        raise PermanentError(
            f"Filter {written!r}: {operator!r} takes {expected}; found {value!r}.", code="invalid_filter"
        )
    for each in cast("list[Any]", value) if isinstance(value, list) else [value]:
        if isinstance(each, int | float) and not -(2**63) <= each < 2**63 and (type(each) is int or not isfinite(each)):
            raise PermanentError(
                f"Filter {written!r}: {each!r} cannot be compared with: numbers are finite, and whole ones have 64 bits.",
                code="invalid_filter",
            )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def meets(metadata: Mapping[str, Any], where: Sequence[Condition]) -> bool:
    """Tell whether metadata meets all conditions: what stores do in their own language, said once in ours."""
    return all(_meets(metadata, condition) for condition in where)


_MISSING = object()


def _meets(metadata: Mapping[str, Any], condition: Condition) -> bool:
    found: Any = metadata
    for key in condition.path:
        found = cast("dict[str, Any]", found).get(key, _MISSING) if isinstance(found, Mapping) else _MISSING
    operator, wanted = condition.operator, condition.value
    if operator == "exists":
        return (found is not _MISSING) == wanted
    if operator == "eq":
        return _same(found, wanted)
    if operator == "ne":
        return not _same(found, wanted)
    if operator in ("in", "not_in"):
        return any(_same(found, each) for each in wanted) == (operator == "in")
    if operator == "contains":
        return isinstance(found, list) and any(_same(each, wanted) for each in cast("list[Any]", found))
    if found is _MISSING or _type(found) != _type(wanted):
        return False
    if isinstance(found, str):  # by code points, which UTF-8's bytes keep the order of
        found, wanted = found.encode(), wanted.encode()
    return {"gt": found > wanted, "gte": found >= wanted, "lt": found < wanted, "lte": found <= wanted}[operator]


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _same(found: Any, wanted: Any) -> bool:
    return found is not _MISSING and _type(found) == _type(wanted) and found == wanted
