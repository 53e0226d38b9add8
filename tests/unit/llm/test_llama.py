"""Real llama.cpp with a tiny model of random weights: streams, grammars, exact counts, cancelling. What it says is nonsense."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.models import Image, Tool, user
from flowmason_ray.errors import PermanentError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.llama_kit import make_model
from tests.llm_kit import entry

pytestmark = [pytest.mark.llama, pytest.mark.timeout(120)]
pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: 'make llama' does it", exc_type=ImportError)

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def asking(model: Path, **more: Any) -> RecordingContext:
    provider = {"type": "llama_cpp", "model_path": str(model), "context_tokens": 512, **more}
    return RecordingContext(settings=ProjectSettings.model_validate({"providers": {"tiny": provider}}))


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_words_come_as_they_are_said_and_are_counted(model: Path) -> None:
    context = asking(model)
    answer = run(context.models.generate("Hello", max_tokens=12, seed=1))
    assert "".join(context.streamed) == answer.text
    assert len(context.streamed) > 1
    assert (answer.usage.output_tokens, answer.finish_reason) == (12, "length")
    assert answer.usage.input_tokens == run(context.models.count_tokens("Hello"))
    assert not answer.usage.estimated


def test_the_same_seed_says_the_same(model: Path) -> None:
    context = asking(model)
    first, other, again = (run(context.models.generate("Hello", max_tokens=20, seed=seed)).text for seed in (1, 2, 1))
    assert first == again
    assert first != other


def test_a_grammar_holds_the_answer_to_its_schema(model: Path) -> None:
    context = asking(model)
    for seed in range(5):
        answer = run(context.models.generate("How are you?", schema=SCHEMA, seed=seed, max_tokens=200))
        assert answer.data["mood"] in ("good", "bad")
        assert answer.finish_reason == "stop"
    assert entry(context)["calls"] == 5, "none needed a repair"


def test_tools_are_called_by_grammar_too(model: Path) -> None:
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
    answer = run(asking(model).models.generate("Pick.", tools=[tool], tool_choice="required", max_tokens=200, seed=1))
    (call,) = answer.tool_calls
    assert (call.name, answer.finish_reason) == ("pick", "tool_use")
    assert call.arguments["one"] in ("a", "b")


def test_it_ends_at_a_stop_sequence_and_does_not_say_it(model: Path) -> None:
    context = asking(model)
    whole = run(context.models.generate("Hello", max_tokens=40, seed=3)).text
    stop = whole[5:7]
    context = asking(model)
    answer = run(context.models.generate("Hello", max_tokens=40, seed=3, stop=[stop]))
    assert answer.text == whole[: whole.index(stop)]
    assert "".join(context.streamed) == answer.text
    assert answer.finish_reason == "stop_sequence"


def test_what_two_requests_share_is_read_once(model: Path) -> None:
    context = asking(model)
    shared = "The same long beginning for all. " * 5
    run(context.models.generate("one", system=shared, max_tokens=2))
    second = run(context.models.generate("two", system=shared, max_tokens=2))
    assert second.usage.cached_tokens > len(shared) / 2
    assert second.usage.cached_tokens < second.usage.input_tokens


def test_what_does_not_fit_is_refused(model: Path) -> None:
    with pytest.raises(PermanentError) as found:
        run(asking(model).models.generate("word " * 600))
    assert found.value.code == "context_too_long"


def test_it_reads_no_pictures(model: Path) -> None:
    with pytest.raises(PermanentError) as found:
        run(asking(model).models.generate(user("What is this?", Image(data=b"png"))))
    assert found.value.code == "not_supported_by_provider"


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    with pytest.raises(PermanentError) as found:
        run(asking(tmp_path / "no.gguf").models.generate("Hello"))
    assert found.value.code == "model_not_found"


def test_vectors_have_length_one_and_are_the_same_for_the_same_text(model: Path) -> None:
    found = run(asking(model).models.embed(["hello", "goodbye", "hello"]))
    first, second, third = found.vectors
    assert first == pytest.approx(third)
    assert first != pytest.approx(second)
    assert sum(each * each for each in first) == pytest.approx(1)
    assert found.usage.input_tokens > 0


def test_a_cancelled_answer_ends_and_the_next_one_is_not_held_up(model: Path) -> None:
    context = asking(model)

    async def cancel() -> str:
        tasks = [asyncio.create_task(context.models.generate(f"Hello {n}", max_tokens=400)) for n in range(40)]
        while not context.streamed:  # noqa: ASYNC110  # it is said in another thread
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, asyncio.CancelledError) for each in ended) > 10
        return (await context.models.generate("Hello", max_tokens=2)).text

    run(asyncio.wait_for(cancel(), 60))
    assert entry(context)["output_tokens"] < 40 * 400 / 2


def test_requests_that_begin_alike_are_answered_together(model: Path) -> None:
    context = asking(model, limits={"concurrency": 64})
    beginnings = [f"{word} " * 60 for word in ("north", "south")]

    async def alternate() -> int:
        asked = (
            context.models.generate(f"number {n}", system=beginnings[n % 2], max_tokens=1, live=False)
            for n in range(24)
        )
        answers = await asyncio.gather(*asked)
        assert len(answers) == 24
        return sum(answer.usage.cached_tokens for answer in answers)

    spared = run(alternate())
    # In the order of asking, each would begin anew; together, only the first of each group reads its beginning.
    assert spared > 8 * len(beginnings[0])
