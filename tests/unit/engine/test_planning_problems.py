"""What planning says about pipelines that cannot be run: the code, the place, and what helps."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from flowmason_ray.components.base import operator
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import Actors, Context
from flowmason_ray.engine.planning import make_plan, try_plan
from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.loader import load_pipeline_data, load_pipeline_text
from tests.engine_kit import catalogue, conditional, foreach, pipeline, plan_of, problems_of, stage

Stages = list[dict[str, Any]]

OBJECT = {"type": "object", "properties": {"name": {"type": "string"}}}
FALLBACK: dict[str, Any] = {"on_error": "fallback", "fallback_output": {"extra": 1}}


def reads(text: str, id: str = "r", **keys: Any) -> dict[str, Any]:
    return stage(id, config={"value": "{{" + text + "}}"}, **keys)


def sets(id: str, name: str = "x", value: Any = 1, **keys: Any) -> dict[str, Any]:
    return stage(id, "variable_set", config={"name": name, "value": value}, **keys)


INVALID_PIPELINE = ("invalid_config", "/stages/0/config/pipeline", None)

CASES: dict[str, tuple[Stages, dict[str, Any], str, str, str | None]] = {
    # name: stages, pipeline keys, code, pointer, nearest
    "component": ([stage("a", "ecoh")], {}, "unknown_component", "/stages/0/component_type", "echo"),
    "version": ([stage("a", "echo@^2")], {}, "component_version", "/stages/0/component_type", None),
    "range": ([stage("a", "echo@new")], {}, "invalid_range", "/stages/0/component_type", None),
    "slot": ([stage("a", "abstract")], {}, "unfilled_slot", "/stages/0/component_type", None),
    "depends": ([stage("fetch"), stage("b", after="fetchh")], {}, "unknown_stage", "/stages/1/depends_on/0", "fetch"),
    "depends on itself": ([stage("a", after="a")], {}, "self_reference", "/stages/0/depends_on/0", None),
    "reads": ([stage("fetch"), reads("stages.ftch.value")], {}, "unknown_stage", "/stages/1/config/value", "fetch"),
    "reads itself": ([reads("stages.r.value")], {}, "self_reference", "/stages/0/config/value", None),
    "when": ([stage("a"), stage("b", when="stages.c.value")], {}, "unknown_stage", "/stages/1/when", None),
    "body member": (
        [conditional("c", "fech"), stage("fetch")],
        {},
        "unknown_stage",
        "/stages/0/config/true_branch_stages/0",
        "fetch",
    ),
    "twice in a body": (
        [conditional("c", "a", "a"), stage("a")],
        {},
        "two_owners",
        "/stages/0/config/false_branch_stages/0",
        None,
    ),
    "two owners": (
        [conditional("c", "a"), foreach("d", "b a"), stage("a"), stage("b")],
        {},
        "two_owners",
        "/stages/1/config/loop_stages/1",
        None,
    ),
    "body cycle": ([conditional("x", "y"), conditional("y", "x")], {}, "body_cycle", "/stages/0", None),
    "own body": ([foreach("x", "x")], {}, "body_cycle", "/stages/0", None),
    "cycle": ([stage("a", after="b"), stage("b", after="a")], {}, "cycle", "/stages/0/depends_on/0", None),
    "cycle through a body": (
        [stage("a", after="c"), conditional("c", "b"), reads("stages.a.value", "b")],
        {},
        "cycle",
        "/stages/0/depends_on/0",
        None,
    ),
    "out of a loop": (
        [foreach("each", "b"), stage("b"), reads("stages.b.value")],
        {},
        "border_crossing",
        "/stages/2/config/value",
        None,
    ),
    "owner from inside": (
        [foreach("each", "r"), reads("stages.each.results")],
        {},
        "border_crossing",
        "/stages/1/config/value",
        None,
    ),
    "body from its owner": (
        [
            stage("c", "conditional", config={"condition": "{{stages.y.value}}", "true_branch_stages": ["y"]}),
            stage("y"),
        ],
        {},
        "border_crossing",
        "/stages/0/config/condition",
        None,
    ),
    "other branch": (
        [conditional("c", "y", "r"), stage("y"), reads("stages.y.value")],
        {},
        "border_crossing",
        "/stages/2/config/value",
        None,
    ),
    "depends out of a loop": (
        [foreach("each", "b"), stage("b"), stage("o", after="b")],
        {},
        "border_crossing",
        "/stages/2/depends_on/0",
        None,
    ),
    "field of a branch": (
        [conditional("c", "y"), stage("y"), reads("stages.y.value")],
        {},
        "missing_default",
        "/stages/2/config/value",
        None,
    ),
    "empty loop": ([foreach("each", "")], {}, "empty_body", "/stages/0/config", None),
    "late body": (
        [stage("e", "foreach", config={"items": [], "loop_stages": "{{input.x}}"})],
        {},
        "invalid_config",
        "/stages/0/config/loop_stages",
        None,
    ),
    "late window": (
        [foreach("e", "b", config={"max_parallel": "{{input.n}}"}), stage("b")],
        {},
        "invalid_config",
        "/stages/0/config/max_parallel",
        None,
    ),
    "no window": (
        [foreach("e", "b", config={"max_parallel": 0}), stage("b")],
        {},
        "invalid_config",
        "/stages/0/config/max_parallel",
        None,
    ),
    "ratio": (
        [foreach("e", "b", config={"min_success_ratio": 2}), stage("b")],
        {},
        "invalid_config",
        "/stages/0/config/min_success_ratio",
        None,
    ),
    "loop variable hides a root": (
        [foreach("e", "b", config={"item_variable": "input"}), stage("b")],
        {},
        "shadowed_name",
        "/stages/0/config/item_variable",
        None,
    ),
    "loop variable hides an older root": (
        [foreach("e", "b", config={"index_variable": "upstream"}), stage("b")],
        {},
        "shadowed_name",
        "/stages/0/config/index_variable",
        None,
    ),
    "loop variable is a word": (
        [foreach("e", "b", config={"item_variable": "not"}), stage("b")],
        {},
        "shadowed_name",
        "/stages/0/config/item_variable",
        None,
    ),
    "loop variables alike": (
        [foreach("e", "b", config={"item_variable": "x", "index_variable": "x"}), stage("b")],
        {},
        "shadowed_name",
        "/stages/0/config/index_variable",
        None,
    ),
    "loop variable is no name": (
        [foreach("e", "b", config={"item_variable": "my item"}), stage("b")],
        {},
        "invalid_name",
        "/stages/0/config/item_variable",
        None,
    ),
    "name": ([reads("contxt.run_id")], {}, "unknown_name", "/stages/0/config/value", "context"),
    "loop variable outside": (
        [foreach("e", "b"), stage("b"), reads("item")],
        {},
        "unknown_name",
        "/stages/2/config/value",
        None,
    ),
    "context": ([reads("context.runid")], {}, "unknown_name", "/stages/0/config/value", "run_id"),
    "env": ([reads("env.HOME")], {}, "not_allowed", "/stages/0/config/value", None),
    "secrets": ([reads("secrets.KEY")], {}, "not_allowed", "/stages/0/config/value", None),
    "closed input": (
        [reads("input.nmae")],
        {"input_schema": {**OBJECT, "additionalProperties": False}},
        "unknown_field",
        "/stages/0/config/value",
        "name",
    ),
    "variable": ([sets("v", "total"), reads("vars.totl")], {}, "unknown_variable", "/stages/1/config/value", "total"),
    "variable of an iteration": (
        [foreach("e", "v"), sets("v"), reads("vars.x")],
        {},
        "unknown_variable",
        "/stages/2/config/value",
        None,
    ),
    "two setters": ([sets("a"), sets("b")], {}, "ambiguous_order", "/stages/1", None),
    "setter config": ([stage("v", "variable_set", config={})], {}, "invalid_config", "/stages/0/config", None),
    "setter name": ([sets("v", "a b")], {}, "invalid_config", "/stages/0/config/name", None),
    "result stage": ([stage("fetch")], {"output_stage_id": "fetc"}, "unknown_stage", "/output_stage_id", "fetch"),
    "result in a loop": (
        [foreach("e", "b"), stage("b")],
        {"output_stage_id": "b"},
        "border_crossing",
        "/output_stage_id",
        None,
    ),
    "two results": ([stage("a")], {"output_stage_id": "a", "output": 1}, "conflicting_keys", "/output", None),
    "result template": ([stage("fetch")], {"output": {"x": "{{stages.fech}}"}}, "unknown_stage", "/output/x", "fetch"),
    "result expression": ([stage("a")], {"output": "{{ a b }}"}, "invalid_expression", "/output", None),
    "branch target": (
        [stage("c", "router", config={"value": "{{input.x}}", "routes": {"a/b": ["feth"]}}), stage("fetch")],
        {},
        "unknown_stage",
        "/stages/0/config/routes/a~1b/0",
        "fetch",
    ),
    "parallel target": (
        [stage("c", "parallel", config={"branches": [["a"], ["fech"]]}), stage("a"), stage("fetch")],
        {},
        "unknown_stage",
        "/stages/0/config/branches/1/0",
        "fetch",
    ),
    "route is no list": (
        [stage("c", "router", config={"value": "{{input.x}}", "routes": {"a": "b"}}), stage("b")],
        {},
        "invalid_config",
        "/stages/0/config/routes/a",
        None,
    ),
    "routes are no object": (
        [stage("c", "router", config={"value": "{{input.x}}", "routes": ["b"]}), stage("b")],
        {},
        "invalid_value",
        "/stages/0/config/routes",
        None,
    ),
    "routes alike": (
        [stage("c", "router", config={"value": "x", "routes": {"a": [], "A": []}, "case_insensitive": True})],
        {},
        "invalid_config",
        "/stages/0/config/routes/A",
        None,
    ),
    "quorum": (
        [stage("c", "parallel", config={"branches": [["a"]], "wait_for": 2}), stage("a")],
        {},
        "invalid_config",
        "/stages/0/config/wait_for",
        None,
    ),
    "quorum in words": (
        [stage("c", "parallel", config={"branches": [["a"]], "wait_for": "some"}), stage("a")],
        {},
        "invalid_config",
        "/stages/0/config/wait_for",
        None,
    ),
    "no branches": ([stage("c", "parallel")], {}, "missing_field", "/stages/0/config", None),
    "error scope": (
        [stage("t", "trycatch", config={"try_stages": ["a"], "error_scope": "x"}), stage("a")],
        {},
        "invalid_config",
        "/stages/0/config/error_scope",
        None,
    ),
    "error types": (
        [stage("t", "trycatch", config={"try_stages": ["a"], "catch_error_types": "x"}), stage("a")],
        {},
        "invalid_config",
        "/stages/0/config/catch_error_types",
        None,
    ),
    "items": (
        [foreach("e", "b", config={"items": 3}), stage("b")],
        {},
        "invalid_config",
        "/stages/0/config/items",
        None,
    ),
    "form": (
        [stage("w", "wait_for_approval", config={"message": "m", "form": {"type": "objct"}})],
        {},
        "invalid_config",
        "/stages/0/config/form/type",
        None,
    ),
    "on timeout": (
        [stage("w", "wait_for_approval", config={"message": "m", "on_timeout": "die"})],
        {},
        "invalid_config",
        "/stages/0/config/on_timeout",
        None,
    ),
    "pipeline is no text": ([stage("s", "subpipeline", config={"pipeline": 3})], {}, *INVALID_PIPELINE),
    "pipeline is a template": (
        [stage("s", "subpipeline", config={"pipeline": "{{input.x}}"})],
        {},
        *INVALID_PIPELINE,
    ),
    "break outside a loop": ([stage("b", "break_loop")], {}, "not_in_loop", "/stages/0", None),
    "continue outside a loop": (
        [conditional("c", "b"), stage("b", "continue_loop")],
        {},
        "not_in_loop",
        "/stages/1",
        None,
    ),
    "after a return": (
        [stage("r", "return"), stage("b", after="r"), stage("c", after="b")],
        {},
        "unreachable_stage",
        "/stages/1/depends_on/0",
        None,
    ),
    "after a return whose condition is written out": (
        [stage("r", "return", config={"condition": "1 < 2"}), stage("b", after="r")],
        {},
        "unreachable_stage",
        "/stages/1/depends_on/0",
        None,
    ),
    "after a continue": (
        [foreach("e", "n b"), stage("n", "continue_loop"), stage("b", after="n")],
        {},
        "unreachable_stage",
        "/stages/2/depends_on/0",
        None,
    ),
    "after a decision of which every branch leaves": (
        [conditional("c", "r", "s"), stage("r", "return"), stage("s", "return"), stage("b", after="c")],
        {},
        "unreachable_stage",
        "/stages/3/depends_on/0",
        None,
    ),
    "with a return or not at all": (
        [stage("r", "return", when="input.x"), stage("b", after="r")],
        {},
        "unreachable_stage",
        "/stages/1/depends_on/0",
        None,
    ),
    "collect": (
        [foreach("e", "b", config={"collect": "{{stages.c}}"}), stage("b")],
        {},
        "unknown_stage",
        "/stages/0/config/collect",
        None,
    ),
    "expression": ([stage("a", config={"x": ["{{ 1 + }}"]})], {}, "invalid_expression", "/stages/0/config/x/0", None),
    "when expression": ([stage("a", when="1 +")], {}, "invalid_expression", "/stages/0/when", None),
    "expression field": (
        [foreach("e", "b", config={"filter_expression": "item >"}), stage("b")],
        {},
        "invalid_expression",
        "/stages/0/config/filter_expression",
        None,
    ),
    "no stages": ([], {}, "no_stages", "/stages", None),
    "abstract": ([stage("a")], {"abstract": True}, "abstract_pipeline", "/abstract", None),
    "extends": ([stage("a")], {"extends": "base"}, "not_found", "/extends", None),
    "overrides": ([stage("a")], {"overrides": {"a": {}}}, "not_found", "/overrides", None),
    "compositions": ([stage("a")], {"compositions": ["other"]}, "not_found", "/compositions/0/pipeline", None),
    "federation": ([stage("a")], {"federation": {"strategy": "x"}}, "not_supported", "/federation", None),
    "federated stage": ([stage("a", federation={"strategy": "x"})], {}, "not_supported", "/stages/0/federation", None),
    "input schema": (
        [stage("a")],
        {"input_schema": {"type": "objct"}},
        "invalid_schema",
        "/input_schema/type",
        "object",
    ),
    "output schema": ([stage("a")], {"output_schema": {"type": 3}}, "invalid_schema", "/output_schema/type", None),
    "unknown key": (
        [stage("l", "logger", config={"message": "m", "levl": "info"})],
        {},
        "unknown_key",
        "/stages/0/config/levl",
        "level",
    ),
    "missing field": ([stage("l", "logger", config={})], {}, "missing_field", "/stages/0/config", None),
    "literal": (
        [stage("f", "foreach", config={"items": [1], "loop_stages": ["b"], "batch_size": "x"}), stage("b")],
        {},
        "invalid_value",
        "/stages/0/config/batch_size",
        None,
    ),
    "type": (
        [conditional("c"), stage("h", "http_request", config={"url": "{{stages.c.condition_result}}"})],
        {},
        "type_mismatch",
        "/stages/1/config/url",
        None,
    ),
    "type of the input": (
        [stage("h", "http_request", config={"url": "{{input.n}}"})],
        {"input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "type_mismatch",
        "/stages/0/config/url",
        None,
    ),
    "output field": (
        [conditional("c"), reads("stages.c.conditon_result")],
        {},
        "unknown_field",
        "/stages/1/config/value",
        "condition_result",
    ),
    "output field in the result": (
        [conditional("c")],
        {"output": "{{stages.c.x}}"},
        "unknown_field",
        "/output",
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_mistake_gets_its_code_its_place_and_the_nearest_name(name: str) -> None:
    stages, keys, code, pointer, near = CASES[name]
    problems = problems_of(*stages, **keys)
    assert [(p.code, p.path, p.nearest, p.severity) for p in problems] == [(code, pointer, near, "error")]
    message = problems[0].message
    assert message.endswith(".")
    assert "$" not in message, "hidden stages have no name for people"


FINE: dict[str, tuple[Stages, dict[str, Any]]] = {
    "loops may call their items alike": (
        [
            foreach("a", "b", config={"items": [[1]]}),
            foreach("b", "c", config={"items": "{{item}}"}),
            reads("item", "c"),
        ],
        {},
    ),
    "a default makes a missing variable fine": ([reads("vars.x | default(1)")], {}),
    "a default makes an unknown field of the input fine": (
        [reads("input.x | default(1)")],
        {"input_schema": {**OBJECT, "additionalProperties": False}},
    ),
    "a default makes a skipped branch fine": (
        [conditional("c", "y"), stage("y"), reads("stages.y.value | default(1)")],
        {},
    ),
    "a whole output of a branch may be null": ([conditional("c", "y"), stage("y"), reads("stages.y")], {}),
    "a status is always there": ([conditional("c", "y"), stage("y"), reads("stages.y.status")], {}),
    "a stage of the same branch is as likely": (
        [conditional("c", "y r"), stage("y"), reads("stages.y.value")],
        {},
    ),
    "a body may depend on its owner": ([conditional("c", "y"), stage("y", after="c")], {}),
    "a fallback adds output fields": ([conditional("c", **FALLBACK), reads("stages.c.extra")], {}),
    "a schema that does not close the input": ([reads("input.zzzzz")], {"input_schema": OBJECT}),
    "a number in a text may become one": (
        [stage("h", "http_request", config={"url": "http://x", "timeout": "{{stages.a.value}}"}), stage("a")],
        {},
    ),
    "after a return that may be skipped": (
        [stage("r", "return", when="input.x"), stage("a"), stage("b", after="a r")],
        {},
    ),
    "after a return that is skipped with what it waits for": (
        [stage("a", when="input.x"), stage("r", "return", after="a"), stage("o"), stage("b", after="o r")],
        {},
    ),
    "after a decision of which one branch leaves": (
        [conditional("c", "r", "s"), stage("r", "return"), stage("s"), stage("b", after="c")],
        {},
    ),
    "a decision without a branch for it goes on": (
        [conditional("c", "r"), stage("r", "return"), stage("b", after="c")],
        {},
    ),
    "beside a return": ([stage("r", "return"), stage("b")], {}),
    "setters in exclusive branches": ([conditional("c", "a", "b"), sets("a"), sets("b")], {}),
    "setters that are ordered": ([sets("a"), sets("b", after="a"), reads("vars.x")], {}),
    "setters of which one reads": ([sets("b", value="{{vars.x + 1}}"), sets("a")], {}),
    "setters in loops of their own": (
        [foreach("e", "a"), foreach("f", "b"), sets("a"), sets("b")],
        {},
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_what_can_be_run_is_let_through(name: str) -> None:
    stages, keys = FINE[name]
    assert problems_of(*stages, **keys) == []


def test_everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file() -> None:
    text = """{
  "name": "p",
  "stages": [
    {"id": "a", "component_type": "ecoh"},
    {"id": "b", "component_type": "echo", "depends_on": ["c"]},
    {"id": "l", "component_type": "logger",
     "config": {"mesage": "x"}}
  ],
  "output_stage_id": "z"
}"""
    with pytest.raises(InvalidPipeline) as caught:
        make_plan(load_pipeline_text(text, file="x.pipeline.json"), catalogue())
    found = [(p.code, p.line, p.column, p.file) for p in caught.value.problems]
    assert found == [
        ("unknown_component", 4, 35, "x.pipeline.json"),
        ("unknown_stage", 5, 58, "x.pipeline.json"),
        ("missing_field", 7, 16, "x.pipeline.json"),
        ("unknown_key", 7, 17, "x.pipeline.json"),
        ("unknown_stage", 9, 22, "x.pipeline.json"),
    ]


def test_a_cycle_is_named_in_full() -> None:
    problems = problems_of(*(stage(f"s{i}", after=f"s{(i + 1) % 40}") for i in range(40)))
    assert [p.code for p in problems] == ["cycle"]
    words = " → ".join(f"s{i % 40}" for i in range(41))
    assert words in problems[0].message
    assert problems[0].found == words


def test_a_huge_cycle_is_named_in_part() -> None:
    n = 2_000
    problems = problems_of(*(stage(f"s{i}", after=f"s{(i + 1) % n}") for i in range(n)))
    assert len(problems) == 1
    assert "→ … → s0" in problems[0].message
    assert len(problems[0].message) < 2_000


def test_each_region_names_its_own_cycle() -> None:
    problems = problems_of(
        conditional("c", "a b"),
        stage("a", after="b"),
        stage("b", after="a"),
        stage("x", after="y"),
        stage("y", after="x"),
    )
    assert [p.found for p in problems] == ["a → b → a", "x → y → x"]


def test_hints_say_what_to_do() -> None:
    problems = problems_of(stage("fetch"), reads("fetch.value"))
    assert problems[0].hint == "A stage's output is written 'stages.fetch'."
    problems = problems_of(foreach("each", "b"), stage("b"), reads("stages.b.value"))
    assert problems[0].hint == "Read what the loop collects: 'stages.each.results'."
    problems = problems_of(foreach("each", "v"), sets("v"), reads("vars.x"))
    assert problems[0].hint == "Stage 'v' sets it inside a loop, for that iteration only."


def test_a_likely_slip_in_an_open_input_is_a_warning() -> None:
    problems = problems_of(reads("input.nmae"), input_schema=OBJECT)
    assert [(p.code, p.severity, p.nearest) for p in problems] == [("unknown_field", "warning", "name")]
    assert plan_of(reads("input.nmae"), input_schema=OBJECT)


WARNINGS: dict[str, tuple[Stages, str, str]] = {
    "a branch that is never taken": (
        [stage("c", "conditional", config={"condition": False, "true_branch_stages": ["a"]}), stage("a")],
        "constant_condition",
        "/stages/0/config/condition",
    ),
    "a condition that reads nothing": (
        [stage("c", "conditional", config={"condition": "1 < 2", "false_branch_stages": ["a"]}), stage("a")],
        "constant_condition",
        "/stages/0/config/condition",
    ),
    "a time limit on a loop": (
        [foreach("e", "b", timeout_ms=5), stage("b")],
        "covers_decision_only",
        "/stages/0/timeout_ms",
    ),
    "a retry of a loop": (
        [foreach("e", "b", retry={"max_attempts": 2}), stage("b")],
        "covers_decision_only",
        "/stages/0/retry",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_may_be_a_slip_is_a_warning_and_can_be_run(name: str) -> None:
    stages, code, pointer = WARNINGS[name]
    assert [(p.code, p.path, p.severity) for p in problems_of(*stages)] == [(code, pointer, "warning")]
    assert plan_of(*stages)


def test_a_written_condition_without_a_branch_for_the_other_case_says_nothing() -> None:
    config = {"condition": True, "true_branch_stages": ["a"]}
    assert problems_of(stage("c", "conditional", config=config), stage("a")) == []


def test_defaults_are_no_limits_on_constructs() -> None:
    defaults = {"timeout_ms": 5, "retry": {"max_attempts": 2}}
    assert problems_of(foreach("e", "b"), stage("b"), defaults=defaults) == []


def test_the_environment_may_be_read_where_the_project_allows_it() -> None:
    loaded = load_pipeline_data(pipeline(reads("env.HOEM"), reads("secrets.KEY", "s")))
    plan, problems = try_plan(loaded, catalogue(), env=["HOME"], secrets=["KEY"])
    assert plan is None
    assert [(p.code, p.nearest) for p in problems] == [("not_allowed", "HOME")]


@pytest.mark.parametrize("depth", [100, 101, 3_000])
def test_bodies_nest_a_hundred_deep(depth: int) -> None:
    problems = problems_of(*(conditional(f"c{i}", f"c{i + 1}") for i in range(depth)), stage(f"c{depth}"))
    assert [p.code for p in problems] == ([] if depth <= 100 else ["too_deep"])


def test_a_validator_that_fails_on_a_literal_is_a_problem_and_on_a_template_is_not() -> None:
    @operator(name="strict")
    class Strict:
        class Input(BaseModel):
            x: Any = None
            y: Any = None

            @field_validator("x")
            @classmethod
            def upper(cls, value: Any) -> Any:
                return {"A": 1}[value]  # a KeyError is no ValueError: pydantic lets it through

        class Output(BaseModel): ...

        def execute(self, input: Input, context: Context) -> Output:
            return self.Output()

    registry = Registry(entry_points=False)
    registry.add(Strict)

    def check(config: dict[str, Any]) -> list[Problem]:
        return try_plan(load_pipeline_data(pipeline(stage("a", "strict", config=config))), registry)[1]

    assert [(p.code, p.path) for p in check({"x": "b"})] == [("invalid_value", "/stages/0/config")]
    assert "KeyError" in check({"x": "b"})[0].message
    assert check({"x": "{{input.x}}"}) == []


@pytest.mark.parametrize(("concurrency", "said", "codes"), [(1, 5, []), (4, 5, ["memory_not_held"]), (4, None, [])])
def test_memory_that_is_not_held_is_said(concurrency: int, said: int | None, codes: list[str]) -> None:
    @operator(name="together", actors=Actors(concurrency=concurrency))
    class Together:
        class Input(BaseModel): ...

        class Output(BaseModel): ...

        async def execute(self, input: Input, context: Context) -> Output:
            return self.Output()

    registry = Registry(entry_points=False)
    registry.add(Together)
    resources = {"num_cpus": 1, **({} if said is None else {"memory_mib": said})}
    loaded = load_pipeline_data(pipeline(stage("a", "together", config={}, resources=resources)))
    plan, problems = try_plan(loaded, registry)
    assert plan is not None
    assert [p.code for p in problems] == codes
    assert [p.path for p in problems] == ["/stages/0/resources/memory_mib"] * len(codes)


@pytest.mark.parametrize(
    ("loop", "codes"),
    [
        (foreach("e", "b", config={"max_parallel": 0}), ["invalid_config"]),
        (foreach("e", "b", config={"item_variable": "row", "parallel": "yes"}), ["invalid_config"]),
        ({**foreach("e", "b"), "component_type": "forech"}, ["unknown_component"]),
    ],
)
def test_a_loop_that_is_not_understood_is_one_problem(loop: dict[str, Any], codes: list[str]) -> None:
    name = loop["config"].get("item_variable", "item")
    problems = problems_of(loop, reads(name, id="b"))
    assert [p.code for p in problems] == codes


def test_a_format_that_is_not_known_is_a_warning() -> None:
    data = pipeline(
        stage("a"), input_schema={"type": "object", "properties": {"c": {"type": "string", "format": "emial"}}}
    )
    plan, problems = try_plan(load_pipeline_data(data), catalogue())
    assert plan is not None
    assert plan.input_schema is not None
    assert [(p.code, p.severity, p.nearest) for p in problems] == [("unknown_format", "warning", "email")]
