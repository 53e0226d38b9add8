"""A loop over a service with few places: what shares a beginning is asked together, and the results keep their order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import run
from flowmason_ray.llm.queueing import PrefixOrder
from flowmason_ray.testing.llm_server import Asked, LlmServer
from tests.llm_kit import model_server
from tests.processes_kit import WAIT_S

GROUPS, EACH = ("north", "south", "east", "west"), 8
TEXTS = [f"{' '.join([group] * 60)} question {number}" for number in range(EACH) for group in GROUPS]
PIPELINE: dict[str, Any] = {
    "name": "Grouped",
    "stages": [
        {
            "id": "each",
            "component_type": "foreach",
            "config": {
                "items": "{{ input.texts }}",
                "item_variable": "text",
                "loop_stages": ["say"],
                "max_parallel": len(TEXTS),
                "collect": "{{ stages.say.content }}",
            },
        },
        {"id": "say", "component_type": "generator", "config": {"prompt": "{{ text }}"}},
    ],
}


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with model_server() as serving:
        yield serving


def switches(texts: list[str]) -> int:
    """Return how often the beginning changes from one text to the next."""
    groups = [text.split(maxsplit=1)[0] for text in texts]
    return sum(before != after for before, after in pairwise(groups))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_what_begins_alike_is_asked_together(
    provider: str, server: LlmServer, project_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "providers": server.providers(limits={"concurrency": 1}),
        "llm_settings": {"provider": provider},
    }
    (project_dir / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")
    waiting = 0
    everybody = threading.Event()
    really = PrefixOrder[Any].put

    def put(self: Any, caller: Any) -> None:
        nonlocal waiting
        really(self, caller)
        waiting += 1
        if waiting == len(TEXTS) - 1:
            everybody.set()

    def answer(asked: Asked) -> str:
        assert everybody.wait(WAIT_S), "the first answer comes when all the others wait"
        return asked.last

    monkeypatch.setattr(PrefixOrder, "put", put)
    server.answer = answer
    result = run(PIPELINE, {"texts": TEXTS})
    assert result.status == "succeeded", result.failure
    assert result.output["results"] == TEXTS
    asked = [each.last for each in server.requests]
    assert sorted(asked) == sorted(TEXTS)
    assert switches(TEXTS) == len(TEXTS) - 1
    assert switches(asked) == len(GROUPS) - 1
