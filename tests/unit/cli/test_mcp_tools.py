"""Which of a project's pipelines are offered as tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.cli.mcp_tools import ProjectTools


def write(folder: Path, name: str, **content: Any) -> None:
    stages = [{"id": "log", "component_type": "logger", "config": {"message": "x"}}]
    (folder / f"{name}.pipeline.json").write_text(json.dumps({"name": name, "stages": stages, **content}))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "^(?=a)b"}}}, "/input_schema/properties/a/pattern"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "leads nowhere"),
        ({"type": "nosuch"}, "/input_schema/type"),
    ],
)
def test_a_pipeline_whose_input_cannot_be_planned_is_no_tool(tmp_path: Path, schema: Any, words: str) -> None:
    write(tmp_path, "good", input_schema={"properties": {"a": {"type": "string", "pattern": "^a"}}})
    write(tmp_path, "bad", input_schema=schema)
    tools = ProjectTools(root=tmp_path)
    names = [each.name for each in tools.offered()]
    assert "run_good" in names
    assert "run_bad" not in names
    assert list(tools.broken) == ["bad.pipeline.json"]
    assert words in tools.broken["bad.pipeline.json"]


def test_what_is_added_to_an_inherited_schema_is_not_judged_by_itself(tmp_path: Path) -> None:
    write(tmp_path, "base", input_schema={"type": "object", "$defs": {"code": {"type": "string"}}})
    more: dict[str, Any] = {"extends": "base.pipeline.json", "stages": []}
    write(tmp_path, "child", **more, input_schema={"properties": {"a": {"$ref": "#/$defs/code"}}})
    tools = ProjectTools(root=tmp_path)
    assert "run_child" in [each.name for each in tools.offered()]
    assert tools.broken == {}
