"""Measures a large loop: items per second, and what the coordinator's memory grows by.

    python -m benchmarks.foreach [--items 100000] [--max-parallel 64] [--failing 100] [--log memory|sqlite] [--json]

Every n-th item fails (`--failing 100`: 1 %) and is listed under `errors`; the others return a small object. The growth of the
peak resident set is taken from before the run to its end, so the interpreter, the imports and the list of items given as
the run's input are not part of it. `engine.md` asks for at most 250 MB.
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

from flowmason_ray import operator
from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore


@operator(name="work", cost="trivial", effect="pure")
class Work:
    """Returns its item's number, or fails with every n-th."""

    class Input(BaseModel):
        number: int
        failing: int

    class Output(BaseModel):
        number: int

    async def execute(self, input: Input, context: Context) -> Output:
        if input.failing and input.number % input.failing == 0:
            raise PermanentError(f"Item {input.number} is one of those that fail.")
        return self.Output(number=input.number)


def pipeline(window: int) -> dict[str, Any]:
    """Return a loop over `input.items`."""
    loop = {
        "items": "{{input.items}}",
        "loop_stages": ["work"],
        "max_parallel": window,
        "break_on_error": False,
    }
    return {
        "name": "foreach",
        "stages": [
            {"id": "each", "component_type": "foreach", "config": loop},
            {
                "id": "work",
                "component_type": "work",
                "config": {"number": "{{item}}", "failing": "{{input.failing}}"},
            },
        ],
    }


def measure(items: int, window: int, failing: int, log: str) -> dict[str, Any]:
    """Run the loop once; return what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        store = (
            SqliteRunStore(Path(folder) / "runs.db", LocalBlobs(Path(folder) / "blobs")) if log == "sqlite" else None
        )
        given = {"items": list(range(items)), "failing": failing}
        prepared = PreparedRun(pipeline(window), given, components=[Work], store=store)
        before = _peak_mib()
        started = perf_counter()
        result = asyncio.run(prepared.run()).raise_for_status()
        seconds = perf_counter() - started
        output = result.output
        grown = _peak_mib() - before
    assert [each["number"] for each in output["results"] if each] == [n for n in range(items) if n % failing]
    return {
        "items": items,
        "log": log,
        "items_per_s": round(items / seconds),
        "seconds": round(seconds, 2),
        "grown_mib": round(grown, 1),
        "errors": len(output["errors"]),
    }


def _peak_mib() -> float:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--max-parallel", type=int, default=64)
    parser.add_argument("--failing", type=int, default=100)
    parser.add_argument("--log", choices=("memory", "sqlite"), default="memory")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    found = measure(said.items, said.max_parallel, said.failing, said.log)
    print(json.dumps(found) if said.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
