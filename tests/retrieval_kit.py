"""A project for tests of retrieval: a model server on the loopback, and contexts that reach it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import KEY, Asked, LlmServer

HANDBOOK = {
    "text": "Leave\n\nEverybody has thirty days of leave a year.\n\nParental\n\nParental leave lasts ninety days and is paid.",
    "path": "handbook.md",
    "sections": [
        {"heading": "Leave", "level": 1, "start": 0, "end": 51},
        {"heading": "Parental", "level": 2, "start": 51, "end": 120},
    ],
}
KITCHEN = {
    "text": "The kitchen closes at nine. Cups go into the dishwasher.",
    "source": "kitchen",
    "metadata": {"floor": 2},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    """A model server, whose key is in the environment."""
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    with LlmServer() as running:
        yield running


def context_for(server: LlmServer, folder: Path, **more: Any) -> RecordingContext:
    """Return a context of a project whose models are the server."""
    settings = ProjectSettings.model_validate(
        {"providers": server.providers(max_retries=0), "llm_settings": {"provider": "openai"}, **more}
    )
    return RecordingContext(project_dir=folder, settings=settings)


def embedded(server: LlmServer) -> list[str]:
    """Return every text that a vector was asked for, in order."""
    return [text for asked in server.requests if asked.path.endswith("/embeddings") for text in asked.body["input"]]


def is_completion(asked: Asked) -> bool:
    """Tell whether a request asks for words, and not for vectors."""
    return asked.path.endswith("completions")
