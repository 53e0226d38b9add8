"""Measures how soon a killed run goes on: `kill -9` in the middle of a 10,000-item loop, then `fm resume`.

    python -m benchmarks.recovery [--items 10000] [--max-parallel 16] [--times 3] [--json]

`engine.md` asks that the first new stage starts at most 2 s after the start of the process, and that at most the items that
were in flight are repeated. Beside it, in the same run: what any program would pay that reads the same log, a Python process
that imports nothing of ours and loads the run's rows from SQLite and their JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

COMPONENT = """
import asyncio

from pydantic import BaseModel

from flowmason_ray import operator


@operator(effect="pure", cost="io")
class Work:
    class Input(BaseModel):
        n: int

    class Output(BaseModel):
        n: int

    async def execute(self, input, context):
        await asyncio.sleep(0.001)
        return self.Output(n=input.n)
"""
REFERENCE = """
import json, sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute("SELECT position, at, kind, path, body FROM events ORDER BY position").fetchall()
bodies = [json.loads(row[4]) if row[4] else None for row in rows]
print(len(bodies))
"""


def fm(*arguments: str) -> list[str]:
    """Return the command line of `fm`."""
    return [sys.executable, "-m", "flowmason_ray", *arguments]


def count(log: Path, where: str) -> int:
    """Return how many events there are."""
    if not log.exists():
        return 0
    try:
        connection = sqlite3.connect(f"file:{log}?mode=ro", uri=True)
        try:
            return connection.execute(f"SELECT count(*) FROM events WHERE {where}").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.OperationalError:  # it is just being made
        return 0


SUCCEEDED = "kind = 'stage_succeeded' AND path LIKE 'each[%]/work'"


def measure(folder: Path, items: int, window: int) -> dict[str, Any]:
    """Kill a run in its middle and resume it; return what was measured."""
    (folder / "components").mkdir(parents=True)
    (folder / "components" / "work.py").write_text(COMPONENT)
    (folder / "flowmason.json").write_text("{}")
    loop = {"items": "{{input.numbers}}", "loop_stages": ["work"], "max_parallel": window}
    stages = [
        {"id": "each", "component_type": "foreach", "config": loop},
        {"id": "work", "component_type": "work", "config": {"n": "{{item}}"}},
    ]
    document = {"name": "p", "stages": stages, "output": "{{stages.each.succeeded_items}}"}
    (folder / "p.pipeline.json").write_text(json.dumps(document))
    (folder / "input.json").write_text(json.dumps({"numbers": list(range(items))}))
    log = folder / ".flowmason" / "runs.db"
    killed = subprocess.Popen(
        fm("run", "p.pipeline.json", "-f", "input.json", "-q"), cwd=folder, stdout=subprocess.DEVNULL
    )
    while count(log, SUCCEEDED) < items // 2:
        assert killed.poll() is None, "it ended before it could be killed"
        sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = count(log, SUCCEEDED)
    begun = monotonic()
    rows = subprocess.run([sys.executable, "-c", REFERENCE, str(log)], capture_output=True, check=True, text=True)
    reference_s = monotonic() - begun
    started = time()
    resumed = subprocess.run(fm("resume", "last", "-q"), cwd=folder, capture_output=True, check=True, text=True)
    assert json.loads(resumed.stdout) == items
    connection = sqlite3.connect(log)
    position = connection.execute("SELECT position FROM events WHERE kind = 'run_resumed'").fetchone()[0]
    first, repeated = connection.execute(
        "SELECT min(at), count(*) FROM events WHERE position > ? AND kind = 'stage_started' AND path IN"
        " (SELECT path FROM events WHERE position < ? AND kind = 'stage_started')",
        (position, position),
    ).fetchone()
    new = connection.execute(
        "SELECT min(at) FROM events WHERE position > ? AND kind = 'stage_started' AND path NOT IN"
        " (SELECT path FROM events WHERE position < ? AND kind = 'stage_started')",
        (position, position),
    ).fetchone()[0]
    connection.close()
    return {
        "recorded_events": int(rows.stdout),
        "items_done": done,
        "first_stage_s": round(min(new, first or new) - started, 3),
        "first_new_stage_s": round(new - started, 3),
        "reference_s": round(reference_s, 3),
        "repeated": repeated,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--max-parallel", type=int, default=16)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    found: list[dict[str, Any]] = []
    for _ in range(said.times):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder) / "project", said.items, said.max_parallel))
    medians = {name: statistics.median(each[name] for each in found) for name in found[0]}
    if said.json:
        print(json.dumps({"runs": found, "medians": medians}))
        return
    for each in found:
        print("  ".join(f"{name} {value}" for name, value in each.items()))
    print("medians: " + "  ".join(f"{name} {value}" for name, value in medians.items()))
    assert all(each["repeated"] <= said.max_parallel + 1 for each in found), "more was repeated than was in flight"


if __name__ == "__main__":
    main()
