"""Every operator: when it holds, when it does not, what it refuses to compare, and which values it cannot have."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.pipeline_tests.cases import Assertion, Case, Operator
from flowmason_ray.pipeline_tests.comparing import differences, same
from flowmason_ray.pipeline_tests.judging import judge
from flowmason_ray.pipeline_tests.operators import OPERATORS, check_value
from flowmason_ray.pipeline_tests.results import Unmet

HOLDS: list[tuple[str, Any, Any]] = [
    ("equals", {"a": [1, None]}, {"a": [1.0, None]}),
    ("not_equals", 1, True),
    ("contains", "abc", "b"),
    ("contains", [1, {"a": 1}], {"a": 1}),
    ("contains", {"a": 1, "b": 2}, {"a": 1}),
    ("contains", {"a": 1}, "a"),
    ("not_contains", [1], True),
    ("greater_than", 2, 1),
    ("greater_than", "b", "a"),
    ("greater_or_equal", 2, 2.0),
    ("less_than", 1, 2),
    ("less_or_equal", 2, 2),
    ("close_to", [0.1 + 0.2, "x"], [0.3, "x"]),
    ("matches", "order 12", r"\d+$"),
    ("starts_with", "abc", "ab"),
    ("ends_with", "abc", "bc"),
    ("in", 1, [2, 1]),
    ("not_in", 1, [True, "1"]),
    ("length", [1, 2], 2),
    ("length_greater_than", "abc", 2),
    ("length_less_than", {"a": 1}, 2),
    ("type", 2.0, "integer"),
    ("type", None, ["string", "null"]),
    ("schema", {"a": 1}, {"type": "object", "required": ["a"]}),
    ("expression", 3, "value > 2 and output.x == value"),
]
FAILS: list[tuple[str, Any, Any]] = [
    ("equals", True, 1),
    ("equals", [1], [1, 2]),
    ("not_equals", {"a": 1}, {"a": 1}),
    ("contains", {"a": 1}, {"a": 2}),
    ("contains", "abc", "d"),
    ("not_contains", "abc", "b"),
    ("greater_than", 1, 1),
    ("greater_or_equal", 0.9, 1),
    ("less_than", 1, 1),
    ("less_or_equal", 1.1, 1),
    ("close_to", 0.3001, 0.3),
    ("close_to", {"a": 1}, {"b": 1}),
    ("matches", "order", r"\d"),
    ("starts_with", "abc", "b"),
    ("ends_with", "abc", "b"),
    ("in", 1, [True]),
    ("not_in", 1, [1]),
    ("length", "abc", 2),
    ("length_greater_than", [], 0),
    ("length_less_than", [1], 1),
    ("type", True, "number"),
    ("type", 1.5, "integer"),
    ("schema", {}, {"type": "object", "required": ["a"]}),
    ("expression", 3, "value > 4"),
]
WITHOUT_VALUE: list[tuple[str, Any, Any]] = [
    ("exists", None, "nothing"),
    ("is_empty", [], [1]),
    ("is_empty", None, "x"),
    ("is_not_empty", "x", {}),
    ("is_null", None, 0),
    ("is_not_null", 0, None),
    ("is_true", True, 1),
    ("is_false", False, None),
]
"""(operator, a value for which it holds, one for which it does not)."""


def judged(operator: str, found: Any, **written: Any) -> Unmet | None:
    assertion = Assertion.model_validate({"path": "$.output.x", "operator": operator, **written})
    output = {} if found == "nothing" else {"x": found}
    document = {"output": output, "status": "succeeded", "error": None, "stages": {}, "usage": {}, "input": {}}
    unmet = judge(Case(name="c", assertions=[assertion]), document)
    return unmet[0][0] if unmet else None


def test_every_operator_is_defined_and_tried():
    assert set(OPERATORS) == set(get_args(Operator))
    tried = {o for o, _, _ in HOLDS} & {o for o, _, _ in FAILS} | {o for o, _, _ in WITHOUT_VALUE} | {"not_exists"}
    assert tried == set(OPERATORS)


@pytest.mark.parametrize(("operator", "found", "value"), HOLDS)
def test_an_operator_holds(operator: str, found: Any, value: Any):
    assert judged(operator, found, value=value) is None


@pytest.mark.parametrize(("operator", "found", "value"), FAILS)
def test_an_operator_does_not_hold(operator: str, found: Any, value: Any):
    unmet = judged(operator, found, value=value)
    assert unmet is not None
    assert unmet.operator == operator
    assert unmet.expected == value
    assert same(unmet.found, found)


@pytest.mark.parametrize(("operator", "good", "bad"), WITHOUT_VALUE)
def test_an_operator_without_a_value(operator: str, good: Any, bad: Any):
    assert judged(operator, good) is None
    assert judged(operator, bad) is not None


def test_what_is_not_there_is_not_there_and_nothing_else():
    assert judged("not_exists", "nothing") is None
    assert judged("not_exists", None) is not None
    unmet = judged("equals", "nothing", value=None)
    assert unmet is not None
    assert "$.output.x is not there" in unmet.message
    assert judged("expression", "nothing", value="value is none") is None


def test_a_tolerance_is_absolute():
    assert judged("close_to", [10.4, 1], value=[10, 1], tolerance=0.5) is None
    assert judged("close_to", [10.6], value=[10], tolerance=0.5) is not None


@pytest.mark.parametrize(
    ("operator", "found", "value", "reason"),
    [
        ("greater_than", [1], 1, "Only numbers and texts have an order; found a list"),
        ("greater_than", True, 1, "found true"),
        ("less_than", "1", 1, "Text cannot be compared with a number"),
        ("contains", 12, 1, "found a number"),
        ("contains", "abc", 1, "A text contains texts"),
        ("length", 12, 2, "found a number"),
        ("matches", None, "a", "A text is needed; found null"),
        ("expression", "a", "value + 1", "$.output.x must satisfy"),
    ],
)
def test_what_cannot_be_compared_is_said(operator: str, found: Any, value: Any, reason: str):
    unmet = judged(operator, found, value=value)
    assert unmet is not None
    assert reason in unmet.message


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"operator": "is_null", "value": None}, "takes no value"),
        ({"operator": "equals"}, "needs a 'value'"),
        ({"operator": "greater_than", "value": True}, "a number or text; found true"),
        ({"operator": "in", "value": 1}, "a list"),
        ({"operator": "length", "value": -1}, "at least 0"),
        ({"operator": "length", "value": 1.5}, "a whole number"),
        ({"operator": "type", "value": "text"}, "'null', 'boolean'"),
        ({"operator": "type", "value": []}, "found []"),
        ({"operator": "matches", "value": "(a"}, "not a regular expression"),
        ({"operator": "matches", "value": r"(a)\1"}, "RE2"),
        ({"operator": "schema", "value": {"type": "text"}}, "a JSON Schema"),
        ({"operator": "expression", "value": "value >"}, "an expression"),
        ({"operator": "expression", "value": "vars.x"}, "it reads 'vars'"),
        ({"operator": "starts_with", "value": 1}, "text"),
    ],
)
def test_a_value_that_an_operator_cannot_have(written: dict[str, Any], reason: str):
    wrong = check_value(Assertion.model_validate(written))
    assert wrong is not None
    assert reason in wrong


@pytest.mark.parametrize(("operator", "found", "value"), [*HOLDS, *FAILS])
def test_the_values_of_these_tests_are_suitable(operator: str, found: Any, value: Any):
    assert check_value(Assertion.model_validate({"operator": operator, "value": value})) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_structures_differ_somewhere_exactly_when_they_are_not_the_same(a: Any, b: Any):
    assert same(a, a)
    assert same(a, b) == same(b, a)
    assert differences({"x": a}, {"x": a}) == []
    assert bool(differences({"x": a}, {"x": b})) is not same(a, b)


def test_differences_name_the_place():
    expected = {"a": [1, {"b": 2}], "gone": 0, "each[0]/x": 1}
    found = {"a": [1, {"b": 3}, 4], "new": 0, "each[0]/x": 2}
    assert differences(expected, found) == [
        "~ a[1].b: expected 2; found 3",
        "+ a[2]: not expected; found 4",
        "- gone: missing; expected 0",
        "~ ['each[0]/x']: expected 1; found 2",
        "+ new: not expected; found 0",
    ]


def test_many_differences_are_cut():
    lines = differences(list(range(100)), [])
    assert len(lines) == 21
    assert "more than 20" in lines[-1]
