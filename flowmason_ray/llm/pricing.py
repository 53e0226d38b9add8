"""What a call cost: from the provider's own `prices`, else from the price table of genai-prices, else not known.

Not known is not free: the cost is None then, and a run with a budget in dollars refuses to spend what it cannot count.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from flowmason_ray.engine.models import Usage
from flowmason_ray.settings import ModelPrices, ProviderSettings

_MILLION = 1_000_000
_HOUR_S = 3600
TOKENS, SECONDS, CHARACTERS = Usage(input_tokens=1, output_tokens=1), Usage(audio_s=1), Usage(characters=1)
"""The kinds of usage that have prices, to ask whether a model has one."""
_PRICES_OF = {
    "total_tokens": ("input_mtok", "output_mtok"),
    "audio_s": ("audio_hours", "input_audio_hours"),
    "characters": ("input_mchars",),
}
"""What was counted, and the prices of genai-prices for it. What has no price there it adds as nothing."""
BATCH_SHARE = 0.5
"""What a call costs as part of a batch, of its usual price (Anthropic, "Batch processing", pricing)."""


def cost_of(provider: ProviderSettings, model: str, usage: Usage, *, batch: bool = False) -> float | None:
    """Return what a call cost in US dollars; None: its price is not known, or nothing that has one was counted."""
    own = provider.prices.get(model) or provider.prices.get("*")
    price = _listed(provider, model, usage) if own is None else _by(own, usage)
    return price * BATCH_SHARE if batch and price is not None else price


def is_priced(provider: ProviderSettings, model: str, counted: Usage = TOKENS) -> bool:
    """Tell whether the price of a model is known, for what will be counted."""
    return cost_of(provider, model, counted) is not None


def _by(prices: ModelPrices, usage: Usage) -> float | None:
    free = prices.input == prices.output == 0 and prices.audio_hour is None and prices.characters is None
    if free:
        return 0.0
    if not usage.total_tokens:
        if usage.audio_s and prices.audio_hour is not None:
            return usage.audio_s / _HOUR_S * prices.audio_hour
        if usage.characters and prices.characters is not None:
            return usage.characters / _MILLION * prices.characters
        return None
    cached = prices.input if prices.cached_input is None else prices.cached_input
    written = prices.input if prices.cache_write is None else prices.cache_write
    plain = max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens)
    total = plain * prices.input + usage.cached_tokens * cached + usage.cache_write_tokens * written
    return (total + usage.output_tokens * prices.output) / _MILLION


def _listed(provider: ProviderSettings, model: str, usage: Usage) -> float | None:
    if provider.type not in ("anthropic", "openai_compatible"):
        return None  # it is run here: what a machine costs is not in a price table
    where: dict[str, str] = {}
    if provider.price_as is not None:
        where["provider_id"] = provider.price_as
    elif provider.base_url is None:
        where["provider_id"] = "anthropic" if provider.type == "anthropic" else "openai"
    else:
        where["provider_api_url"] = provider.base_url
    table = _table()
    if table is None:
        return None
    counts = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "input_audio_tokens": usage.audio_tokens,
        "audio_seconds": usage.audio_s,
        "input_audio_seconds": usage.audio_s,
        "input_characters": usage.characters,
    }
    used = table.Usage(**{name: count for name, count in counts.items() if count})
    try:
        found = table.calc_price(used, model, **where)
    except (LookupError, ValueError):
        return None
    known = cast("dict[str, Any]", vars(found.model_price))
    priced = any(getattr(usage, what) and any(p in known for p in prices) for what, prices in _PRICES_OF.items())
    return float(found.total_price) if priced else None


@lru_cache(maxsize=1)
def _table() -> Any:
    """Return genai-prices, or None where it is not installed. Importing it takes a while: never on a fast path."""
    try:
        import genai_prices
    except ModuleNotFoundError as exc:
        if exc.name != "genai_prices":
            raise
        return None
    return genai_prices
