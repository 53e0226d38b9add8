"""What calls cost: by the provider's own prices, by the price table, or not known."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason_ray.engine.models import Usage
from flowmason_ray.llm.pricing import cost_of, is_priced
from flowmason_ray.settings import ProviderSettings

MILLION = 1_000_000


def provider(kind: str = "anthropic", **more: Any) -> ProviderSettings:
    return ProviderSettings.model_validate({"type": kind, **more})


def test_own_prices_come_first_and_tell_cached_input_apart() -> None:
    own = provider(prices={"m": {"input": 10, "output": 20, "cached_input": 1, "cache_write": 12}, "*": {"input": 5}})
    usage = Usage(
        input_tokens=MILLION, output_tokens=MILLION, cached_tokens=MILLION // 2, cache_write_tokens=MILLION // 4
    )
    assert cost_of(own, "m", usage) == pytest.approx(2.5 + 0.5 + 3 + 20)
    assert cost_of(own, "other", Usage(input_tokens=MILLION)) == pytest.approx(5)


def test_a_batch_costs_half_by_own_prices_too() -> None:
    own = provider(prices={"m": {"input": 10, "output": 20}, "free": {"input": 0}})
    usage = Usage(input_tokens=MILLION, output_tokens=MILLION)
    assert cost_of(own, "m", usage, batch=True) == pytest.approx(15)
    assert cost_of(own, "free", usage, batch=True) == 0


def test_free_is_a_price() -> None:
    assert cost_of(provider(prices={"*": {"input": 0}}), "m", Usage(input_tokens=5)) == 0


def test_list_prices_are_known_and_cached_input_is_cheaper() -> None:
    pytest.importorskip("genai_prices")
    whole = cost_of(provider(), "claude-haiku-4-5", Usage(input_tokens=MILLION))
    cached = cost_of(provider(), "claude-haiku-4-5", Usage(input_tokens=MILLION, cached_tokens=MILLION))
    output = cost_of(provider(), "claude-haiku-4-5", Usage(output_tokens=MILLION))
    assert whole is not None
    assert cached is not None
    assert output is not None
    assert 0 < cached < whole < output
    half = cost_of(provider(), "claude-haiku-4-5", Usage(input_tokens=MILLION), batch=True)
    assert half == pytest.approx(whole / 2)


@pytest.mark.parametrize(
    "unknown",
    [
        (provider(), "no-such-model-at-all"),
        (provider("openai_compatible", base_url="http://127.0.0.1:1/v1"), "gpt-4o"),
        (provider("llama_cpp", model_path="x.gguf"), "x.gguf"),
    ],
    ids=["a model nobody knows", "a server of one's own", "a file"],
)
def test_what_nobody_knows_is_not_free(unknown: tuple[ProviderSettings, str]) -> None:
    assert cost_of(*unknown, Usage(input_tokens=5)) is None
    assert not is_priced(*unknown)


def test_a_server_can_be_priced_as_another_company() -> None:
    pytest.importorskip("genai_prices")
    priced = provider("openai_compatible", base_url="http://127.0.0.1:1/v1", price_as="openai")
    assert is_priced(priced, "gpt-4o")


SECONDS, SPOKEN = Usage(audio_s=3600), Usage(characters=MILLION)


def test_sound_is_paid_for_by_what_was_counted() -> None:
    own = provider(prices={"m": {"input": 10, "output": 20, "audio_hour": 0.5, "characters": 15}})
    assert cost_of(own, "m", SECONDS) == pytest.approx(0.5)
    assert cost_of(own, "m", SPOKEN) == pytest.approx(15)
    assert cost_of(own, "m", Usage(input_tokens=MILLION, audio_tokens=MILLION)) == pytest.approx(10)
    by_token = provider(prices={"m": {"input": 10}})
    assert [cost_of(by_token, "m", each) for each in (SECONDS, SPOKEN, Usage())] == [None, None, None]
    assert not is_priced(by_token, "m", SECONDS)
    free = provider(prices={"*": {"input": 0}})
    assert [cost_of(free, "m", each) for each in (SECONDS, SPOKEN, Usage())] == [0, 0, 0]


def test_list_prices_of_sound() -> None:
    """What a model is not priced by is not known: genai-prices itself would add it as nothing."""
    pytest.importorskip("genai_prices")
    listed = provider("openai_compatible")
    assert cost_of(listed, "whisper-1", SECONDS) == pytest.approx(0.36)
    assert cost_of(listed, "tts-1", SPOKEN) == pytest.approx(15)
    heard = Usage(input_tokens=MILLION, audio_tokens=MILLION)
    text_alone = cost_of(listed, "gpt-4o-transcribe", Usage(input_tokens=MILLION))
    assert text_alone is not None
    assert (cost_of(listed, "gpt-4o-transcribe", heard) or 0) > text_alone
    unknown = [("whisper-1", Usage(input_tokens=5)), ("whisper-1", Usage()), ("gpt-4o-mini-tts", SPOKEN)]
    assert [cost_of(listed, model, usage) for model, usage in unknown] == [None, None, None]
