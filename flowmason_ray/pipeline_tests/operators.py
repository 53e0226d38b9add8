"""The operators of assertions: what each one needs, and when it holds.

`OPERATORS` is the one list; `check_value` says before anything runs whether a value suits an operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from flowmason_ray.errors import ExpressionError, InvalidPipeline
from flowmason_ray.pipeline_tests.cases import Assertion
from flowmason_ray.pipeline_tests.comparing import same
from flowmason_ray.spec.expressions import DictScope, ExpressionSyntaxError, parse_expression
from flowmason_ray.spec.input_schema import InputSchema
from flowmason_ray.spec.language.budget import Fault
from flowmason_ray.spec.language.regexes import compiled as compiled_regex
from flowmason_ray.spec.parsing import kind_of
from flowmason_ray.spec.wording import one_of

KINDS = ("null", "boolean", "integer", "number", "string", "list", "object")
"""What the operator `type` may ask for; the words of JSON Schema, but for `list` (`array` is taken too)."""

ROOTS = frozenset({"value", "output", "status", "error", "stages", "usage", "input"})
"""What an `expression` may read: the value at the path, and the parts of the document."""

EQUAL_TOLERANCE = 1e-9
"""`close_to` without a tolerance: relative, far below what anybody calculates with, far above the noise of doubles."""


class CannotCompare(Exception):
    """The value that was found is of a kind that the operator cannot compare; the message says so."""


Holds = Callable[[Any, Any], bool]
"""Tells whether an operator holds: (found, expected)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An operator."""

    words: str
    """How a failure puts it, with `{}` for the value."""
    holds: Holds
    takes: str | None = None
    """What its value must be; None: it takes none. `any`: anything."""
    missing: bool = False
    """Whether it is asked about what is not there."""


def _order(found: Any, expected: Any) -> int:
    for value in (found, expected):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise CannotCompare(f"Only numbers and texts have an order; found {kind_of(value)}.")
    if isinstance(found, str) is not isinstance(expected, str):
        raise CannotCompare(f"{kind_of(found).capitalize()} cannot be compared with {kind_of(expected)}.")
    return (found > expected) - (found < expected)


def _contains(found: Any, expected: Any) -> bool:
    if isinstance(found, str):
        if not isinstance(expected, str):
            raise CannotCompare(f"A text contains texts; {kind_of(expected)} was asked for.")
        return expected in found
    if isinstance(found, list):
        return any(same(each, expected) for each in cast("list[Any]", found))
    if isinstance(found, Mapping):
        inside = cast("Mapping[str, Any]", found)
        if isinstance(expected, Mapping):
            part = cast("Mapping[str, Any]", expected)
            return all(key in inside and same(inside[key], part[key]) for key in part)
        return expected in inside
    raise CannotCompare(f"Only texts, lists and objects contain something; found {kind_of(found)}.")


def _size(found: Any) -> int:
    if isinstance(found, str | list | Mapping):
        return len(cast("list[Any]", found))
    raise CannotCompare(f"Only texts, lists and objects have a length; found {kind_of(found)}.")


def _text(found: Any) -> str:
    if isinstance(found, str):
        return found
    raise CannotCompare(f"A text is needed; found {kind_of(found)}.")


def _matches(found: Any, expected: Any) -> bool:
    return compiled_regex(expected).search(_text(found)) is not None


def _is_kind(found: Any, expected: Any) -> bool:
    number = _is_number(found)
    whole = number and float(found).is_integer()
    tests = {
        "null": found is None,
        "boolean": isinstance(found, bool),
        "integer": whole,
        "number": number,
        "string": isinstance(found, str),
        "list": isinstance(found, list),
        "array": isinstance(found, list),
        "object": isinstance(found, Mapping),
    }
    wanted = cast("list[str]", expected) if isinstance(expected, list) else [str(expected)]
    return any(tests[each] for each in wanted)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def close(found: Any, expected: Any, tolerance: float | None) -> bool:
    """Tell whether numbers are close; lists and objects are compared number by number, everything else exactly."""
    if isinstance(found, list) and isinstance(expected, list):
        left, right = cast("list[Any]", found), cast("list[Any]", expected)
        return len(left) == len(right) and all(close(a, b, tolerance) for a, b in zip(left, right, strict=True))
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        one, other = cast("Mapping[str, Any]", found), cast("Mapping[str, Any]", expected)
        return one.keys() == other.keys() and all(close(one[key], other[key], tolerance) for key in one)
    if not (_is_number(found) and _is_number(expected)):
        return same(found, expected)
    if tolerance is None:
        return math.isclose(found, expected, rel_tol=EQUAL_TOLERANCE, abs_tol=EQUAL_TOLERANCE)
    return abs(found - expected) <= tolerance


def _never(found: Any, expected: Any) -> bool:
    raise AssertionError("judged by `judging`, which has the whole document")


OPERATORS: Mapping[str, Rule] = {
    "equals": Rule(words="be {}", takes="any", holds=same),
    "not_equals": Rule(words="not be {}", takes="any", holds=lambda f, e: not same(f, e)),
    "contains": Rule(words="contain {}", takes="any", holds=_contains),
    "not_contains": Rule(words="not contain {}", takes="any", holds=lambda f, e: not _contains(f, e)),
    "exists": Rule(words="be there", missing=True, holds=lambda f, e: True),
    "not_exists": Rule(words="not be there", missing=True, holds=lambda f, e: False),
    "greater_than": Rule(words="be more than {}", takes="number or text", holds=lambda f, e: _order(f, e) > 0),
    "greater_or_equal": Rule(words="be at least {}", takes="number or text", holds=lambda f, e: _order(f, e) >= 0),
    "less_than": Rule(words="be less than {}", takes="number or text", holds=lambda f, e: _order(f, e) < 0),
    "less_or_equal": Rule(words="be at most {}", takes="number or text", holds=lambda f, e: _order(f, e) <= 0),
    "close_to": Rule(words="be close to {}", takes="any", holds=_never),
    "matches": Rule(words="match {}", takes="regular expression", holds=_matches),
    "starts_with": Rule(words="start with {}", takes="text", holds=lambda f, e: _text(f).startswith(e)),
    "ends_with": Rule(words="end with {}", takes="text", holds=lambda f, e: _text(f).endswith(e)),
    "in": Rule(words="be one of {}", takes="list", holds=lambda f, e: any(same(f, each) for each in e)),
    "not_in": Rule(words="be none of {}", takes="list", holds=lambda f, e: not any(same(f, each) for each in e)),
    "length": Rule(words="have the length {}", takes="length", holds=lambda f, e: _size(f) == e),
    "length_greater_than": Rule(words="be longer than {}", takes="length", holds=lambda f, e: _size(f) > e),
    "length_less_than": Rule(words="be shorter than {}", takes="length", holds=lambda f, e: _size(f) < e),
    "is_empty": Rule(words="be empty", holds=lambda f, e: f is None or _size(f) == 0),
    "is_not_empty": Rule(words="not be empty", holds=lambda f, e: f is not None and _size(f) > 0),
    "is_null": Rule(words="be null", holds=lambda f, e: f is None),
    "is_not_null": Rule(words="not be null", holds=lambda f, e: f is not None),
    "is_true": Rule(words="be true", holds=lambda f, e: f is True),
    "is_false": Rule(words="be false", holds=lambda f, e: f is False),
    "type": Rule(words="be of type {}", takes="type", holds=_is_kind),
    "schema": Rule(words="fit the schema", takes="schema", holds=_never),
    "expression": Rule(words="satisfy {}", takes="expression", missing=True, holds=_never),
}
"""Every operator, in the order of the guide."""


def check_value(assertion: Assertion) -> str | None:
    """Return what is wrong with the value of an assertion, given its operator; None: nothing."""
    takes = OPERATORS[assertion.operator].takes
    value: Any = assertion.value
    written = "value" in assertion.model_fields_set
    if takes is None:
        return f"The operator {assertion.operator!r} takes no value; remove it." if written else None
    if not written:
        return f"The operator {assertion.operator!r} needs a 'value'."
    expected = _unsuitable(takes, value)
    if expected is None:
        return None
    return f"The value of operator {assertion.operator!r} must be {expected}"


def _unsuitable(takes: str, value: Any) -> str | None:
    """Return what the value must be, with a full stop; None when it is that."""
    found = f"; found {kind_of(value)}."
    match takes:
        case "number or text":
            fits = isinstance(value, int | float | str) and not isinstance(value, bool)
            return None if fits else f"a number or text{found}"
        case "text":
            return None if isinstance(value, str) else f"text{found}"
        case "list":
            return None if isinstance(value, list) else f"a list{found}"
        case "length":
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            return None if fits else f"a whole number of at least 0{found}"
        case "type":
            wanted = cast("list[Any]", value) if isinstance(value, list) else [value]
            fits = bool(wanted) and all(each in (*KINDS, "array") for each in wanted)
            return None if fits else f"{one_of(KINDS)}, or a list of these; found {value!r}."
        case "regular expression":
            return _bad_regex(value) if isinstance(value, str) else f"text: a regular expression{found}"
        case "schema":
            return (
                _bad_schema(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else f"a JSON Schema{found}"
            )
        case "expression":
            return bad_expression(value) if isinstance(value, str) else f"text: an expression{found}"
        case _:
            return None


def _bad_regex(pattern: str) -> str | None:
    try:
        compiled_regex(pattern)
    except Fault as fault:
        return f"a regular expression: {fault.message}"
    return None


def _bad_schema(schema: Mapping[str, Any]) -> str | None:
    try:
        InputSchema(schema)
    except InvalidPipeline as exc:
        return f"a JSON Schema: {exc.problems[0].message}"
    return None


def bad_expression(source: str, roots: frozenset[str] = ROOTS) -> str | None:
    """Return what a text must be that is to be an expression over `roots`; None: it is one."""
    try:
        expression = parse_expression(source)
    except ExpressionSyntaxError as exc:
        return f"an expression: {exc}"
    for reference in expression.references:
        if reference.root not in roots:
            return f"an expression over {one_of(sorted(roots))}; it reads {reference.root!r}."
    return None


def evaluate(source: str, values: Mapping[str, Any]) -> Any:
    """Return what an expression gives.

    Raises:
        CannotCompare: it cannot be evaluated on these values.
    """
    try:
        return parse_expression(source).evaluate(DictScope(values))
    except ExpressionError as exc:
        raise CannotCompare(exc.message) from None
