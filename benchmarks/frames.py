"""Measures handing a frame from one stage to the next on Ray, beside `ray.put` and `ray.get` of the same Arrow table.

    python -m benchmarks.frames [--mib 100] [--repeat 7] [--strings] [--log none|sqlite] [--json]

Two stages in calls of their own: one returns a frame that its worker has made before, the next reads its height. A run with a
frame of three rows is subtracted: what is left is what the frame itself costs, from the first stage's return to the second's
input. The reference puts the table into the object store and gets it again. `--strings` makes half of the columns texts;
`--log sqlite` records the run, so that the frame is also written to a blob and fingerprinted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import BaseModel

from benchmarks.engine import start_ray
from benchmarks.frame_data import COLUMNS, frame_of
from flowmason_ray import operator
from flowmason_ray.api import PreparedRun
from flowmason_ray.components.frames import Frame
from flowmason_ray.engine.component import Context
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore


@operator(name="bench_frame", effect="pure", cost="cpu")
class BenchFrame:
    """Returns a frame."""

    class Input(BaseModel):
        """How large it is."""

        rows: int
        strings: bool

    class Output(BaseModel):
        """The frame."""

        table: Frame

    def execute(self, input: Input, context: Context) -> Output:
        """Return it."""
        from benchmarks.frame_data import (
            frame_of,  # there each process makes it once; this class is sent anew for every run
        )

        return self.Output(table=frame_of(input.rows, input.strings))


@operator(name="bench_height", effect="pure", cost="cpu")
class BenchHeight:
    """Reads a frame."""

    class Input(BaseModel):
        """The frame."""

        table: Frame

    class Output(BaseModel):
        """Its height."""

        rows: int

    def execute(self, input: Input, context: Context) -> Output:
        """Return how many rows it has."""
        return self.Output(rows=input.table.height)


def pipeline(rows: int, strings: bool) -> dict[str, Any]:
    """Return two stages that never share a call."""
    alone = {"fuse": "never"}
    stages: list[dict[str, Any]] = [
        {
            "id": "make",
            "component_type": "bench_frame",
            "config": {"rows": rows, "strings": strings},
            "placement": alone,
        },
        {
            "id": "read",
            "component_type": "bench_height",
            "config": {"table": "{{ stages.make.table }}"},
            "placement": alone,
        },
    ]
    return {"name": "frames", "stages": stages}


def handed_over(rows: int, strings: bool, folder: Path | None) -> float:
    """Run the two stages; return the seconds."""
    store = None if folder is None else SqliteRunStore(folder / "runs.db", LocalBlobs(folder / "blobs"))
    prepared = PreparedRun(pipeline(rows, strings), on="ray", components=[BenchFrame, BenchHeight], store=store)
    gc.collect()
    started = perf_counter()
    result = asyncio.run(prepared.run()).raise_for_status()
    seconds = perf_counter() - started
    assert result.output == {"rows": rows}
    return seconds


def put_and_got(table: Any) -> float:
    """Put a table into the object store and get it; return the seconds."""
    import ray

    plain: Any = ray
    gc.collect()
    started = perf_counter()
    found = plain.get(plain.put(table))
    seconds = perf_counter() - started
    assert found.num_rows == table.num_rows
    return seconds


def measure(said: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Take turns; return medians in milliseconds, and the ratio."""
    rows = said.mib * 2**20 // (8 * COLUMNS)
    frame = frame_of(rows, said.strings)
    table = frame.to_arrow()
    where = folder if said.log == "sqlite" else None
    times: dict[str, list[float]] = {"frame": [], "no frame": [], "reference": []}
    for turn in range(said.repeat + 3):
        taken = {
            "frame": handed_over(rows, said.strings, where),
            "no frame": handed_over(3, said.strings, where),
            "reference": put_and_got(table),
        }
        if turn >= 3:  # the first turns warm up: every worker makes its frames, shared memory is touched
            for name, seconds in taken.items():
                times[name].append(seconds)
    median = {name: statistics.median(taken) * 1000 for name, taken in times.items()}
    ours = median["frame"] - median["no frame"]
    return {
        "mib": round(frame.estimated_size() / 2**20),
        "log": said.log,
        "strings": said.strings,
        "ours_ms": round(ours, 1),
        "reference_ms": round(median["reference"], 1),
        "ratio": round(ours / median["reference"], 2),
        "run_ms": round(median["frame"], 1),
        "run_without_ms": round(median["no frame"], 1),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--strings", action="store_true")
    parser.add_argument("--log", choices=("none", "sqlite"), default="none")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    start_ray(2, object_store_mib=max(512, 10 * said.mib))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(said, Path(folder))
    print(json.dumps(found) if said.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
