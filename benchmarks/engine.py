"""Measures the engine: microseconds per stage on the workloads of `benchmarks.workloads`, beside references in one run.

    python -m benchmarks.engine [--executor local|local-durable|ray] [--workloads abcde] [--repeat N] [--fuse auto|never]
                                [--cpus 4] [--declare trivial|cpu] [--json]

References: for `local` the asyncio floor (one task per node, no plan, no log, no validation: what no engine can beat by
much); for `ray` what a good engineer would write by hand, references passed straight on: one Ray task per node, and a pool of
warm actors; and, as the floor of whatever decides in one process what runs next, a loop that awaits the result of each call to
such actors before it makes those that need it, and does nothing else (not for d, whose values it would carry). A measurement is one whole run, planning excluded (reported by itself); contenders take turns, and medians are
compared. `--declare cpu`: the components of a to d say that they compute, and what earlier turns measured tells that they are
quick; the runs are kept in memory for that. `--cpus` sets Ray's logical cores: with workload e at 1, 2 and 4 it shows whether parallelism is used.
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
from flowmason_ray.engine.run_log import RunStore
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.memory import MemoryRunStore
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


def ray_actors(number: int) -> list[Any]:
    """Return a pool of warm actors which carry out nodes."""
    import ray

    @ray.remote
    class Worker:
        def node(self, kind: str, *values: Any) -> Any:
            return compute(kind, list(values))

    return [Worker.remote() for _ in range(number)]


def ray_actors_by_hand(workload: Graph, pool: list[Any]) -> Callable[[], Awaitable[None]]:
    """Actors, one per core, get nodes in turn."""
    import ray

    async def run() -> None:
        references: dict[str, Any] = {}
        for position, (name, (kind, above)) in enumerate(workload.nodes.items()):
            node: Any = pool[position % len(pool)].node
            references[name] = node.remote(kind, *(references[each] for each in above))
        await asyncio.to_thread(ray.get, list(references.values()))

    return run


def ray_actors_awaited(workload: Graph, pool: list[Any]) -> Callable[[], Awaitable[None]]:
    """The same, but every result is awaited before the nodes that need it are asked for."""

    async def run() -> None:
        tasks: dict[str, asyncio.Task[Any]] = {}

        async def node(actor: Any, kind: str, above: tuple[str, ...]) -> Any:
            return await actor.node.remote(kind, *[await tasks[each] for each in above])

        for position, (name, (kind, above)) in enumerate(workload.nodes.items()):
            tasks[name] = asyncio.create_task(node(pool[position % len(pool)], kind, above))
        await asyncio.gather(*tasks.values())

    return run


class Ours:
    """FlowMason on one workload; keeps how long planning took."""

    def __init__(self, workload: Graph, said: argparse.Namespace, folder: Path) -> None:
        executor: str = said.executor
        self._data = pipeline(workload, fuse=said.fuse, declare=said.declare)
        self._on = "ray" if executor == "ray" else "local"
        self._store: RunStore | None = MemoryRunStore() if said.declare == "cpu" else None
        if executor == "local-durable":
            self._store = SqliteRunStore(folder / "runs.db", LocalBlobs(folder / "blobs"))
        self.plan_s: list[float] = []

    def prepare(self) -> PreparedRun:
        started = perf_counter()
        prepared = PreparedRun(self._data, on=self._on, components=COMPONENTS, store=self._store)
        self.plan_s.append(perf_counter() - started)
        return prepared


def start_ray(cpus: int, *, object_store_mib: int = 512) -> None:
    """Start an embedded cluster for a benchmark; it ends with the process."""
    import os

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray_without_types: Any = ray
    ray_without_types.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=object_store_mib * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )


async def _timed(run: Contender) -> float:
    gc.collect()
    started = perf_counter()
    await run()
    return perf_counter() - started


async def measure(name: str, said: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all contenders on a workload in turns; return medians in microseconds per stage, and their ratios."""
    workload = graph(name, said.scale)
    ours = Ours(workload, said, folder)

    async def floor() -> None:
        await asyncio_floor(workload)

    references: dict[str, Contender] = {"asyncio floor": floor}
    floors: dict[str, Contender] = {}
    if said.executor == "ray":
        pool = ray_actors(said.cpus)
        references = {"Ray tasks": ray_tasks_by_hand(workload), "Ray actors": ray_actors_by_hand(workload, pool)}
        if name != "d":
            floors = {"awaited one by one": ray_actors_awaited(workload, pool)}
    times: dict[str, list[float]] = {"ours": [], **{who: [] for who in references}, **{who: [] for who in floors}}
    for turn in range(said.repeat + 1):
        prepared = ours.prepare()

        async def run(prepared: PreparedRun = prepared) -> None:
            (await prepared.run()).raise_for_status()

        taken = {"ours": await _timed(run)}
        for who, reference in {**references, **floors}.items():
            taken[who] = await _timed(reference)
        if turn:  # the first turn warms up: imports, workers, caches
            for who, seconds in taken.items():
                times[who].append(seconds)
    stages = len(workload)
    median = {who: statistics.median(taken) * 1e6 / stages for who, taken in times.items()}
    return {
        "workload": name,
        "stages": stages,
        "executor": said.executor,
        "fuse": said.fuse,
        "declared": said.declare,
        "us_per_stage": round(median["ours"], 1),
        "best_us_per_stage": round(min(times["ours"]) * 1e6 / stages, 1),
        "references": {who: round(median[who], 1) for who in references},
        "floors": {who: round(median[who], 1) for who in floors},
        "ratio": round(median["ours"] / min(median[who] for who in references), 2),
        "plan_us_per_stage": round(statistics.median(ours.plan_s) * 1e6 / stages, 1),
    }


async def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--executor", choices=["local", "local-durable", "ray"], default="local")
    parser.add_argument("--workloads", default="abcde")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--scale", type=int, default=1, help="multiplies the number of stages")
    parser.add_argument("--fuse", choices=["auto", "never"], default="auto")
    parser.add_argument("--cpus", type=int, default=4, help="logical cores of the Ray cluster, and actors of the pool")
    parser.add_argument("--declare", choices=["trivial", "cpu"], default="trivial")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    if options.executor == "ray":
        start_ray(options.cpus)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.workloads:
            row = await measure(name, options, Path(folder))
            rows.append(row)
            if not options.json:
                print(
                    f"{row['workload']}  {row['stages']:>6} stages  {row['us_per_stage']:>10.1f} us/stage"
                    f"  {', '.join(f'{who} {us:.1f}' for who, us in {**row['references'], **row['floors']}.items())}  ratio {row['ratio']:.2f}"
                    f"  (best {row['best_us_per_stage']:.1f}, planning {row['plan_us_per_stage']:.1f})",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"python": platform.python_version(), "machine": platform.machine(), "rows": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
