"""A project with a pipeline and its tests, run in this process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from flowmason_ray.pipeline_tests.results import CaseResult, FileResult, TestReport
from flowmason_ray.pipeline_tests.running import Listener, Selection, run_files

GREET: dict[str, Any] = {
    "name": "greet",
    "input_schema": {
        "type": "object",
        "required": ["names"],
        "properties": {"names": {"type": "array", "items": {"type": "string"}}, "loud": {"type": "boolean"}},
    },
    "sample_input": {"names": ["Ada"]},
    "stages": [
        {"id": "greeting", "component_type": "json_transform", "config": {"data": {}, "values": {"word": "Hello"}}},
        {
            "id": "each",
            "component_type": "foreach",
            "config": {"items": "{{input.names}}", "loop_stages": ["say"]},
        },
        {
            "id": "say",
            "component_type": "json_transform",
            "config": {"data": {}, "values": {"text": "{{stages.greeting.result.word}} {{item}}"}},
        },
        {
            "id": "loud",
            "component_type": "logger",
            "config": {"message": "{{stages.each.results | length}} greetings"},
            "when": "{{input.loud | default(false)}}",
        },
    ],
    "output": {"texts": "{{stages.each.results | map(attribute='result.text') }}"},
}


def transformed(**values: Any) -> dict[str, Any]:
    """Return an output of `json_transform`."""
    return {"result": values, "fields_mapped": list(values), "fields_missing": []}


def write(folder: Path, cases: list[dict[str, Any]] | str, pipeline: dict[str, Any] | None = None, **more: Any) -> Path:
    """Write `p.pipeline.json` and `p.test.json`; return the latter."""
    (folder / "p.pipeline.json").write_text(json.dumps(pipeline or GREET, indent=1), encoding="utf-8")
    file = folder / "p.test.json"
    text = cases if isinstance(cases, str) else json.dumps({**more, "cases": cases}, indent=1)
    file.write_text(text, encoding="utf-8")
    return file


def run(*files: Path, listener: Listener | None = None, **selection: Any) -> TestReport:
    """Run test files."""
    return asyncio.run(run_files(files, Selection(**selection), listener))


def run_cases(folder: Path, *cases: dict[str, Any], pipeline: dict[str, Any] | None = None) -> list[CaseResult]:
    """Run cases of a pipeline."""
    result = file_result(folder, *cases, pipeline=pipeline)
    assert result.problems == ()
    return result.cases


def file_result(folder: Path, *cases: dict[str, Any], pipeline: dict[str, Any] | None = None) -> FileResult:
    """Run cases of a pipeline; return what became of the file."""
    return run(write(folder, list(cases), pipeline)).files[0]
