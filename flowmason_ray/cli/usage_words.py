"""How what was used of models is written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason_ray.cli.words import duration


def money(cost_usd: float | None) -> str:
    """Return an amount of money: to the cent when it is large, to a millionth of a dollar when it is small."""
    if cost_usd is None:
        return "price not known"
    return f"${cost_usd:,.2f}" if cost_usd >= 10 else f"${cost_usd:.4f}" if cost_usd >= 0.01 else f"${cost_usd:.6f}"


def usage_words(usage: Mapping[str, Any]) -> str:
    """Return sums (`engine.usage.Totals.to_json`) in a few words."""
    calls = usage.get("calls", 0)
    text = f"{usage.get('input_tokens', 0):,} + {usage.get('output_tokens', 0):,} tokens"
    if cached := usage.get("cached_tokens"):
        text += f" ({cached:,} cached)"
    if seconds := usage.get("audio_s"):
        text += f", {duration(seconds)} of sound"
    if characters := usage.get("characters"):
        text += f", {characters:,} characters spoken"
    text += f" in {calls:,} {'call' if calls == 1 else 'calls'}"
    if failed := usage.get("failed_calls"):
        text += f" ({failed:,} failed)"
    cost, unpriced = usage.get("cost_usd"), usage.get("unpriced_calls", 0)
    if cost is not None or unpriced:  # else every call was refused, and nothing was spent
        text += f", {money(cost)}"
    if cost is not None and unpriced:
        text += f" and {unpriced:,} of unknown price"
    return text
