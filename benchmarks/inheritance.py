"""Measures what inheritance costs: microseconds per stage, beside loading the base alone, for families of growing size.

    python -m benchmarks.inheritance [--sizes 500,5000,50000] [--repeat N]

A family has three generations: a base, a pipeline that overrides a value in every second stage, and a child of that which
disables one stage and removes one. Claims: it grows near-linearly, and a pipeline that extends nothing is loaded at the same speed
whether or not inheritance exists (`load` against the reader alone).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from flowmason_ray.spec.loader import load_pipeline_file
from flowmason_ray.wiring import load


def stage(number: int) -> dict[str, Any]:
    config = {"data": "{{input}}", "values": {"a": number, "text": "hello {{input.x}}"}}
    made: dict[str, Any] = {"id": f"s{number}", "component_type": "json_transform", "config": config}
    return made | ({"depends_on": [f"s{number - 1}"]} if number else {})


def write_family(folder: Path, size: int) -> None:
    last = f"s{size - 1}"
    patch = {"config": {"values": {"a": -1}}}
    documents: list[dict[str, Any]] = [
        {"name": "base", "stages": [stage(number) for number in range(size)]},
        {"name": "middle", "extends": "base", "overrides": {f"s{number}": patch for number in range(0, size, 2)}},
        {"name": "child", "extends": "middle", "overrides": {"s0": {"enabled": False}, last: None}},
    ]
    for data in documents:
        (folder / f"{data['name']}.pipeline.json").write_text(json.dumps(data), encoding="utf-8")


def median_s(work: Callable[[], object], repeat: int) -> float:
    times: list[float] = []
    for _ in range(repeat):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure inheritance.")
    parser.add_argument("--sizes", default="500,5000,50000", help="stages of the base, separated by commas")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(f"{'stages':>8} {'base: reader':>14} {'base: load':>12} {'child: load':>12}   (µs per stage)")
    for size in map(int, str(options.sizes).split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_family(folder, size)
            base, child = folder / "base.pipeline.json", folder / "child.pipeline.json"
            reader, loaded, resolved = (
                median_s(work, options.repeat) / size * 1e6
                for work in (lambda f=base: load_pipeline_file(f), lambda f=base: load(f), lambda f=child: load(f))
            )
            print(f"{size:>8,} {reader:>14.1f} {loaded:>12.1f} {resolved:>12.1f}")


if __name__ == "__main__":
    main()
