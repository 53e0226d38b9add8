"""The example that a model node declares is run as a stage, in a project whose provider speaks OpenAI's API on the loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import run
from flowmason_ray.cli.component_page import declared_example, example
from flowmason_ray.components.builtin import BUILTIN
from flowmason_ray.components.registry import Registry
from flowmason_ray.testing.llm_server import LlmServer
from tests.llm_kit import model_server
from tests.unit.components.test_media_nodes import PIXEL

ASK_MODELS = {"text", "audio", "vision"}
SPECS = {spec.name: spec for spec in Registry(entry_points=False).all() if spec.category in ASK_MODELS}


@pytest.fixture
def server(project_dir: Path) -> Iterator[LlmServer]:
    (project_dir / "data").mkdir()
    (project_dir / "data" / "talk.wav").write_bytes(b"RIFF sound")
    (project_dir / "data" / "sky.png").write_bytes(PIXEL)
    with model_server() as running:
        settings = {"providers": running.providers(), "llm_settings": {"provider": "openai"}}
        (project_dir / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")
        yield running


def test_every_model_node_declares_an_example():
    assert len(SPECS) >= 16
    assert [name for name, spec in SPECS.items() if declared_example(spec) is None] == []
    assert set(SPECS) <= set(BUILTIN)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_an_example_runs(name: str, server: LlmServer):
    stage: dict[str, Any] = json.loads(example(SPECS[name]))
    result = run({"name": "example", "stages": [stage]})
    assert result.status == "succeeded", result.failure
    assert set(result.output) == set(SPECS[name].output_model.model_fields)
    (asked,) = server.requests
    if not asked.path.startswith("/v1/audio/"):
        assert result.output["tokens_used"] == result.usage["input_tokens"] + result.usage["output_tokens"] > 0
