"""What rides with what, and why not."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray.components.base import operator
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import Context, SetupContext
from flowmason_ray.engine.fusion import Fused, Way, fusion_of
from flowmason_ray.engine.pace import Timing
from flowmason_ray.engine.pacing import Pacing
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.planning import make_plan, try_plan
from flowmason_ray.spec.loader import load_pipeline_data
from tests.engine_kit import Echo, conditional, foreach, pipeline, stage


class _Input(BaseModel):
    value: Any = None


@operator(name="crunch", effect="pure", cost="cpu")
class Crunch:
    """Computes."""

    Input = Output = _Input

    def execute(self, input: _Input, context: Context) -> _Input:
        return input


@operator(name="send", effect="effectful", cost="cpu")
class Send:
    """Does something to the world."""

    Input = Output = _Input

    def execute(self, input: _Input, context: Context) -> _Input:
        return input


@operator(name="wait", effect="pure", cost="io")
class Wait:
    """Waits."""

    Input = Output = _Input

    async def execute(self, input: _Input, context: Context) -> _Input:
        return input


@operator(name="load", effect="pure", cost="cpu")
class Load:
    """Gets ready once."""

    Input = Output = _Input

    def setup(self, context: SetupContext) -> None:
        """Do nothing."""

    def execute(self, input: _Input, context: Context) -> _Input:
        return input


@lru_cache(maxsize=1)
def catalogue() -> Registry:
    registry = Registry(entry_points=False)
    for component in (Echo, Crunch, Send, Wait, Load):
        registry.add(component)
    return registry


def crunch(id: str, *reads: str, kind: str = "crunch", **keys: Any) -> dict[str, Any]:
    """Return a computing stage that reads others."""
    return stage(id, kind, config={"value": ["{{ stages.%s.value }}" % each for each in reads]}, **keys)  # noqa: UP031


def echo(id: str, *reads: str, **keys: Any) -> dict[str, Any]:
    """Return a trivial stage that reads others."""
    return crunch(id, *reads, kind="echo", **keys)


def plan_of(*stages: dict[str, Any], **keys: Any) -> Plan:
    return make_plan(load_pipeline_data(pipeline(*stages, **keys)), catalogue())


def fusion(plan: Plan, **measured_s: float) -> dict[str, Fused]:
    """Return how every stage runs, given durations of earlier runs by path (`__` for `/`)."""
    measured = {path.replace("__", "/"): Timing(10, seconds) for path, seconds in measured_s.items()}
    pacing = Pacing(plan, measured)
    found = fusion_of(plan, pacing.pace, pacing.lasts_s)
    return {
        stage.id: fused
        for scope, row in zip(plan.scopes, found, strict=True)
        for stage, fused in zip(scope.stages, row, strict=True)
    }


def groups(plan: Plan, **measured_s: float) -> list[list[str]]:
    """Return the calls that carry more than one stage, by ids."""
    pacing = Pacing(plan, {path.replace("__", "/"): Timing(10, s) for path, s in measured_s.items()})
    found: list[list[str]] = []
    for scope, row in zip(plan.scopes, fusion_of(plan, pacing.pace, pacing.lasts_s), strict=True):
        ids = [each.id for each in scope.stages]
        found += [[ids[i], *(ids[r] for r in fused.riders)] for i, fused in enumerate(row) if fused.riders]
    return found


# -- what rides -----------------------------------------------------------------------------------------------------------


def test_a_chain_of_computing_stages_is_one_call() -> None:
    plan = plan_of(crunch("a"), crunch("b", "a"), crunch("c", "b"))
    assert groups(plan) == [["a", "b", "c"]]
    found = fusion(plan)
    assert (found["b"].way, found["b"].why) == (Way.RIDES, "rides with 'a': nothing else waits for what that makes")
    assert found["a"].why == "own task: CPU-bound"


def test_a_later_stage_may_read_what_an_earlier_one_of_the_call_waited_for() -> None:
    plan = plan_of(crunch("config"), crunch("x"), crunch("a", "config", "x"), crunch("b", "a", "config"))
    assert groups(plan) == [["a", "b"]]


def test_fanning_out_keeps_its_parallelism() -> None:
    plan = plan_of(crunch("a"), *(crunch(f"b{i}", "a") for i in range(4)))
    assert groups(plan) == []


def test_quick_readers_ride_also_where_steady_ones_fan_out() -> None:
    plan = plan_of(crunch("a"), echo("q", "a"), echo("r", "q"), crunch("b", "a"), crunch("c", "q"))
    assert groups(plan) == [["a", "q", "r"]]


def test_what_joins_two_calls_rides_with_neither() -> None:
    plan = plan_of(crunch("a"), crunch("b"), crunch("c", "a", "b"), crunch("d", "c"))
    assert groups(plan) == [["c", "d"]]


def test_trivial_stages_run_in_the_coordinator_unless_they_read_what_a_call_makes() -> None:
    found = fusion(plan_of(echo("first"), crunch("load", "first"), echo("pick", "load"), echo("other", "first")))
    assert (found["first"].way, found["other"].way) == (Way.COORDINATOR, Way.COORDINATOR)
    assert found["first"].why == "in the coordinator: trivial"
    assert found["pick"].why == "rides with 'load': trivial, and reads what that makes"


def test_an_iteration_is_one_call_with_its_result() -> None:
    plan = plan_of(foreach("each", "a b", config={"collect": "{{ stages.b.value }}"}), crunch("a"), crunch("b", "a"))
    assert groups(plan) == [["a", "b", "$collect"]]


def test_control_flow_rides_but_nothing_behind_it() -> None:
    plan = plan_of(
        crunch("a"),
        stage("each", "foreach", config={"items": "{{ stages.a.value }}", "loop_stages": ["x"]}),
        crunch("x"),
        crunch("b", "a", after="each"),
    )
    assert groups(plan) == [["a", "each"]]


# -- what does not --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"kind": "send"},
        {"timeout_ms": 1000},
        {"kind": "wait"},
        {"resources": {"num_cpus": 2}},
        {"resources": {"labels": {"zone": "x"}}},
        {"enabled": False},
        {"placement": {"fuse": "never"}},
        {"cache": {"ttl_s": 60}},
        {"when": "now() > ''"},
        {"placement": {"strategy": "spread"}},
        {"kind": "load"},
    ],
    ids=lambda keys: next(iter(keys)) + ":" + str(next(iter(keys.values()))),
)
def test_what_cannot_ride_has_a_call_of_its_own(keys: dict[str, Any]) -> None:
    assert groups(plan_of(crunch("a"), crunch("b", "a", **keys), crunch("c", "b"))) in ([], [["b", "c"]])


@pytest.mark.parametrize("keys", [{"kind": "send"}, {"timeout_ms": 1000}, {"placement": {"fuse": "never"}}])
def test_what_cannot_carry_has_no_riders(keys: dict[str, Any]) -> None:
    assert groups(plan_of(crunch("a", **keys), crunch("b", "a"))) == []


def test_what_wants_to_be_near_its_carrier_rides() -> None:
    assert groups(plan_of(crunch("a"), crunch("b", "a", placement={"near": "a"}))) == [["a", "b"]]


def test_riding_ends_at_the_borders_of_bodies() -> None:
    plan = plan_of(crunch("a"), conditional("c", "x y", after="a"), crunch("x", "a"), crunch("y", "x"))
    assert groups(plan) == [["a", "c"], ["x", "y"]]


def test_a_reader_of_variables_rides_when_all_have_been_set_before() -> None:
    plan = plan_of(
        stage("set", "variable_set", config={"name": "v", "value": 1}),
        crunch("a", after="set"),
        stage("b", "crunch", config={"value": "{{ vars.v }}"}, after="a"),
    )
    assert groups(plan) == [["a", "b"]]
    plan = plan_of(
        crunch("a"),
        stage("set", "variable_set", config={"name": "v", "value": "{{ stages.a.value }}"}),
        stage("b", "crunch", config={"value": "{{ vars.v }}"}, after="a"),
    )
    assert groups(plan) == [["a", "set"]]


def test_a_call_has_a_bounded_number_of_steady_stages() -> None:
    plan = plan_of(crunch("s0"), *(crunch(f"s{i}", f"s{i - 1}") for i in range(1, 20)))
    assert [len(group) for group in groups(plan)] == [8, 8, 4]


def test_a_call_is_not_known_to_take_long() -> None:
    plan = plan_of(crunch("a"), crunch("b", "a"), crunch("c", "b"))
    assert groups(plan, a=2.0, b=2.0, c=2.0) == [["a", "b"]]
    assert groups(plan, a=60.0, b=0.1, c=0.1) == [["b", "c"]]


def test_a_wide_fan_out_fills_one_call_and_leaves_the_rest() -> None:
    plan = plan_of(crunch("a"), *(echo(f"q{i}", "a") for i in range(500)))
    (group,) = groups(plan)
    assert len(group) == 65


# -- what is asked for, and what was measured -----------------------------------------------------------------------------


def test_always_rides_even_if_parallelism_is_lost() -> None:
    always = {"fuse": "always"}
    plan = plan_of(crunch("a"), crunch("b", "a", placement=always), crunch("c", "a", placement=always))
    assert groups(plan) == [["a", "b", "c", "$output"]]
    assert fusion(plan)["b"].why == "rides with 'a': fuse: always"


def test_never_has_a_call_of_its_own() -> None:
    found = fusion(plan_of(echo("a", placement={"fuse": "never"})))
    assert (found["a"].way, found["a"].why) == (Way.OWN, "own task: fuse: never")


def test_a_computing_stage_that_is_quick_shares_calls() -> None:
    plan = plan_of(crunch("a"), crunch("b", "a"), crunch("c", "a"))
    found = fusion(plan, a=0.0002, b=0.0002)
    assert found["a"].why == ("together with others that start in the same moment: measured to take less than a call")
    assert groups(plan, a=0.0002, b=0.0002) == [["a", "b", "c", "$output"]]


def test_a_trivial_stage_that_is_slow_leaves_the_coordinator() -> None:
    found = fusion(plan_of(echo("a")), a=0.05)
    assert (found["a"].way, found["a"].why) == (
        Way.OWN,
        "own task: measured to take milliseconds, though declared trivial",
    )


def test_quick_readers_that_could_run_side_by_side_ride_only_for_a_moment() -> None:
    plan = plan_of(crunch("a"), *(crunch(f"q{i}", "a") for i in range(50)))
    (group,) = groups(plan, **{f"q{i}": 0.0009 for i in range(50)})
    assert len(group) == 1 + 5


def test_what_waits_is_never_quick() -> None:
    assert fusion(plan_of(crunch("a", kind="wait")), a=0.0001)["a"].way is Way.OWN


def test_a_wish_that_cannot_be_fulfilled_is_a_warning_that_says_why() -> None:
    always = {"fuse": "always"}
    data = pipeline(crunch("a", placement=always), crunch("b", "a", kind="send", placement=always))
    plan, problems = try_plan(load_pipeline_data(data), catalogue())
    assert plan is not None
    (problem,) = problems
    assert (problem.code, problem.severity, problem.path) == ("cannot_fuse", "warning", "/stages/1/placement/fuse")
    assert "it is effectful" in problem.message
