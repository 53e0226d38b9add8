"""What a call cost: from the provider's own `prices`, else from the price table of genai-prices, else not known.

Not known is not free: the cost is None then, and a run with a budget in dollars refuses to spend what it cannot count.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from flowmason_ray.engine.models import Usage
from flowmason_ray.settings import ModelPrices, ProviderSettings

_MILLION = 1_000_000
BATCH_SHARE = 0.5
"""What a call costs as part of a batch, of its usual price (Anthropic, "Batch processing", pricing)."""


def cost_of(provider: ProviderSettings, model: str, usage: Usage, *, batch: bool = False) -> float | None:
    """Return what a call cost in US dollars; None: its price is not known."""
    own = provider.prices.get(model) or provider.prices.get("*")
    if own is not None:
        return _by(own, usage)
    listed = _listed(provider, model, usage)
    return listed * BATCH_SHARE if batch and listed is not None else listed


def is_priced(provider: ProviderSettings, model: str) -> bool:
    """Tell whether the price of a model is known."""
    return cost_of(provider, model, Usage(input_tokens=1, output_tokens=1)) is not None


def _by(prices: ModelPrices, usage: Usage) -> float:
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
    }
    used = table.Usage(**{name: count for name, count in counts.items() if count})
    try:
        return float(table.calc_price(used, model, **where).total_price)
    except (LookupError, ValueError):
        return None


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
