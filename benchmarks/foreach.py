"""Measures a large loop: items per second, and what the coordinator's memory grows by.

    python -m benchmarks.foreach [--items 100000] [--max-parallel 64] [--failing 100] [--from list|ndjson|csv|parquet]
                                 [--item-bytes 0] [--result-bytes 0] [--log none|memory|sqlite] [--json]
                                 [--executor local|ray] [--work-rounds 0] [--cpus 4] [--reference-items 10000]

Every n-th item fails (`--failing 100`: 1 %) and is listed under `errors`; the others return a small object. The growth of the
peak resident set is taken from before the run to its end, so the interpreter, the imports and a list of items given as the
run's input are not part of it; a file of items (`--from`) is read while the loop runs, and its reading is part of it.
`engine.md` asks for at most 250 MB. With `--result-bytes` every item returns so much text, and a second loop reads it all:
what is recorded (`--log sqlite`) need not stay in memory.

With `--executor ray` the items' component declares that it computes (for `--work-rounds` rounds of pure Python, about 40 ns each),
and the same work is done by `ray.data.map_batches` and by Ray tasks in a window made by hand, the latter with fewer items.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import BaseModel

from benchmarks.engine import start_ray
from benchmarks.foreach_references import REFERENCES, spin
from flowmason_ray import operator
from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.run_log import RunStore
from flowmason_ray.errors import PermanentError
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.memory import MemoryRunStore
from flowmason_ray.stores.sqlite import SqliteRunStore


@operator(name="work", cost="trivial", effect="pure")
class Work:
    """Returns its item's number, or fails with every n-th."""

    class Input(BaseModel):
        item: dict[str, Any]
        failing: int
        result_bytes: int = 0

    class Output(BaseModel):
        number: int
        text: str | None = None

    async def execute(self, input: Input, context: Context) -> Output:
        number = input.item["number"]
        if input.failing and number % input.failing == 0:
            raise PermanentError(f"Item {number} is one of those that fail.")
        text = f"{number:010}" * (input.result_bytes // 10) if input.result_bytes else None
        return self.Output(number=number, text=text)


@operator(name="work_on_worker", cost="cpu", effect="pure")
class WorkOnWorker:
    """Does the same on a worker, after some computing."""

    class Input(Work.Input):
        """The item."""

        rounds: int = 0

    Output = Work.Output

    def execute(self, input: Input, context: Context) -> Work.Output:
        """Compute, then answer."""
        spin(input.rounds)
        number = input.item["number"]
        if input.failing and number % input.failing == 0:
            raise PermanentError(f"Item {number} is one of those that fail.")
        return self.Output(number=number)


def pipeline(items: Any, window: int, result_bytes: int, rounds: int | None = None) -> dict[str, Any]:
    """Return a loop over `items`; when its results are large, with a second one over them, and only numbers as the output."""
    loop = {"items": items, "loop_stages": ["work"], "max_parallel": window, "break_on_error": False}
    work = {"item": "{{item}}", "failing": "{{input.failing}}", "result_bytes": result_bytes}
    component = "work" if rounds is None else "work_on_worker"
    stages: list[dict[str, Any]] = [
        {"id": "each", "component_type": "foreach", "config": loop},
        {
            "id": "work",
            "component_type": component,
            "config": {**work, **({} if rounds is None else {"rounds": rounds})},
        },
    ]
    if not result_bytes:
        return {"name": "foreach", "stages": stages}
    again = {"items": "{{stages.each.results}}", "loop_stages": ["shorten"], "max_parallel": window}
    shorten = {"name": "short", "value": "{{ none if item is none else {'number': item.number} }}"}
    stages += [
        {"id": "again", "component_type": "foreach", "config": again},
        {"id": "shorten", "component_type": "variable_set", "config": shorten},
    ]
    output = {"results": "{{stages.again.results | map(attribute='short') | list}}", "errors": "{{stages.each.errors}}"}
    return {"name": "foreach", "stages": stages, "output": output}


def write_items(file: Path, items: int, item_bytes: int) -> None:
    """Write a file of items; polars is only needed for tables, and only while they are written."""
    rows = ({"number": n, "text": "x" * item_bytes} for n in range(items))
    if file.suffix == ".parquet":
        import polars

        polars.DataFrame(list(rows)).write_parquet(file, row_group_size=10_000)
        return
    with file.open("w", encoding="utf-8") as out:
        if file.suffix == ".csv":
            out.write("number,text\n")
        for row in rows:
            out.write(f"{row['number']},{row['text']}\n" if file.suffix == ".csv" else json.dumps(row) + "\n")


def store_of(log: str, folder: Path) -> RunStore | None:
    """Return the store that is asked for."""
    if log == "sqlite":
        return SqliteRunStore(folder / "runs.db", LocalBlobs(folder / "blobs"))
    return MemoryRunStore() if log == "memory" else None


def measure(said: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the loop once; return what was measured."""
    on_ray = said.executor == "ray"
    given: dict[str, Any] = {"failing": said.failing}
    source: Any = "{{input.items}}"
    if said.source == "list":
        given["items"] = [{"number": n, "text": "x" * said.item_bytes} for n in range(said.items)]
    else:
        file = folder / f"items.{said.source}"
        write_items(file, said.items, said.item_bytes)
        source = {"dataset": file.name}
    (folder / "flowmason.json").write_text('{"name": "benchmark"}', encoding="utf-8")
    (folder / "foreach.pipeline.json").write_text(
        json.dumps(pipeline(source, said.max_parallel, said.result_bytes, said.work_rounds if on_ray else None)),
        encoding="utf-8",
    )
    prepared = PreparedRun(
        folder / "foreach.pipeline.json",
        given,
        on=said.executor,
        components=[Work, WorkOnWorker],
        store=store_of(said.log, folder),
    )
    before = _peak_mib()
    started = perf_counter()
    output = asyncio.run(prepared.run()).raise_for_status().output
    seconds = perf_counter() - started
    grown = _peak_mib() - before
    failed = [error["index"] for error in output["errors"]]
    assert failed == [n for n in range(said.items) if said.failing and n % said.failing == 0]
    short = {} if said.result_bytes else {"text": None}
    failing = said.failing
    expected = [None if failing and n % failing == 0 else {"number": n, **short} for n in range(said.items)]
    assert output["results"] == expected
    return {
        "items": said.items,
        "executor": said.executor,
        "from": said.source,
        "log": said.log,
        "items_per_s": round(said.items / seconds),
        "seconds": round(seconds, 2),
        "grown_mib": round(grown, 1),
        "errors": len(failed),
    }


def references(said: argparse.Namespace, ours: float) -> dict[str, Any]:
    """Do the same work in other ways; return items per second, and how many times as long ours takes."""
    found: dict[str, Any] = {}
    for name, reference in REFERENCES.items():
        count = said.items if name == "ray.data" else min(said.items, said.reference_items)
        few = [{"number": n} for n in range(500)]
        reference(few, said.failing, said.work_rounds, said.max_parallel)
        items = [{"number": n} for n in range(count)]
        seconds = reference(items, said.failing, said.work_rounds, said.max_parallel)
        found[f"{name} items_per_s"] = round(count / seconds)
        found[f"{name} ratio"] = round(count / seconds / ours, 2)
    return found


def _peak_mib() -> float:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--max-parallel", type=int, default=64)
    parser.add_argument("--failing", type=int, default=100)
    parser.add_argument("--from", dest="source", choices=("list", "ndjson", "csv", "parquet"), default="list")
    parser.add_argument(
        "--item-bytes", type=int, default=0, help="how long a text each item carries besides its number"
    )
    parser.add_argument("--result-bytes", type=int, default=0, help="how long a text each item returns")
    parser.add_argument("--log", choices=("none", "memory", "sqlite"), default="memory")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--work-rounds", type=int, default=0, help="what an item computes on Ray")
    parser.add_argument("--cpus", type=int, default=4, help="logical cores of the Ray cluster")
    parser.add_argument("--reference-items", type=int, default=10_000, help="items of the window made by hand")
    said = parser.parse_args()
    if said.executor == "ray":
        start_ray(said.cpus)
    with tempfile.TemporaryDirectory() as folder:
        if said.executor == "ray":  # workers start, and import, before anything is measured
            few = argparse.Namespace(**{**vars(said), "items": 500, "source": "list"})
            measure(few, Path(folder))
        found = measure(said, Path(folder))
    if said.executor == "ray":
        found |= references(said, found["items_per_s"])
    print(json.dumps(found) if said.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
