"""The canonical form: what is rewritten, what is kept, and its laws."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, cast, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from flowmason_ray.errors import InvalidPipeline
from flowmason_ray.spec import formatting
from flowmason_ray.spec.formatting import canonical_bytes, format_pipeline
from flowmason_ray.spec.loader import load_pipeline_text
from flowmason_ray.spec.pipeline import Model, Pipeline


def formatted(document: object) -> str:
    return format_pipeline(json.dumps(document)).decode()


def test_the_whole_form():
    text = """
    {"x-team": "t", "zzz": 1,
     "stages": [
       {"type": "json-transform", "position": {"y": 2, "x": 1}, "id": "b", "depends_on": [ "a" ],
        "inputs": {"z": "{{upstream.a.v}}", "a": {}}, "retry_config": {"max_retries": 2, "jitter": 0.50}},
       {"id": "a", "component_type": "logger", "enabled": true, "on_error": "propagate"}],
     "name": "\\u00fc \\"q\\" \\u0007"}
    """
    assert (
        format_pipeline(text).decode()
        == """{
  "name": "ü \\"q\\" \\u0007",
  "stages": [
    {
      "id": "b",
      "component_type": "json_transform",
      "position": {
        "y": 2,
        "x": 1
      },
      "config": {
        "z": "{{stages.a.v}}",
        "a": {}
      },
      "depends_on": ["a"],
      "retry": {
        "max_attempts": 3,
        "jitter": 0.50
      }
    },
    {
      "id": "a",
      "component_type": "logger",
      "enabled": true,
      "on_error": "fail"
    }
  ],
  "x-team": "t",
  "zzz": 1
}
"""
    )


@pytest.mark.parametrize(
    "number", ["1", "1.0", "1e3", "1E+3", "-0", "-0.0", "9" * 30, "0.1000000000000000000000000001", "1e999", "9" * 5000]
)
def test_numbers_are_kept_as_they_are_written(number: str):
    assert f'"a": {number}\n' in format_pipeline(f'{{"metadata": {{"a": {number}}}}}').decode()


def test_a_number_in_the_place_of_text_stays_a_number():
    text = '{"name":1,"stages":[{"id":2,"type":3,"inputs":4,"retry_config":{"max_retries":1e400}}],"compositions":[5]}'
    assert json.loads(format_pipeline(text), parse_float=str) == {
        "name": 1,
        "stages": [{"id": 2, "component_type": 3, "config": 4, "retry": {"max_attempts": "1e400"}}],
        "compositions": [5],
    }


def test_short_lists_stay_on_a_line_and_long_ones_break():
    for count in range(1, 60):
        text = formatted({"tags": ["a"] * count})
        lines = text.splitlines()
        assert max(map(len, lines)) <= 100
        assert (len(lines) == 3) == (len('  "tags": []') + 5 * count - 2 < 100)
    assert '"a": [\n' in format_pipeline('{"metadata": {"a": [{}]}}').decode()
    assert '"a": []' in formatted({"metadata": {"a": []}})


def test_spellings_that_disagree_are_left_as_they_are():
    document = {"stages": [{"component_type": "y", "type": "x", "retry": {}, "retry_config": {"max_retries": 1}}]}
    assert json.loads(formatted(document)) == document


@pytest.mark.parametrize(
    "text",
    [
        '{"stages": 3, "compositions": {}, "defaults": [], "overrides": "x"}',
        '{"stages": [[], null, {"config": 5, "inputs": {"a": 1}}]}',
        '{"nam": "p", "stages": [{"dependson": [], "on_error": "ignore"}]}',
    ],
)
def test_invalid_pipelines_are_formatted_without_loss(text: str):
    assert json.loads(format_pipeline(text)) == json.loads(text)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": NaN}', "{", "[]", '{"a": "\\ud800"}', "\ufeff{}", '{"a":' * 500]
)
def test_what_cannot_be_written_back_is_refused(text: str):
    with pytest.raises(InvalidPipeline):
        format_pipeline(text)


def test_canonical_bytes_of_loaded_data():
    text = '{"stages": [{"type": "x", "id": "a"}], "name": "p"}'
    assert canonical_bytes(load_pipeline_text(text).data) == format_pipeline(text)


def test_known_parts_are_those_of_the_models():
    """`PARTS` says which model a key has; it must not miss one."""

    def models_in(annotation: Any) -> set[type[Model]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return {cast("type[Model]", annotation)}
        return {model for arg in get_args(annotation) for model in models_in(arg)}

    seen: dict[type[Model], dict[str, type[Model]]] = {}
    todo: list[type[Model]] = [Pipeline]
    while todo:
        model = todo.pop()
        parts = {
            name: next(iter(found)) for name, f in model.model_fields.items() if (found := models_in(f.annotation))
        }
        if parts:
            seen[model] = parts
        todo += [part for part in parts.values() if part not in seen]
    assert seen == formatting.PARTS


texts = st.text(max_size=6).filter(lambda t: "{{" not in t)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False).map(float) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)
canonical_keys = st.sampled_from(
    [
        "name",
        "version",
        "stages",
        "tags",
        "metadata",
        "defaults",
        "config",
        "depends_on",
        "retry",
        "cache",
        "when",
        "output",
        "x-a",
        "zz",
    ]
)
documents = st.dictionaries(
    canonical_keys,
    values | st.lists(st.dictionaries(canonical_keys, values, max_size=5), max_size=4),
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(documents)
def test_formatting_keeps_the_value_and_is_idempotent(document: dict[str, Any]):
    once = format_pipeline(json.dumps(document, indent=1))
    assert json.loads(once, parse_float=Decimal) == json.loads(json.dumps(document), parse_float=Decimal)
    assert format_pipeline(once) == once
    assert once.endswith(b"}\n")


older = st.recursive(
    st.none()
    | st.integers(-3, 3)
    | st.sampled_from(["conditional", "a-b", "{{upstream.a.b}} {{a.output.c}}", "propagate"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "type",
                    "component",
                    "component_type",
                    "config",
                    "inputs",
                    "input_mapping",
                    "retry",
                    "retry_config",
                    "max_retries",
                    "max_attempts",
                    "on_error",
                    "true_branch",
                    "true_branch_stages",
                    "when",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(older, max_size=3))
def test_formatting_older_spellings_is_idempotent(stages: list[object]):
    once = format_pipeline(json.dumps({"stages": stages}))
    assert format_pipeline(once) == once
