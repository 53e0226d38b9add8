"""A long loop on Ray with one slow item: the others go on, are recorded one by one, and leave nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from pydantic import BaseModel

from flowmason_ray import Context, operator
from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.events import ATTEMPT_ENDED, Event, ItemEnded, StageStarted
from flowmason_ray.engine.executors import holdings
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore
from tests.cli_kit import pipeline, stage

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

ITEMS, WINDOW = 300, 8
BYTES = 100_000
"""Of each item's value: too many for a report, so that it is behind a reference."""
SLACK = 40
"""References that a process holds beside those to values of items under way: to reports, functions, what Ray keeps itself."""

_ray: Any = ray  # its types are partly unknown


class _Made(BaseModel):
    text: str


class _Asked(BaseModel):
    n: int
    wait_for: str


@operator(name="straggler_make", effect="idempotent", cost="cpu")
class Make:
    """Makes a large value; the first item's waits. Idempotent, so that each attempt has a call of its own."""

    Input = _Asked
    Output = _Made

    def execute(self, input: _Asked, context: Context) -> _Made:
        while input.n == 0 and not Path(input.wait_for).exists():
            time.sleep(0.02)
        return _Made(text="x" * (BYTES + input.n))


class _Read(BaseModel):
    text: str


class _Size(BaseModel):
    size: int


@operator(name="straggler_read", effect="pure", cost="cpu")
class Read:
    """Reads a large value."""

    Input = _Read
    Output = _Size

    def execute(self, input: _Read, context: Context) -> _Size:
        return _Size(size=len(input.text))


class Watch:
    """An observer: how many attempts are under way, and how many references the process holds."""

    def __init__(self) -> None:
        self.under_way: set[str] = set()
        self.most = self.most_references = 0
        self._before = references()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted) and "/" in event.path:
            self.under_way.add(event.path)
            self.most = max(self.most, len(self.under_way))
        elif isinstance(event, ATTEMPT_ENDED):
            self.under_way.discard(event.path)
        elif isinstance(event, ItemEnded):
            self.most_references = max(self.most_references, references() - self._before)


def references() -> int:
    """Return how many objects of Ray this process refers to."""
    return len(_ray._private.worker.global_worker.core_worker.get_all_reference_counts())


async def recorded(store: SqliteRunStore, run_id: str) -> list[Mapping[str, Any]]:
    return [each.event async for each in store.read(run_id)]


def ended_items(events: list[Mapping[str, Any]]) -> list[int]:
    return [event["index"] for event in events if event["kind"] == "item_ended"]


def wait_until_all_but_one_are_recorded(runs: Future[RunResult], database: Path, blobs: Path, run_id: str) -> None:
    """Look into the log as another process would."""
    deadline = time.monotonic() + 300
    while True:
        store = SqliteRunStore(database, LocalBlobs(blobs))
        found = ended_items(asyncio.run(recorded(store, run_id))) if database.exists() else []
        if len(found) == ITEMS - 1:
            assert 0 not in found
            return
        assert not runs.done(), runs.result()
        assert time.monotonic() < deadline, f"{len(found)} of {ITEMS - 1} items are recorded"
        time.sleep(0.2)


def test_a_straggler_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "LEAST_BYTES", 2**20)  # else values are given back 16 MiB at a time
    database, blobs, go = tmp_path / "runs.db", tmp_path / "blobs", tmp_path / "go"
    config = {
        "items": "{{ input.numbers }}",
        "loop_stages": ["make", "read"],
        "max_parallel": WINDOW,
        "collect": "{{ stages.read.size }}",
    }
    document = pipeline(
        stage("each", "foreach", config=config),
        stage("make", "straggler_make", config={"n": "{{ item }}", "wait_for": str(go)}),
        stage("read", "straggler_read", config={"text": "{{ stages.make.text }}"}),
        output="{{ stages.each.results }}",
        timeout_ms=330_000,
    )
    watch = Watch()
    store = SqliteRunStore(database, LocalBlobs(blobs))
    prepared = PreparedRun(
        document,
        {"numbers": list(range(ITEMS))},
        on="ray",
        components=[Make, Read],
        store=store,
        durability="stage",
        observers=[watch],
    )
    with ThreadPoolExecutor() as pool:
        runs = pool.submit(lambda: asyncio.run(prepared.run()))
        try:
            wait_until_all_but_one_are_recorded(runs, database, blobs, prepared.run_id)
        finally:
            go.touch()
        result = runs.result()
    assert result.status == "succeeded", result.failure
    assert result.output == [BYTES + n for n in range(ITEMS)], "in the order of the items"
    assert watch.most == WINDOW
    assert watch.most_references < 4 * WINDOW + SLACK < ITEMS
    events = asyncio.run(recorded(store, prepared.run_id))
    assert ended_items(events)[-1] == 0, "it ended last"
    assert sorted(ended_items(events)) == list(range(ITEMS))
    made = [e["path"] for e in events if e["kind"] == "stage_succeeded" and e["path"].endswith("/make")]
    assert len(made) == len(set(made)) == ITEMS, "each once"
    assert made[-1] == "each[0]/make", "it was under way while all others ended"
