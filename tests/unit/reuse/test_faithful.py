"""Values that the log does not give back as they were: what may go on in spite of them, and what may not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.summary import StageSummary
from flowmason_ray.reusing.faithful import Faithfulness
from tests.engine_kit import conditional, foreach, plan_of, stage

CHAIN = plan_of(
    stage("a"),
    stage("b", config={"value": "{{ stages.a }}"}),
    stage("c", config={"value": "{{ stages.b }}"}),
)
LOOP = plan_of(
    foreach("each", "one two", config={"items": [1, 2, 3]}),
    stage("one", config={"value": "{{ item }}"}),
    stage("two", config={"value": "{{ stages.one }}"}),
    stage("after", config={"value": "{{ stages.each.results }}"}),
)
UNREAD = plan_of(
    foreach("each", "one", config={"items": [1, 2, 3]}), stage("one", config={"value": "{{ item }}"}), stage("other")
)
GATE = plan_of(
    stage("a"),
    conditional("gate", "yes", depends_on=["a"]),
    stage("yes", config={"value": "{{ stages.a }}"}),
)
VARIABLES = plan_of(
    stage("set", "variable_set", config={"name": "token", "value": "x"}),
    stage("use", config={"value": "{{ vars.token }}"}, depends_on=["set"]),
    stage("free"),
)


def said(path: str, kind: str = "stage_succeeded", **keys: Any) -> dict[str, Any]:
    return {"kind": kind, "path": path, **keys}


def summaries(**statuses: str) -> Mapping[str, StageSummary]:
    return {path: StageSummary(status) for path, status in statuses.items()}


@pytest.mark.parametrize(
    ("plan", "masked", "statuses", "expected"),
    [
        (CHAIN, "a", {"a": "succeeded"}, ("a", "b")),
        (CHAIN, "a", {"a": "succeeded", "b": "running"}, ("a", "b")),
        (CHAIN, "a", {"a": "succeeded", "b": "paused"}, ("a", "b")),
        (CHAIN, "a", {"a": "succeeded", "b": "succeeded"}, None),
        (CHAIN, "a", {"a": "succeeded", "b": "skipped"}, None),
        (CHAIN, "c", {"a": "succeeded", "b": "succeeded", "c": "succeeded"}, None),
        (LOOP, "each", {"each": "running"}, ("each", "each")),
        (LOOP, "each[1]/one", {"each": "running"}, ("each[1]/one", "each[1]/two")),
        (LOOP, "each[1]/one", {"each": "running", "each[0]/two": "succeeded"}, ("each[1]/one", "each[1]/two")),
        (LOOP, "each[1]/one", {"each": "running", "each[1]/two": "succeeded"}, ("each[1]/one", "after")),
        (LOOP, "each[1]/one", {"each": "succeeded"}, ("each[1]/one", "each[1]/two")),
        (LOOP, "each[1]/one", {"each": "succeeded", "each[1]/two": "succeeded"}, None),
        (LOOP, "each", {"each": "succeeded"}, ("each", "after")),
        (LOOP, "each", {"each": "succeeded", "after": "running"}, ("each", "after")),
        (LOOP, "each", {"each": "succeeded", "after": "succeeded"}, None),
        (UNREAD, "each[0]/one", {"each": "running"}, None),
        (GATE, "a", {"a": "succeeded", "gate": "running"}, ("a", "yes")),
        (GATE, "a", {"a": "succeeded", "gate": "succeeded", "yes": "skipped"}, None),
        (VARIABLES, "set", {"set": "succeeded"}, ("set", "use")),
        (VARIABLES, "set", {"set": "succeeded", "use": "succeeded"}, None),
    ],
)
def test_what_has_yet_to_read_a_masked_value_is_found(
    plan: Plan, masked: str, statuses: dict[str, str], expected: tuple[str, str] | None
) -> None:
    found = Faithfulness()
    found.take(said(masked, lossy=True))
    assert found.still_read(plan, summaries(**statuses)) == expected


def test_the_latest_value_counts() -> None:
    found = Faithfulness()
    found.take(said("a", lossy=True))
    found.take(said("a", "stage_started"))
    assert list(found.masked) == ["a"]
    found.take(said("a"))
    assert not found.masked


def test_an_answer_and_a_reused_value_can_be_masked_too() -> None:
    found = Faithfulness()
    found.take({"kind": "run_created", "lossy": True})
    found.take(said("ok", "approval_answered", lossy=True))
    found.take(said("b", "stage_reused", lossy=True))
    assert (found.input_exact, list(found.masked)) == (False, ["ok", "b"])
