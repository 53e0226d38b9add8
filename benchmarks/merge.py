"""How long a diff and a merge take as pipelines grow, beside a generic tool for JSON.

    python -m benchmarks.merge                            500, 5,000 and 50,000 stages
    python -m benchmarks.merge --sizes 500,5000 --json
    python -m benchmarks.merge --generic deepdiff         also runs that library, if it is installed, for at most 60 s a size

The base has stages in layers, each with a prompt and reading two others. Ours renames one stage in a hundred and edits one
in ten; theirs adds one in twenty, edits others and reorders the file. `read` is loading all three files, `diff` and `merge` what
`flowmason_ray.spec` does with them, `command` the whole of `fm merge` with planning the result, as a process.

Promise: 5,000 stages, diff and merge each within 2 s, and the time per stage does not grow.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from flowmason_ray.spec.diff.comparing import diff
from flowmason_ray.spec.diff.documents import document_of
from flowmason_ray.spec.formatting import canonical_bytes
from flowmason_ray.spec.loader import load_pipeline_text
from flowmason_ray.spec.merge.merging import merge

GENERIC_TIMEOUT_S = 60.0
WORDS = [
    "write",
    "say",
    "short",
    "polite",
    "customer",
    "order",
    "refund",
    "delivery",
    "address",
    "never",
    "always",
    "please",
    "answer",
    "ticket",
]


def base_pipeline(size: int) -> dict[str, Any]:
    """Return a pipeline of so many stages, valid with the built-in components."""
    chance = random.Random(size)
    stages: list[dict[str, Any]] = []
    for n in range(size):
        reads = sorted({chance.randrange(max(0, n - 50), n) for _ in range(2)}) if n else []
        said = " ".join(f"{{{{ stages.stage_{each}.logged }}}}" for each in reads)
        prompt = " ".join(chance.choice(WORDS) for _ in range(20))
        stage = {
            "id": f"stage_{n}",
            "component_type": "logger",
            "position": {"x": n % 50, "y": n // 50},
            "config": {"message": f"{n}: {prompt} {said}", "level": "info", "data": {"n": n}},
            "depends_on": [f"stage_{each}" for each in reads],
        }
        stages.append(stage)
    return {"name": "Large", "stages": stages}


def our_version(base: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(base)
    for stage in made["stages"][::10]:
        stage["config"]["data"]["n"] += 1
    text = json.dumps(made)
    names = {s["id"]: f"{s['id']}_renamed" for s in made["stages"][5::100]}
    return json.loads(_with_names(text, names))


def _with_names(text: str, names: dict[str, str]) -> str:
    import re

    return re.sub(r"\bstage_\d+\b", lambda found: names.get(found[0], found[0]), text)


def their_version(base: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(base)
    for stage in made["stages"][3::10]:
        stage["config"]["message"] += " Thank you."
    size = len(made["stages"])
    made["stages"] += [
        {
            "id": f"extra_{n}",
            "component_type": "logger",
            "config": {"message": f"Again: {{{{ stages.stage_{n}.logged }}}}"},
            "depends_on": [f"stage_{n}"],
        }
        for n in range(0, size, 20)
    ]
    random.Random(1).shuffle(made["stages"])
    return made


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = perf_counter()
    result = action()
    return perf_counter() - start, result


def measure(size: int, *, command: bool) -> dict[str, Any]:
    base = base_pipeline(size)
    texts = [canonical_bytes(each) for each in (base, our_version(base), their_version(base))]
    read, documents = timed(lambda: [document_of(load_pipeline_text(text)) for text in texts])
    compared, change = timed(lambda: diff(documents[0], documents[1]))
    together, merged = timed(lambda: merge(*documents))
    assert len(change.renames) == len(range(5, size, 100)), len(change.renames)
    assert merged.clean
    row: dict[str, Any] = {
        "stages": size,
        "read_s": round(read, 3),
        "diff_s": round(compared, 3),
        "merge_s": round(together, 3),
        "diff_us_per_stage": round(compared / size * 1e6, 1),
        "merge_us_per_stage": round(together / size * 1e6, 1),
    }
    if command:
        row["command_s"] = round(_command(texts), 3)
    return row


def _command(texts: list[bytes]) -> float:
    """Return how long `fm merge` takes as a process, its start and the planning of the result included."""
    with tempfile.TemporaryDirectory() as folder:
        names = ["base.pipeline.json", "ours.pipeline.json", "theirs.pipeline.json"]
        for name, text in zip(names, texts, strict=True):
            Path(folder, name).write_bytes(text)
        program = [sys.executable, "-m", "flowmason_ray", "merge", *names, "-o", "merged.pipeline.json"]
        took, _ = timed(lambda: subprocess.run(program, cwd=folder, check=True, capture_output=True))
        return took


def generic(library: str, size: int) -> float | None:
    """Return how long a generic tool takes for the diff of base and ours; None: longer than it is given."""
    process = multiprocessing.get_context("spawn").Process(target=_run_generic, args=(library, size))
    took, _ = timed(lambda: (process.start(), process.join(GENERIC_TIMEOUT_S)))
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return took


def _run_generic(library: str, size: int) -> None:
    base = base_pipeline(size)
    ours = our_version(base)
    if library == "deepdiff":
        from deepdiff import DeepDiff  # pyright: ignore[reportMissingImports]  # for this measurement only

        DeepDiff(base, ours, ignore_order=True)
    else:
        import jsondiff  # pyright: ignore[reportMissingImports]  # for this measurement only

        jsondiff.diff(base, ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="500,5000,50000", help="numbers of stages")
    parser.add_argument("--generic", choices=["deepdiff", "jsondiff"], help="a library to run beside")
    parser.add_argument("--no-command", action="store_true", help="do not run fm merge as a process")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in (int(each) for each in options.sizes.split(",")):
        row = measure(size, command=not options.no_command)
        if options.generic:
            took = generic(options.generic, size)
            row[f"{options.generic}_s"] = None if took is None else round(took, 3)
        rows.append(row)
        if not options.json:
            told = ", ".join(f"{key} {value}" for key, value in row.items())
            print(told.replace("None", f"over {GENERIC_TIMEOUT_S:.0f}"), flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
