"""The generated JSON Schema and the generated tables."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flowmason_ray.spec.json_schema import SCHEMA_FILE, pipeline_schema
from flowmason_ray.spec.overriding import OPERATORS
from flowmason_ray.spec.pipeline import Cache, Pipeline, Retry, Stage
from flowmason_ray.spec.reference import field_table

ROOT = Path(__file__).parents[3]


def violations(document: object) -> list[str]:
    validator: Any = Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
    return [error.message for error in validator.iter_errors(document)]


def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "scripts" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(pipeline_schema())


@pytest.mark.parametrize(
    "document",
    [
        {"name": "p"},
        {
            "$schema": "x",
            "name": "p",
            "x-a": 1,
            "compositions": ["q", {"id": "a", "pipeline": "q"}],
            "stages": [
                {
                    "id": "a",
                    "component_type": "x",
                    "config": {"a": [1, None]},
                    "x-b": {"c": 1},
                    "cache": {"ttl_s": 1},
                    "retry": {"max_attempts": 2, "x-c": 1},
                    "when": True,
                    "metadata": {"anything": [1]},
                }
            ],
        },
    ],
)
def test_the_schema_accepts(document: dict[str, Any]):
    assert violations(document) == []
    if not any(isinstance(c, str) for c in document.get("compositions", [])):
        Pipeline.model_validate(document)


def overriding(patch: Any, stage: str = "a") -> dict[str, Any]:
    return {"name": "p", "extends": "base", "overrides": {stage: patch}}


@pytest.mark.parametrize(
    "patch",
    [
        None,
        {"retry": None, "config": {"a": {"$replace": None}, "b": {"$add": {"$odd": 1}}, "$$ref": "x"}},
        {"depends_on": {"$append": ["x"], "$prepend": ["y"], "$remove": ["z"]}},
        {"config": {"rules": {"$merge": {"by": "field", "items": {"id": {"required": True}, "old": None}}}}},
        {"$replace": {"id": "a", "component_type": "logger"}},
        {"input_mapping": {"n": 1}, "x-note": "mine"},
    ],
)
def test_the_schema_accepts_overrides(patch: Any):
    assert violations(overriding(patch)) == []
    assert violations(overriding({"output": {"v": {"$add": "{{input.v}}"}}}, "$pipeline")) == []


@pytest.mark.parametrize(
    "patch",
    [
        5,
        "logger",
        {"$append": ["x"]},
        {"config": {"tags": {"$apend": ["x"]}}},
        {"config": {"tags": {"$append": "x"}}},
        {"config": {"a": {"$replace": 1, "$append": [1]}}},
        {"config": {"rules": {"$merge": {"items": {}}}}},
        {"config": {"rules": {"$merge": {"by": "id", "items": {"a": {"$oops": 1}}}}}},
    ],
)
def test_the_schema_refuses_overrides_that_no_parent_could_take(patch: Any):
    assert violations(overriding(patch))
    assert violations(overriding({"output": {"$oops": 1}}, "$pipeline"))


def test_editors_are_told_what_can_be_overridden():
    definitions = pipeline_schema()["$defs"]
    stage = definitions["StageOverride"]["properties"]
    assert {"config", "retry", "input_mapping", "$replace"} <= stage.keys()
    assert "id" not in stage
    assert {"output", "defaults", "tags"} <= definitions["PipelineOverride"]["properties"].keys()
    assert "extends" not in definitions["PipelineOverride"]["properties"]
    told = {name: text["description"] for name, text in definitions["PatchObject"]["properties"].items()}
    assert told.keys() == set(OPERATORS)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"name": ""},
        {"name": "p", "stage": []},
        {"name": "p", "extensions": {}},
        {"name": "p", "stages": [{"id": "a"}]},
        {"name": "p", "stages": [{"id": "a b", "component_type": "x"}]},
        {"name": "p", "stages": [{"id": "a", "component_type": "x", "retry": {"max_attempts": 0}}]},
        {"name": "p", "stages": [{"id": "a", "component_type": "x", "on_error": "ignore"}]},
        {"name": "p", "version": "1.0"},
    ],
)
def test_the_schema_refuses(document: dict[str, Any]):
    assert violations(document)


def test_every_key_has_a_description_for_editors():
    schema = pipeline_schema()
    for definition in (schema, *schema["$defs"].values()):
        for name, inner in definition.get("properties", {}).items():
            assert inner.get("description"), name


def test_table():
    lines = field_table(Retry).splitlines()
    assert lines[0] == "| field | type | default | meaning |"
    assert lines[2].startswith("| `max_attempts` | whole number | `1` | How many attempts")
    assert "| `ttl_s` | number |  |" in field_table(Cache)
    assert "| `cache` | true or false or [Cache](#cache) | `false` |" in field_table(Stage)
    assert "| `fail`, `continue` or `fallback` |" in field_table(Stage)
    assert "| `residency` | object of list of text | `{}` |" in field_table(Pipeline)


def test_generated_files_are_current():
    assert generate().main(["--check"]) == 0


def test_check_notices_stale_files_and_writing_mends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    module = generate()
    (tmp_path / "docs").mkdir()
    guide = tmp_path / "docs" / "a.md"
    guide.write_text("# A\n<!-- generated:retry -->\nold\n<!-- /generated -->\nend\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "FILES", {tmp_path / "schema.json": lambda: b"{}"})
    assert module.main(["--check"]) == 1
    assert "docs/a.md is stale" in capsys.readouterr().err
    assert not (tmp_path / "schema.json").exists()
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0
    assert guide.read_text() == f"# A\n<!-- generated:retry -->\n{field_table(Retry)}<!-- /generated -->\nend\n"


def test_an_unknown_table_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = generate()
    (tmp_path / "README.md").write_text("<!-- generated:nothing -->\n<!-- /generated -->\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "FILES", {})
    with pytest.raises(SystemExit, match="no generated part 'nothing'"):
        module.main([])
