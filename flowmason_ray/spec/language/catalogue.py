"""Every name that an expression can use: filters, functions, tests and methods. Nothing else can be called.

The guide's list (`docs/guide/expressions.md`) is checked against these tables. A callable takes the budget first, then the
value or the arguments; its Python signature is what a call is checked against when it is parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowmason_ray.spec.language import data_filters as data
from flowmason_ray.spec.language import list_filters as lists
from flowmason_ray.spec.language import regexes
from flowmason_ray.spec.language import text_filters as text
from flowmason_ray.spec.language.arithmetic import bounded_int
from flowmason_ray.spec.language.budget import Budget, Fault
from flowmason_ray.spec.language.values import (
    NUMBERS,
    contains,
    equal,
    is_list,
    is_object,
    kind,
    less,
)

Builtin = Callable[..., Any]


def jmespath(budget: Budget, value: Any, query: Any) -> Any:
    """What a JMESPath query finds in the value; null when it finds nothing."""
    from flowmason_ray.spec.language.queries import search  # imports the library: only for those who use it

    return search(budget, value, query)


FILTERS: Mapping[str, Builtin] = {
    "abs": data.absolute,
    "batch": lists.batch,
    "capitalize": text.capitalize,
    "count": lists.count,
    "date": data.format_date,
    "dictsort": lists.dict_sort,
    "first": lists.first,
    "float": data.to_float,
    "fromjson": data.from_json,
    "int": data.to_int,
    "items": lists.items,
    "jmespath": jmespath,
    "join": text.join,
    "keys": lists.keys,
    "last": lists.last,
    "length": lists.count,
    "list": lists.as_list,
    "lower": text.lower,
    "max": lists.maximum,
    "min": lists.minimum,
    "regex_findall": regexes.find_all,
    "regex_replace": regexes.replace,
    "regex_search": regexes.search,
    "replace": text.replace,
    "reverse": lists.reverse,
    "round": data.rounded,
    "slugify": text.slugify,
    "sort": lists.sort,
    "split": text.split,
    "string": data.to_string,
    "sum": lists.total,
    "title": text.title,
    "tojson": lists.to_json_text,
    "trim": text.trim,
    "truncate": text.truncate,
    "unique": lists.unique,
    "upper": text.upper,
    "values": lists.values,
}

FORMS = frozenset({"default", "d", "map", "select", "reject", "selectattr", "rejectattr"})
"""Filters that the compiler builds, because they tolerate a missing value or apply another filter or test."""

FUNCTIONS: Mapping[str, Builtin] = {
    "abs": data.absolute,
    "float": data.to_float,
    "int": data.to_int,
    "len": lists.count,
    "max": lists.max_of,
    "min": lists.min_of,
    "range": lists.number_range,
    "round": data.round_function,
    "str": data.to_string,
    "sum": lists.total,
}

DRAWS = ("now", "today", "uuid")
"""Functions whose value the engine records, so that a replay sees the same."""


def _asks(predicate: Callable[[Any], bool]) -> Builtin:
    """Return a test that needs no argument and costs nothing."""

    def test(budget: Budget, value: Any) -> bool:
        return predicate(value)

    return test


def _integer(what: str, value: Any) -> int:
    if type(value) is not int:
        raise Fault(f"'is {what}' asks about integers, not about {kind(value)}.")
    return bounded_int(value)


def _divisible(budget: Budget, value: Any, divisor: Any) -> bool:
    if _integer("divisibleby", divisor) == 0:
        raise Fault("'is divisibleby' was asked about 0.")
    return _integer("divisibleby", value) % divisor == 0


def _order(operator: str) -> Builtin:
    def test(budget: Budget, value: Any, other: Any) -> bool:
        return less(budget, value, other, operator)

    return test


def _not_equal(budget: Budget, value: Any, other: Any) -> bool:
    return not equal(budget, value, other)


def _in(budget: Budget, value: Any, container: Any) -> bool:
    return contains(budget, value, container)


def _equal(budget: Budget, value: Any, other: Any) -> bool:
    return equal(budget, value, other)


def _is_lower(budget: Budget, value: Any) -> bool:
    return text.lower(budget, value) == value and value != text.upper(budget, value)


def _is_upper(budget: Budget, value: Any) -> bool:
    return text.upper(budget, value) == value and value != text.lower(budget, value)


TESTS: Mapping[str, Builtin] = {
    "boolean": _asks(lambda v: type(v) is bool),
    "divisibleby": _divisible,
    "eq": _equal,
    "equalto": _equal,
    "even": _asks(lambda value: _integer("even", value) % 2 == 0),
    "false": _asks(lambda value: value is False),
    "float": _asks(lambda v: type(v) is float),
    "ge": _order(">="),
    "greaterthan": _order(">"),
    "gt": _order(">"),
    "in": _in,
    "integer": _asks(lambda v: type(v) is int),
    "iterable": _asks(lambda value: type(value) is str or is_list(value) or is_object(value)),
    "le": _order("<="),
    "lessthan": _order("<"),
    "lower": _is_lower,
    "lt": _order("<"),
    "mapping": _asks(lambda value: is_object(value)),
    "match": regexes.matches,
    "ne": _not_equal,
    "none": _asks(lambda value: value is None),
    "number": _asks(lambda value: type(value) in NUMBERS and type(value) is not bool),
    "odd": _asks(lambda value: _integer("odd", value) % 2 == 1),
    "sequence": _asks(lambda value: type(value) is str or is_list(value)),
    "string": _asks(lambda v: type(v) is str),
    "true": _asks(lambda value: value is True),
    "upper": _is_upper,
}

MISSING_TESTS = frozenset({"defined", "undefined"})
"""Tests that the compiler builds, because they ask whether a value is there."""

METHODS: Mapping[str, Mapping[str, Builtin]] = {
    "a string": {
        "capitalize": text.capitalize,
        "count": text.count_text,
        "endswith": text.ends_with,
        "find": text.find,
        "isalpha": text.is_letters,
        "isdigit": text.is_digits,
        "join": text.join_with,
        "lower": text.lower,
        "lstrip": text.trim_left,
        "replace": text.replace,
        "rstrip": text.trim_right,
        "split": text.split,
        "splitlines": text.split_lines,
        "startswith": text.starts_with,
        "strip": text.trim,
        "title": text.title,
        "upper": text.upper,
    },
    "an object": {"get": lists.get, "items": lists.items, "keys": lists.keys, "values": lists.values},
    "a list": {"count": lists.count_equal, "index": lists.index_of},
}
"""Python's spellings, for expressions written for the older FlowMason; by the kind of value that they work on."""

METHOD_NAMES = frozenset(name for methods in METHODS.values() for name in methods)
