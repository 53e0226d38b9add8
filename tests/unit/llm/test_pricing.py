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
