"""Fingerprints are the same on every executor, so that what one has done the other need not do again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from flowmason_ray.api import PreparedRun, Reuse, RunResult
from flowmason_ray.components.base import operator
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.events import Event, StageReused, StageStarted
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore


@operator(name="ray_make", effect="pure")
class Make:
    """Returns a small value, a large one, a frame and a long list of items."""

    class Input(BaseModel):
        seed: int

    class Output(BaseModel, arbitrary_types_allowed=True):
        small: int
        large: str
        table: Any
        items: list[dict[str, Any]]

    def execute(self, input: Input, context: Context) -> Output:
        table = pl.DataFrame({"n": [1, 2, None], "t": ["a" * 50, None, "c"]})
        items = [{"id": i, "text": "x" * 2000} for i in range(40)]
        return self.Output(small=input.seed, large="y" * 200_000, table=pl.concat([table, table]), items=items)


@operator(name="ray_size", effect="pure")
class Size:
    """Returns how large a value is."""

    class Input(BaseModel, arbitrary_types_allowed=True):
        of: Any

    class Output(BaseModel):
        size: int

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output(size=len(input.of) if hasattr(input.of, "__len__") else 1)


def size(id: str, of: str) -> dict[str, Any]:
    return {"id": id, "component_type": "ray_size", "config": {"of": of}}


STAGES: list[dict[str, Any]] = [
    {"id": "make", "component_type": "ray_make", "config": {"seed": "{{ input.seed }}"}},
    size("large", "{{ stages.make.large }}"),
    size("table", "{{ stages.make.table }}"),
    size("small", "{{ [stages.make.small] }}"),
    {
        "id": "each",
        "component_type": "foreach",
        "config": {
            "items": "{{ stages.make['items'][:3] }}",
            "loop_stages": ["one"],
            "collect": "{{ stages.one.size }}",
        },
    },
    size("one", "{{ item.text }}"),
    {
        "id": "all",
        "component_type": "foreach",
        "config": {"items": "{{ stages.make['items'] }}", "loop_stages": ["two"], "filter_expression": "item.id < 2"},
    },
    size("two", "{{ item.text }}"),
]


def test_fingerprints_are_the_same_and_results_are_taken_over(ray_cluster: str, tmp_path: Path) -> None:
    store = SqliteRunStore(tmp_path / "runs.db", LocalBlobs(tmp_path / "blobs"))

    def run(on: str, **options: Any) -> tuple[RunResult, dict[str, str | None], set[str]]:
        events: list[Event] = []
        data = {"name": "p", "stages": STAGES}
        prepared = PreparedRun(
            data, {"seed": 1}, on=on, store=store, components=(Make, Size), observers=[events.append], **options
        )
        result = asyncio.run(prepared.run()).raise_for_status()
        started = {e.path: e.fingerprint for e in events if isinstance(e, StageStarted)}
        return result, started, {e.path for e in events if isinstance(e, StageReused)}

    local, here, _ = run("local")
    remote, there, _ = run("ray")
    assert {path: there[path] for path in here} == here
    assert None not in {
        fingerprint for path, fingerprint in here.items() if path.split("/")[-1] in {"one", "two", "table"}
    }
    _, _, reused = run("ray", reuse=Reuse(run=local.run_id))
    expected = {"make", "large", "table", "small", *(f"each[{i}]/one" for i in range(3)), "all[0]/two", "all[1]/two"}
    assert reused == expected
    _, _, reused = run("local", reuse=Reuse(run=remote.run_id))
    assert reused == expected
