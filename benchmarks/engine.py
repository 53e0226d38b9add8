"""Measures the engine: microseconds per stage on the workloads of `benchmarks.workloads`, beside a reference in one run.

    python -m benchmarks.engine [--executor local|local-durable|ray] [--workloads abcde] [--repeat N] [--fuse auto|never] [--json]

References: for `local` the asyncio floor (one task per node, no plan, no log, no validation: what no engine can beat by
much); for `ray` one hand-written Ray task per node, references passed straight on. A measurement is one whole run, planning
excluded (reported by itself); contenders take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.workloads import COMPONENTS, Graph, compute, graph, pipeline
from flowmason_ray.api import PreparedRun
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore

Contender = Callable[[], Awaitable[None]]


async def asyncio_floor(workload: Graph) -> None:
    """One asyncio task per node."""
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def node(kind: str, above: tuple[str, ...]) -> Any:
        return compute(kind, [await tasks[each] for each in above])

    for name, (kind, above) in workload.nodes.items():
        tasks[name] = asyncio.create_task(node(kind, above))
    await asyncio.gather(*tasks.values())


def ray_tasks_by_hand(workload: Graph) -> Callable[[], Awaitable[None]]:
    """One Ray task per node, as a good engineer would write it."""
    import ray

    @ray.remote
    def node(kind: str, *values: Any) -> Any:
        return compute(kind, list(values))

    async def run() -> None:
        references: dict[str, Any] = {}
        for name, (kind, above) in workload.nodes.items():
            references[name] = node.remote(kind, *(references[each] for each in above))
        await asyncio.to_thread(ray.get, list(references.values()))

    return run


class Ours:
    """FlowMason on one workload; keeps how long planning took."""

    def __init__(self, workload: Graph, executor: str, fuse: str, folder: Path) -> None:
        self._data = pipeline(workload, fuse=fuse)
        self._on = "ray" if executor == "ray" else "local"
        self._store = None
        if executor == "local-durable":
            self._store = SqliteRunStore(folder / "runs.db", LocalBlobs(folder / "blobs"))
        self.plan_s: list[float] = []

    def prepare(self) -> PreparedRun:
        started = perf_counter()
        prepared = PreparedRun(self._data, on=self._on, components=COMPONENTS, store=self._store)
        self.plan_s.append(perf_counter() - started)
        return prepared


async def _timed(run: Contender) -> float:
    gc.collect()
    started = perf_counter()
    await run()
    return perf_counter() - started


async def measure(name: str, executor: str, fuse: str, repeat: int, scale: int, folder: Path) -> dict[str, Any]:
    """Run both contenders on a workload in turns; return medians in microseconds per stage, and their ratio."""
    workload = graph(name, scale)
    ours = Ours(workload, executor, fuse, folder)

    async def reference_local() -> None:
        await asyncio_floor(workload)

    reference = ray_tasks_by_hand(workload) if executor == "ray" else reference_local
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for turn in range(repeat + 1):
        prepared = ours.prepare()

        async def run(prepared: PreparedRun = prepared) -> None:
            (await prepared.run()).raise_for_status()

        taken = {"ours": await _timed(run), "reference": await _timed(reference)}
        if turn:  # the first turn warms up: imports, workers, caches
            for who, seconds in taken.items():
                times[who].append(seconds)
    stages = len(workload)
    median = {who: statistics.median(taken) * 1e6 / stages for who, taken in times.items()}
    return {
        "workload": name,
        "stages": stages,
        "executor": executor,
        "fuse": fuse,
        "us_per_stage": round(median["ours"], 1),
        "best_us_per_stage": round(min(times["ours"]) * 1e6 / stages, 1),
        "reference": "hand-written Ray tasks" if executor == "ray" else "asyncio floor",
        "reference_us_per_stage": round(median["reference"], 1),
        "ratio": round(median["ours"] / median["reference"], 2),
        "plan_us_per_stage": round(statistics.median(ours.plan_s) * 1e6 / stages, 1),
    }


async def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--executor", choices=["local", "local-durable", "ray"], default="local")
    parser.add_argument("--workloads", default="abcde")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--scale", type=int, default=1, help="multiplies the number of stages")
    parser.add_argument("--fuse", choices=["auto", "never"], default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    if options.executor == "ray":
        from flowmason_ray.engine.executors.ray_cluster import connect

        await connect(None)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.workloads:
            row = await measure(name, options.executor, options.fuse, options.repeat, options.scale, Path(folder))
            rows.append(row)
            if not options.json:
                print(
                    f"{row['workload']}  {row['stages']:>6} stages  {row['us_per_stage']:>10.1f} us/stage"
                    f"  {row['reference']} {row['reference_us_per_stage']:>9.1f}  ratio {row['ratio']:>6.2f}"
                    f"  (best {row['best_us_per_stage']:.1f}, planning {row['plan_us_per_stage']:.1f})",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"python": platform.python_version(), "machine": platform.machine(), "rows": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
