"""The guide to control flow says nothing that is not so: its examples run, its table is the tests' own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.api import run, validate
from flowmason_ray.components.registry import Registry
from tests.matrix_kit import GUIDE, PART, matrix_table

TEXT = GUIDE.read_text(encoding="utf-8")
EXAMPLES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (json.loads(said), json.loads(pipeline))
    for said, pipeline in re.findall(r"<!-- example: (.*?) -->\n```json\n(.*?)```", TEXT, re.DOTALL)
]


@pytest.mark.parametrize(("said", "pipeline"), EXAMPLES, ids=[pipeline["name"] for _, pipeline in EXAMPLES])
def test_the_examples_run_and_give_what_is_said(
    said: dict[str, Any], pipeline: dict[str, Any], project_dir: Path
) -> None:
    for name, called in said.get("files", {}).items():
        (project_dir / name).write_text(json.dumps(called), encoding="utf-8")
    file = project_dir / "example.pipeline.json"
    file.write_text(json.dumps(pipeline), encoding="utf-8")
    assert validate(file) == []
    assert run(file, said["input"]).raise_for_status().output == said["output"]


def test_every_json_block_is_an_example() -> None:
    assert TEXT.count("```json") == len(EXAMPLES) > 10


def test_the_table_is_the_tests_own() -> None:
    match = PART.search(TEXT)
    assert match is not None
    assert match[2] == matrix_table(), "run: python -m tests.matrix_kit"


@pytest.mark.parametrize(
    "name",
    [
        "conditional",
        "router",
        "foreach",
        "trycatch",
        "parallel",
        "subpipeline",
        "return",
        "variable_set",
        "wait_for_approval",
        "loop",
        "break_loop",
    ],
)
def test_every_field_of_a_config_is_told(name: str) -> None:
    component = Registry(entry_points=False).get(name)
    assert component is not None
    heading = "break_loop and continue_loop" if name == "break_loop" else name
    part = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([a-z_]+)`", part))
    assert set(component.input_model.model_fields) <= told
    if name not in ("break_loop", "return", "variable_set"):
        assert set(component.output_model.model_fields) <= told
