"""A new run that takes results from an earlier one, and the cache."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowmason_ray.api import PreparedRun, Reuse
from flowmason_ray.engine.events import StageReused
from flowmason_ray.engine.executors.in_process import InProcessExecutor
from flowmason_ray.errors import InvalidCall, RunNotFound
from flowmason_ray.stores.memory import ForgettingRunLog
from tests.engine_kit import problems_of, stage
from tests.unit.reuse.reuse_kit import COMPONENTS, World, calc, foreach, pipeline

CHAIN = [
    calc("a", 1, "{{ input.n }}"),
    calc("pay", 0, "{{ stages.a.a }}", component="pay"),
    calc("b", 0, "{{ stages.pay.a }}"),
    calc("c", 0, "{{ stages.b.a }}"),
    calc("side", 0, "{{ input.m }}"),
]


def test_a_run_of_its_own_has_its_own_effects() -> None:
    world = World()
    old = world.run(CHAIN, {"n": 1, "m": 1})
    new = world.run(CHAIN, {"n": 1, "m": 2}, reuse=Reuse(run="last"))
    assert new.status == "succeeded"
    assert world.called == ["b", "c", "pay", "side"]  # what follows an effect that happens anew is made anew
    assert set(world.reused) == {"a"}
    assert world.store.logs[new.run_id].record.based_on is None
    assert old.run_id != new.run_id


def test_from_a_stage_on_everything_runs_and_everything_before_is_taken() -> None:
    world = World()
    old = world.run(CHAIN, {"n": 1, "m": 1})
    world.run(CHAIN, {"n": 1, "m": 1}, reuse=Reuse(run=old.run_id, from_stage="b"))
    assert world.called == ["b", "c"]
    refused = world.run(CHAIN, {"n": 2, "m": 1}, reuse=Reuse(run=old.run_id, from_stage="b"))
    assert refused.failure is not None
    assert (refused.failure.code, refused.failure.stage) == ("cannot_reuse", "a")
    assert "pay" not in world.called


def test_from_a_stage_in_a_loop() -> None:
    world = World()
    stages = [
        foreach("each", [1, 2], "p q"),
        calc("p", 0, "{{ item }}"),
        calc("q", 0, "{{ stages.p.a }}"),
        calc("z", 0, "{{ stages.each.results }}"),
    ]
    old = world.run(stages)
    world.run(stages, reuse=Reuse(run=old.run_id, from_stage="q"))
    assert world.called == ["each[0]/q", "each[1]/q", "z"]


def test_force_means_a_stage_with_all_that_is_in_it() -> None:
    world = World()
    stages = [foreach("each", [1, 2], "p"), calc("p", 0, "{{ item }}"), calc("z", 0, "{{ stages.each.results }}")]
    old = world.run(stages)
    for force, called in (
        ("each", ["each[0]/p", "each[1]/p"]),
        ("each/p", ["each[0]/p", "each[1]/p"]),
        ("each[1]/p", ["each[1]/p"]),
    ):
        world.run(stages, reuse=Reuse(run=old.run_id, force=(force,)))
        assert world.called == called


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Reuse(force=("paj",)), r"--force 'paj': .*Did you mean 'pay'\?"),
        (Reuse(from_stage="b"), "--reuse RUN"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(asked: Reuse, words: str) -> None:
    world = World()
    with pytest.raises(InvalidCall, match=words):
        world.run(CHAIN, {"n": 1, "m": 1}, reuse=asked)
    assert world.store.logs == {}


def test_a_run_that_is_not_there_leaves_no_trace() -> None:
    world = World()
    with pytest.raises(RunNotFound):
        world.run(CHAIN, {"n": 1, "m": 1}, reuse=Reuse(run="r_nowhere"))
    assert world.store.logs == {}
    with pytest.raises(InvalidCall, match="store"):
        PreparedRun(pipeline(CHAIN), {}, components=COMPONENTS, reuse=Reuse(run="last"))


# -- the cache --------------------------------------------------------------------------------------------------------------


def cached(**cache: Any) -> list[dict[str, Any]]:
    return [calc("x", 1, "{{ input.n }}", cache=cache or True), calc("y", 0, "{{ stages.x.a }}")]


def test_a_cached_result_is_used_by_other_runs() -> None:
    world = World()
    first = world.run(cached(), {"n": 1})
    second = world.run(cached(), {"n": 1})
    assert world.called == ["y"]
    assert world.reused == {"x": {"run": first.run_id, "how": "cache"}}
    assert second.output == first.output
    world.run(cached(), {"n": 2})
    assert world.called == ["x", "y"]


def test_it_expires() -> None:
    world = World()
    world.run(cached(ttl_s=0.000001), {"n": 1})
    world.run(cached(ttl_s=0.000001), {"n": 1})
    assert world.called == ["x", "y"]
    world.run(cached(ttl_s=3600), {"n": 1})
    world.run(cached(ttl_s=3600), {"n": 1})
    assert world.called == ["y"]


def test_a_key_of_its_own_says_what_counts() -> None:
    world = World()
    world.run(cached(key="{{ input.who | lower }}"), {"n": 1, "who": "Ann"})
    world.run(cached(key="{{ input.who | lower }}"), {"n": 2, "who": "ANN"})
    assert world.called == ["y"]
    world.run(cached(key="{{ input.who | lower }}"), {"n": 2, "who": "Bob"})
    assert world.called == ["x", "y"]


def test_force_writes_and_does_not_read_and_no_cache_does_neither() -> None:
    world = World()
    world.run(cached(), {"n": 1}, reuse=Reuse(cache=False))
    world.run(cached(), {"n": 1}, reuse=Reuse(force=("x",)))
    assert world.called == ["x", "y"]
    forced = world.run(cached(), {"n": 1}, reuse=Reuse(force=("x",)))
    assert world.called == ["x", "y"]
    world.run(cached(), {"n": 1})
    assert world.reused["x"]["run"] == forced.run_id
    world.run(cached(), {"n": 1}, reuse=Reuse(cache=False))
    assert world.called == ["x", "y"]


def test_items_share_the_cache() -> None:
    world = World()
    stages = [foreach("each", "{{ input.xs }}", "p", parallel=True), calc("p", 0, "{{ item }}", cache=True)]
    world.run(stages, {"xs": [1, 2, 3]})
    world.run(stages, {"xs": [3, 4]})
    assert world.called == ["each[1]/p"]


def test_failures_are_not_cached() -> None:
    world = World()
    stages = [calc("x", 1, boom=True, cache=True)]
    for _ in range(2):
        world.run(stages)
        assert world.called == ["x"]


def test_a_store_that_cannot_look_up_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmason_ray.stores.memory import MemoryRunLog

    async def broken(self: MemoryRunLog, fingerprint: str) -> None:
        raise OSError("gone")

    monkeypatch.setattr(MemoryRunLog, "kept_result", broken)
    world = World()
    assert world.run(cached(), {"n": 1}).status == "succeeded"
    assert world.called == ["x", "y"]


def test_a_lookup_that_hangs_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmason_ray.stores.memory import MemoryRunLog

    asked = asyncio.Event()

    async def hangs(self: MemoryRunLog, fingerprint: str) -> None:
        asked.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(MemoryRunLog, "kept_result", hangs)
    world = World()
    prepared = PreparedRun(pipeline(cached()), {"n": 1}, store=world.store, components=COMPONENTS)

    async def drive() -> str:
        running = asyncio.create_task(prepared.run())
        await asyncio.wait_for(asked.wait(), 45)
        prepared.cancel()
        return (await asyncio.wait_for(running, 45)).status

    assert asyncio.run(drive()) == "cancelled"
    assert world.called == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (stage("a", config={"value": "{{ now() }}"}, cache=True), "draws"),
        (stage("a", effect="idempotent", cache=True), "it is idempotent"),
        (stage("a", "foreach", config={"items": [], "loop_stages": ["b"]}, cache=True), "decides about other stages"),
        (stage("a", cache={"key": "{{ uuid() }}"}), "its key draws"),
    ],
)
def test_what_cannot_be_cached_is_an_error(made: dict[str, Any], words: str) -> None:
    found = [
        p
        for p in problems_of(made, stage("b", after="" if made["component_type"] == "foreach" else "a"))
        if p.code == "not_cacheable"
    ]
    assert [p.path for p in found] == ["/stages/0/cache"]
    assert words in found[0].message


def test_a_default_cache_is_for_those_that_can_be() -> None:
    stages = [
        stage("a"),
        stage("b", effect="idempotent"),
        stage("c", config={"value": "{{ uuid() }}"}),
        stage("d", cache=False),
    ]
    assert problems_of(*stages, defaults={"cache": True}) == []
    found = problems_of(stage("a"), defaults={"cache": {"key": "{{ input.x }}"}})
    assert [(p.code, p.path) for p in found] == [("not_cacheable", "/defaults/cache/key")]


def test_a_key_is_read_like_a_config() -> None:
    found = problems_of(stage("a", cache={"key": "{{ stages.nowhere.x }}"}))
    assert [(p.code, p.path) for p in found] == [("unknown_stage", "/stages/0/cache/key")]


# -- where there are no fingerprints ----------------------------------------------------------------------------------------


class Wrapped:
    """An executor in front of another, as mocks are: it passes on what the port asks for, and nothing else."""

    tells_beginning = True

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        for name in ("open", "start", "gather", "cancel", "fetch"):
            setattr(self, name, getattr(inner, name))

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._inner.__aexit__(*exc)


def test_an_executor_in_front_of_another_poisons_no_cache() -> None:
    world = World()
    wrapped: Any = Wrapped(InProcessExecutor())
    prepared = PreparedRun(
        pipeline(cached()), {"n": 1}, store=world.store, components=COMPONENTS, wrap=lambda _: wrapped
    )
    assert asyncio.run(prepared.run()).status == "succeeded"
    world.run(cached(), {"n": 1})
    assert world.called == ["x", "y"]
    with pytest.raises(InvalidCall, match="cannot tell"):
        asyncio.run(
            PreparedRun(
                pipeline(cached()),
                {"n": 1},
                store=world.store,
                components=COMPONENTS,
                wrap=lambda _: wrapped,
                reuse=Reuse(run="last"),
            ).run()
        )


def test_a_run_that_nobody_remembers_has_none() -> None:
    seen: list[Any] = []
    prepared = PreparedRun(pipeline(cached()), {"n": 1}, components=COMPONENTS, observers=[seen.append])
    asyncio.run(prepared.run())
    assert not ForgettingRunLog.remembers
    assert [e for e in seen if getattr(e, "fingerprint", None) or isinstance(e, StageReused)] == []
