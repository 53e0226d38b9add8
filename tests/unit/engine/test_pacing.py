"""How durations move stages between paces, and what later runs learn of them."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.api import PreparedRun
from flowmason_ray.components.base import operator
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.definitions import Definitions
from flowmason_ray.engine.events import RunCreated
from flowmason_ray.engine.pace import BLOCKING_S, CALL_S, ENOUGH, QUICK_S, Pace, Timing
from flowmason_ray.engine.pacing import MAX_TOGETHER, Pacing
from flowmason_ray.engine.plan import Plan, PlanStage
from flowmason_ray.engine.timings import Timings
from flowmason_ray.stores.memory import MemoryRunStore
from tests.engine_kit import foreach, pipeline, stage
from tests.unit.engine.test_fusion import Crunch, Send, Wait, crunch, echo, plan_of

DURATIONS = st.floats(min_value=0, max_value=100, allow_nan=False)


def stage_of(plan: Plan, id: str) -> PlanStage:
    return next(s for _, s in plan.stages() if s.id == id)


def measured(pacing: Pacing, stage: PlanStage, *durations_s: float) -> None:
    for duration_s in durations_s:
        pacing.measured(stage, duration_s)


# -- timings --------------------------------------------------------------------------------------------------------------


@given(durations=st.lists(DURATIONS, min_size=1, max_size=300))
@settings(max_examples=100, deadline=None)
def test_what_is_typical_lies_among_what_was_measured(durations: list[float]) -> None:
    timing = Timing()
    for each in durations:
        timing.add(each)
    assert min(durations) - 1e-6 <= timing.typical_s <= max(durations) + 1e-6
    assert timing.count == len(durations)


@given(old=st.lists(DURATIONS, min_size=1, max_size=99), new=st.lists(DURATIONS, min_size=1, max_size=99))
@settings(max_examples=100, deadline=None)
def test_joining_lies_between_and_survives_being_stored(old: list[float], new: list[float]) -> None:
    one, other = Timing(), Timing()
    for each in old:
        one.add(each)
    for each in new:
        other.add(each)
    joined = Timing.from_json(one.joined(other).to_json())
    assert min(old + new) - 1e-6 <= joined.typical_s <= max(old + new) + 1e-6


def test_of_runs_with_one_attempt_each_one_that_had_to_wait_does_not_count() -> None:
    known = Timing()
    for duration_s in (0.00002, 0.00002, 0.00002, 0.015, 0.00002):
        run = Timing()
        run.add(duration_s)
        known = known.joined(run)
    assert known.typical_s < QUICK_S / 5
    for _ in range(8):
        slow = Timing()
        slow.add(0.015)
        known = known.joined(slow)
    assert known.typical_s > QUICK_S, "it has become slow"


def test_a_few_that_had_to_wait_do_not_count_but_many_do() -> None:
    timing = Timing()
    for position in range(40):
        timing.add(0.5 if position % 5 == 0 else 0.0002)
    assert abs(timing.typical_s - 0.0002) < 1e-9
    for position in range(40):
        timing.add(0.5 if position % 2 == 0 else 0.0002)
    assert timing.typical_s > 0.1


# -- paces ----------------------------------------------------------------------------------------------------------------


def test_the_first_items_of_a_loop_teach_the_rest() -> None:
    plan = plan_of(foreach("each", "x y"), crunch("x"), crunch("y", "x"), crunch("z", after="each"))
    pacing, x = Pacing(plan), stage_of(plan, "x")
    assert (pacing.pace(x), pacing.limit(x)) == (Pace.STEADY, 1)
    measured(pacing, x, *[0.0002] * ENOUGH)
    assert pacing.pace(x) is Pace.QUICK
    assert pacing.limit(x) == 1, "its rider is still taken to be long"
    measured(pacing, stage_of(plan, "y"), *[0.0003] * ENOUGH)
    assert pacing.limit(x) == int(CALL_S / 0.0005)


def test_a_call_lasts_about_as_long_as_it_should() -> None:
    plan = plan_of(crunch("x"))
    for typical_s in (0.000_001, 0.000_05, 0.0004, 0.0009):
        pacing = Pacing(plan, {"x": Timing(10, typical_s)})
        assert 1 <= pacing.limit(stage_of(plan, "x")) <= MAX_TOGETHER
        assert pacing.limit(stage_of(plan, "x")) * typical_s <= CALL_S * 1.01


def test_paces_do_not_flutter() -> None:
    plan = plan_of(crunch("x"), echo("t"))
    pacing, x, t = Pacing(plan), stage_of(plan, "x"), stage_of(plan, "t")
    measured(pacing, x, *[0.0009] * 10)
    assert pacing.pace(x) is Pace.QUICK
    measured(pacing, x, *[0.0012] * 100)
    assert pacing.pace(x) is Pace.QUICK
    measured(pacing, x, *[0.0025] * 100)
    assert pacing.pace(x) is Pace.STEADY
    measured(pacing, t, *[0.006] * 10)
    assert not pacing.in_coordinator(t)
    measured(pacing, t, *[0.004] * 100)
    assert not pacing.in_coordinator(t)
    measured(pacing, t, *[0.001] * 200)
    assert pacing.in_coordinator(t)


def test_what_says_never_or_has_an_effect_goes_alone() -> None:
    plan = plan_of(crunch("n", placement={"fuse": "never"}), crunch("s", kind="send"), crunch("t", timeout_ms=9))
    pacing = Pacing(plan, {id: Timing(10, 0.0001) for id in ("n", "s", "t")})
    assert [pacing.limit(stage_of(plan, id)) for id in ("n", "s", "t")] == [1, 1, 1]


# -- what runs leave to one another ---------------------------------------------------------------------------------------


def run(store: MemoryRunStore, data: dict[str, Any]) -> RunCreated:
    """Run a pipeline; return what its log begins with."""
    prepared = PreparedRun(data, store=store, components=[Crunch, Send, Wait, Slow])
    assert asyncio.run(prepared.run()).status == "succeeded"
    created = store.logs[prepared.run_id].events[0]
    assert isinstance(created, RunCreated)
    return created


@operator(name="slow", effect="pure", cost="trivial")
class Slow:
    """Is not what it declares."""

    Input = Output = Crunch.Input

    async def execute(self, input: Any, context: Context) -> Any:
        total = 0
        for i in range(2_000_000):
            total += i & 7
        return input


def test_a_later_run_knows_what_an_earlier_one_has_measured() -> None:
    store = MemoryRunStore()
    data = pipeline(stage("a", "crunch", config={"value": 1}), stage("b", "slow"))
    assert "measured" not in run(store, data).options
    moved = run(store, data).options["measured"]
    assert moved["b"] >= BLOCKING_S
    data["stages"][1]["config"] = {"value": 2}
    assert "b" not in run(store, data).options.get("measured", {}), "what is defined differently is not known"


def test_only_what_is_new_is_stored() -> None:
    plan = plan_of(crunch("x"), echo("t"))
    definitions = Definitions(plan)
    pacing = Pacing(plan)
    measured(pacing, stage_of(plan, "t"), *[0.000_04] * 5)
    assert pacing.worth_keeping(definitions, {}) is None, "a trivial stage that is as declared decides nothing"
    measured(pacing, stage_of(plan, "x"), *[0.02] * 5)
    stored = pacing.worth_keeping(definitions, {})
    assert stored is not None
    assert stored.keys() == {"x"}
    again = Pacing(plan)
    measured(again, stage_of(plan, "x"), *[0.022] * 5)
    assert again.worth_keeping(definitions, stored) is None, "within the noise"
    slower = Pacing(plan)
    measured(slower, stage_of(plan, "x"), *[0.2] * 5)
    kept = slower.worth_keeping(definitions, stored)
    assert kept is not None
    assert 0.02 < Timings(plan, definitions, kept).usable()["x"].typical_s < 0.2
