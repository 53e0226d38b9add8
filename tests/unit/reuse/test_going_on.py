"""Going on with a run under an edited pipeline: effects, keys, items that move, answers, doubt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowmason_ray.api import PreparedRun, Reuse
from flowmason_ray.engine.context import idempotency_key
from flowmason_ray.engine.events import (
    ApprovalAnswered,
    ApprovalRequested,
    Event,
    RunCreated,
    StageStarted,
    StageSucceeded,
)
from flowmason_ray.engine.run_log import RunRecord
from flowmason_ray.errors import InvalidCall, InvalidInput
from flowmason_ray.stores.memory import ended_record
from tests.unit.reuse.reuse_kit import COMPONENTS, World, calc, foreach, pipeline

LAST = calc("last", 0, "{{ stages.pay.a }}", boom=True)
PAY = [calc("x", 1, "{{ input.n }}"), calc("pay", 0, "{{ stages.x.a }}", component="pay"), LAST]


def mended(stage: dict[str, Any], **config: Any) -> dict[str, Any]:
    return {**stage, "config": {**{k: v for k, v in stage["config"].items() if k != "boom"}, **config}}


def interrupted(world: World, stages: list[dict[str, Any]], *, without: str, input: Any = None) -> str:
    """Run a pipeline, and cut its log off as if the process had died before `without` could say how it ended."""
    result = world.run(stages, input)
    log = world.store.logs[result.run_id]
    cut = next(i for i, e in enumerate(log.events) if isinstance(e, StageSucceeded) and e.path == without)
    del log.events[cut:]
    log.record = RunRecord(
        run_id=result.run_id, pipeline="p", version="1.0.0", status="interrupted", created_at=log.record.created_at
    )
    return result.run_id


def test_what_succeeded_is_taken_over_effects_included() -> None:
    world = World()
    old = world.run(PAY, {"n": 1})
    done = world.go_on(old.run_id, [PAY[0], PAY[1], mended(LAST)])
    assert (old.status, done.status) == ("failed", "succeeded")
    assert world.called == ["last"]
    assert world.reused == {p: {"run": old.run_id, "how": "record"} for p in ("x", "pay")}
    assert done.stages["pay"].to_json()["reused"] == {"run": old.run_id, "how": "record"}
    assert world.store.logs[done.run_id].record.based_on == old.run_id


def test_an_effect_is_never_repeated_with_other_inputs_unless_forced() -> None:
    world = World()
    old = world.run(PAY, {"n": 1})
    after = [mended(PAY[0], c=2), PAY[1], mended(LAST)]
    told = {stage.path: stage for stage in world.prepare(old.run_id, after).outlook.stages}
    assert told["pay"].would_repeat
    assert told["pay"].why == ("reads x",)
    assert told["x"].why == ("changed: config.c",)
    refused = world.go_on(old.run_id, after)
    assert refused.failure is not None
    assert (refused.failure.code, refused.failure.stage) == ("effect_would_repeat", "pay")
    assert "--force pay" in refused.failure.message
    assert world.called == ["x"]
    forced = world.go_on(refused.run_id, after, force=["pay"])
    assert forced.status == "succeeded"
    assert world.called == ["last", "pay"]


def test_a_retry_policy_does_not_get_around_it() -> None:
    world = World()
    old = world.run(PAY, {"n": 1})
    again = {**PAY[1], "retry": {"max_attempts": 3, "initial_delay_ms": 1}}
    refused = world.go_on(old.run_id, [mended(PAY[0], c=2), again, mended(LAST)])
    assert refused.stages["pay"].attempts == 1


def test_a_run_is_gone_on_with_once() -> None:
    world = World()
    old = world.run(PAY, {"n": 1})
    new = world.go_on(old.run_id, PAY)
    with pytest.raises(InvalidCall, match=new.run_id):
        world.prepare(old.run_id, PAY)


def test_what_an_earlier_earlier_run_did_is_remembered() -> None:
    world = World()
    first = world.run(PAY, {"n": 1})
    second = world.go_on(first.run_id, [calc("x", 1, "{{ input.n }}", boom=True), *PAY[1:]])
    assert second.failure is not None
    third = world.go_on(second.run_id, [PAY[0], PAY[1], mended(LAST)])
    assert third.status == "succeeded"
    assert world.called == ["last"]
    assert world.reused["pay"]["run"] == first.run_id


def test_an_interrupted_run_is_superseded() -> None:
    world = World()
    old = interrupted(world, [PAY[0], PAY[1], mended(LAST)], without="last", input={"n": 1})
    new = world.go_on(old, [PAY[0], PAY[1], mended(LAST, c=4)])
    assert new.status == "succeeded"
    record = world.store.logs[old].record
    assert record.status == "cancelled"
    assert record.failure is not None
    assert record.failure["code"] == "superseded"
    assert new.run_id in record.failure["message"]


def test_a_running_run_is_left_alone() -> None:
    world = World()
    old = interrupted(world, PAY[:2], without="pay", input={"n": 1})
    log = world.store.logs[old]
    log.record = RunRecord(run_id=old, pipeline="p", version="1", status="running", created_at=1.0)
    with pytest.raises(InvalidCall, match="is running"):
        world.prepare(old, PAY)


def test_an_input_that_no_longer_fits_changes_nothing() -> None:
    world = World()
    old = interrupted(world, PAY[:2], without="pay", input={"n": 1})
    schema = {"type": "object", "properties": {"n": {"type": "string"}}}
    with pytest.raises(InvalidInput, match=f"{old}.*no longer fits"):
        world.prepare(old, PAY, input_schema=schema)
    assert world.store.logs[old].record.status == "interrupted"


@pytest.mark.parametrize("decision", ["retry", "skip", "fail"])
def test_an_effect_in_doubt_asks(decision: Any) -> None:
    world = World()
    old = interrupted(world, [PAY[0], PAY[1]], without="pay", input={"n": 1})
    assert world.prepare(old, PAY).outlook.doubtful == ("pay",)
    with pytest.raises(InvalidCall, match="--in-doubt retry"):
        world.go_on(old, [PAY[0], PAY[1]])
    assert world.store.logs[old].record.status == "interrupted"
    done = world.go_on(old, [PAY[0], PAY[1]], in_doubt=decision)
    expected: dict[str, tuple[list[str], str]] = {
        "retry": (["pay"], "succeeded"),
        "skip": ([], "skipped"),
        "fail": ([], "failed"),
    }
    assert (world.called, done.stages["pay"].status) == expected[decision]


def test_the_server_sees_one_key_for_one_piece_of_work() -> None:
    world = World()
    put = [calc("x", 1, "{{ input.n }}"), calc("put", 0, "{{ stages.x.a }}", component="put")]
    old = interrupted(world, put, without="put", input={"n": 1})
    key = idempotency_key(old, "put")
    done = world.go_on(old, [*put, calc("new", 3)])
    assert world.keys["put"] == key
    started = [e for e in world.store.logs[done.run_id].events if isinstance(e, StageStarted) and e.path == "put"]
    assert [e.idempotency_key for e in started] == [key]
    changed = interrupted(world, put, without="put", input={"n": 1})
    world.go_on(changed, [mended(put[0], c=9), put[1]])
    assert world.keys["put"] not in (key, idempotency_key(changed, "put"))


def test_items_are_known_by_what_they_are() -> None:
    world = World()
    loop = foreach("each", "{{ input.xs + [4] }}", "pay")
    pay = calc("pay", 0, "{{ item }}", component="pay")
    old = world.run([loop, pay, calc("last", 0, boom=True, depends_on=["each"])], {"xs": [1, 2, 3]})
    moved = foreach("each", [0, 3, 2, 1, 4], "pay")
    done = world.go_on(old.run_id, [moved, pay])
    assert done.status == "succeeded", done.failure
    assert world.called == ["each[0]/pay"]
    assert {path: source.get("path") for path, source in world.reused.items()} == {
        "each[1]/pay": "each[2]/pay", "each[2]/pay": "each[1]/pay", "each[3]/pay": "each[0]/pay", "each[4]/pay": "each[3]/pay",
    }  # fmt: skip


def test_an_item_that_changed_in_its_place_is_not_a_new_one() -> None:
    world = World()
    pay = calc("pay", 0, "{{ item }}", component="pay")
    fails = calc("last", 0, boom=True, depends_on=["each"])
    old = world.run([foreach("each", [1, 2, 3], "pay"), pay, fails], {})
    done = world.go_on(old.run_id, [foreach("each", [1, 7, 3], "pay", break_on_error=False), pay])
    assert world.called == []
    assert [e["code"] for e in done.output["errors"]] == ["effect_would_repeat"]


def test_removed_items_let_others_move_up() -> None:
    world = World()
    pay = calc("pay", 0, "{{ item }}", component="pay")
    fails = calc("last", 0, boom=True, depends_on=["each"])
    old = world.run([foreach("each", [1, 2, 3], "pay"), pay, fails], {})
    done = world.go_on(old.run_id, [foreach("each", [2, 3, 9], "pay"), pay])
    assert done.status == "succeeded"
    assert world.called == ["each[2]/pay"]


ASK = {"id": "ask", "component_type": "wait_for_approval", "config": {"message": "Go with {{ stages.x.a }}?"}}


def answered(world: World, prepared: PreparedRun) -> list[Event]:
    """Run, and answer the question if there is one."""
    asked: list[Event] = []

    async def drive() -> None:
        def watch(event: Event) -> None:
            if isinstance(event, ApprovalRequested):
                asked.append(event)
                prepared.answer("ask", {"yes": True}, by="Ann")

        prepared._observers = (*prepared._observers, watch)  # pyright: ignore[reportPrivateUsage]  # needs the run itself
        await prepared.run()

    asyncio.run(drive())
    return asked


def test_a_person_is_not_asked_twice() -> None:
    world = World()
    stages = [calc("x", 1), ASK, calc("last", 0, "{{ stages.ask.data.yes }}", boom=True)]
    first = PreparedRun(pipeline(stages), {}, store=world.store, components=COMPONENTS)
    assert len(answered(world, first)) == 1
    second = world.prepare(first.run_id, [*stages[:2], mended(stages[2])])
    assert answered(world, second) == []
    log = world.store.logs[second.run_id]
    assert not any(isinstance(event, (ApprovalRequested, ApprovalAnswered)) for event in log.events)
    assert log.record.status == "succeeded"
    third = world.prepare(second.run_id, [mended(stages[0], c=5), *stages[1:2], mended(stages[2])])
    assert len(answered(world, third)) == 1  # another question


def test_what_reads_the_run_itself_runs_again() -> None:
    world = World()
    stages = [
        calc("x", 1, "{{ context.run_id }}"),
        calc("y", 1, "{{ context.pipeline }}"),
        calc("z", 1, "{{ uuid() }}"),
    ]
    old = world.run(stages)
    world.go_on(old.run_id, stages)
    assert world.called == ["x"]
    world.run(stages, reuse=Reuse(run=old.run_id))
    assert world.called == ["x", "z"]


def test_what_comes_after_traces_runs_again_with_them() -> None:
    world = World()

    def stages(c: int) -> list[dict[str, Any]]:
        write = calc("write", c, component="put")
        return [
            write,
            calc("path", 0, "{{ stages.write.status }}"),
            calc("read", 1, "{{ stages.path.status }}"),
            calc("other", 1),
        ]

    old = world.run(stages(1))
    world.go_on(old.run_id, stages(2))
    assert world.called == ["path", "read", "write"]


def test_a_model_leaves_no_traces() -> None:
    world = World()
    ask = calc("ask", 1, component="ask_model")
    old = world.run([ask, calc("read", 1, "{{ stages.ask.status }}")])
    world.go_on(old.run_id, [mended(ask, c=2), calc("read", 1, "{{ stages.ask.status }}")])
    assert world.called == ["ask"]


def test_only_the_fields_that_are_read_count() -> None:
    world = World()
    stages = [calc("x", 3), calc("reads_b", 0, "{{ stages.x.b }}"), calc("reads_a", 0, "{{ stages.x.a }}")]
    old = world.run(stages)
    b = world.store.logs[old.run_id]
    value = next(e.value for e in b.events if isinstance(e, StageSucceeded) and e.path == "x")
    same_b = next(c for c in range(4, 99) if made(world, c)["b"] == value["b"])
    world.go_on(old.run_id, [mended(stages[0], c=same_b), *stages[1:]])
    assert world.called == ["reads_a", "x"]


def made(world: World, c: int) -> dict[str, Any]:
    return World().run([calc("x", c)]).output


def test_the_first_event_says_what_is_gone_on_with() -> None:
    world = World()
    old = world.run(PAY, {"n": 1})
    new = world.go_on(old.run_id, PAY, force=["x"])
    created = world.store.logs[new.run_id].events[0]
    assert isinstance(created, RunCreated)
    assert created.based_on == old.run_id
    assert created.options == {"reuse": {"continues": True, "force": ["x"], "run": old.run_id}}
    assert created.definitions["pay"]["component"] == "pay@1.0.0"
    assert ended_record(world.store.logs[old.run_id].record, world.store.logs[old.run_id].events[-1]).status == "failed"
