"""Values that the log does not give back as they were: what may go on in spite of them, and what may not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.events import ApprovalRequested, Event
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.summary import StageSummary
from flowmason_ray.errors import InvalidCall
from flowmason_ray.resuming import prepare_edited, prepare_resume
from flowmason_ray.reusing.faithful import Faithfulness
from flowmason_ray.stores.sqlite import SqliteRunStore
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


SECRET = "sesame-open-now"


def paused(tmp_path: Path, last: str, input: Mapping[str, Any] | None = None) -> tuple[SqliteRunStore, str, Path]:
    """Run a pipeline that holds a secret until it asks; `last` is what it has yet to read."""
    (tmp_path / "flowmason.json").write_text('{"name": "p", "secrets": ["TOKEN"]}')
    file = tmp_path / "p.pipeline.json"
    stages = [
        {"id": "token", "component_type": "json_transform", "config": {"data": {"x": "{{ secrets.TOKEN }}"}}},
        {
            "id": "ask",
            "component_type": "wait_for_approval",
            "config": {"message": "Go?"},
            "depends_on": ["token"],
        },
        {
            "id": "last",
            "component_type": "variable_set",
            "config": {"name": "y", "value": last},
            "depends_on": ["ask"],
        },
    ]
    file.write_text(json.dumps({"name": "P", "stages": stages, "output": {"y": "{{ stages.last.y }}"}}))
    store = SqliteRunStore(tmp_path / "runs.db")

    def pause(event: Event) -> None:
        if isinstance(event, ApprovalRequested):
            prepared.pause()

    prepared = PreparedRun(file, input, store=store, observers=[pause])
    assert asyncio.run(prepared.run()).status == "paused"
    return store, prepared.run_id, file


def test_a_masked_value_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    store, run_id, file = paused(tmp_path, "{{ stages.token.result.x }}")

    with pytest.raises(InvalidCall, match=r"(?s)'token' .* 'last' has yet to read it.*--pipeline"):
        asyncio.run(prepare_resume(store, run_id))

    edited = asyncio.run(prepare_edited(store, run_id, file))
    told = {stage.path: stage for stage in edited.outlook.stages}
    assert (told["token"].reused, told["token"].why) == (
        False,
        ("what it came to is not recorded as it was (a secret is masked)",),
    )

    async def answered() -> Any:
        running = asyncio.create_task(edited.run())
        async with asyncio.timeout(20):
            while not running.done():
                edited.answer("ask", True)
                await asyncio.sleep(0.01)
        return (await running).output

    assert asyncio.run(answered()) == {"y": SECRET}


def test_a_masked_value_that_nobody_reads_any_more_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    store, run_id, _ = paused(tmp_path, "free")
    assert asyncio.run(prepare_resume(store, run_id)).run_id == run_id


def test_an_input_that_held_a_secret_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    store, run_id, file = paused(tmp_path, "{{ input.n }}", {"n": SECRET})
    for prepare in (prepare_resume(store, run_id), prepare_edited(store, run_id, file)):
        with pytest.raises(InvalidCall, match=r"input of run .* held a secret"):
            asyncio.run(prepare)
