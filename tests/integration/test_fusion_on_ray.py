"""Fusion on real Ray: fewer calls, the same results, the same facts in the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import orjson
import pytest
from pydantic import BaseModel

from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.components.base import operator
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.events import Event, StageFailed, StageStarted, StageSucceeded
from flowmason_ray.engine.executors.ray_tasks import RayTasksExecutor
from flowmason_ray.engine.pace import Timing
from flowmason_ray.engine.pacing import Pacing
from flowmason_ray.engine.timings import Timings
from flowmason_ray.errors import TemporaryError
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.memory import MemoryRunStore
from flowmason_ray.stores.sqlite import SqliteRunStore

pytestmark = pytest.mark.usefixtures("ray_cluster")


class _Input(BaseModel):
    see: Any = None
    bytes: int = 0
    fails: int = 0


class _Output(BaseModel):
    sum: int
    text: str


def _sum(given: _Input, context: Context) -> _Output:
    """Sum up what is seen; fail the first few times."""
    if context.attempt <= given.fails:
        raise TemporaryError("Not yet.")
    seen = crc32(orjson.dumps([given.see, context.path, str(context.uuid())]))
    return _Output(sum=seen, text="x" * given.bytes)


@operator(name="sum_up", effect="pure", cost="cpu")
class SumUp:
    """Computes."""

    Input, Output = _Input, _Output

    def execute(self, input: _Input, context: Context) -> _Output:
        return _sum(input, context)


@operator(name="sum_quickly", effect="pure", cost="trivial")
class SumQuickly:
    """Is trivial."""

    Input, Output = _Input, _Output

    async def execute(self, input: _Input, context: Context) -> _Output:
        return _sum(input, context)


@operator(name="clock", effect="pure", cost="cpu")
class Clock:
    """Asks for the time."""

    class Input(BaseModel):
        """Anything to wait for."""

        see: Any = None

    class Output(BaseModel):
        """The time."""

        now: str

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output(now=context.now().isoformat())


class Run(PreparedRun):
    """A run of which the durations of earlier runs, and the number of calls, are the test's affair."""

    def __init__(self, data: Mapping[str, Any], store: Any, measured_s: Mapping[str, float]) -> None:
        super().__init__(data, {}, on="ray", components=[SumUp, SumQuickly, Clock], store=store, seed=7)
        self._durations = {path: Timing(10, seconds) for path, seconds in measured_s.items()}

    def _measured(self, timings: Timings) -> Mapping[str, Timing]:
        return self._durations


def played(
    data: Mapping[str, Any], measured_s: Mapping[str, float] | None = None, store: MemoryRunStore | None = None
) -> tuple[RunResult, list[Event]]:
    """Run a pipeline on Ray; return its result and its log."""
    store = store or MemoryRunStore()
    run = Run(data, store, measured_s or {})
    return asyncio.run(run.run()), store.logs[run.run_id].events


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The paths that each call to a worker carries."""
    made: list[list[str]] = []
    note = RayTasksExecutor._note  # pyright: ignore[reportPrivateUsage]  # to see what is sent, to whomever

    def noted(self: RayTasksExecutor, call: Any) -> None:
        made.append([member.path for member in call.members])
        note(self, call)

    monkeypatch.setattr(RayTasksExecutor, "_note", noted)
    return made


def stage(id: str, *reads: str, kind: str = "sum_up", **keys: Any) -> dict[str, Any]:
    """Return a stage that sees the sums of others."""
    config = {"see": ["{{ stages.%s.sum }}" % each for each in reads], **keys.pop("config", {})}  # noqa: UP031
    return {"id": id, "component_type": kind, "config": config, **keys}


LARGE = 50_000
"""Characters from which on a value is told apart from another by nothing but where it comes from."""


# -- fewer calls ----------------------------------------------------------------------------------------------------------


def test_a_chain_is_one_call(calls: list[list[str]]) -> None:
    data = {"name": "p", "stages": [stage("a"), stage("b", "a"), stage("c", "b")]}
    assert played(data)[0].status == "succeeded"
    assert calls == [["a", "b", "c"]]


def test_a_trivial_reader_of_what_lies_in_the_cluster_costs_no_call(calls: list[list[str]]) -> None:
    stages = [
        stage("load", config={"bytes": 200_000}),
        {
            "id": "n",
            "component_type": "variable_set",
            "config": {"name": "n", "value": "{{ stages.load.text | length }}"},
        },
        stage("first"),
        stage("join", "load", "first", kind="sum_quickly"),
    ]
    data = {"name": "p", "stages": stages, "output": "{{ stages.n.n }}"}
    result, _ = played(data)
    assert result.output == 200_000
    assert sorted(map(sorted, calls)) == [["first"], ["join"], ["load", "n"]]


def test_iterations_of_quick_stages_share_calls(calls: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(pacing: Pacing, stage: Any, duration_s: float) -> None:
        """On a busy machine the run would find out that its stages are not quick, and rightly stop sharing."""

    monkeypatch.setattr(Pacing, "measured", deaf)
    stages = [
        {
            "id": "each",
            "component_type": "foreach",
            "config": {"items": "{{ range(400) | list }}", "loop_stages": ["x"], "max_parallel": 100},
        },
        stage("x", config={"see": "{{ item }}"}),
    ]
    data = {"name": "p", "stages": stages, "output": "{{ stages.each.succeeded_items }}"}
    result, _ = played(data, {"each/x": 0.0001})
    assert result.output == 400
    assert len(calls) <= 100
    assert max(map(len, calls)) <= 50


def test_a_trivial_stage_that_is_slow_leaves_the_coordinator(calls: list[list[str]]) -> None:
    data = {"name": "p", "stages": [stage("a", kind="sum_quickly")]}
    played(data)
    assert calls == []
    played(data, {"a": 0.05})
    assert calls == [["a"]]


def test_a_rider_that_asks_for_the_time_is_told_when_it_started() -> None:
    data = {"name": "p", "stages": [stage("a"), {"id": "t", "component_type": "clock", "depends_on": ["a"]}]}
    result, log = played(data)
    (started,) = (e for e in log if isinstance(e, StageStarted) and e.path == "t")
    assert result.output["now"] == datetime.fromtimestamp(started.at, UTC).isoformat()


# -- the same results -----------------------------------------------------------------------------------------------------


def generated(seed: int, fuse: str) -> dict[str, Any]:
    """Return a pipeline of random stages, some in a loop, which fail and are repeated now and then; the run succeeds."""
    random = Random(seed)
    stages: list[dict[str, Any]] = []
    for position in range(random.randrange(4, 12)):
        above = [each["id"] for each in stages]
        reads = random.sample(above, min(len(above), random.choice((0, 1, 1, 1, 2))))
        stages.append(_random_stage(random, f"s{position}", reads))
    body = [_random_stage(random, "x0", []), _random_stage(random, "x1", ["x0"]), _random_stage(random, "x2", ["x1"])]
    body[0]["config"]["see"] = "{{ [item, index] }}"
    loop: dict[str, Any] = {
        "items": "{{ range(7) | list }}",
        "loop_stages": ["x0", "x1", "x2"],
        "max_parallel": random.randrange(1, 5),
    }
    if random.random() < 0.5:
        loop["collect"] = {"a": "{{ stages.x0.sum }}", "b": "{{ stages.x2.text | default('') | length }}"}
    stages.append({"id": "each", "component_type": "foreach", "config": loop, "depends_on": [stages[0]["id"]]})
    for each in (*stages, *body):
        each["placement"] = {"fuse": fuse}
    return {"name": "generated", "stages": [*stages, *body]}


def _random_stage(random: Random, id: str, reads: list[str]) -> dict[str, Any]:
    made = stage(id, *reads, kind=random.choice(("sum_up", "sum_up", "sum_quickly")))
    made["config"]["bytes"] = random.choice((0, 0, 10, 100_000))
    made["on_error"] = random.choice(("continue", "fallback"))
    if made["on_error"] == "fallback":
        made["fallback_output"] = {"sum": 0, "text": "fallback"}
    made["config"]["fails"] = random.choice((0, 0, 0, 1, 2))
    made["retry"] = {"max_attempts": random.choice((1, 2, 3)), "initial_delay_ms": 1, "jitter": 0}
    if reads and random.random() < 0.2:
        made["when"] = "stages.%s.sum %% 2 == 0" % reads[0]  # noqa: UP031
    return made


def facts(log: list[Event]) -> Counter[tuple[Any, ...]]:
    """Return what a log says has happened, without times and order."""
    found: Counter[tuple[Any, ...]] = Counter()
    for event in log:
        value: Any = event.value if isinstance(event, StageSucceeded) else None
        if isinstance(event, StageFailed):
            value = event.failure.code
        text = orjson.dumps(value, default=lambda _: "x" * LARGE).decode()
        told = text if len(text) < LARGE else "large"  # wherever it lies
        found[event.kind, getattr(event, "path", None), getattr(event, "attempt", None), told] += 1
    return found


@pytest.mark.parametrize("seed", range(6))
def test_fusing_changes_neither_results_nor_facts(seed: int) -> None:
    random = Random(seed)
    alone, log = played(generated(seed, "never"))
    assert alone.status == "succeeded", alone.failure
    measured = {f"s{i}": random.choice((0.0001, 0.02)) for i in range(12)}
    measured |= {f"each/x{i}": random.choice((0.0001, 0.02)) for i in range(3)}
    for fuse, durations in (("auto", {}), ("auto", measured), ("always", measured)):
        fused, other = played(generated(seed, fuse), durations)
        assert fused.output == alone.output
        assert facts(other)[("run_created", None, None, "null")] == 1
        assert facts(other) == facts(log)


# -- what is left to later runs -------------------------------------------------------------------------------------------


def test_durations_on_ray_are_left_in_a_store_on_disk(tmp_path: Path) -> None:
    data = {"name": "p", "stages": [stage("a"), stage("b", "a")]}
    store = SqliteRunStore(tmp_path / "runs.db", LocalBlobs(tmp_path / "blobs"))
    for _ in range(2):
        prepared = PreparedRun(data, {}, on="ray", components=[SumUp], store=store)
        assert asyncio.run(prepared.run()).status == "succeeded"
    kept = asyncio.run(store.kept_result("durations of p"))
    assert kept is not None
    assert kept.value["stages"].keys() == {"a", "b"}
