"""What every model that is run here keeps to, whichever engine runs it: one suite for llama.cpp and vLLM. What tiny models say is nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.models import Tool
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext
from tests.llm_kit import entry

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}


def run(work: Any) -> Any:
    return asyncio.run(work)


class LocalModelChecks:
    """Tests; the fixture `model` is the model's files. A subclass says how it is asked."""

    asking: Callable[[Path], RecordingContext]

    def test_words_come_as_they_are_said_and_are_counted(self, model: Path) -> None:
        context = self.asking(model)
        answer = run(context.models.generate("Hello", max_tokens=12, seed=1))
        assert "".join(context.streamed) == answer.text
        assert len(context.streamed) > 1
        assert (answer.usage.output_tokens, answer.finish_reason) == (12, "length")
        assert answer.usage.input_tokens == run(context.models.count_tokens("Hello"))
        assert not answer.usage.estimated

    def test_the_same_seed_says_the_same(self, model: Path) -> None:
        context = self.asking(model)
        first, other, again = (
            run(context.models.generate("Hello", max_tokens=20, seed=seed)).text for seed in (1, 2, 1)
        )
        assert first == again
        assert first != other

    def test_a_grammar_holds_the_answer_to_its_schema(self, model: Path) -> None:
        context = self.asking(model)
        for seed in range(5):
            answer = run(context.models.generate("How are you?", schema=SCHEMA, seed=seed, max_tokens=200))
            assert answer.data["mood"] in ("good", "bad")
            assert answer.finish_reason == "stop"
        assert entry(context)["calls"] == 5, "none needed a repair"

    def test_tools_are_called_by_grammar_too(self, model: Path) -> None:
        tool = Tool(
            name="pick",
            description="Picks one.",
            parameters={
                "type": "object",
                "properties": {"one": {"enum": ["a", "b"]}},
                "required": ["one"],
                "additionalProperties": False,
            },
        )
        context = self.asking(model)
        answer = run(context.models.generate("Pick.", tools=[tool], tool_choice="required", max_tokens=200, seed=1))
        (call,) = answer.tool_calls
        assert (call.name, answer.finish_reason) == ("pick", "tool_use")
        assert call.arguments["one"] in ("a", "b")
        assert context.streamed == [], "what is meant for the program is not shown to people"

    def test_it_ends_at_a_stop_sequence_and_does_not_say_it(self, model: Path) -> None:
        context = self.asking(model)
        whole = run(context.models.generate("Hello", max_tokens=40, temperature=0, seed=3)).text
        stop = whole[5:7]
        context = self.asking(model)
        answer = run(context.models.generate("Hello", max_tokens=40, temperature=0, seed=3, stop=[stop]))
        assert answer.text == whole[: whole.index(stop)]
        assert "".join(context.streamed) == answer.text
        assert answer.finish_reason == "stop_sequence"

    def test_what_two_requests_share_is_read_once(self, model: Path) -> None:
        context = self.asking(model)
        shared = "The same long beginning for all. " * 5
        run(context.models.generate("one", system=shared, max_tokens=2))
        second = run(context.models.generate("two", system=shared, max_tokens=2))
        assert second.usage.cached_tokens > len(shared) / 2
        assert second.usage.cached_tokens < second.usage.input_tokens

    def test_what_does_not_fit_is_refused(self, model: Path) -> None:
        with pytest.raises(PermanentError) as found:
            run(self.asking(model).models.generate("word " * 600))
        assert found.value.code == "context_too_long"
