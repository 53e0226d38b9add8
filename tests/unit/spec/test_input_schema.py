"""Input and output schemas: defaults, violations, formats, and schemas that are wrong themselves."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.errors import InvalidInput, InvalidPipeline, Problem
from flowmason_ray.spec.formats import FORMATS
from flowmason_ray.spec.input_schema import InputSchema, apply_input_schema, check_output, check_schema


def violations(schema: dict[str, Any], value: object) -> list[Problem]:
    with pytest.raises(InvalidInput) as caught:
        apply_input_schema(schema, value)
    return list(caught.value.problems)


def the_violation(schema: dict[str, Any], value: object) -> Problem:
    (problem,) = violations(schema, value)
    return problem


class TestDefaults:
    def test_without_a_schema_anything_passes(self):
        value = {"a": object()}
        assert apply_input_schema(None, value) is value
        assert check_output(None, value) == []

    def test_nested(self):
        schema = {
            "properties": {
                "o": {"default": {}, "properties": {"x": {"default": 1}, "y": {"$ref": "#/$defs/y"}}},
                "absent": {"properties": {"x": {"default": 1}}},
                "l": {"items": {"properties": {"q": {"default": [1]}}}},
                "t": {
                    "prefixItems": [{"properties": {"p": {"default": 0}}}],
                    "items": {"properties": {"r": {"default": 2}}},
                },
            },
            "allOf": [{"properties": {"all": {"default": "of"}}}],
            "$defs": {"y": {"default": "why"}},
        }
        value: dict[str, Any] = {"l": [{}, {"q": 2}, 3], "t": [{}, {}]}
        before = copy.deepcopy(value)
        assert apply_input_schema(schema, value) == {
            "l": [{"q": [1]}, {"q": 2}, 3],
            "t": [{"p": 0}, {"r": 2}],
            "o": {"x": 1, "y": "why"},
            "all": "of",
        }
        assert value == before

    def test_defaults_are_not_shared_between_runs(self):
        schema = InputSchema({"properties": {"l": {"default": []}}})
        schema.apply({})["l"].append(1)
        assert schema.apply({}) == {"l": []}

    def test_null_is_a_value(self):
        assert apply_input_schema({"properties": {"a": {"default": 1}}}, {"a": None}) == {"a": None}

    def test_defaults_satisfy_required(self):
        assert apply_input_schema({"required": ["a"], "properties": {"a": {"default": 1}}}, {}) == {"a": 1}

    def test_not_inside_alternatives(self):
        schema = {"anyOf": [{"properties": {"a": {"default": 1}}}]}
        assert apply_input_schema(schema, {}) == {}

    def test_a_schema_that_contains_itself_ends(self):
        node: dict[str, Any] = {"properties": {n: {"$ref": "#/$defs/n", "default": {}} for n in ("l", "r")}}
        filled = apply_input_schema({"$ref": "#/$defs/n", "$defs": {"n": node}}, {})
        assert filled == {"l": {"r": {}}, "r": {"l": {}}}

    def test_a_schema_that_asks_for_endless_defaults_is_refused(self):
        node: dict[str, Any] = {"properties": {f"k{i}": {"$ref": "#/$defs/n", "default": {}} for i in range(12)}}
        problem = the_violation({"$ref": "#/$defs/n", "$defs": {"n": node}}, {})
        assert problem.code == "too_many_defaults"


class TestViolations:
    @pytest.mark.parametrize(
        ("schema", "value", "code", "expected", "found"),
        [
            ({"type": "integer"}, "2", "wrong_type", "a whole number", "'2'"),
            ({"type": ["string", "null"]}, 2, "wrong_type", "text or null", "2"),
            ({"type": "object"}, [], "wrong_type", "an object", "[]"),
            ({"minimum": 3}, 2, "out_of_range", "at least 3", "2"),
            ({"exclusiveMaximum": 3}, 3, "out_of_range", "less than 3", "3"),
            ({"minLength": 2}, "a", "out_of_range", "at least 2 characters long", "'a'"),
            ({"maxItems": 1}, [1, 2], "out_of_range", "a list of at most 1 items", "[1, 2]"),
            ({"multipleOf": 5}, 7, "out_of_range", "a multiple of 5", "7"),
            ({"enum": ["red", "green"]}, "blue", "invalid_choice", "'red' or 'green'", "'blue'"),
            ({"enum": [1, None]}, 2, "invalid_choice", "one of [1, null]", "2"),
            ({"const": {"a": 1}}, 2, "invalid_choice", '{"a": 1}', "2"),
            ({"pattern": "^a"}, "b", "pattern", "text that matches '^a'", "'b'"),
            ({"format": "date"}, "2024-02-30", "format", "text in the format 'date'", "'2024-02-30'"),
            ({"uniqueItems": True}, [1, 1], "not_unique", "a list without repeated items", "[1, 1]"),
            ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 3, "wrong_type", "text or null", "3"),
            ({"not": {"type": "null"}}, None, "not_allowed", 'something that does not fit {"type": "null"}', "null"),
        ],
    )
    def test_one(self, schema: dict[str, Any], value: object, code: str, expected: str, found: str):
        problem = the_violation({"properties": {"a": schema}}, {"a": value})
        assert (problem.code, problem.path, problem.expected, problem.found) == (code, "/a", expected, found)
        assert problem.message == f"'/a' in the input must be {expected}; found {found}."

    def test_false_and_unevaluated(self):
        problem = the_violation({"properties": {"a": False}}, {"a": 1})
        assert (problem.code, problem.path, problem.expected) == ("not_allowed", "/a", "absent")
        assert the_violation({"unevaluatedProperties": False}, {"a": 1}).code == "not_allowed"
        assert the_violation({"propertyNames": {"maxLength": 1}}, {"ab": 1}).code == "out_of_range"

    def test_all_at_once_in_order(self):
        schema: dict[str, Any] = {
            "type": "object",
            "required": ["name", "count"],
            "additionalProperties": False,
            "properties": {"name": {}, "count": {"type": "integer"}, "when": {"format": "date-time"}},
        }
        found = violations(schema, {"nmae": "x", "when": "today", "zzz": 1})
        assert [(p.code, p.path, p.nearest) for p in found] == [
            ("missing_field", "/count", None),
            ("missing_field", "/name", None),
            ("not_allowed", "/nmae", "name"),
            ("format", "/when", None),
            ("not_allowed", "/zzz", None),
        ]
        assert found[0].expected == "a whole number"
        assert "'nmae'" in (found[1].hint or "")
        assert found[4].hint == "Allowed: name, count, when."

    def test_dependent_required(self):
        problem = the_violation({"dependentRequired": {"card": ["address"]}}, {"card": 1})
        assert (problem.code, problem.path) == ("missing_field", "/address")

    def test_pattern_properties_are_allowed(self):
        schema: dict[str, Any] = {"additionalProperties": False, "patternProperties": {"^x-": {}}}
        assert the_violation(schema, {"x-a": 1, "y": 2}).path == "/y"

    def test_alternatives_explain_the_one_that_was_meant(self):
        schema = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["z"]}]}
        problem = the_violation({"properties": {"u": schema}}, {"u": {"k": 1}})
        assert problem.code == "no_alternative"
        assert problem.message.endswith("The closest one says: '/u' in the input has no 'z'.")

    def test_ambiguous(self):
        assert the_violation({"oneOf": [{}, {}]}, 1).code == "ambiguous"

    def test_long_values_are_shortened(self):
        problem = the_violation({"type": "object"}, ["x" * 1000])
        assert len(problem.found or "") == 60

    def test_a_value_that_is_nested_without_end(self):
        value: Any = []
        for _ in range(3000):
            value = [value]
        assert the_violation({"items": {"$ref": "#"}, "type": "array"}, value).code == "nested_too_deeply"
        assert check_output({"$ref": "#"}, 1)[0].code == "nested_too_deeply"

    def test_output_is_called_output(self):
        (problem,) = check_output({"type": "object"}, 3)
        assert problem.message == "The output must be an object; found 3."


class TestSchemas:
    def problems(self, schema: dict[str, Any]) -> list[tuple[str, str, str]]:
        return [(p.code, p.path, p.severity) for p in check_schema(schema)]

    @pytest.mark.parametrize(
        ("schema", "path"),
        [
            ({"type": "objekt"}, "/type"),
            ({"properties": {"a": {"minimum": "x"}}}, "/properties/a/minimum"),
            ({"properties": {"a": {"pattern": "("}}}, "/properties/a/pattern"),
            ({"properties": {"a": {"pattern": "(?=a)b"}}}, "/properties/a/pattern"),
            ({"patternProperties": {r"^(a)\1": {}}}, r"/patternProperties/^(a)\1"),
            ({"items": [True]}, "/items"),
            ({"required": "a"}, "/required"),
        ],
    )
    def test_invalid(self, schema: dict[str, Any], path: str):
        assert self.problems(schema) == [("invalid_schema", path, "error")]
        with pytest.raises(InvalidPipeline):
            InputSchema(schema)

    @pytest.mark.timeout(60)  # that it ends at all is the property: with a matcher that backtracks it takes years
    def test_patterns_cannot_hang(self):
        text, evil = "a" * 60 + "!", "^(a+)+$"
        assert [p.code for p in InputSchema({"pattern": evil}).violations(text)] == ["pattern"]
        assert self.problems({"pattern": evil, "default": text}) == [("invalid_default", "/default", "error")]
        schema: dict[str, Any] = {"patternProperties": {evil: {}}, "additionalProperties": False}
        assert [p.code for p in InputSchema(schema).violations({text: 1})] == ["not_allowed"]
        assert InputSchema(schema).violations({"aaa": 1}) == []

    def test_patterns_are_those_of_json_schema(self):
        for pattern, good, bad in (
            ("^a$", "a", "a\n"),
            (r"^\u00e9$", "é", "e"),
            (r"^\\u0061$", "\\u0061", "a"),
            (r"^\d$", "1", "١"),
        ):
            assert InputSchema({"pattern": pattern}).violations(good) == [], pattern
            assert len(InputSchema({"pattern": pattern}).violations(bad)) == 1, pattern
        assert len(InputSchema({"pattern": "^a$"}).violations("\ud800")) == 1

    def test_multiples_are_decimal(self):
        for step, good, bad in ((0.1, [0.3, 1.1, -0.7, 5], 0.35), (0.01, [19.99, 1e300], 0.005), (3, [9, 3.0], 10)):
            for value in good:
                assert InputSchema({"multipleOf": step}).violations(value) == [], (step, value)
            assert len(InputSchema({"multipleOf": step}).violations(bad)) == 1
        assert len(InputSchema({"multipleOf": 0.1}).violations(float("inf"))) == 1

    def test_references_are_never_fetched(self):
        assert self.problems({"$ref": "http://127.0.0.1:9/s.json"}) == [("external_ref", "/$ref", "error")]
        assert self.problems({"items": {"$ref": "other.json#/a"}}) == [("external_ref", "/items/$ref", "error")]
        assert self.problems({"$ref": "#/$defs/q"}) == [("unresolved_ref", "/$ref", "error")]

    def test_references_inside(self):
        schema = {
            "$id": "https://example.org/s",
            "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "inner"}, "c": {"$ref": "#anchor"}},
            "$defs": {
                "a": {"type": "integer"},
                "b": {"$id": "inner", "$ref": "#/$defs/own", "$defs": {"own": {"type": "string"}}},
                "c": {"$anchor": "anchor", "type": "null"},
            },
        }
        assert check_schema(schema) == []
        assert [p.path for p in violations(schema, {"a": "x", "b": 1, "c": 2})] == ["/a", "/b", "/c"]

    def test_a_property_may_be_called_ref(self):
        assert check_schema({"properties": {"$ref": {"type": "string"}}, "enum": [{"$ref": "x"}]}) == []

    def test_defaults_must_fit(self):
        assert self.problems({"properties": {"a": {"type": "string", "default": 4}}}) == [
            ("invalid_default", "/properties/a/default", "error")
        ]

    def test_warnings(self):
        schema = {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"format": "datetime"}}}
        assert self.problems(schema) == [
            ("other_dialect", "/$schema", "warning"),
            ("unknown_format", "/properties/a/format", "warning"),
        ]
        assert check_schema(schema)[1].nearest == "date-time"
        assert apply_input_schema(schema, {"a": "x"}) == {"a": "x"}


GOOD_AND_BAD = {
    "date": (["2024-02-29"], ["2023-02-29", "20240229", "2024-2-9", "٢٠٢٤-02-29"]),
    "time": (
        ["12:30:00Z", "23:59:60Z", "00:29:60+00:30", "12:30:00.25-07:00"],
        ["12:30:00", "24:00:00Z", "12:00:60Z", "1:00:00Z"],
    ),
    "date-time": (
        ["2024-02-29T12:30:00Z", "1985-04-12t23:20:50.52z"],
        ["2024-02-29 12:30:00Z", "2024-02-29T12:30:00", "2024-02-29"],
    ),
    "duration": (["P1Y2M3DT4H5M6S", "PT30M", "P2W"], ["P", "PT", "P1YT", "1D", "P1W2D", "P1H"]),
    "uri": (
        ["https://a.b/c?d=e#f", "mailto:a@b.c", "urn:isbn:1", "http://[::1]:80/", "http://u:p@h"],
        [
            "a.b/c",
            "//a.b",
            "http://a b",
            "http://[::1",
            "http://a/%zz",
            "http://h:x/",
            "1a:b",
            "http://a/[b]",
            "",
            "h:a#b#c",
        ],
    ),
    "uri-reference": (["/a", "//a.b/c", "a/b:c", "#f", "", "?q"], ["a b", "1:b", "\\\\x", "ä"]),
    "hostname": (["a.b-c.d", "localhost", "1.a"], ["-a", "a-", "a..b", "a_b", "", "a." * 130, "x" * 64]),
    "email": (
        ["a.b+c@d.e", '"a b"@c', "a@[127.0.0.1]", "a@[IPv6:::1]"],
        ["a", "@b", "a@", "a b@c", ".a@b", "a@-b", "a@[x]"],
    ),
    "ipv4": (["127.0.0.1"], ["127.0.0", "256.0.0.1", "01.0.0.1", "::1"]),
    "ipv6": (["::1", "2001:db8::1"], ["::1%eth0", ":::", "127.0.0.1"]),
    "uuid": (
        ["f81d4fae-7dec-11d0-a765-00a0c91e6bf6"],
        ["f81d4fae7dec11d0a76500a0c91e6bf6", "f81d4fae-7dec-11d0-a765-00a0c91e6bfg"],
    ),
    "json-pointer": (["", "/a~0b/~1"], ["a", "/~2", "/~"]),
    "regex": (["^a+$"], ["(", "[a"]),
}


def test_every_format_has_examples():
    assert set(GOOD_AND_BAD) == set(FORMATS)


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_formats(name: str):
    schema = InputSchema({"format": name})
    good, bad = GOOD_AND_BAD[name]
    assert [text for text in good if schema.violations(text)] == []
    assert [text for text in bad if not schema.violations(text)] == []
    assert schema.violations(5) == []


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.text() | st.text(alphabet="0123456789-:TZ+.PHM@[]/%#?a", max_size=30))
def test_formats_answer_on_any_text(name: str, text: str):
    assert FORMATS[name](text) in (True, False)


def test_jsonschema_is_imported_only_when_there_is_a_schema():
    code = (
        "import sys, flowmason_ray.spec.input_schema as s, flowmason_ray.spec.loader as l; "
        'l.load_pipeline_text(\'{"name": "p"}\'); s.InputSchema(None).apply({}); '
        "sys.exit('jsonschema' in sys.modules or 'jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("wrong", [{"type": 3}, {"anyOf": "x"}, {"enum": 3}, {"type": "#/x"}])
def test_what_an_unknown_keyword_holds_is_a_schema_only_when_it_is_referred_to(wrong: dict[str, Any]) -> None:
    assert check_schema({"mine": {"default": 3, **wrong}}) == []
    problems = check_schema({"mine": {"default": 3, **wrong}, "properties": {"a": {"$ref": "#/mine"}}})
    assert [(p.code, p.path) for p in problems] == [("invalid_schema", "/properties/a/$ref")]
