"""What overrides do to inherited stages: merging, removing, operators, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.family_kit import Data, Family, base, child, put_together, stage, stages_of, told

CONFIG: Data = {
    "url": "https://a",
    "headers": {"accept": "json", "x": 1},
    "list": ["a", "b", "c"],
    "rules": [{"field": "n", "op": ">"}, {"field": "m", "op": "<"}, {"other": 1}],
    "nothing": None,
}


def overridden(patch: Any, config: Data = CONFIG, **more: Any) -> Data:
    made = put_together(base(stage("s", config=config, **more)), child({"s": patch}))
    return stages_of(made)["s"]


def refused(patch: Any, **more: Any) -> list[tuple[str, str]]:
    return told(Family(base(stage("s", config=CONFIG, **more)), child({"s": patch})).problems("child"))


@pytest.mark.parametrize(
    ("patch", "key", "value"),
    [
        ({"url": "https://b"}, "url", "https://b"),
        ({"url": 3}, "url", 3),
        ({"url": False}, "url", False),
        ({"nothing": 0}, "nothing", 0),
        ({"headers": {"x": 2}}, "headers", {"accept": "json", "x": 2}),
        ({"headers": {"x": None}}, "headers", {"accept": "json"}),
        ({"headers": {}}, "headers", CONFIG["headers"]),
        ({"headers": {"$replace": {}}}, "headers", {}),
        ({"headers": "{{input}}"}, "headers", "{{input}}"),
        ({"headers": {"y": {"$add": None}}}, "headers", {"accept": "json", "x": 1, "y": None}),
        ({"headers": {"$replace": {"$ref": "#/a"}}}, "headers", {"$ref": "#/a"}),
        ({"url": {"$replace": {"$append": [1]}}}, "url", {"$append": [1]}),
        ({"url": {"$replace": None}}, "url", None),
        ({"list": ["z"]}, "list", ["z"]),
        ({"list": [{"$append": 1}, None]}, "list", [{"$append": 1}, None]),
        ({"list": {"$append": ["d", None]}}, "list", ["a", "b", "c", "d", None]),
        ({"list": {"$prepend": ["y", "z"]}}, "list", ["y", "z", "a", "b", "c"]),
        ({"list": {"$remove": ["b"]}}, "list", ["a", "c"]),
        ({"list": {"$append": ["b"], "$remove": ["b"], "$prepend": ["0"]}}, "list", ["0", "a", "c", "b"]),
        (
            {"rules": {"$merge": {"by": "field", "items": {"n": {"op": ">="}, "m": None}}}},
            "rules",
            [{"field": "n", "op": ">="}, {"other": 1}],
        ),
        (
            {"rules": {"$merge": {"by": "field", "items": {"n": {"$replace": 7}}}, "$append": [8]}},
            "rules",
            [7, {"field": "m", "op": "<"}, {"other": 1}, 8],
        ),
        ({"rules": {"$remove": [{"op": ">", "field": "n"}]}}, "rules", [{"field": "m", "op": "<"}, {"other": 1}]),
    ],
)
def test_a_patch_changes_what_it_names_and_nothing_else(patch: Data, key: str, value: Any) -> None:
    made = overridden({"config": patch})
    assert made == {"id": "s", "component_type": "logger", "config": {**CONFIG, key: value}}


def test_null_removes_a_key() -> None:
    assert "url" not in overridden({"config": {"url": None}})["config"]
    assert "retry" not in overridden({"retry": None}, retry={"max_attempts": 2})
    assert "config" not in overridden({"config": None})


def test_a_key_of_the_data_that_begins_with_a_dollar_is_written_with_two() -> None:
    config = {"schema": {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}}
    patch = {"schema": {"$$defs": {"a": {"type": "integer"}}, "$$ref": None, "b": {"$add": {"$defs": 1}}}}
    made = overridden({"config": patch}, config)
    assert made["config"] == {"schema": {"$defs": {"a": {"type": "integer"}}, "b": {"$defs": 1}}}


@pytest.mark.parametrize(
    ("patch", "value"),
    [
        ({"retry": {"max_attempts": 3}}, {"retry": {"max_attempts": 3}}),
        ({"timeout_ms": 5}, {"timeout_ms": 5}),
        ({"when": "input.x"}, {"when": "input.x"}),
        ({"depends_on": {"$append": ["t"]}}, {"depends_on": ["t"]}),
        ({"cache": {"ttl_s": 3}}, {"cache": {"ttl_s": 3}}),
        ({"metadata": {"owner": "me"}}, {"metadata": {"owner": "me"}}),
        ({"metadata": {"$$k": {"$add": None}, "l": {"$append": [1]}}}, {"metadata": {"$k": None, "l": [1]}}),
        ({"x-note": 1}, {"x-note": 1}),
        ({"retry_config": {"max_retries": 2}}, {"retry": {"max_attempts": 3}}),
        ({"type": "json-transform"}, {"component_type": "json_transform"}),
        ({"inputs": {"url": "b"}}, {"config": {**CONFIG, "url": "b"}}),
    ],
)
def test_a_field_of_the_format_may_be_said_for_the_first_time(patch: Data, value: Data) -> None:
    assert overridden(patch) == {"id": "s", "component_type": "logger", "config": CONFIG, **value}


def test_what_is_a_switch_may_become_an_object() -> None:
    assert overridden({"cache": {"ttl_s": 3}}, cache=True)["cache"] == {"ttl_s": 3}


@pytest.mark.parametrize(
    ("patch", "code", "pointer"),
    [
        ({"config": {"ur": "b"}}, "unknown_override", "/config/ur"),
        ({"config": {"headers": {"z": {"deep": 1}}}}, "unknown_override", "/config/headers/z"),
        ({"config": {"z": None}}, "unknown_override", "/config/z"),
        ({"config": {"z": {"$replace": 1}}}, "unknown_override", "/config/z"),
        ({"config": {"z": {"$append": [1]}}}, "unknown_override", "/config/z"),
        ({"timout_ms": 3}, "unknown_override", "/timout_ms"),
        ({"retry": None}, "unknown_override", "/retry"),
        ({"config": {"url": {"$add": 1}}}, "override_exists", "/config/url"),
        ({"config": {"url": {"a": 1}}}, "override_mismatch", "/config/url"),
        ({"config": {"list": {"0": "z"}}}, "override_mismatch", "/config/list"),
        ({"config": {"list": {"$apend": ["z"]}}}, "unknown_operator", "/config/list/$apend"),
        ({"config": {"$ref": "x"}}, "unknown_operator", "/config/$ref"),
        ({"config": {"headers": {"a": 1, "$append": [1]}}}, "unknown_operator", "/config/headers/a"),
        ({"config": {"url": {"$append": ["z"]}}}, "invalid_operator", "/config/url"),
        ({"config": {"list": {"$append": "z"}}}, "invalid_operator", "/config/list/$append"),
        ({"config": {"list": {"$replace": [], "$append": ["z"]}}}, "invalid_operator", "/config/list"),
        ({"config": {"rules": {"$merge": {"n": {}}}}}, "invalid_operator", "/config/rules/$merge"),
        ({"config": {"list": {"$remove": ["z"]}}}, "override_missing_item", "/config/list/$remove/0"),
        (
            {"config": {"rules": {"$merge": {"by": "field", "items": {"q": {}}}}}},
            "override_missing_item",
            "/config/rules/$merge/items/q",
        ),
        (
            {"config": {"rules": {"$merge": {"by": "field", "items": {"n": {"opp": 1}}}}}},
            "unknown_override",
            "/config/rules/$merge/items/n/opp",
        ),
        ({"id": "t"}, "invalid_operator", "/id"),
        ({"$replace": {"id": "t", "component_type": "logger"}}, "invalid_operator", "/$replace/id"),
        (3, "wrong_type", ""),
        ({"$replace": 3}, "wrong_type", "/$replace"),
        ({"$remove": []}, "invalid_operator", ""),
        ({"$replase": {}}, "unknown_operator", "/$replase"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_stands(patch: Any, code: str, pointer: str) -> None:
    assert refused(patch) == [(code, f"/overrides/s{pointer}")]


def test_everything_that_is_wrong_is_said_at_once_with_the_nearest_name() -> None:
    problems = Family(
        base(stage("fetch", config=CONFIG)),
        child({"fetch": {"config": {"ulr": 1, "list": {"$apend": []}}}, "fetsh": {}}),
    ).problems("child")
    assert [(p.code, p.nearest) for p in problems] == [
        ("unknown_override", "url"),
        ("unknown_operator", "$append"),
        ("unknown_override", "fetch"),
    ]
    assert all(p.file == "/nowhere/child.pipeline.json" and p.line for p in problems)


def test_a_whole_stage_can_be_replaced_or_removed() -> None:
    parent = base(stage("a", config=CONFIG, timeout_ms=3), stage("b"))
    made = put_together(
        parent, child({"a": {"$replace": {"component_type": "filter", "config": {"$x": 1}}}, "b": None})
    )
    assert made["stages"] == [{"id": "a", "component_type": "filter", "config": {"$x": 1}}]


def test_what_the_models_refuse_is_placed_where_it_was_written() -> None:
    parent = base(stage("a", retry={"max_attempts": 2, "jitter": 0.5}))
    (problem,) = Family(parent, child({"a": {"retry": {"max_attempts": 0}}})).problems("child")
    assert (problem.code, problem.path, problem.file) == (
        "out_of_range",
        "/overrides/a/retry/max_attempts",
        "/nowhere/child.pipeline.json",
    )
    assert problem.chain is not None
    assert [place.rpartition("/")[2].split(":")[0] for place in problem.chain] == [
        "base.pipeline.json",
        "child.pipeline.json",
        "child.pipeline.json",
    ]


def test_the_fields_of_the_pipeline_are_changed_under_a_name_that_no_stage_can_have() -> None:
    parent = base(stage("a"), output={"a": 1, "b": None}, tags=["x"], metadata={"k": 1})
    patch = {
        "$pipeline": {
            "output": {"b": {"$replace": 2}, "c": {"$add": None}},
            "tags": {"$remove": ["x"]},
            "timeout_ms": 5,
        }
    }
    made = put_together(parent, child(patch))
    assert made["output"] == {"a": 1, "b": 2, "c": None}
    assert (made["tags"], made["timeout_ms"], made["metadata"]) == ([], 5, {"k": 1})
    problems = Family(parent, child({"$pipeline": {"name": "x"}})).problems("child")
    assert told(problems) == [("unknown_override", "/overrides/$pipeline/name")]
    problems = Family(parent, child({"$pipeline": {"output": {"d": 1}}})).problems("child")
    assert told(problems) == [("unknown_override", "/overrides/$pipeline/output/d")]
