"""Real vLLM with a tiny model of random weights, in this process: streams, schemas, exact counts, cancelling, many at once.

One engine for all tests: it takes a minute to start. What it says is nonsense.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.models import Image, user
from flowmason_ray.errors import PermanentError, TemporaryError
from flowmason_ray.llm.hub import close_hub, the_hub
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.llm_kit import entry
from tests.local_models_kit import LocalModelChecks, run
from tests.vllm_kit import MISSING, OPTIONS, make_model, provider, quiet_environment

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("vllm") is None, reason=MISSING),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, of which each version has others
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    quiet_environment()
    yield make_model(tmp_path_factory.mktemp("model") / "tiny")
    close_hub()


def asking(model: Path, **more: Any) -> RecordingContext:
    return RecordingContext(settings=ProjectSettings.model_validate({"providers": {"tiny": provider(model, **more)}}))


class TestWhatEveryModelKeepsTo(LocalModelChecks):
    asking = staticmethod(asking)


def engine_of() -> Any:
    """Return the only engine in this process."""
    (found,) = the_hub()._providers.values()  # pyright: ignore[reportPrivateUsage]  # a test looks inside
    return found._engine  # type: ignore[attr-defined]


def test_words_come_as_they_are_said_and_are_counted(model: Path) -> None:
    context = asking(model)
    answer = run(context.models.generate("Hello", max_tokens=12, seed=1))
    assert "".join(context.streamed) == answer.text
    assert len(context.streamed) > 1
    assert (answer.usage.output_tokens, answer.finish_reason) == (12, "length")
    assert answer.usage.input_tokens == run(context.models.count_tokens("Hello")) == len("<user\nHello<\n<assistant\n")
    assert not answer.usage.estimated
    assert 0 < entry(context)["first_token_s"] <= entry(context)["model_s"] < 30, "starting is no part of it"


def test_cold_is_the_same_whatever_the_seed(model: Path) -> None:
    context = asking(model)
    said = {run(context.models.generate("Hi", max_tokens=10, temperature=0, seed=seed)).text for seed in (1, 2, 3)}
    assert len(said) == 1


def test_a_schema_that_makes_no_grammar_is_told(model: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}, "required": ["a"]}
    with pytest.raises(PermanentError) as found:
        run(asking(model).models.generate("Hello", schema=schema, max_tokens=20))
    assert found.value.code == "invalid_schema"


def test_an_answer_takes_the_room_that_there_is(model: Path) -> None:
    context = asking(model)
    with pytest.raises(TemporaryError, match="cut off") as found:
        run(context.models.generate("Hello", max_tokens=5000, schema={"type": "string", "minLength": 900}))
    assert found.value.code == "bad_response"
    assert entry(context)["input_tokens"] + entry(context)["output_tokens"] == 512


def test_it_reads_no_pictures_and_makes_no_vectors(model: Path) -> None:
    with pytest.raises(PermanentError) as found:
        run(asking(model).models.generate(user("What is this?", Image(data=b"png"))))
    assert found.value.code == "not_supported_by_provider"
    with pytest.raises(PermanentError) as found:
        run(asking(model).models.embed(["hello"]))
    assert found.value.code == "not_supported_by_provider"


def test_it_answers_as_no_other_model(model: Path) -> None:
    with pytest.raises(PermanentError, match=r"'other' was asked") as found:
        run(asking(model).models.generate("Hello", model="other"))
    assert found.value.code == "model_not_found"


def test_a_cancelled_answer_is_stopped_in_the_engine(model: Path) -> None:
    context = asking(model)

    async def cancel() -> None:
        task = asyncio.create_task(
            context.models.generate("Hello", max_tokens=450, schema={"type": "string", "minLength": 400})
        )
        while not context.streamed:  # noqa: ASYNC110  # it is said in another thread
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        engine = engine_of()
        llm = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(engine._started(), the_hub().loop))
        async with asyncio.timeout(60):
            while llm.get_num_unfinished_requests():  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)

    run(cancel())
    assert 0 < entry(context)["output_tokens"] < 450
    assert entry(context)["failed_calls"] == 1


def test_many_are_answered_at_the_same_time(model: Path) -> None:
    context = asking(model)

    async def ask() -> list[Any]:
        return await asyncio.gather(
            *(context.models.generate(f"Number {n}", max_tokens=40, seed=n, live=False) for n in range(32))
        )

    answers = run(ask())
    assert engine_of().most_at_once >= 16
    assert entry(context)["calls"] == 32
    assert entry(context)["output_tokens"] == sum(answer.usage.output_tokens for answer in answers)


def test_an_engine_that_has_died_is_started_again(model: Path) -> None:
    import os
    import signal

    context = asking(model)

    async def ask() -> Any:
        engine = engine_of()
        llm = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(engine._started(), the_hub().loop))
        (process,) = llm.engine_core.resources.engine_manager.processes
        os.kill(process.pid, signal.SIGKILL)
        return await context.models.generate("Hello", max_tokens=5, temperature=0)

    before = run(context.models.generate("Hello", max_tokens=5, temperature=0)).text
    assert run(ask()).text == before


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as found:
        run(asking(tmp_path).models.generate("Hello"))
    assert found.value.code == "model_not_found"


def test_a_model_for_vectors_makes_them_and_writes_nothing(model: Path) -> None:
    context = asking(model, options={**OPTIONS, "runner": "pooling", "convert": "embed"})
    found = run(context.models.embed(["hello", "goodbye", "hello"]))
    first, second, third = found.vectors
    assert first == pytest.approx(third)
    assert first != pytest.approx(second)
    assert sum(each * each for each in first) == pytest.approx(1, abs=1e-3)
    assert found.usage.input_tokens == len("hello" + "goodbye" + "hello")
    with pytest.raises(PermanentError, match="writes no text") as refused:
        run(context.models.generate("Hello"))
    assert refused.value.code == "not_supported_by_provider"
