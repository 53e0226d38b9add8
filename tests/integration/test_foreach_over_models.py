"""A loop over a real llama.cpp model behind a server: streams progress, keeps to its limits, and counts as the server counts.

It takes a thousand items; `FLOWMASON_ITEMS=100` takes a hundred, for whoever is in a hurry.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import monotonic

import pytest

from flowmason_ray import run
from flowmason_ray.engine.events import Event, StageStreamed, StageSucceeded
from tests.llama_kit import make_model
from tests.llama_server_kit import LlamaServer

ITEMS = int(os.environ.get("FLOWMASON_ITEMS", "1000"))
PER_MINUTE, HELD_S, AT_ONCE = 1800, 1.0, 6
"""Thirty a second, a second's worth of which may be held back (`llm.limits`)."""

PIPELINE = {
    "name": "Many",
    "stages": [
        {
            "id": "each",
            "component_type": "foreach",
            "config": {
                "items": "{{ input.words }}",
                "item_variable": "word",
                "loop_stages": ["say"],
                "max_parallel": 16,
                "collect": {"word": "{{ word }}", "said": "{{ stages.say.content }}"},
            },
        },
        {
            "id": "say",
            "component_type": "generator",
            "config": {"prompt": "Say something about {{ word }}", "max_tokens": 4},
        },
    ],
}

pytestmark = [pytest.mark.llama, pytest.mark.timeout(120 + ITEMS)]


def test_a_loop_over_a_model(project_dir: Path):
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: 'make llama' does it", exc_type=ImportError)
    words = [f"thing {number}" for number in range(ITEMS)]
    seen: list[Event] = []
    with LlamaServer(make_model(project_dir / "tiny.gguf")) as server:
        provider = server.provider(limits={"rpm": PER_MINUTE, "concurrency": AT_ONCE})
        (project_dir / "flowmason.json").write_text(json.dumps({"providers": {"tiny": provider}}), encoding="utf-8")
        (project_dir / "many.pipeline.json").write_text(json.dumps(PIPELINE), encoding="utf-8")
        began = monotonic()
        result = run("many.pipeline.json", {"words": words}, observers=[seen.append], stream=True)
        took_s = monotonic() - began
        assert result.status == "succeeded", result.failure

        said = [server.answers[f"Say something about {word}"] for word in words]
        assert result.output["results"] == [{"word": w, "said": s} for w, s in zip(words, said, strict=True)]

        counted = (result.usage["calls"], result.usage["input_tokens"], result.usage["output_tokens"])
        assert counted == (server.calls, server.input_tokens, server.output_tokens)
        assert server.calls == ITEMS
        assert "estimated_calls" not in result.usage

        assert server.most_busy <= AT_ONCE
        rate = PER_MINUTE / 60
        assert took_s >= (ITEMS - rate * HELD_S) / rate, "no more than the rate allows, and what was held"

    streamed = {event.path for event in seen if isinstance(event, StageStreamed)}
    talking = {f"each[{number}]/say" for number, text in enumerate(said) if text}
    assert streamed == talking
    ended = [position for position, event in enumerate(seen) if isinstance(event, StageSucceeded)]
    assert len(ended) >= ITEMS
    first = next(position for position, event in enumerate(seen) if isinstance(event, StageStreamed))
    assert first < ended[-2], "words are shown while the loop goes on"
