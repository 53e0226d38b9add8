"""Records run logs of the current format into tests/histories, where they have to load and replay for ever.

    python scripts/record_histories.py FOLDER        (for example tests/histories/v1)

Existing files are left alone: what was recorded once is never written again. A file holds the pipelines, the recorded events
as the log returned them, and the blobs that they refer to. The runs are the examples and the pipelines below, which fail,
retry, are cancelled and paused.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flowmason_ray
from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.events import FORMAT_VERSION
from flowmason_ray.errors import StoreError
from flowmason_ray.resuming import ResumedRun, prepare_edited, prepare_resume
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore
from flowmason_ray.wiring import load

EXAMPLES = Path(__file__).parent.parent / "examples"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
Act = Callable[[PreparedRun], Any]


def stage(id: str, component: str, config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a stage."""
    return {"id": id, "component_type": component, "config": config, **more}


def foreach(id: str, items: str, body: str, **config: Any) -> dict[str, Any]:
    """Return a loop whose body is one stage."""
    return stage(id, "foreach", {"items": items, "loop_stages": [body], **config})


ITEMS = "{{ input['items'] }}"
CHECK = stage(
    "check",
    "schema_validate",
    {"data": "{{item}}", "json_schema": {"type": "object", "required": ["n"]}, "strict": True},
)
ASK = stage("ask", "wait_for_approval", {"message": "Go on?"})
ABSENT = {"operation": "read", "path": "nowhere.json"}
UNREACHABLE = {"url": "http://rates.invalid/", "timeout": 5}  # a name that cannot exist (RFC 6761)
RETRY = {"max_attempts": 3, "initial_delay_ms": 1}
PIPELINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "failed-items": (
        {"stages": [foreach("each", ITEMS, "check", max_parallel=2, break_on_error=False), CHECK]},
        {"items": [{"n": 1}, {}, {"n": 3}, {"m": 4}]},
    ),
    "failed-after-retries": ({"stages": [stage("fetch", "http_request", UNREACHABLE, retry=RETRY)]}, {}),
    "fallback": (
        {"stages": [stage("read", "local_file", ABSENT, on_error="fallback", fallback_output={"content": 1})]},
        {},
    ),
    "continued": (
        {
            "stages": [stage("read", "local_file", ABSENT, on_error="continue")],
            "output": "{{ stages.read.error.code }}",
        },
        {},
    ),
    "nested-loops": (
        {
            "stages": [
                foreach("each", ITEMS, "inner"),
                foreach("inner", "{{item}}", "set", item_variable="x", index_variable="i"),
                stage("set", "variable_set", {"name": "y", "value": "{{ x * 2 + index }}"}),
            ]
        },
        {"items": [[1, 2], [], [3]]},
    ),
    "large-values": (
        {
            "stages": [
                stage("large", "variable_set", {"name": "x", "value": "{{ input.text }}"}),
                stage("copy", "variable_set", {"name": "y", "value": "{{ stages.large.x }}"}),
            ],
            "output": "{{ stages.copy.y | length }}",
        },
        {"text": "long " * 20_000},
    ),
    "cancelled": ({"stages": [ASK]}, {}),
    "paused-and-resumed": (
        {
            "stages": [
                stage("set", "variable_set", {"name": "x", "value": 1}),
                {**ASK, "depends_on": ["set"]},
                stage("last", "variable_set", {"name": "y", "value": "{{ stages.ask.data.ok }}"}),
            ]
        },
        {},
    ),
    "gone-on-with": (
        {"stages": [foreach("each", ITEMS, "check"), CHECK], "output": "{{ stages.each.succeeded_items }}"},
        {"items": [{"n": 1}, {"n": 2}, {"n": 3}]},
    ),
    "timeout": ({"timeout_ms": 50, "stages": [ASK]}, {}),
}


async def acted(prepared: PreparedRun, name: str) -> None:
    """Run, and answer, pause or cancel what waits for that."""

    async def act() -> None:
        await asyncio.sleep(0.3)
        if name == "cancelled":
            prepared.cancel()
        elif name == "paused-and-resumed" and not isinstance(prepared, ResumedRun):
            prepared.pause()
        elif name == "paused-and-resumed" or name == "approval":
            prepared.answer("ask", {"ok": True}, by="ann")

    doing = asyncio.create_task(act())
    await prepared.run()
    doing.cancel()


def record(name: str, file: Path, input: dict[str, Any], target: Path) -> None:
    """Run a pipeline and write its history."""
    with tempfile.TemporaryDirectory() as folder:
        blobs = LocalBlobs(Path(folder) / "blobs")
        store = SqliteRunStore(Path(folder) / "runs.db", blobs)
        prepared = PreparedRun(file, input, store=store)
        asyncio.run(asyncio.wait_for(acted(prepared, name), 20))
        run_id = prepared.run_id
        if name == "paused-and-resumed":
            resumed = asyncio.run(prepare_resume(store, run_id))
            asyncio.run(asyncio.wait_for(acted(resumed, name), 20))
        elif name == "gone-on-with":
            going_on = asyncio.run(prepare_edited(store, run_id, file))
            asyncio.run(asyncio.wait_for(acted(going_on, name), 20))
            run_id = going_on.run_id

        async def events() -> list[Any]:
            return [dict(recorded.event) async for recorded in store.read(run_id)]

        recorded = asyncio.run(events())
        text = json.dumps(recorded)
        contents = {
            d: base64.b64encode(blobs.get(d)).decode() for d in sorted(set(DIGEST.findall(text))) if _there(blobs, d)
        }
    files = {
        p.relative_to(file.parent).as_posix(): json.loads(p.read_text())
        for p in [file, *file.parent.glob("parts/*.pipeline.json")]
    }
    document = {
        "format": FORMAT_VERSION,
        "recorded_by": flowmason_ray.__version__,
        "pipeline": file.name,
        "files": files,
        "events": recorded,
        "blobs": contents,
    }
    target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target}: {len(recorded)} events, {recorded[-1]['kind']}")


def _there(blobs: LocalBlobs, digest: str) -> bool:
    try:
        return bool(blobs.get(digest))
    except StoreError:  # a digest of something else, such as the plan's
        return False


def main() -> None:
    """Record what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        for name, (pipeline, input) in PIPELINES.items():
            target = folder / f"{name}.json"
            if not target.exists():
                file = Path(made) / f"{name}.pipeline.json"
                file.write_text(json.dumps({"name": name, **pipeline}))
                record(name, file, input, target)
    for file in sorted(EXAMPLES.glob("*.pipeline.json")):
        name = file.name.removesuffix(".pipeline.json")
        target = folder / f"example-{name}.json"
        if name == "http" or target.exists():
            continue
        loaded = load(file)
        record(name, file, dict(loaded.pipeline.sample_input or {}), target)


if __name__ == "__main__":
    main()
