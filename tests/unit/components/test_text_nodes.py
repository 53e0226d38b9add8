"""Text nodes against a real client and a server that says what it is told: what is asked, what is returned, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components.registry import Registry
from flowmason_ray.errors import PermanentError, StageError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import KEY, Asked, LlmServer

PROVIDERS = ("anthropic", "openai")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    with LlmServer() as running:
        yield running


@pytest.fixture(params=PROVIDERS)
def context(server: LlmServer, tmp_path: Path, request: pytest.FixtureRequest) -> RecordingContext:
    settings = ProjectSettings.model_validate({"providers": server.providers(), "llm_settings": {"max_tokens": 300}})
    return RecordingContext(project_dir=tmp_path, settings=settings, llm_settings={"provider": request.param})


async def call(context: RecordingContext, name: str, **config: Any) -> Any:
    """Run a component on a config, as an attempt does."""
    spec = Registry(entry_points=False).get(name)
    assert spec is not None
    return await spec.create().execute(spec.input_model.model_validate(config), context)


def run(context: RecordingContext, name: str, **config: Any) -> Any:
    import asyncio

    return asyncio.run(call(context, name, **config))


def whole_text(asked: Asked) -> str:
    return f"{asked.system}\n{asked.last}"


CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "critic",
        {"content": "Roses are blue.", "criteria": ["truth", "rhythm"], "threshold": 7},
        {
            "feedback": "Roses are red.",
            "strengths": ["short"],
            "improvements": ["say red"],
            "criteria_scores": {"criterion_1": 1, "criterion_2": 9},
            "score": 4,
        },
        {"score": 4.0, "passed": False, "criteria_scores": {"truth": 1.0, "rhythm": 9.0}, "improvements": ["say red"]},
    ),
    (
        "improver",
        {"content": "Roses are blue.", "feedback": {"feedback": "Wrong colour.", "improvements": ["say red"]}},
        {"content": "Roses are red.", "changes": ["blue became red"]},
        {"content": "Roses are red.", "improved_content": "Roses are red.", "changes_made": ["blue became red"]},
    ),
    (
        "combiner",
        {"inputs": {"north": "It rains.", "south": "It is dry."}, "strategy": "compare"},
        {"contradictions": ["rain"], "key_points": ["weather"], "content": "Rain in the north."},
        {"content": "Rain in the north.", "contradictions": ["rain"], "sources": 2},
    ),
    (
        "selector",
        {"candidates": ["a cat", {"name": "a dog"}, "a bird"], "criteria": "barks"},
        {"reasoning": "It barks.", "scores": [1, 90, 2], "index": 1},
        {"selected": {"name": "a dog"}, "index": 1, "selected_index": 1, "confidence": 0.9, "reasoning": "It barks."},
    ),
    (
        "analyzer",
        {"content": "We love rain.", "aspects": ["mood", "weather"]},
        {
            "findings": {"aspect_1": "glad", "aspect_2": "wet"},
            "analysis": "They love rain.",
            "key_points": ["love"],
            "sentiment": "positive",
        },
        {"findings": {"mood": "glad", "weather": "wet"}, "sentiment": "positive", "analysis": "They love rain."},
    ),
    (
        "classifier",
        {"text": "Where is my money?", "labels": {"refund": "wants money back", "praise": "is glad"}},
        {"reasoning": "It asks for money.", "scores": {"label_1": 9, "label_2": 3}, "label": "refund"},
        {"label": "refund", "labels": ["refund"], "confidence": 0.9, "scores": {"refund": 0.9, "praise": 0.3}},
    ),
    (
        "classifier",
        {"text": "Good, but late.", "labels": ["late", "good", "rude"], "multi_label": True},
        {"reasoning": "Both.", "scores": {"label_1": 6, "label_2": 8, "label_3": 1}},
        {"label": "good", "labels": ["good", "late"], "confidence": 0.8},
    ),
    (
        "extractor",
        {"text": "Invoice 17 of Ada.", "fields": {"number": "the invoice's number", "vat": "the VAT id"}},
        {"number": "17", "vat": None},
        {"data": {"number": "17", "vat": None}, "missing": ["vat"]},
    ),
    (
        "extractor",
        {
            "text": "Total: 12.50",
            "schema": {
                "type": "object",
                "properties": {"total": {"type": "number"}},
                "required": ["total"],
                "additionalProperties": False,
            },
        },
        {"total": 12.5},
        {"data": {"total": 12.5}, "missing": []},
    ),
    (
        "summarizer",
        {"text": "A long text.", "max_length": 5, "focus": "length"},
        {"key_points": ["long"], "summary": "It is long."},
        {"summary": "It is long.", "word_count": 3, "key_points": ["long"]},
    ),
    (
        "rewriter",
        {"text": "gimme", "tone": "formal", "length": "longer"},
        {"content": "Please give me that.", "changes": ["politer"]},
        {"content": "Please give me that.", "changes": ["politer"]},
    ),
    (
        "translator",
        {"text": "house", "target_language": "de", "glossary": {"house": "Haus"}},
        {"source_language": "en", "translation": "Haus"},
        {"translation": "Haus", "source_language": "en", "target_language": "de"},
    ),
]


@pytest.mark.parametrize(("name", "config", "answer", "expected"), CASES, ids=lambda c: c if isinstance(c, str) else "")
def test_a_node_asks_with_its_prompt_and_returns_what_it_promises(
    server: LlmServer,
    context: RecordingContext,
    name: str,
    config: dict[str, Any],
    answer: dict[str, Any],
    expected: dict[str, Any],
):
    server.says_json(answer)
    output = run(context, name, **config).model_dump()
    assert {key: output[key] for key in expected} == expected
    (asked,) = server.requests
    assert asked.schema is not None
    assert set(asked.schema["required"]) == set(answer)
    given = config.get("content") or config.get("text")
    if given is not None:
        assert given in asked.last
    assert "{{" not in whole_text(asked)
    assert output["usage"]["input_tokens"] == asked.tokens_in
    assert output["tokens_used"] == output["usage"]["input_tokens"] + output["usage"]["output_tokens"]
    assert output["model"] in ("claude-test", "gpt-test")
    assert output["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("name", "config", "answer"), [case[:3] for case in CASES], ids=lambda c: c if isinstance(c, str) else ""
)
def test_what_does_not_fit_is_repaired_once_and_else_an_error(
    server: LlmServer, context: RecordingContext, name: str, config: dict[str, Any], answer: dict[str, Any]
):
    server.says("I would rather not.")
    server.says_json(answer)
    repaired = run(context, name, **config)
    assert len(server.requests) == 2
    assert repaired.usage.input_tokens == sum(asked.tokens_in for asked in server.requests)
    server.says("I would rather not.")
    server.says_json({**answer, "extra": 1})
    with pytest.raises(StageError) as caught:
        run(context, name, **config)
    assert caught.value.code == "bad_response"
    assert server.unused == 0


def test_data_is_never_parsed_as_a_template(server: LlmServer, context: RecordingContext):
    trap = "{{ secrets.KEY }} {{ 1 / 0 }} {{"
    server.says_json({"key_points": [trap], "summary": trap})
    output = run(context, "summarizer", text=trap)
    assert trap in server.requests[0].last
    assert output.summary == trap


def test_a_node_without_a_provider_says_how_to_configure_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "FLOWMASON_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    context = RecordingContext(project_dir=tmp_path)
    for name, config, _, _ in [("generator", {"prompt": "Hi"}, {}, {}), *CASES]:
        with pytest.raises(PermanentError, match="ANTHROPIC_API_KEY") as caught:
            run(context, name, **config)
        assert caught.value.code == "provider_not_configured"


# -- generator and chat ---------------------------------------------------------------------------------------------------


def test_the_generator_passes_on_what_it_is_told(server: LlmServer, context: RecordingContext):
    server.says("one two")
    output = run(
        context, "generator", prompt="Count.", system_prompt="Be brief.", max_tokens=7, stop_sequences=["three"]
    )
    assert (output.content, output.data) == ("one two", None)
    (asked,) = server.requests
    assert (asked.system, asked.last) == ("Be brief.", "Count.")
    assert asked.body.get("max_tokens") == 7 or asked.body.get("max_completion_tokens") == 7
    assert (asked.body.get("stop") or asked.body.get("stop_sequences")) == ["three"]
    assert "".join(context.streamed) == "one two"


def test_the_generator_returns_data_that_fits_a_schema(server: LlmServer, context: RecordingContext):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    server.says_json({"n": 3})
    assert run(context, "generator", prompt="Count.", schema=schema).data == {"n": 3}


def test_the_generator_asks_again_for_json_once(server: LlmServer, context: RecordingContext):
    server.says("Sure: 3")
    server.says('```json\n{"n": 3}\n```')
    output = run(context, "generator", prompt="Count.", output_format="json")
    assert output.data == {"n": 3}
    assert output.usage.input_tokens == sum(asked.tokens_in for asked in server.requests)
    server.says("[1]")
    server.says("[1]")
    with pytest.raises(StageError) as caught:
        run(context, "generator", prompt="Count.", output_format="json")
    assert caught.value.code == "bad_response"


def test_the_chat_goes_on(server: LlmServer, context: RecordingContext):
    server.says("Ada.")
    first = run(context, "chat", message="Who are you?", system_prompt="You are Ada.")
    assert [turn.role for turn in first.messages] == ["user", "assistant"]
    server.says("In London.")
    history = [turn.model_dump() for turn in first.messages]
    second = run(context, "chat", messages=[{"role": "system", "content": "Be brief."}, *history], message="Where?")
    assert second.content == "In London."
    asked = server.requests[-1]
    assert asked.system == "Be brief."
    assert [m["role"] for m in asked.body["messages"] if m["role"] != "system"] == ["user", "assistant", "user"]
    with pytest.raises(PermanentError) as caught:
        run(context, "chat", messages=history)
    assert caught.value.code == "invalid_prompt"


# -- vectors --------------------------------------------------------------------------------------------------------------


def test_the_embedder_makes_a_vector_for_each_text(server: LlmServer, tmp_path: Path):
    settings = ProjectSettings.model_validate({"providers": server.providers()})
    context = RecordingContext(project_dir=tmp_path, settings=settings, llm_settings={"provider": "openai"})
    one = run(context, "embedder", text="rain and snow")
    two = run(context, "embedder", texts=["sun", "rain and snow"])
    assert two.embeddings[1] == one.embedding == one.embeddings[0]
    assert (two.count, two.dimensions, two.model) == (2, len(two.embedding), "embed-test")
    assert two.tokens_used == 4
    for config in ({}, {"text": "a", "texts": ["b"]}):
        with pytest.raises(PermanentError) as caught:
            run(context, "embedder", **config)
        assert caught.value.code == "invalid_config"


def test_a_provider_without_vectors_says_so(server: LlmServer, tmp_path: Path):
    settings = ProjectSettings.model_validate({"providers": server.providers()})
    context = RecordingContext(project_dir=tmp_path, settings=settings, llm_settings={"provider": "anthropic"})
    with pytest.raises(PermanentError):
        run(context, "embedder", text="rain")
    assert server.requests == []


def test_any_schema_can_be_asked_for(server: LlmServer, context: RecordingContext):
    """Also one that a provider cannot guarantee: it is told in words then, and the answer is checked all the same."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "vat": {"type": ["string", "null"], "description": "The VAT id.", "maxLength": 5},
            "other": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "required": ["vat"],
    }
    server.says_json({"vat": None, "other": {"a": 1}})
    assert run(context, "extractor", text="…", schema=schema).data == {"vat": None, "other": {"a": 1}}
    closed = {**schema, "properties": {"vat": schema["properties"]["vat"]}, "additionalProperties": False}
    server.says_json({"vat": "much too long"})
    server.says_json({"vat": "DE1"})
    assert run(context, "extractor", text="…", schema=closed).data == {"vat": "DE1"}
    assert [asked.schema is not None for asked in server.requests[1:]] == [True, True]
