"""What a plan holds: edges, regions, scopes, results, and a digest that follows the meaning."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flowmason_ray.engine.component import Cost, Effect
from flowmason_ray.engine.plan import Plan, PlanStage, Target
from flowmason_ray.engine.planning import make_plan
from flowmason_ray.spec.loader import load_pipeline_text
from tests.engine_kit import catalogue, conditional, foreach, pipeline, plan_of, problems_of, stage


def find(plan: Plan, id: str) -> PlanStage:
    return next(s for _, s in plan.stages() if s.id == id)


def waits(plan: Plan, id: str) -> list[str]:
    scope = next(scope for scope, s in plan.stages() if s.id == id)
    return [scope.stages[i].id for i in find(plan, id).waits_for]


def reads(text: str, id: str = "r", **keys: Any) -> dict[str, Any]:
    return stage(id, config={"value": "{{" + text + "}}"}, **keys)


def sets(id: str, name: str = "x", value: Any = 1, **keys: Any) -> dict[str, Any]:
    return stage(id, "variable_set", config={"name": name, "value": value}, **keys)


# -- edges ------------------------------------------------------------------------------------------------------------


def test_references_and_depends_on_make_edges() -> None:
    plan = plan_of(stage("a"), stage("b"), reads("stages.a.value", after="b"), stage("w", when="stages.r.value"))
    assert waits(plan, "r") == ["a", "b"]
    assert waits(plan, "w") == ["r"]
    assert plan.root.downstream[find(plan, "a").index] == (find(plan, "r").index,)


def test_a_body_that_reads_further_out_makes_its_owner_wait() -> None:
    plan = plan_of(stage("a"), foreach("each", "c"), conditional("c", "r"), reads("stages.a.value"))
    assert waits(plan, "each") == ["a"]
    assert waits(plan, "c") == []
    assert find(plan, "r").targets == {"a": Target(1, 0)}
    assert find(plan, "r").upstreams == (Target(1, 0),)


def test_a_reader_of_a_branch_waits_for_its_owner() -> None:
    plan = plan_of(conditional("c", "y"), stage("y"), reads("stages.y.value | default(1)"))
    assert waits(plan, "r") == ["c"]
    assert find(plan, "r").upstreams == (Target(0, 1),)


def test_regions_and_scopes_are_numbered() -> None:
    plan = plan_of(conditional("c", "each", "n"), foreach("each", "b"), stage("b"), stage("n"))
    root, body = plan.scopes
    assert [(r.name, r.owner, [root.stages[m].id for m in r.members]) for r in root.regions] == [
        ("", None, ["c"]),
        ("true", 0, ["each"]),
        ("false", 0, ["n"]),
    ]
    assert find(plan, "c").bodies == {"true": 1, "false": 2}
    assert (find(plan, "each").body_scope, body.parent, body.owner, body.variables) == (1, 0, 1, ("item", "index"))
    assert root.nested[0] == (1, 2)
    assert not body.isolated


# -- variables --------------------------------------------------------------------------------------------------------


def test_a_reader_of_a_variable_waits_for_all_its_setters() -> None:
    plan = plan_of(reads("vars.x"), sets("a"), sets("b", after="a"))
    assert waits(plan, "r") == ["a", "b"]


def test_a_reader_that_a_setter_waits_for_sees_the_value_before() -> None:
    plan = plan_of(sets("a"), reads("vars.x"), sets("b", after="r a"))
    assert waits(plan, "r") == ["a"]


def test_the_setter_that_reads_comes_second() -> None:
    plan = plan_of(sets("b", value="{{vars.x + 1}}"), sets("a"))
    assert waits(plan, "b") == ["a"]


def test_a_variable_is_seen_inside_loops() -> None:
    plan = plan_of(foreach("each", "r"), reads("vars.x"), sets("v"))
    assert waits(plan, "each") == ["v"]


def test_a_variable_of_an_iteration_orders_stages_in_it() -> None:
    plan = plan_of(foreach("each", "r v"), reads("vars.x"), sets("v"))
    assert waits(plan, "r") == ["v"]


def test_a_result_that_reads_a_variable_waits_for_nothing_special() -> None:
    plan = plan_of(stage("a"), sets("v"), output="{{vars.x}}")
    assert plan.root.result_hidden


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "keys", "result"),
    [
        ([stage("a"), stage("b", after="a")], {}, "b"),
        ([stage("a"), stage("b")], {"output_stage_id": "a"}, "a"),
        ([stage("a"), stage("b")], {}, "$output"),
        ([stage("a")], {"output": {"x": 1}}, "$output"),
        ([stage("a")], {"output_schema": {"type": "object"}}, "$output"),
        ([conditional("c", "y"), stage("y")], {}, "c"),
        ([conditional("c", "y"), stage("y")], {"output_stage_id": "y"}, "y"),
    ],
)
def test_what_the_result_is(stages: list[Any], keys: dict[str, Any], result: str) -> None:
    plan = plan_of(*stages, **keys)
    assert plan.root.result is not None
    assert plan.root.stages[plan.root.result].id == result
    assert plan.root.result_hidden == result.startswith("$")


def test_several_terminal_stages_are_an_object_of_their_outputs() -> None:
    plan = plan_of(stage("a"), stage("b-1"), stage("3"), stage("-x-"), stage("and"), stage("output"))
    hidden = plan.root.stages[-1]
    assert {p[1:]: str(r.path[0]) for p, r in hidden.template.references} == {
        id: id for id in ("a", "b-1", "3", "-x-", "and", "output")
    }
    assert len(hidden.targets) == 6


def test_an_iterations_result_is_its_only_terminal_stage_or_collect() -> None:
    plan = plan_of(foreach("each", "a b"), stage("a"), stage("b", after="a"))
    body = plan.scopes[1]
    assert body.result is not None
    assert body.stages[body.result].id == "b"
    plan = plan_of(foreach("each", "a", config={"collect": "{{item}}"}), stage("a"))
    assert plan.scopes[1].result_hidden


# -- how stages are run -----------------------------------------------------------------------------------------------


def test_a_stage_says_how_it_is_run_then_the_defaults_then_the_component() -> None:
    plan = plan_of(
        stage("a", retry={"max_attempts": 3}, timeout_ms=500, effect="effectful", resources={"num_cpus": 2}),
        stage("b"),
        defaults={
            "retry": {"max_attempts": 2, "initial_delay_ms": 10},
            "timeout_ms": 1000,
            "resources": {"memory_mib": 5},
        },
        max_parallel=3,
        timeout_ms=9000,
    )
    a, b = find(plan, "a"), find(plan, "b")
    assert (a.retry.max_attempts, a.timeout_s, a.effect, a.resources) == (
        3,
        0.5,
        Effect.EFFECTFUL,
        {"memory_mib": 5, "num_cpus": 2},
    )
    assert (b.retry.max_attempts, b.retry.initial_delay_s, b.timeout_s, b.effect, b.cost) == (
        2,
        0.01,
        1.0,
        Effect.PURE,
        Cost.TRIVIAL,
    )
    assert (plan.max_parallel, plan.timeout_s) == (3, 9.0)


def test_a_condition_without_braces_is_an_expression() -> None:
    plan = plan_of(stage("c", "conditional", config={"condition": "input.n > 3"}))
    assert find(plan, "c").template.source["condition"] == "{{input.n > 3}}"


# -- the digest -------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = pipeline(
    stage("a", config={"x": 1, "y": 2}), stage("b", after="a", position={"x": 1}), description="d", tags=["t"]
)


def digest(data: dict[str, Any], *, indent: int | None = None) -> str:
    return make_plan(load_pipeline_text(json.dumps(data, indent=indent)), catalogue()).digest


Change = Callable[[dict[str, Any]], Any]


def _changed(change: Change) -> dict[str, Any]:
    data = json.loads(json.dumps(BASE))
    change(data)
    return data


def _first(data: dict[str, Any]) -> dict[str, Any]:
    return data["stages"][0]


def _renamed(data: dict[str, Any]) -> None:
    _first(data)["id"] = "z"
    data["stages"][1]["depends_on"] = ["z"]


def _older_spelling(data: dict[str, Any]) -> None:
    _first(data)["type"] = _first(data).pop("component_type")


WITHOUT_MEANING: dict[str, Change] = {
    "order": lambda d: d["stages"].reverse(),
    "key order": lambda d: _first(d).update(config={"y": 2, "x": 1}),
    "position": lambda d: d["stages"][1].update(position={"x": 9}),
    "words of a stage": lambda d: _first(d).update(name="N", description="D", metadata={"m": 1}),
    "words": lambda d: d.update(description="other", tags=[], category="c", metadata={"m": 1}),
    "extras": lambda d: d.update({"$schema": "s", "x-mine": 1, "sample_input": {}}),
    "older spelling": _older_spelling,
}

WITH_MEANING: dict[str, Change] = {
    "config": lambda d: _first(d)["config"].update(x=2),
    "edge": lambda d: d["stages"][1].pop("depends_on"),
    "when": lambda d: _first(d).update(when="input.x"),
    "id": _renamed,
    "output": lambda d: d.update(output="{{stages.a}}"),
    "version": lambda d: d.update(version="1.0.1"),
}


@pytest.mark.parametrize("name", WITHOUT_MEANING)
def test_what_has_no_meaning_does_not_change_the_digest(name: str) -> None:
    assert digest(_changed(WITHOUT_MEANING[name])) == digest(BASE)


def test_formatting_does_not_change_the_digest() -> None:
    assert digest(BASE, indent=4) == digest(BASE)


@pytest.mark.parametrize("name", WITH_MEANING)
def test_what_has_meaning_changes_the_digest(name: str) -> None:
    assert digest(_changed(WITH_MEANING[name])) != digest(BASE)


# -- size -------------------------------------------------------------------------------------------------------------


def _calls(make: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(trace)
    try:
        make()
    finally:
        sys.setprofile(None)
    return count


def _loops(n: int) -> list[dict[str, Any]]:
    return [s for i in range(n) for s in (foreach(f"e{i}", f"b{i}"), stage(f"b{i}"))]


def _branches(n: int) -> list[dict[str, Any]]:
    return [
        s
        for i in range(n)
        for s in (conditional(f"e{i}", f"b{i}"), stage(f"b{i}", after="" if i == 0 else f"e{i - 1}"))
    ]


def _variables(n: int) -> list[dict[str, Any]]:
    chain = [stage(f"s{i}", after="" if i == 0 else f"s{i - 1}") for i in range(n)]
    return [*chain, sets("v", after=f"s{n - 1}"), *(reads("vars.x", f"r{i}") for i in range(n))]


@pytest.mark.parametrize("shape", [_loops, _branches, _variables])
def test_planning_is_linear_in_the_number_of_stages(shape: Callable[[int], list[dict[str, Any]]]) -> None:
    """Counted in calls, so that a loaded machine does not matter: twice the stages, about twice the work."""
    problems_of(*shape(5))
    small, large = shape(100), shape(200)
    assert _calls(lambda: problems_of(*large)) < 2.3 * _calls(lambda: problems_of(*small))
