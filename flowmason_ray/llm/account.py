"""An attempt's account: what each of its calls took, and the record that goes into the log (`engine.usage`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from flowmason_ray.engine.models import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that was made, whether it was answered or not."""

    provider: str
    model: str
    settings: Mapping[str, Any]
    usage: Usage
    cost_usd: float | None
    model_s: float
    """From sending the request to the end of its answer."""
    wait_s: float
    """Waiting before that: for the provider's limits, for an engine that starts or a model that is loaded."""
    first_token_s: float | None
    ok: bool
    charged: bool = True
    """Whether it reached a model: a request that was refused took nothing, so it lacks no price."""


class Account:
    """The calls of one attempt. Written on the hub's thread, read on the attempt's."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, call: Call) -> None:
        """Add a call."""
        with self._lock:
            key = (call.provider, call.model)
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = {"provider": call.provider, "model": call.model, "calls": 0}
                if call.settings:
                    entry["settings"] = dict(call.settings)
            usage = call.usage
            counts = {
                "calls": 1,
                "failed_calls": int(not call.ok),
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "audio_tokens": usage.audio_tokens,
                "characters": usage.characters,
                "estimated_calls": int(usage.estimated),
                "unpriced_calls": int(call.cost_usd is None and call.charged),
            }
            for name, amount in counts.items():
                if amount or name in ("input_tokens", "output_tokens"):
                    entry[name] = entry.get(name, 0) + amount
            if call.cost_usd is not None:
                entry["cost_usd"] = round(entry.get("cost_usd", 0.0) + call.cost_usd, 12)
            entry["model_s"] = round(entry.get("model_s", 0.0) + call.model_s, 6)
            if usage.audio_s:
                entry["audio_s"] = round(entry.get("audio_s", 0.0) + usage.audio_s, 6)
            if call.wait_s >= 0.001:
                entry["wait_s"] = round(entry.get("wait_s", 0.0) + call.wait_s, 6)
            if call.first_token_s is not None:
                entry["first_token_s"] = round(max(entry.get("first_token_s", 0.0), call.first_token_s), 6)

    def waited(self, provider: str, model: str, seconds: float) -> None:
        """Add time that passed between two calls, before it was asked again."""
        with self._lock:
            entry = self._entries.get((provider, model))
            if entry is not None:
                entry["wait_s"] = round(entry.get("wait_s", 0.0) + seconds, 6)

    def usage(self) -> dict[str, Any] | None:
        """Return the record; None when nothing was asked."""
        with self._lock:
            return {"models": [dict(entry) for entry in self._entries.values()]} if self._entries else None
