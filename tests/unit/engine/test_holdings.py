"""Values are given back when nobody reads them any more, and not before."""

from __future__ import annotations

from typing import Any

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.executors.holdings import LEAST_BYTES, Holdings, readers_of
from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.scope import Scope, Status
from tests.engine_kit import foreach, plan_of, stage


def reads(*names: str) -> dict[str, Any]:
    return {"config": {"value": "".join("{{ stages." + name + " }}" for name in names)}}


def readers(plan: Plan, name: str) -> list[str] | None:
    for scope in plan.scopes:
        for each in scope.stages:
            if each.id == name:
                found = readers_of(plan)[id(scope)][each.index]
                return None if found is None else [scope.stages[index].id for index in found]
    raise KeyError(name)


def test_who_reads_a_value() -> None:
    plan = plan_of(
        stage("a"),
        stage("b", **reads("a")),
        stage("c", **reads("a", "b")),
        foreach("each", "inside", after="c"),
        stage("inside", **reads("b")),
        stage("last", after="each"),
        output_stage_id="last",
    )
    assert readers(plan, "a") == ["b", "c"]
    assert readers(plan, "b") == ["c", "each"]  # the loop reads it as long as it runs
    assert readers(plan, "c") == []
    assert readers(plan, "each") is None  # a construct
    assert readers(plan, "inside") is None  # the item's result
    assert readers(plan, "last") is None  # the run's


def test_a_construct_reads_what_its_bodies_come_to() -> None:
    config = {"branches": [["x", "y"], ["z"]]}
    plan = plan_of(
        stage("both", "parallel", config=config),
        stage("x"),
        stage("y", **reads("x")),
        stage("z"),
        stage("end"),
        output_stage_id="end",
    )
    assert readers(plan, "x") == ["y"]
    assert readers(plan, "y") == ["both"]
    assert readers(plan, "z") == ["both"]


class Played:
    """A scope whose stages end when the test says so."""

    def __init__(self, *stages: dict[str, Any]) -> None:
        self.plan = plan_of(*stages, output_stage_id=stages[-1]["id"])
        self.scope = Scope(self.plan.root, parent=None, owner=-1, prefix="", input=None)
        self.holdings = Holdings()
        self.holdings.prepare(self.plan)

    def index(self, name: str) -> int:
        return next(s.index for s in self.plan.root.stages if s.id == name)

    def makes(self, name: str, size_bytes: int = LEAST_BYTES) -> RemoteValue:
        index = self.index(name)
        value = RemoteValue(reference=object(), packed=None, size_bytes=size_bytes)
        self.scope.values[index] = value
        command = StartStage(
            path=name, stage=self.plan.root.stages[index], scope=self.scope, attempt=1, first_started_at=0.0
        )
        self.holdings.note(command, value)
        return value

    def ends(self, name: str) -> None:
        self.scope.status[self.index(name)] = Status.SUCCEEDED


def test_a_value_stays_until_its_last_reader_has_ended() -> None:
    played = Played(stage("a"), stage("b", **reads("a")), stage("c", **reads("a")), stage("d"), stage("e"))
    a = played.makes("a")
    played.ends("b")
    played.makes("b")
    assert a.reference is not None
    played.ends("c")
    played.makes("d", size_bytes=3 * LEAST_BYTES)
    assert a.reference is None


def test_small_values_do_not_make_it_look() -> None:
    played = Played(stage("a"), stage("b"), stage("c"))
    value = played.makes("a", size_bytes=10)
    played.makes("b", size_bytes=10)
    assert value.reference is not None
    played.makes("b")
    assert value.reference is None


def test_what_a_variable_holds_stays() -> None:
    played = Played(stage("a"), stage("b"), stage("c"))
    value = played.makes("a", size_bytes=10)
    played.scope.variables = {"x": value}
    played.makes("b")
    assert value.reference is not None


def test_without_a_plan_nothing_is_given_back() -> None:
    played = Played(stage("a"), stage("b"))
    played.holdings = Holdings()
    assert played.makes("a").reference is not None
