"""Whether a child keeps the contract of its parent: the comparison of schemas, and what is said when it fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from flowmason_ray.spec.contracts import breaks
from tests.family_kit import Data, Family, base, child, put_together, stage, told

STRING: Data = {"type": "string"}


def obj(required: list[str] | None = None, **properties: Any) -> Data:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


FITS: dict[str, tuple[Any, Any]] = {
    "the same": (obj(["a"], a=STRING), obj(["a"], a=STRING)),
    "anything": (STRING, {}),
    "true": (STRING, True),
    "nothing": (False, STRING),
    "an integer is a number": ({"type": "integer"}, {"type": "number"}),
    "more types": (STRING, {"type": ["string", "null"]}),
    "tighter bounds": ({"type": "integer", "minimum": 3, "maximum": 4}, {"type": "integer", "exclusiveMinimum": 2, "maximum": 9}),
    "shorter": ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 4}),
    "multiples": ({"type": "integer", "multipleOf": 6}, {"type": "integer", "multipleOf": 3}),
    "fewer values": ({"enum": ["a", "b"]}, {"enum": ["a", "b", "c"]}),
    "values of a type": ({"enum": ["a", "b"]}, {"type": "string", "maxLength": 1}),
    "a value": ({"const": 3}, {"type": "integer", "minimum": 3}),
    "more required": (obj(["a", "b"], a=STRING, b=STRING), obj(["a"], a=STRING)),
    "a property more": (obj(a=STRING, b=STRING), obj(a=STRING)),
    "an optional property that nobody named": (obj(a=STRING), obj(a=STRING, b={"type": "integer"})),
    "items": ({"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "number"}}),
    "a tuple": ({"type": "array", "prefixItems": [STRING], "items": False}, {"type": "array", "items": STRING}),
    "closed": ({**obj(a=STRING), "additionalProperties": False}, {**obj(a=STRING, b=STRING), "additionalProperties": False}),
    "a map": (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "additionalProperties": {"type": "number"}},
    ),
    "an alternative": (STRING, {"anyOf": [{"type": "null"}, STRING]}),
    "each alternative": ({"anyOf": [{"type": "null"}, STRING]}, {"type": ["null", "string"]}),
    "types against alternatives": ({"type": ["null", "string"]}, {"anyOf": [{"type": "null"}, STRING]}),
    "all of": ({"allOf": [STRING, {"maxLength": 3}]}, {"type": "string", "maxLength": 3}),
    "references": (
        {"$ref": "#/$defs/x", "$defs": {"x": STRING}},
        {"$ref": "#/$defs/y", "$defs": {"y": {"type": ["string", "null"]}}},
    ),
    "a tree": (
        {"$ref": "#/$defs/n", "$defs": {"n": obj(["v"], v=STRING, l={"$ref": "#/$defs/n"})}},
        {"$ref": "#/$defs/n", "$defs": {"n": obj(v=STRING, l={"$ref": "#/$defs/n"})}},
    ),
    "words": ({"type": "string", "title": "A"}, {"type": "string", "description": "B", "default": "x"}),
    "what cannot be compared but is the same": ({"type": "string", "pattern": "a+"}, {"pattern": "a+"}),
}  # fmt: skip

BREAKS: dict[str, tuple[Any, Any, str, str]] = {
    "another type": (STRING, {"type": "integer"}, "", "type"),
    "any type": ({}, STRING, "", "type"),
    "a number is no integer": ({"type": "number"}, {"type": "integer"}, "", "type"),
    "wider": ({"type": "integer", "minimum": 2}, {"type": "integer", "minimum": 3}, "", "minimum"),
    "the bound itself": (
        {"type": "integer", "minimum": 2},
        {"type": "integer", "exclusiveMinimum": 2},
        "",
        "exclusiveMinimum",
    ),
    "unbounded": ({"type": "string"}, {"type": "string", "maxLength": 3}, "", "maxLength"),
    "another value": ({"enum": ["a", "z"]}, {"enum": ["a", "b"]}, "", "enum"),
    "any value": (STRING, {"enum": ["a"]}, "", "enum"),
    "a value of another type": ({"const": 3}, STRING, "", "enum"),
    "not required": (obj(a=STRING), obj(["a"], a=STRING), "", "required"),
    "deeper": (obj(a=obj(b=STRING)), obj(a=obj(b={"type": "null"})), "/a/b", "type"),
    "items": ({"type": "array"}, {"type": "array", "items": STRING}, "/*", "type"),
    "of a tuple": (
        {"type": "array", "prefixItems": [STRING], "items": False},
        {"type": "array", "prefixItems": [{"type": "null"}]},
        "/0",
        "type",
    ),
    "open": (obj(a=STRING), {**obj(a=STRING), "additionalProperties": False}, "", "additionalProperties"),
    "one property too many": (
        {**obj(a=STRING, b=STRING), "additionalProperties": False},
        {**obj(a=STRING), "additionalProperties": False},
        "",
        "additionalProperties",
    ),
    "required, and nothing known": ({"type": "object", "required": ["a"]}, obj(a=STRING), "/a", "type"),
    "no alternative": ({"type": "integer"}, {"anyOf": [{"type": "null"}, STRING]}, "", "anyOf"),
    "one alternative too many": ({"anyOf": [{"type": "null"}, STRING]}, STRING, "", "type"),
    "not comparable": ({"type": "string"}, {"not": {"const": "a"}}, "", "not"),
    "another pattern": ({"type": "string", "pattern": "a"}, {"type": "string", "pattern": "b"}, "", "pattern"),
}


@pytest.mark.parametrize("name", FITS)
def test_it_fits(name: str) -> None:
    narrow, wide = FITS[name]
    assert breaks(narrow, wide) == []


@pytest.mark.parametrize("name", BREAKS)
def test_it_does_not_fit_and_says_where(name: str) -> None:
    narrow, wide, pointer, keyword = BREAKS[name]
    assert [(each.pointer, each.keyword) for each in breaks(narrow, wide)] == [(pointer, keyword)]


def test_a_default_makes_a_required_property_ask_for_nothing() -> None:
    wide = obj(["a"], a={"type": "string", "default": "x"})
    assert breaks(obj(a=STRING), wide, filled="wide") == []
    assert [each.keyword for each in breaks(obj(a=STRING), wide)] == ["required"]


# -- never a wrong yes -------------------------------------------------------------------------------------------------

plain = st.sampled_from([None, True, 0, 1, 2, 3, 1.5, "", "a", "bb"])
instances = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
small = st.integers(0, 3)
leaf_schemas: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number", "string", "null", ["string", "null"], "boolean"])},
        optional={
            "minimum": small,
            "exclusiveMaximum": small,
            "maxLength": small,
            "minLength": small,
            "multipleOf": st.just(2),
        },
    ),
    st.fixed_dictionaries({"enum": st.lists(plain, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"const": plain}),
    st.just(dict[str, Any]()),
)


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    closed = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("ab"), inner), "additionalProperties": st.just(False)},
        optional={"required": st.lists(st.sampled_from("ab"), unique=True), "minProperties": small},
    )  # fmt: skip
    mapped = st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner})
    listed = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner},
        optional={"prefixItems": st.lists(inner, min_size=1, max_size=2), "maxItems": small},
    )
    several = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        closed,
        mapped,
        listed,
        *(st.fixed_dictionaries({key: several}) for key in ("anyOf", "oneOf", "allOf")),
    )


schemas: st.SearchStrategy[Any] = st.recursive(leaf_schemas, composed, max_leaves=4)


@settings(max_examples=250, deadline=None)
@given(schemas, schemas, st.lists(instances, min_size=4, max_size=12))
def test_the_answer_is_never_a_wrong_yes(narrow: Data, wide: Data, values: list[Any]) -> None:
    if breaks(narrow, wide):
        return
    ours: Any = Draft202012Validator(narrow)
    theirs: Any = Draft202012Validator(wide)
    for value in values:
        assert not ours.is_valid(value) or theirs.is_valid(value), value


@settings(max_examples=100, deadline=None)
@given(schemas)
def test_every_schema_fits_itself(schema: Data) -> None:
    assert breaks(schema, schema) == []


# -- between parents and children --------------------------------------------------------------------------------------


def contract(parent: Data, childs: Data) -> list[tuple[str, str]]:
    return told(Family(base(stage("a"), **parent), child(**childs)).problems("child"))


INPUT = obj(["n"], n={"type": "integer"})
OUTPUT = obj(["total"], total={"type": "number"})


def test_schemas_are_combined() -> None:
    made = put_together(
        base(stage("a"), input_schema=INPUT, output_schema=OUTPUT),
        child(
            input_schema={"properties": {"lang": {"type": "string", "default": None}, "n": {"minimum": None}}},
            output_schema={"properties": {"total": {"type": "integer"}, "more": STRING}, "required": ["more"]},
        )
        | {"input_schema": {"properties": {"lang": {"type": "string"}}}},
    )
    assert made["input_schema"] == obj(["n"], n={"type": "integer"}, lang=STRING)
    assert made["output_schema"] == obj(["total", "more"], total={"type": "integer"}, more=STRING)


def test_a_default_that_is_null_stays_one() -> None:
    made = put_together(
        base(stage("a"), input_schema=INPUT), child(input_schema={"properties": {"x": {"default": None}}})
    )
    assert made["input_schema"]["properties"]["x"] == {"default": None}


@pytest.mark.parametrize(
    ("childs", "pointer"),
    [
        ({"required": ["n", "m"]}, "/input_schema/required"),
        ({"properties": {"n": {"type": "string"}}}, "/input_schema/properties/n/type"),
        ({"properties": {"n": {"maximum": 3}}}, "/input_schema/properties/n/maximum"),
        ({"additionalProperties": False}, "/input_schema/additionalProperties"),
    ],
)
def test_a_child_may_ask_for_no_more(childs: Data, pointer: str) -> None:
    assert contract({"input_schema": INPUT}, {"input_schema": childs}) == [("broken_contract", pointer)]


@pytest.mark.parametrize(
    ("childs", "pointer"),
    [
        ({"properties": {"total": {"type": ["number", "null"]}}}, "/output_schema/properties/total/type"),
        ({"properties": {"total": None}}, "/output_schema/properties"),
        ({"type": ["object", "null"]}, "/output_schema/type"),
    ],
)
def test_a_child_may_promise_no_less(childs: Data, pointer: str) -> None:
    found = contract({"output_schema": OUTPUT}, {"output_schema": childs})
    assert [code for code, _ in found] == ["broken_contract"]
    assert pointer == found[0][1] or childs == {"properties": {"total": None}}


@pytest.mark.parametrize(
    ("key", "childs"),
    [
        ("input_schema", {"required": []}),
        ("input_schema", {"properties": {"n": {"type": ["integer", "string"]}}}),
        ("input_schema", {"required": ["n", "x"], "properties": {"x": {"default": 1}}}),
        ("output_schema", {"properties": {"total": {"minimum": 0}}}),
        ("output_schema", {"additionalProperties": False}),
    ],
)
def test_a_child_may_ask_for_less_and_promise_more(key: str, childs: Data) -> None:
    assert contract({"input_schema": INPUT, "output_schema": OUTPUT}, {key: childs}) == []


def test_a_parent_without_a_schema_has_promised_nothing() -> None:
    assert contract({}, {"input_schema": INPUT, "output_schema": OUTPUT}) == []


def test_what_a_parent_promises_cannot_be_taken_back() -> None:
    assert contract({"output_schema": OUTPUT}, {"output_schema": None}) == [("broken_contract", "/output_schema")]
    assert contract({"input_schema": INPUT}, {"input_schema": None}) == []


def test_every_parent_has_its_own_contract() -> None:
    one = {"name": "one", "stages": [stage("a")], "input_schema": obj(x=STRING)}
    two = {"name": "two", "stages": [stage("b")], "input_schema": obj(x={"type": "integer"})}
    (problem,) = Family(one, two, child(extends=["one", "two"])).problems("child")
    assert problem.code == "broken_contract"
    assert "two@1.0.0" in problem.message
    assert problem.file == "/nowhere/one.pipeline.json"
