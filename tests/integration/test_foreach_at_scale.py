"""Loops over many items: bounded memory, bounded parallelism, results in order, errors at their items.

The bounds of memory are those of 100,000 items (`benchmarks.foreach`: 250 MB), scaled down.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import operator
from flowmason_ray.api import run
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, TemporaryError
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore
from tests.engine_kit import Echo, foreach, pipeline, stage

ROOT = Path(__file__).parents[2]
BOUND_MIB = 50
"""A fifth of the bound for 100,000 items, for 20,000."""


def measured(*arguments: str) -> dict[str, Any]:
    """Run the benchmark in a process of its own, whose memory is that of the loop; it checks results and errors."""
    command = [sys.executable, "-m", "benchmarks.foreach", "--json", "--items", "20000", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("log", ["memory", "sqlite"])
def test_many_items_take_little_memory_and_the_bad_ones_are_listed(log: str) -> None:
    found = measured("--log", log)
    assert found["errors"] == 200
    assert found["grown_mib"] < BOUND_MIB


def test_a_file_larger_than_the_bound_is_never_read_as_a_whole() -> None:
    found = measured("--from", "ndjson", "--item-bytes", "4000")
    assert BOUND_MIB < 20_000 * 4000 / 2**20
    assert found["grown_mib"] < BOUND_MIB


class Gauge:
    """How many are inside at once, and the most there ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = self.most = self.entered = 0

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.entered += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self.inside -= 1


gauge = Gauge()


@pytest.fixture(autouse=True)
def fresh_gauge() -> None:
    gauge.__init__()


@operator(name="measured", cost="io", effect="pure")
class Measured:
    """Counts who is inside; fails for good, or at its first attempt, with the items that say so."""

    class Input(BaseModel):
        number: int
        fails: bool = False
        flaky: bool = False

    class Output(BaseModel):
        number: int

    async def execute(self, input: Input, context: Context) -> Output:
        with gauge:
            await asyncio.sleep(0)
            if input.fails:
                raise PermanentError(f"{input.number} fails.")
            if input.flaky and context.attempt == 1:
                raise TemporaryError("Once more.")
        return self.Output(number=input.number)


RETRY = {"max_attempts": 3, "initial_delay_ms": 1}


def test_no_more_than_max_parallel_are_ever_under_way() -> None:
    work = stage(
        "work",
        "measured",
        config={"number": "{{item}}", "fails": "{{item % 100 == 7}}", "flaky": "{{item % 50 == 0}}"},
        retry=RETRY,
    )
    loop = foreach("each", "work", config={"items": "{{input.items}}", "max_parallel": 64, "break_on_error": False})
    result = run(pipeline(loop, work), {"items": list(range(5000))}, components=[Measured]).raise_for_status()
    assert gauge.most <= 64
    assert gauge.most > 16, "and they do run in parallel"
    assert gauge.entered == 5000 + 100
    assert [e["index"] for e in result.output["errors"]] == list(range(7, 5000, 100))
    assert result.output["results"] == [None if n % 100 == 7 else {"number": n} for n in range(5000)]


@pytest.mark.parametrize("limit", [None, 1, 5])
def test_nested_windows_multiply_and_the_runs_own_limit_holds_over_all(limit: int | None) -> None:
    inner = foreach("inner", "work", config={"items": "{{item}}", "max_parallel": 8})
    outer = foreach("outer", "inner", config={"items": "{{input.rows}}", "max_parallel": 4})
    work = stage("work", "measured", config={"number": "{{item}}", "flaky": "{{item % 7 == 0}}"}, retry=RETRY)
    rows = [list(range(10 * r, 10 * r + 10)) for r in range(20)]
    more: dict[str, Any] = {} if limit is None else {"max_parallel": limit}
    result = run(pipeline(outer, inner, work, **more), {"rows": rows}, components=[Measured]).raise_for_status()
    assert gauge.most <= (limit or 32), "a loop holds no place that its body needs"
    assert [[each["number"] for each in row["results"]] for row in result.output["results"]] == rows


@operator(name="bulky", cost="trivial", effect="pure")
class Bulky:
    """Returns a megabyte."""

    class Input(BaseModel):
        number: int

    class Output(BaseModel):
        number: int
        text: str

    async def execute(self, input: Input, context: Context) -> Output:
        return self.Output(number=input.number, text=str(input.number) * 100_000)


def test_values_wait_for_the_log_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    encode = SqliteRunStore.create

    def create(self: SqliteRunStore, *arguments: Any, **facts: Any) -> Any:
        log: Any = encode(self, *arguments, **facts)
        append = log.append

        def counted(event: Any) -> None:
            append(event)
            queued = list(log._queue)  # what is in it is what is tested
            waiting.append(sum(getattr(each, "size_bytes", 0) for each in queued))

        monkeypatch.setattr(log, "append", counted)
        return log

    monkeypatch.setattr(SqliteRunStore, "create", create)
    loop = foreach("each", "b", config={"items": "{{input.items}}", "collect": "{{stages.b.number}}"})
    body = stage("b", "bulky", config={"number": "{{item + 1000000}}"})
    store = SqliteRunStore(tmp_path / "runs.db", LocalBlobs(tmp_path / "blobs"))
    run(pipeline(loop, body), {"items": list(range(120))}, components=[Bulky], store=store).raise_for_status()
    assert 120 * 700_000 > 2 * 2**25
    assert max(waiting) < 2**25 + 2**21


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [[i, {"n": i}] for i in range(6)]),
        ({"filter_expression": "item.n % 2 == 1"}, [[i, {"n": i}] for i in (1, 3, 5)]),
        ({"batch_size": 4}, [[0, [{"n": i} for i in range(4)]], [1, [{"n": 4}, {"n": 5}]]]),
        (
            {"filter_expression": "item.n != 2", "batch_size": 3},
            [[0, [{"n": 0}, {"n": 1}, {"n": 3}]], [1, [{"n": 4}, {"n": 5}]]],
        ),
    ],
)
@pytest.mark.parametrize("kind", ["list", "frame", "ndjson", "csv"])
def test_lists_frames_and_files_are_looped_over_alike(
    kind: str, config: dict[str, Any], expected: list[Any], project_dir: Path
) -> None:
    rows = [{"n": n} for n in range(6)]
    (project_dir / "rows.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (project_dir / "rows.csv").write_text("n\n" + "".join(f"{row['n']}\n" for row in rows), encoding="utf-8")
    items: Any = {"list": rows, "frame": "{{stages.table.table}}"}.get(kind, {"dataset": f"rows.{kind}"})
    data = pipeline(
        stage("table", "table_read", config={"path": "rows.csv"}),
        foreach("each", "b", config={**config, "items": items}),
        stage("b", config={"value": ["{{index}}", "{{item}}"]}),
        output="{{stages.each.results | map(attribute='value')}}",
    )
    assert run(data, components=[Echo]).raise_for_status().output == expected


def test_a_bad_line_of_a_file_costs_one_item(project_dir: Path) -> None:
    (project_dir / "rows.ndjson").write_text('1\n{"x"\n3\n', encoding="utf-8")
    config = {"items": {"dataset": "{{input.file}}"}, "break_on_error": False}
    data = pipeline(foreach("each", "b", config=config), stage("b", config={"value": "{{item}}"}))
    output = run(data, {"file": "rows.ndjson"}, components=[Echo]).raise_for_status().output
    assert output["results"] == [{"value": 1}, None, {"value": 3}]
    assert [(e["index"], e["code"], e["stage"]) for e in output["errors"]] == [(1, "dataset_error", "each[1]/b")]


def test_a_file_that_is_not_there_is_the_loops_failure(project_dir: Path) -> None:
    data = pipeline(foreach("each", "b", config={"items": {"dataset": "../rows.csv"}}), stage("b"))
    failure = run(data, components=[Echo]).failure
    assert failure is not None
    assert (failure.code, failure.stage) == ("path_outside_project", "each")


def test_workers_read_the_file_themselves(ray_cluster: str, project_dir: Path) -> None:
    (project_dir / "rows.ndjson").write_text("".join(f'{{"n": {n}}}\n' for n in range(2500)), encoding="utf-8")
    config = {
        "items": {"dataset": "rows.ndjson"},
        "filter_expression": "item.n % 100 == 0",
        "batch_size": 10,
        "max_parallel": 3,
    }
    body = stage("b", config={"value": ["{{index}}", "{{item | map(attribute='n')}}"]}, placement={"fuse": "never"})
    data = pipeline(foreach("each", "b", config=config), body)
    output = run(data, on="ray", components=[Echo]).raise_for_status().output
    numbers = list(range(0, 2500, 100))
    expected = [[0, numbers[:10]], [1, numbers[10:20]], [2, numbers[20:]]]
    assert [each["value"] for each in output["results"]] == expected
