"""Reuse inside of called pipelines: an edit of the called one runs what it concerns."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from flowmason_ray.api import PreparedRun
from flowmason_ray.resuming import prepare_edited
from tests.unit.reuse.reuse_kit import CALLS, COMPONENTS, World, calc, foreach, pipeline


def test_a_called_pipeline_is_reused_stage_by_stage(tmp_path: Path) -> None:
    world = World()

    def write(c: int) -> Path:
        inner = pipeline([calc("p", 1, "{{ input.v }}"), calc("q", c, "{{ stages.p.a }}")], name="inner")
        (tmp_path / "inner.pipeline.json").write_text(json.dumps(inner))
        config = {"pipeline": "inner.pipeline.json", "input_data": {"v": "{{ item }}", "unread": "{{ stages.x.a }}"}}
        call: dict[str, Any] = {"id": "call", "component_type": "subpipeline", "config": config}
        outer = pipeline([calc("x", 1), foreach("each", [1, 2], "call", "{{ stages.call.result.a }}"), call])
        (tmp_path / "outer.pipeline.json").write_text(json.dumps(outer))
        return tmp_path / "outer.pipeline.json"

    old = asyncio.run(PreparedRun(write(1), {}, store=world.store, components=COMPONENTS).run())
    assert old.status == "succeeded", old.failure
    clean = asyncio.run(PreparedRun(write(2), {}, components=COMPONENTS).run())
    CALLS.clear()
    prepared = asyncio.run(prepare_edited(world.store, old.run_id, write(2), components=COMPONENTS))
    assert {stage.path: stage.reused for stage in prepared.outlook.stages} == {
        "x": True, "each/call/p": True, "each/call/q": False,
    }  # fmt: skip
    done = asyncio.run(prepared.run())
    assert done.output == clean.output
    assert world.called == ["each[0]/call/q", "each[1]/call/q"]
