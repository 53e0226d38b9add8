"""Real llama.cpp with a tiny model of random weights: streams, grammars, exact counts, cancelling. What it says is nonsense."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from flowmason_ray.engine.models import Image, user
from flowmason_ray.errors import PermanentError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.llama_kit import make_model
from tests.llm_kit import entry
from tests.local_models_kit import LocalModelChecks, run

pytestmark = [pytest.mark.llama, pytest.mark.timeout(120)]
pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: 'make llama' does it", exc_type=ImportError)

from flowmason_ray.llm.llama_cpp import LlamaProvider  # noqa: E402  # only where the library is


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def asking(model: Path, **more: Any) -> RecordingContext:
    provider = {"type": "llama_cpp", "model_path": str(model), "context_tokens": 512, **more}
    return RecordingContext(settings=ProjectSettings.model_validate({"providers": {"tiny": provider}}))


class TestWhatEveryModelKeepsTo(LocalModelChecks):
    asking = staticmethod(asking)


def test_the_same_relative_path_is_another_model_in_another_project(tmp_path: Path) -> None:
    said: list[str] = []
    for seed in (1, 2, 1):
        project = tmp_path / f"project_{len(said)}"
        project.mkdir()
        make_model(project / "tiny.gguf", seed=seed)
        settings = asking(Path("tiny.gguf")).settings
        context = RecordingContext(settings=settings, project_dir=project)
        said.append(run(context.models.generate("Hello", max_tokens=20, temperature=0)).text)
    assert said[0] == said[2] != said[1]


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


def test_waiting_for_others_and_for_the_file_is_no_part_of_an_answers_time(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading takes longer than an answer may, and so do four answers one after the other."""
    provider: Any = LlamaProvider  # what is slow is not seen from outside
    load, answer = provider._load, provider._generate

    def slow_load(self: LlamaProvider, **more: Any) -> Any:
        sleep(4)
        return load(self, **more)

    def slow_answer(self: LlamaProvider, *given: Any) -> Any:
        sleep(1.2)
        return answer(self, *given)

    monkeypatch.setattr(LlamaProvider, "_load", slow_load)
    monkeypatch.setattr(LlamaProvider, "_generate", slow_answer)
    context = asking(model, timeout_s=3.5, max_retries=0)

    async def several() -> None:
        await asyncio.gather(*(context.models.generate(f"Hello {n}", max_tokens=1) for n in range(4)))

    run(several())
    used = entry(context)
    assert used["calls"] == 4
    assert "failed_calls" not in used
    assert used["wait_s"] >= 4 * 4 + (1 + 2 + 3) * 1.2
    assert used["first_token_s"] < 3.5
