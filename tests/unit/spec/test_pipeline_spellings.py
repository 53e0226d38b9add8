"""Older spellings: each is accepted, means the same as today's, and problems point to where it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_text
from flowmason_ray.spec.spellings import canonical_component


def load(document: dict[str, Any]) -> LoadedPipeline:
    return load_pipeline_text(json.dumps(document))


def stage(**fields: Any) -> dict[str, Any]:
    """The canonical form of one stage beside a stage 'b'."""
    loaded = load({"name": "p", "stages": [{"id": "a", **fields}, {"id": "b", "component_type": "x"}]})
    made = loaded.data["stages"][0]
    del made["id"]
    return made


def the_problem(**fields: Any) -> Problem:
    with pytest.raises(InvalidPipeline) as caught:
        stage(**fields)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("key", ["type", "component", "component_type"])
def test_component_type(key: str):
    assert stage(**{key: "logger"}) == {"component_type": "logger"}


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("json-transform", "json_transform"),
        ("json-transform@^1.0-beta", "json_transform@^1.0-beta"),
        ("my-org/my-package:my-node@>=1", "my-org/my-package:my_node@>=1"),
        ("synthesizer", "combiner"),
        ("synthesizer@1.0.0", "combiner@1.0.0"),
        ("me/own:synthesizer", "me/own:synthesizer"),
        ("switch_router", "switch_router"),
    ],
)
def test_component_names(written: str, canonical: str):
    assert canonical_component(written) == canonical
    assert stage(component_type=written) == {"component_type": canonical}


@pytest.mark.parametrize("key", ["inputs", "input_mapping"])
def test_inputs_become_config(key: str):
    made = stage(component_type="x", **{key: {"a": 1, "b": 2}}, config={"b": 2, "c": 3})
    assert made == {"component_type": "x", "config": {"a": 1, "b": 2, "c": 3}}
    assert stage(component_type="x", **{key: {"a": 1}}) == {"component_type": "x", "config": {"a": 1}}


def test_config_wins_over_inputs_with_a_warning():
    document = {"name": "p", "stages": [{"id": "a", "type": "x", "inputs": {"b": 1}, "config": {"b": 2}}]}
    loaded = load(document)
    assert loaded.pipeline.stages[0].config == {"b": 2}
    (warning,) = loaded.warnings
    assert (warning.code, warning.path, warning.severity) == ("shadowed_value", "/stages/0/inputs/b", "warning")
    assert warning.line == 1


@pytest.mark.parametrize("config", [None, [], "x"])
def test_inputs_beside_a_config_that_is_no_object(config: object):
    with pytest.raises(InvalidPipeline) as caught:
        stage(component_type="x", inputs={"a": 1}, config=config)
    assert "two_spellings" in {p.code for p in caught.value.problems}


def test_inputs_that_are_no_object():
    problem = the_problem(component_type="x", inputs="{{input}}")
    assert (problem.code, problem.path, problem.expected) == ("wrong_type", "/stages/0/config", "an object")


def test_retry_config():
    made = stage(
        component_type="x",
        retry_config={
            "max_retries": 2,
            "retry_delay_ms": 5,
            "backoff_factor": 3,
            "max_delay_ms": 9,
            "retry_on_errors": [],
        },
    )
    assert made["retry"] == {
        "max_attempts": 3,
        "initial_delay_ms": 5,
        "backoff_multiplier": 3,
        "max_delay_ms": 9,
        "retry_on": [],
    }
    assert stage(component_type="x", retry_config={"max_attempts": 2})["retry"] == {"max_attempts": 2}
    assert stage(component_type="x", retry_config={"max_retries": 2.0})["retry"] == {"max_attempts": 3}


def test_retry_config_of_the_defaults():
    assert load({"name": "p", "defaults": {"retry_config": {"max_retries": 0}}}).data["defaults"] == {
        "retry": {"max_attempts": 1}
    }


@pytest.mark.parametrize("retries", ["2", True, None, 1.5, -1])
def test_retries_that_are_no_number_of_retries(retries: object):
    problem = the_problem(component_type="x", retry_config={"max_retries": retries})
    assert problem.path == "/stages/0/retry/max_attempts"


def test_on_error_propagate():
    assert stage(component_type="x", on_error="propagate")["on_error"] == "fail"


def test_branches_of_a_conditional():
    config = {"condition": True, "true_branch": ["b"], "false_branch": []}
    assert stage(component_type="conditional", config=config)["config"] == {
        "condition": True,
        "true_branch_stages": ["b"],
        "false_branch_stages": [],
    }
    assert stage(type="conditional@^1", inputs=config)["config"]["true_branch_stages"] == ["b"]
    assert stage(component_type="x", config=config)["config"] == config


def test_compositions_as_names():
    loaded = load({"name": "p", "compositions": ["Billing Base@^1.2", "../shared/audit.pipeline.json"]})
    assert [(c.id, c.pipeline) for c in loaded.pipeline.compositions] == [
        ("billing-base", "Billing Base@^1.2"),
        ("audit", "../shared/audit.pipeline.json"),
    ]


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("{{upstream.b.x.y}}", "{{stages.b.x.y}}"),
        ("{{stages.b.output.y}}", "{{stages.b.y}}"),
        ("{{b.output.y}} and {{ upstream.b.z }}", "{{stages.b.y}} and {{ stages.b.z }}"),
        ("{{stages.b.x.y}}", "{{stages.b.x.y}}"),
        ("{{other.output.y}}", "{{other.output.y}}"),
    ],
)
def test_references(written: str, canonical: str):
    assert stage(component_type="x", config={"deep": [{"er": written}]})["config"] == {"deep": [{"er": canonical}]}
    loaded = load({"name": "p", "stages": [{"id": "b", "type": "x"}], "output": {"r": written}})
    assert loaded.data["output"] == {"r": canonical}


def test_references_in_when():
    assert (
        stage(component_type="x", when="upstream.b.ok and b.output.n > 1")["when"] == "stages.b.ok and stages.b.n > 1"
    )


def test_a_loop_variable_is_no_stage():
    document = {
        "name": "p",
        "stages": [
            {"id": "each", "component_type": "foreach", "config": {"item_variable": "row", "t": "{{row.output.x}}"}},
            {"id": "row", "component_type": "x"},
        ],
    }
    assert load(document).data["stages"][0]["config"]["t"] == "{{row.output.x}}"


def test_overrides_are_respelled_too():
    loaded = load({"name": "p", "extends": "q", "overrides": {"a/b": {"type": "x-y", "inputs": {"c": 1}}, "z": None}})
    assert loaded.data["overrides"] == {"a/b": {"component_type": "x_y", "config": {"c": 1}}, "z": None}
    assert loaded.respelled.written_at("/overrides/a~1b/config/c") == "/overrides/a~1b/inputs/c"


class TestBothSpellings:
    def test_that_agree_are_fine(self):
        assert stage(type="json-transform", component_type="json_transform") == {"component_type": "json_transform"}
        made = stage(component_type="x", retry_config={"max_retries": 1}, retry={"max_attempts": 2})
        assert made["retry"] == {"max_attempts": 2}

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"type": "x", "component_type": "y"}, "/stages/0/type"),
            ({"type": "x", "component": "y"}, "/stages/0/component"),
            ({"component_type": "x", "retry_config": {"max_retries": 1}, "retry": {}}, "/stages/0/retry_config"),
            (
                {"component_type": "conditional", "config": {"true_branch": ["b"], "true_branch_stages": []}},
                "/stages/0/config/true_branch",
            ),
        ],
    )
    def test_that_differ_are_one_problem(self, fields: dict[str, Any], path: str):
        problem = the_problem(**fields)
        assert (problem.code, problem.path) == ("two_spellings", path)


def test_problems_point_to_the_older_spelling():
    text = """{"name": "p", "stages": [{
      "id": "a",
      "type": "a b",
      "inputs": {"x": 1},
      "retry_config": {
        "max_retries": -4,
        "wrong": 1}}]}"""
    with pytest.raises(InvalidPipeline) as caught:
        load_pipeline_text(text)
    assert [(p.code, p.path, p.line, p.column) for p in caught.value.problems] == [
        ("invalid_component_type", "/stages/0/component_type", 3, 15),
        ("out_of_range", "/stages/0/retry/max_attempts", 6, 24),
        ("unknown_key", "/stages/0/retry/wrong", 7, 9),
    ]
    loaded = load_pipeline_text(text.replace("a b", "c").replace("-4", "4").replace("wrong", "x-wrong"))
    assert loaded.locate("/stages/0/config/x").line == 4
    assert loaded.locate("/stages/0/config").line == 4
    assert loaded.locate("/stages/0/component_type", key=True).column == 7
