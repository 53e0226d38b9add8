from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from flowmason_ray.components.builtin.json_transform import JsonTransform
from flowmason_ray.components.builtin.logger import Logger
from flowmason_ray.components.builtin.schema_validate import SchemaValidate
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext


def transform(data: Any, **options: Any) -> JsonTransform.Output:
    return JsonTransform().execute(JsonTransform.Input(data=data, **options), RecordingContext())


USER = {"user": {"name": "Ann", "tags": ["a", "b"], "address": {"city": "Bonn"}}, "raw": '{"n": [1, 2]}'}


def test_mapping_takes_paths_expressions_and_fixed_values():
    out = transform(
        USER,
        mapping={
            "name": "$.user.name",
            "city": "user.address.city",
            "count": "length(user.tags)",
            "fixed": '"text"',
            "n": 7,
            "list": [1],
        },
    )
    assert out.result == {"name": "Ann", "city": "Bonn", "count": 2, "fixed": "text", "n": 7, "list": [1]}
    assert out.fields_missing == []
    assert out.fields_mapped == ["name", "city", "count", "fixed", "n", "list"]


def test_missing_fields_are_null_and_listed_unless_they_have_a_default():
    context = RecordingContext()
    out = JsonTransform().execute(
        JsonTransform.Input(
            data=USER, mapping={"x": "user.nope", "y": "user.nope", "z": "user.name"}, defaults={"y": 5}
        ),
        context,
    )
    assert out.result == {"x": None, "y": 5, "z": "Ann"}
    assert out.fields_missing == ["x"]
    assert out.fields_mapped == ["z"]
    assert "belongs into 'values'" in context.messages("warning")[0]


@pytest.mark.parametrize("data", [{"a.b": 1, "a": {"b": 2}}, {"a": {"b": 2}, "a.b": 1}])
def test_flattening_loses_no_value(data: dict[str, Any]):
    with pytest.raises(PermanentError, match=r"'a\.b'") as caught:
        transform(data, flatten=True)
    assert caught.value.code == "invalid_input"


def test_a_rendered_expression_that_doubles_its_value_is_told():
    with pytest.raises(PermanentError) as caught:
        transform({"a": 1}, mapping={"x": "|".join(["[@,@]"] * 40)})
    assert caught.value.code == "invalid_path"


def test_a_null_that_is_there_is_found():
    out = transform({"a": None}, mapping={"a": "$.a"}, defaults={"a": 1})
    assert out.result == {"a": None}
    assert out.fields_mapped == ["a"]


def test_values_are_taken_as_they_are():
    assert transform(USER, values={"name": "user.name"}).result == {"name": "user.name"}


def test_jmespath_then_mapping():
    assert transform(USER, jmespath_expression="user.address", mapping={"c": "city"}).result == {"c": "Bonn"}


def test_without_mapping_the_value_goes_through_the_other_steps():
    out = transform(USER, parse_json_strings=True, exclude_fields=["user.tags", "user.address"], flatten=True)
    assert out.result == {"user.name": "Ann", "raw.n": [1, 2]}


def test_a_number_of_too_many_digits_stays_the_text_that_it_is():
    raw = '{"n": ' + "9" * 5000 + "}"
    assert transform({"raw": raw}, parse_json_strings=True).result == {"raw": raw}


def test_lists_are_transformed_item_by_item():
    assert transform([{"a": {"b": 1}, "x": 2}], flatten=True, exclude_fields=["x"]).result == [{"a.b": 1}]


@pytest.mark.parametrize(
    "options", [{"mapping": {"a": "$.["}}, {"mapping": {"a": "a ||| b"}}, {"jmespath_expression": "abs(user.name)"}]
)
def test_what_is_no_path_is_a_clear_error(options: dict[str, Any]):
    with pytest.raises(PermanentError, match=r"'mapping' of field 'a'|'jmespath_expression'") as caught:
        transform(USER, **options)
    assert caught.value.code == "invalid_path"


def test_a_table_is_pointed_to_sql():
    with pytest.raises(PermanentError, match="table_sql"):
        transform(pl.DataFrame({"a": [1]}))


ORDER = {
    "type": "object",
    "required": ["id", "items"],
    "properties": {
        "id": {"type": "integer"},
        "paid": {"type": "boolean"},
        "day": {"type": "string", "format": "date"},
        "items": {
            "type": "array",
            "items": {"type": "object", "properties": {"price": {"type": "number", "minimum": 0}}},
        },
    },
}


def check(data: Any, schema: dict[str, Any] = ORDER, **options: Any) -> SchemaValidate.Output:
    return SchemaValidate().execute(SchemaValidate.Input(data=data, json_schema=schema, **options), RecordingContext())


def test_a_fitting_value_is_valid():
    out = check({"id": 1, "items": [{"price": 2.5}]})
    assert out.valid
    assert out.errors == []


def test_every_violation_is_listed_with_its_place():
    out = check({"id": "x", "day": "2024-13-01", "items": [{"price": -1}, {"price": "a/b"}]})
    assert [(e.path, e.rule) for e in out.errors] == [
        ("/day", "format"),
        ("/id", "type"),
        ("/items/0/price", "minimum"),
        ("/items/1/price", "type"),
    ]
    assert out.error_count == 4
    assert check({"id": "x"}, collect_all_errors=False).error_count == 1


def test_closed_refuses_properties_that_are_not_named():
    data = {"id": 1, "items": [{"price": 1, "colour": "red"}], "extra": True}
    assert check(data).valid
    assert {e.path for e in check(data, closed=True).errors} == {"", "/items/0"}


CLOSED: list[tuple[dict[str, Any], Any, Any]] = [
    (
        {"properties": {"kind": {}}, "anyOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"kind": 1, "a": 2},
        {"kind": 1, "c": 2},
    ),
    (
        {"$ref": "#/$defs/base", "properties": {"own": {}}, "$defs": {"base": {"properties": {"id": {}}}}},
        {"id": 1, "own": 2},
        {"x": 1},
    ),
    (
        {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {}}}], "$defs": {"a": {"properties": {"a": {}}}}},
        {"a": 1, "b": 2},
        {"a": 1, "c": 2},
    ),
    ({"$ref": "#a", "$defs": {"x": {"$anchor": "a", "properties": {"a": {}}}}}, {"a": 1}, {"b": 1}),
    ({"properties": {"child": {"$ref": "#"}}}, {"child": {"child": {}}}, {"child": {"x": {}}}),
    (
        {"if": {"properties": {"k": {"const": 1}}}, "then": {"properties": {"a": {}}}},
        {"k": 1, "a": 1},
        {"k": 2, "a": 1},
    ),
    ({"allOf": [{"properties": {"a": {"properties": {"b": {}}}}}]}, {"a": {"b": 1}}, {"a": {"c": 1}}),
    (
        {"items": {"oneOf": [{"type": "string"}, {"properties": {"a": {}}, "type": "object"}]}},
        ["x", {"a": 1}],
        [{"b": 1}],
    ),
    ({"type": "object"}, {"any": 1}, 3),
    ({"patternProperties": {"^x_": {}}}, {"x_a": 1}, {"y": 1}),
    ({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}}, {"a": "x", "b": 1}, {"b": "x"}),
]


@pytest.mark.parametrize(("schema", "good", "bad"), CLOSED)
def test_closing_looks_at_an_object_as_a_whole(schema: dict[str, Any], good: Any, bad: Any):
    def errors(value: Any) -> list[Any]:
        return (
            SchemaValidate()
            .execute(SchemaValidate.Input(data=value, json_schema=schema, closed=True), RecordingContext())
            .errors
        )

    assert errors(good) == []
    assert errors(bad) != []


@pytest.mark.parametrize("schema", [{"pattern": "^(a+)+$"}, {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
    {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False}])  # fmt: skip
@pytest.mark.timeout(60)  # that it ends at all is the property: with a matcher that backtracks it takes years
def test_patterns_that_would_backtrack_end(schema: dict[str, Any]):
    text = "a" * 60 + "!"
    for value in (text, {text: 1}):
        fits = isinstance(value, str) != ("pattern" in schema)
        assert (
            SchemaValidate().execute(SchemaValidate.Input(data=value, json_schema=schema), RecordingContext()).valid
            == fits
        )


@pytest.mark.parametrize(
    "schema", [{"pattern": "(?=a)b"}, {"not": {"pattern": r"(a)\1"}}, {"patternProperties": {"(?!a)": {}}}]
)
def test_patterns_that_cannot_be_used_are_no_schema(schema: dict[str, Any]):
    for value in ("a", {"a": 1}):
        if isinstance(value, dict) == ("patternProperties" in schema):
            with pytest.raises(PermanentError, match="RE2") as caught:
                SchemaValidate().execute(SchemaValidate.Input(data=value, json_schema=schema), RecordingContext())
            assert caught.value.code == "invalid_schema"


def test_coercion_reads_numbers_and_booleans():
    out = check({"id": " 12 ", "paid": "True", "items": [{"price": "1e2"}]}, coerce_types=True)
    assert out.valid
    assert out.data == {"id": 12, "paid": True, "items": [{"price": 100.0}]}
    assert not check({"id": "1.5", "items": [{"price": "nan"}]}, coerce_types=True).valid


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:1/x.json"}, {"$ref": "#/$defs/nope"}, {"$ref": "#"}],
)
def test_a_schema_that_is_none_fails_and_nothing_is_fetched(schema: dict[str, Any]):
    with pytest.raises(PermanentError, match="json_schema") as caught:
        check({"a": 1}, schema)
    assert caught.value.code == "invalid_schema"


async def say(**options: Any) -> tuple[Logger.Output, RecordingContext]:
    context = RecordingContext()
    return await Logger().execute(Logger.Input(**options), context), context


def test_the_logger_says_it_and_passes_the_value_through():
    import asyncio

    out, context = asyncio.run(say(message="hello", level="warning", data={"a": 1}, tags=["t"], emit_to_trace=True))
    assert out.passthrough == {"a": 1}
    line = context.logs[0]
    assert (line.level, line.message) == ("warning", "hello")
    assert line.fields == {"log_id": out.log_id, "data": {"a": 1}, "tags": ["t"], "trace": True}
    out, context = asyncio.run(say(message="m", data=pl.DataFrame({"a": [1, 2]}), passthrough=None))
    assert out.passthrough is None
    assert context.logs[0].fields["data"] == {"rows": 2, "columns": ["a"]}


def test_strict_turns_violations_into_a_failure_that_lists_them():
    with pytest.raises(PermanentError) as caught:
        check({"id": "x"}, strict=True)
    assert caught.value.code == "invalid_data"
    assert caught.value.details is not None
    assert "/id" in {error["path"] for error in caught.value.details["errors"]}
