"""Both SDKs against a server that answers, refuses, limits, breaks off and is slow: what comes out is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.models import Answer, Audio, Image, Models, Text, Tool, ToolResult, user
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.testing.llm_server import LlmServer, Turn
from tests.llm_kit import PROVIDERS, asking, entry, model_server

pytest.importorskip("anthropic")
pytest.importorskip("openai")

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}
ADD = Tool(
    name="add",
    description="Adds two numbers.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
)


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with model_server() as server:  # one for each test: what a client has left may still come, and be answered, later
        yield server
        assert server.unused == 0, "the script was not played to its end"


both = pytest.mark.parametrize("provider", PROVIDERS)


def run(work: Any) -> Any:
    return asyncio.run(work)


@both
def test_counts_are_the_servers(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.says("one two three", cached=2)
    answer = run(context.models.generate("What are the numbers?", system="Be brief."))
    assert (answer.text, answer.finish_reason) == ("one two three", "stop")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens) == (6, 3, 2)
    used = entry(context)
    assert (used["calls"], used["input_tokens"], used["output_tokens"], used["cached_tokens"]) == (1, 6, 3, 2)
    assert used["first_token_s"] <= used["model_s"]
    assert used["unpriced_calls"] == 1
    assert "cost_usd" not in used
    assert server.requests[0].system == "Be brief."


@both
def test_settings_are_sent_and_recorded(server: LlmServer, provider: str) -> None:
    said = {"temperature": 0.3, "max_tokens": 2, "stop_sequences": ["###"]}
    context = asking(server, provider, said=said)
    server.says("one two three")
    answer = run(context.models.generate("count"))
    assert (answer.text, answer.finish_reason) == ("one two ", "length")
    body = server.requests[0].body
    assert (body["temperature"], body["max_tokens"]) == (0.3, 2)
    assert body["stop_sequences" if provider == "anthropic" else "stop"] == ["###"]
    assert entry(context)["settings"] == {**said, "stop_sequences": ["###"]}


@both
def test_what_the_component_says_comes_first(server: LlmServer, provider: str) -> None:
    context = asking(server, provider, said={"temperature": 0.3})
    run(context.models.generate("count", temperature=0.9, model="other"))
    assert (server.requests[0].body["temperature"], server.requests[0].body["model"]) == (0.9, "other")


@both
def test_words_come_as_they_are_said(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.says("one two three")

    async def read() -> list[str | Answer]:
        return [each async for each in context.models.stream("count")]

    *words, answer = run(read())
    assert words == ["one ", "two ", "three"]
    assert isinstance(answer, Answer)
    assert answer.text == "one two three"
    assert context.streamed == words


@both
def test_tools_are_called_and_answered(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.calls(("add", {"a": 1, "b": 2}), text="Let me see.")
    server.says("3")

    async def converse() -> Answer:
        question = user("1 + 2?")
        wants = await context.models.generate(question, tools=[ADD], tool_choice="add")
        assert wants.finish_reason == "tool_use"
        (call,) = wants.tool_calls
        assert (call.name, dict(call.arguments)) == ("add", {"a": 1, "b": 2})
        result = ToolResult(call_id=call.id, content="3")
        return await context.models.generate([question, wants.message, user(result)], tools=[ADD])

    assert run(converse()).text == "3"
    tool = server.requests[0].body["tools"][0]
    assert (tool if provider == "anthropic" else tool["function"])["strict"] is True
    assert server.requests[0].body["tool_choice"]["type"] in ("tool", "function")


@both
def test_pictures_are_sent(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    run(context.models.generate(user("What is this?", Image(data=b"png"), Image(url="https://example.org/a.png"))))
    content = server.requests[0].body["messages"][0]["content"]
    assert [part["type"] for part in content[1:]] == (["image"] * 2 if provider == "anthropic" else ["image_url"] * 2)


@both
def test_answers_that_fit_a_schema_are_data(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.says_json({"mood": "good"})
    answer = run(context.models.generate("How are you?", schema=SCHEMA))
    assert answer.data == {"mood": "good"}
    assert server.requests[0].schema == SCHEMA


@both
def test_an_answer_that_does_not_fit_is_repaired_once(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.says("Well, good!")
    server.says('```json\n{"mood": "good"}\n```')
    answer = run(context.models.generate("How are you?", schema=SCHEMA))
    assert answer.data == {"mood": "good"}
    assert answer.usage.output_tokens == 6, "of both answers"
    assert entry(context)["calls"] == 2
    assert "does not fit the schema" in server.requests[1].last


@both
def test_an_answer_that_cannot_be_repaired_is_kept_for_the_log(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.says("no")
    server.says('{"mood": "great"}')
    with pytest.raises(TemporaryError) as found:
        run(context.models.generate("How are you?", schema=SCHEMA))
    assert found.value.code == "bad_response"
    assert found.value.details == {"text": '{"mood": "great"}'}
    assert len(server.requests) == 2


@both
def test_a_schema_that_is_none_is_refused_before_anybody_is_asked(server: LlmServer, provider: str) -> None:
    with pytest.raises(PermanentError) as found:
        run(asking(server, provider).models.generate("?", schema={"type": "nonsense"}))
    assert found.value.code == "invalid_schema"
    assert not server.requests


@both
def test_a_refusal_is_an_error(server: LlmServer, provider: str) -> None:
    server.says("I will not.", finish="refused")
    with pytest.raises(PermanentError) as found:
        run(asking(server, provider).models.generate("?"))
    assert found.value.code == "content_refused"


# -- failures -----------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("status", [429, 500, 529, 503])
def test_what_may_pass_is_asked_again(server: LlmServer, provider: str, status: int) -> None:
    context = asking(server, provider)
    server.fails(status, retry_after="0")
    server.says("at last")
    assert run(context.models.generate("?")).text == "at last"
    used = entry(context)
    assert (used["calls"], used["failed_calls"]) == (2, 1)
    assert used["unpriced_calls"] == 1, "a request that was refused took nothing"


@both
def test_retry_after_is_honoured(server: LlmServer, provider: str) -> None:
    server.fails(429, retry_after="0.4")
    server.says("at last")
    run(asking(server, provider).models.generate("?"))
    first, second = server.requests
    assert second.at - first.at >= 0.4


@both
def test_a_long_wait_is_left_to_the_stage(server: LlmServer, provider: str) -> None:
    server.fails(429, retry_after="300")
    with pytest.raises(TemporaryError) as found:
        run(asking(server, provider, default_model="away-for-long").models.generate("?"))
    assert found.value.code == "rate_limited"
    assert found.value.delay is not None
    assert found.value.delay.total_seconds() == 300
    assert len(server.requests) == 1


@both
@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_long_wait_holds_for_everybody(
    server: LlmServer, provider: str, max_retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One learns it, and leaves it to its stage; the others wait for their turn, and nobody else is refused."""
    monkeypatch.setattr("flowmason_ray.llm.calling.LONGEST_WAIT_S", 0.1)
    context = asking(
        server, provider, default_model=f"away-{max_retries}", max_retries=max_retries, limits={"concurrency": 1}
    )
    server.fails(429, retry_after="1.5")

    async def many() -> list[Any]:
        asked = (context.models.generate(f"number {n}") for n in range(6))
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(many())
    refused = [each for each in answers if isinstance(each, TemporaryError)]
    assert [each.code for each in refused] == ["rate_limited"]
    assert len(server.requests) == len(answers) == 6
    first, second, *_ = server.requests
    assert second.at - first.at >= 1.4
    assert entry(context)["wait_s"] >= 1.4


@both
def test_time_until_it_is_asked_again_is_no_time_of_the_models(server: LlmServer, provider: str) -> None:
    context = asking(server, provider, default_model="away-for-a-moment")
    server.fails(429, retry_after="0.7")
    run(context.models.generate("?"))
    assert entry(context)["wait_s"] >= 0.7


@both
@pytest.mark.parametrize("how", ["cancelled", "too slow"])
def test_what_was_asked_counts_although_nothing_came(server: LlmServer, provider: str, how: str) -> None:
    """It is read, and paid for, whether we wait for the answer or not."""
    context = asking(server, provider, max_retries=0, timeout_s=50 if how == "cancelled" else 0.5)
    server.wait_s = 3
    asked = "word " * 80

    async def cancel() -> None:
        task = asyncio.create_task(context.models.generate(asked, max_tokens=1000))
        while how == "cancelled" and not server.requests:  # noqa: ASYNC110  # the server is another thread
            await asyncio.sleep(0.01)
        if how == "cancelled":
            task.cancel()
        with pytest.raises((asyncio.CancelledError, TemporaryError)):
            await task
        while context.models.usage() is None:  # noqa: ASYNC110  # on a busy machine the call may end a moment later
            await asyncio.sleep(0.01)

    run(asyncio.wait_for(cancel(), 50))
    used = entry(context)
    assert (used["calls"], used["failed_calls"], used["estimated_calls"]) == (1, 1, 1)
    assert (used["input_tokens"], used["output_tokens"]) == (len(asked) // 4 + 1, 0)


@both
def test_what_was_refused_has_used_nothing(server: LlmServer, provider: str) -> None:
    context = asking(server, provider, max_retries=0)
    server.fails(500)
    with pytest.raises(TemporaryError):
        run(context.models.generate("?"))
    assert (entry(context)["input_tokens"], entry(context).get("estimated_calls")) == (0, None)


@both
def test_it_gives_up_after_max_retries(server: LlmServer, provider: str) -> None:
    server.fails(529, retry_after="0", times=2)
    with pytest.raises(TemporaryError) as found:
        run(asking(server, provider, max_retries=1).models.generate("?"))
    assert found.value.code == "provider_overloaded"


@both
@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "prompt is too long: 9 tokens > 8 maximum context", "context_too_long"),
        (400, "temperature: something else entirely is wrong with messages", "provider_refused_request"),
        (401, "no", "provider_refused_key"),
        (403, "no", "provider_refused_key"),
        (404, "no such model", "model_not_found"),
        (429, "insufficient_quota", "provider_quota_exhausted"),
    ],
)
def test_what_will_not_pass_is_not_asked_again(
    server: LlmServer, provider: str, status: int, message: str, code: str
) -> None:
    server.fails(status, message=message)
    with pytest.raises(PermanentError) as found:
        run(asking(server, provider).models.generate("?"))
    assert found.value.code == code
    assert len(server.requests) == 1


@both
def test_a_stream_that_breaks_is_asked_again_while_nobody_has_seen_it(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    context.watched = False
    server.says("one two three", cut_after=2)
    server.says("one two three")
    assert run(context.models.generate("count")).text == "one two three"
    used = entry(context)
    assert (used["calls"], used["failed_calls"], used["estimated_calls"]) == (2, 1, 1)


@both
def test_a_stream_that_breaks_when_it_was_seen_is_an_error(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.says("one two three", cut_after=2)
    with pytest.raises(TemporaryError) as found:
        run(context.models.generate("count"))
    assert found.value.code == "stream_interrupted"
    assert context.streamed == ["one ", "two "]
    assert len(server.requests) == 1


@both
@pytest.mark.parametrize("watched", [True, False])
def test_an_error_inside_of_a_stream_is_one(server: LlmServer, provider: str, watched: bool) -> None:
    context = asking(server, provider, max_retries=1)
    context.watched = watched
    server.says("one two three", error_after=1, error="overloaded_error")
    if watched:
        with pytest.raises(TemporaryError) as found:
            run(context.models.generate("count"))
        assert found.value.code == "provider_overloaded"
    else:
        server.says("again")
        assert run(context.models.generate("count")).text == "again"


@both
def test_an_answer_that_takes_too_long_is_stopped(server: LlmServer, provider: str) -> None:
    server.says("one two three", token_s=5)
    with pytest.raises(TemporaryError) as found:
        run(asking(server, provider, timeout_s=0.5, max_retries=0).models.generate("count"))
    assert found.value.code == "provider_timeout"


PAGE = "<!doctype html><html><body>Please sign in</body></html>"
ASKS = ("text", "vectors", "listening", "speaking")


def ask_for(what: str, models: Models) -> Any:
    match what:
        case "text":
            return models.generate("?")
        case "vectors":
            return models.embed(["a"])
        case "counting":
            return models.count_tokens("a")
        case "listening":
            return models.transcribe(Audio(data=b"RIFF"))
        case _:
            return models.speak("a")


@pytest.mark.parametrize(
    ("provider", "what"),
    [("anthropic", "text"), ("anthropic", "counting"), *(("openai", what) for what in ASKS)],
)
def test_a_page_is_no_answer(server: LlmServer, provider: str, what: str) -> None:
    """As from a wrong `base_url`, or a proxy that wants a sign-in: with status 200."""
    server.page = PAGE
    with pytest.raises(PermanentError, match=r"HTML.*Please sign in.*base_url") as found:
        run(ask_for(what, asking(server, provider).models))
    assert found.value.code == "provider_not_understood"
    assert len(server.requests) == 1


def test_a_page_instead_of_an_answer_in_one_piece_is_none(server: LlmServer) -> None:
    context = asking(server, "openai", default_model="answers-at-once")
    server.lacks.add("stream_usage")
    run(context.models.generate("?"))  # says nothing about counts, so it is asked for whole answers from now on
    server.page = PAGE
    with pytest.raises(PermanentError) as found:
        run(context.models.generate("?"))
    assert found.value.code == "provider_not_understood"
    assert not server.requests[-1].body.get("stream")


@pytest.mark.parametrize("what", ["vectors", "listening"])
def test_json_that_is_no_answer_is_not_taken_for_one(
    server: LlmServer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def respond(_server: LlmServer, _asked: Any, out: Any) -> None:
        out.send_json({"detail": "nothing here"})

    monkeypatch.setattr("flowmason_ray.testing.llm_dialects.respond", respond)
    with pytest.raises(TemporaryError, match="not understood") as found:
        run(ask_for(what, asking(server, "openai", max_retries=0).models))
    assert found.value.code == "stream_interrupted"


@both
def test_nobody_there_is_an_error(server: LlmServer, provider: str) -> None:
    address = "http://127.0.0.1:9"
    context = asking(server, provider, base_url=address, max_retries=0)
    with pytest.raises(TemporaryError) as found:
        run(context.models.generate("?"))
    assert found.value.code == "provider_unreachable"


@both
def test_a_cancelled_call_ends_and_is_accounted_for(server: LlmServer, provider: str) -> None:
    context = asking(server, provider)
    server.says(" ".join(["word"] * 200), token_s=0.05)

    async def cancel() -> None:
        task = asyncio.create_task(context.models.generate("count"))
        while not context.streamed:  # noqa: ASYNC110  # the server is another thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while context.models.usage() is None:  # noqa: ASYNC110  # on a busy machine the call may end a moment later
            await asyncio.sleep(0.01)

    run(asyncio.wait_for(cancel(), 50))
    used = entry(context)
    assert (used["calls"], used["failed_calls"]) == (1, 1)
    assert used["output_tokens"] >= 1


@both
def test_the_key_is_not_in_errors(server: LlmServer, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", "wrong-key-000")
    with pytest.raises(PermanentError) as found:
        run(asking(server, provider).models.generate("?"))
    assert found.value.code == "provider_refused_key"
    assert "wrong-key-000" not in str(found.value)


@both
def test_no_key_is_an_error_that_says_so(server: LlmServer, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_LLM_KEY")
    with pytest.raises(PermanentError, match="TEST_LLM_KEY") as found:
        run(asking(server, provider).models.generate("?"))
    assert found.value.code == "provider_not_configured"
    assert not server.requests


@both
@pytest.mark.parametrize("prompt", ["", "  ", []])
def test_nothing_to_ask_is_an_error(server: LlmServer, provider: str, prompt: Any) -> None:
    with pytest.raises(PermanentError) as found:
        run(asking(server, provider).models.generate(prompt))
    assert found.value.code == "invalid_prompt"


# -- what servers lack --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", ["temperature", "top_p"])
@both
def test_a_setting_that_a_model_has_not_is_left_out_and_told(server: LlmServer, provider: str, lacking: str) -> None:
    context = asking(server, provider)
    server.lacks.add(lacking)
    for _ in range(2):
        run(context.models.generate("?", temperature=0.5, top_p=0.5))
    assert [lacking in each.body for each in server.requests] == [True, False, False]
    (warning,) = context.messages("warning")
    assert lacking in warning


def test_a_seed_that_the_api_has_not_is_told(server: LlmServer) -> None:
    context = asking(server, "anthropic", default_model="unseeded")
    for _ in range(2):
        run(context.models.generate("?", seed=7))
    assert not any("seed" in each.body for each in server.requests)
    (warning,) = context.messages("warning")
    assert "'seed'" in warning


@pytest.mark.parametrize("lacking", ["json_schema", "stream_options", "max_tokens", "tool_choice"])
def test_what_a_server_lacks_is_found_out_once(server: LlmServer, lacking: str) -> None:
    context = asking(server, "openai", default_model=f"lacks-{lacking}")
    server.lacks.add(lacking)
    tools = [ADD] if lacking == "tool_choice" else []
    for _ in range(2):
        answer = (
            run(
                context.models.generate(
                    "How are you?",
                    schema=SCHEMA,
                    max_tokens=50,
                    tools=tools,
                    tool_choice="required" if tools else None,
                    model=f"lacks-{lacking}",
                )
            )
            if lacking != "json_schema"
            else _with_answer(server, context, lacking)
        )
        assert answer.data == {"mood": "good"}
    assert len(server.requests) == 3
    assert entry(context)["input_tokens"] > 0
    assert "estimated_calls" not in entry(context)


def _with_answer(server: LlmServer, context: Any, lacking: str) -> Answer:
    server.says_json({"mood": "good"})
    return run(context.models.generate("How are you?", schema=SCHEMA, max_tokens=50, model=f"lacks-{lacking}"))


def test_counts_that_a_stream_does_not_tell_are_estimated_once(server: LlmServer) -> None:
    context = asking(server, "openai")
    server.lacks.add("stream_usage")
    for _ in range(2):
        run(context.models.generate("?", model="tells-nothing"))
    assert [bool(each.body.get("stream")) for each in server.requests] == [True, False]
    assert entry(context)["estimated_calls"] == 1


def test_a_request_that_is_wrong_by_itself_teaches_nothing(server: LlmServer) -> None:
    context = asking(server, "openai")
    server.fails(400, message="response_format: your schema is nonsense", times=3)
    with pytest.raises(StageError):
        run(context.models.generate("?", schema=SCHEMA, model="strict"))
    server.says_json({"mood": "good"})
    run(context.models.generate("?", schema=SCHEMA, model="strict"))
    assert server.requests[-1].schema == SCHEMA


# -- limits -------------------------------------------------------------------------------------------------------------------


@both
def test_no_more_than_so_many_at_the_same_time(server: LlmServer, provider: str) -> None:
    context = asking(server, provider, limits={"concurrency": 2})
    server.wait_s, server.most_busy = 0.05, 0

    async def many() -> None:
        await asyncio.gather(*(context.models.generate(f"number {n}") for n in range(8)))

    run(many())
    assert server.most_busy <= 2
    assert len(server.requests) == 8


@both
def test_the_rate_is_kept(server: LlmServer, provider: str) -> None:
    context = asking(server, provider, limits={"rpm": 600})  # ten a second, and ten may come at once

    async def many() -> None:
        await asyncio.gather(*(context.models.generate(f"number {n}") for n in range(16)))

    run(many())
    assert len(server.requests) == 16
    assert entry(context)["wait_s"] >= 0.4, "the last six come one after the other: 2.1 s in all, if nobody dawdles"


def test_no_more_are_under_way_than_the_service_says_are_left(server: LlmServer) -> None:
    """It says so with every answer; nothing comes back with time here, so that only this counts."""
    context = asking(server, "openai", default_model="paced")
    server.headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "100000s",
    }
    run(context.models.generate("how many?"))
    server.wait_s, server.most_busy = 0.2, 0

    async def many() -> None:
        await asyncio.gather(*(context.models.generate(f"number {n}") for n in range(8)))

    run(many())
    assert server.most_busy <= 2
    assert len(server.requests) == 9
    assert entry(context)["wait_s"] > 0


def test_a_response_that_says_nothing_is_left_stops_the_next(server: LlmServer) -> None:
    context = asking(server, "openai", default_model="limited")
    server.headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "500ms"}
    run(context.models.generate("?"))
    server.headers = {}
    run(context.models.generate("?"))
    first, second = server.requests
    assert second.at - first.at >= 0.4


# -- other things -------------------------------------------------------------------------------------------------------------


def test_vectors_come_in_the_order_of_the_texts(server: LlmServer) -> None:
    context = asking(server, "openai")
    texts = [f"text number {n}" for n in range(130)]  # more than one request takes
    found = run(context.models.embed(texts))
    alone = run(context.models.embed([texts[129]]))
    assert len(found.vectors) == 130
    assert found.vectors[129] == alone.vectors[0]
    assert found.usage.input_tokens == 130 * 3
    assert len(server.requests) == 3
    assert found.model == "embed-test"


def test_who_makes_no_vectors_says_so(server: LlmServer) -> None:
    with pytest.raises(PermanentError) as found:
        run(asking(server, "anthropic", embedding_model="x").models.embed(["a"]))
    assert found.value.code == "not_supported_by_provider"


def test_tokens_are_counted_by_who_can(server: LlmServer) -> None:
    assert run(asking(server, "anthropic").models.count_tokens("one two", system="three")) == 3
    with pytest.raises(PermanentError) as found:
        run(asking(server, "openai").models.count_tokens("one two"))
    assert found.value.code == "not_supported_by_provider"


def test_audio_goes_both_ways(server: LlmServer) -> None:
    context = asking(server, "openai")
    server.says("hello there")
    assert run(context.models.transcribe(Audio(data=b"RIFF"), language="en")).text == "hello there"
    assert b'name="language"' in server.requests[0].raw
    assert run(context.models.speak("hello", format="wav")).data == b"RIFFhello"
    run(context.models.generate(user(Text(text="What is said?"), Audio(data=b"RIFF"))))
    assert server.requests[2].body["messages"][0]["content"][1]["type"] == "input_audio"


def test_long_instructions_are_marked_for_the_cache(server: LlmServer) -> None:
    context = asking(server, "anthropic")
    run(context.models.generate("?", system="word " * 2000))
    run(context.models.generate(user(Text(text="long", cache=True), "short")))
    assert server.requests[0].body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert server.requests[1].body["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}


def test_what_may_wait_goes_as_one_batch(server: LlmServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # the project: notes of batches are kept there
    context = asking(server, "anthropic", said={"priority": "batch"}, prices={"*": {"input": 1_000_000}})
    server.batch_polls = 0

    async def many() -> list[Any]:
        asked = (context.models.generate(f"number {n}") for n in range(30))
        return await asyncio.gather(*asked, return_exceptions=True)

    server.turn(Turn(status=400, message="no", match=lambda asked: asked.last == "number 3"))

    monkeypatch.setattr("flowmason_ray.llm.anthropic_batches.POLL_S", 0.05)
    answers = run(many())
    assert [a.text for n, a in enumerate(answers) if n != 3] == [f"You said: number {n}" for n in range(30) if n != 3]
    assert isinstance(answers[3], PermanentError)
    assert len([each for each in server.requests if each.path.endswith("/batches")]) == 1
    used = entry(context)
    assert used["settings"] == {"priority": "batch"}
    assert used["input_tokens"] > 0
    assert used["cost_usd"] == pytest.approx(used["input_tokens"] / 2), (
        "a dollar for a token, and half of it in a batch"
    )
