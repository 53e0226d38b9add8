"""Measures the run stores: listing many runs, bytes per stage, memory while following, and PostgreSQL beside plain psycopg.

    python -m benchmarks.stores [--only list,bytes,follow,postgres] [--runs 100000] [--events 200000] [--url URL] [--json]

`list` starts `fm runs list` as a process, with filters and without, over a file of `--runs` runs (budget 0.3 s, start included);
`bytes` records a run of trivial stages and says what each takes in the file (budget 400); `follow` follows a run of
`--events` events while it is recorded and says by how much the follower's memory grows from the tenth part of it to the end;
`postgres` records stages as the runner does, a flush for every so many, beside plain psycopg doing one INSERT a row in
transactions of the same size. Without `--url` it starts a server of its own, if PostgreSQL's programs are found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter, time
from typing import Any

from flowmason_ray.engine.events import RunCreated, RunSucceeded, StageStarted, StageSucceeded
from flowmason_ray.engine.run_log import RunLog, RunRecord, RunStore
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore
from flowmason_ray.stores.sqlite_files import open_for_writing

STATUSES = ("succeeded", "succeeded", "succeeded", "failed", "cancelled", "running")


def record_of(run_id: str) -> RunRecord:
    return RunRecord(run_id=run_id, pipeline="bench", version="1.0.0", status="running", created_at=time())


def trivial(log: RunLog, number: int) -> None:
    """Record one trivial stage, as the runner does."""
    log.append(StageStarted(at=time(), path=f"stage_{number:05}", attempt=1))
    value = {"value": number}
    log.append(StageSucceeded(at=time(), path=f"stage_{number:05}", attempt=1, value=value, duration_s=0.000_012))


# -- listing ------------------------------------------------------------------------------------------------------------------


def fill(file: Path, runs: int) -> None:
    """Write many runs; those that say 'running' were left by processes on other machines."""
    with closing(open_for_writing(file)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO runs (run_id, pipeline, version, status, created_at, ended_at, host, pid, pid_started, boot, lease_until)"
            " VALUES (?, ?, '1.0.0', ?, ?, ?, 'elsewhere', 1, '1', 'x', ?)",
            (
                (
                    f"r_{number:08}",
                    f"p{number % 50}",
                    status,
                    1.7e9 + number,
                    None if status == "running" else 1.7e9 + number + 1,
                    1.7e9 if status == "running" else None,
                )
                for number in range(runs)
                for status in (STATUSES[number % len(STATUSES)],)
            ),
        )
        connection.execute("COMMIT")


def measure_list(folder: Path, runs: int, repeat: int) -> list[dict[str, Any]]:
    (folder / "flowmason.json").write_text("{}")
    fill(folder / ".flowmason" / "runs.db", runs)
    rows: list[dict[str, Any]] = []
    for arguments in ([], ["--status", "interrupted"], ["--status", "running"], ["--pipeline", "p7", "--status", "failed"], ["--since", "1h"]):  # fmt: skip
        times: list[float] = []
        for _ in range(repeat + 1):
            started = perf_counter()
            command = [sys.executable, "-m", "flowmason_ray", "runs", "list", *arguments]
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": _ROOT}
            )
            times.append(perf_counter() - started)
        rows.append(
            {
                "what": f"fm runs list {' '.join(arguments)}".rstrip(),
                "runs": runs,
                "s": round(statistics.median(times[1:]), 3),
                "best_s": round(min(times), 3),
                "budget_s": 0.3,
            }
        )
    return rows


_ROOT = str(Path(__file__).resolve().parents[1])


# -- bytes --------------------------------------------------------------------------------------------------------------------


async def measure_bytes(folder: Path, stages: int) -> list[dict[str, Any]]:
    file = folder / "bytes.db"
    store = SqliteRunStore(file, LocalBlobs(folder / "blobs"))
    await (store.create(record_of("r_0"))).close()
    before = _size(file)
    log = store.create(record_of("r_1"))
    log.append(
        RunCreated(at=time(), run_id="r_1", pipeline="bench", version="1.0.0", plan_digest="d", input={}, seed=1)
    )
    for number in range(stages):
        trivial(log, number)
        if number % 100 == 0:
            await log.flush()
    log.append(RunSucceeded(at=time(), value={}))
    await log.close()
    taken = (_size(file) - before) / stages
    return [{"what": "bytes per trivial stage", "stages": stages, "bytes": round(taken, 1), "budget_bytes": 400}]


def _size(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file.stat().st_size


# -- following ----------------------------------------------------------------------------------------------------------------

FOLLOWER = """
    import asyncio, resource, sys
    from pathlib import Path
    from flowmason_ray.stores.opening import open_store

    def resident():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    async def main(address, total):
        count = first = 0
        async for each in open_store(address, "blobs", Path.cwd()).follow("r_1"):
            count += 1
            if count == total // 10:
                first = resident()
        print(count, first, resident())

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def measure_follow(address: str, store: RunStore, folder: Path, events: int) -> list[dict[str, Any]]:
    import textwrap

    log = store.create(record_of("r_1"))
    trivial(log, 0)
    await log.flush()
    follower = subprocess.Popen(  # noqa: ASYNC220  # starting it is part of no measurement
        [sys.executable, "-c", textwrap.dedent(FOLLOWER), address, str(events)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": _ROOT},
        stdout=subprocess.PIPE,
        text=True,
    )
    for number in range(1, events // 2):
        trivial(log, number)
        if number % 200 == 0:
            await log.flush()
    log.append(RunSucceeded(at=time(), value={}))
    await log.close()
    out, _ = await asyncio.to_thread(follower.communicate)
    count, first, last = (int(part) for part in out.split())
    return [
        {
            "what": f"memory while following, {'PostgreSQL' if '://' in address else 'SQLite'}",
            "events": count,
            "after_a_tenth_mib": round(first / 1024, 1),
            "at_the_end_mib": round(last / 1024, 1),
            "growth_mib": round((last - first) / 1024, 1),
        }
    ]


# -- PostgreSQL ---------------------------------------------------------------------------------------------------------------


async def measure_postgres(url: str, stages: int, repeat: int) -> list[dict[str, Any]]:
    import psycopg

    from flowmason_ray.stores.postgres import PostgresRunStore

    store = PostgresRunStore(url)
    rows: list[dict[str, Any]] = []

    async def ours(group: int, turn: int) -> float:
        log = store.create(record_of(f"r_{group}_{turn}_{time()}"))
        started = perf_counter()
        for number in range(stages):
            trivial(log, number)
            if (number + 1) % group == 0:
                await log.flush()
        await log.flush()
        taken = perf_counter() - started
        log.append(RunSucceeded(at=time(), value={}))
        await log.close()
        return taken

    def plain(group: int) -> float:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS plain")
            connection.execute("CREATE TABLE plain (n bigint PRIMARY KEY, at float8, kind text, path text, body text)")
            started = perf_counter()
            for first in range(0, stages * 2, group * 2):
                with connection.transaction():
                    for number in range(first, min(first + group * 2, stages * 2)):
                        connection.execute(
                            "INSERT INTO plain VALUES (%s, %s, %s, %s, %s)",
                            (number, time(), "stage_succeeded", f"stage_{number:05}", '{"attempt":1}'),
                        )
            return perf_counter() - started

    for group in (1, 10, 100):
        times: dict[str, list[float]] = {"ours": [], "plain": []}
        for turn in range(repeat):
            times["ours"].append(await ours(group, turn))
            times["plain"].append(await asyncio.to_thread(plain, group))
        median = {who: statistics.median(taken) * 1e6 / stages for who, taken in times.items()}
        rows.append(
            {
                "what": f"PostgreSQL, a durable commit for every {group} stages",
                "us_per_stage": round(median["ours"], 1),
                "plain_psycopg_us_per_stage": round(median["plain"], 1),
                "ratio": round(median["ours"] / median["plain"], 2),
            }
        )
    return rows


async def with_postgres(url: str | None, work: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Do something with a fresh database: at `url`, or of a server of our own."""
    from flowmason_ray.stores.opening import upgrade_tables

    if url is not None:
        upgrade_tables(url, Path.cwd())
        return await work(url)
    from tests.postgres_kit import MIGRATED, prepare_template, serving

    for server in serving(settings=["-c fsync=on"]):  # as servers are; tests go without
        prepare_template(server)
        return await work(server.url(server.new_database(MIGRATED)))
    return []


async def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    chosen: Sequence[str] = options.only.split(",")
    rows: list[dict[str, Any]] = []
    if "list" in chosen:
        rows += measure_list(folder / "list", options.runs, options.repeat)
    if "bytes" in chosen:
        rows += await measure_bytes(folder, 10_000)
    if "follow" in chosen:
        file = str(folder / "follow.db")
        rows += await measure_follow(file, SqliteRunStore(Path(file)), folder, options.events)
    if "postgres" in chosen:

        async def work(url: str) -> list[dict[str, Any]]:
            from flowmason_ray.stores.postgres import PostgresRunStore

            return [
                *await measure_postgres(url, 1_000, options.repeat),
                *await measure_follow(url, PostgresRunStore(url), folder, options.events),
            ]

        rows += await with_postgres(options.url, work)
    return rows


async def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="list,bytes,follow,postgres")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--url", help="a database that may be written; default: a server of our own")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "list").mkdir()
        rows = await measure(options, Path(folder))
    if options.json:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"rows": rows, "peak_kib": peak}, indent=2))
    else:
        for row in rows:
            print(f"{row.pop('what'):<62}", *(f"{name} {value}" for name, value in row.items()), sep="  ")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
