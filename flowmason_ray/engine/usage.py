"""What attempts used of models, as it stands in the run log, and the sums that are made of it.

An attempt reports (`StageSucceeded.usage`, and so for a failed or stopped one):

    {"models": [{"provider": "anthropic", "model": "claude-…", "settings": {…}, "calls": 2, "failed_calls": 1,
                 "input_tokens": 812, "output_tokens": 120, "cached_tokens": 640, "cost_usd": 0.0031,
                 "model_s": 2.4, "first_token_s": 0.31, "wait_s": 0.0}]}

one entry for each provider and model. `cost_usd` is missing when the price is not known; then `unpriced_calls` says for how
many calls. `model_s` is the time in which the provider was answering; `wait_s` what was spent waiting for its limits, before it was
asked again, or for a model to be loaded. Of sound: `audio_tokens` are a part of the input, `audio_s` are seconds that were listened
to, where the service counts these; `characters` were spoken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

COUNTS = (
    "calls",
    "failed_calls",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "audio_tokens",
    "characters",
    "estimated_calls",
    "unpriced_calls",
)
"""What is counted. Zeros are left out of records, the first five words of a sum excepted."""
_TIMES = ("model_s", "wait_s", "audio_s")
_ALWAYS = ("calls", "input_tokens", "output_tokens", "cached_tokens")


@dataclass(slots=True)
class Totals:
    """A sum over model calls."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    times: dict[str, float] = field(default_factory=dict[str, float])
    cost_usd: float | None = None
    """What the calls cost whose price is known; None: that of none."""
    first_token_s: float | None = None
    """The longest time to a first token."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one entry of a record."""
        for name in COUNTS:
            if isinstance(amount := record.get(name), int):
                self.counts[name] = self.counts.get(name, 0) + amount
        for name in _TIMES:
            if isinstance(seconds := record.get(name), int | float):
                self.times[name] = self.times.get(name, 0.0) + seconds
        if isinstance(cost := record.get("cost_usd"), int | float):
            self.cost_usd = (self.cost_usd or 0.0) + cost
        if isinstance(first := record.get("first_token_s"), int | float):
            self.first_token_s = max(self.first_token_s or 0.0, first)

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.counts.get("input_tokens", 0) + self.counts.get("output_tokens", 0)

    def to_json(self) -> dict[str, Any]:
        """Return the sums; empty when no model was asked. `cost_usd` is null when no price is known."""
        if not self.counts:
            return {}
        data: dict[str, Any] = {name: self.counts.get(name, 0) for name in _ALWAYS}
        data |= {name: amount for name, amount in self.counts.items() if amount and name not in data}
        data["cost_usd"] = None if self.cost_usd is None else round(self.cost_usd, 9)
        data |= {name: round(seconds, 6) for name, seconds in self.times.items() if seconds}
        if self.first_token_s is not None:
            data["first_token_s"] = round(self.first_token_s, 6)
        return data


def entries_of(usage: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the entries of an attempt's usage; none when it used no model, or the record is not ours to read."""
    listed: Any = usage.get("models") if usage else None
    if not isinstance(listed, list):
        return []
    return [cast("Mapping[str, Any]", each) for each in cast("list[Any]", listed) if isinstance(each, Mapping)]


def total_of(usage: Mapping[str, Any] | None) -> Totals:
    """Return the sum of an attempt's usage."""
    totals = Totals()
    for entry in entries_of(usage):
        totals.add(entry)
    return totals


@dataclass(slots=True)
class Budget:
    """What a run may spend, and what it has spent. Fed by the state machine with every report, so a replay comes to the same.

    A budget is looked at when a report comes in, and before each call in the process that makes it (`llm.spending`): what is under way by
    then is paid for although it is stopped.
    """

    max_cost_usd: float | None = None
    max_tokens: int | None = None
    spent: Totals = field(default_factory=Totals)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Budget | None:
        """Return the budget that a run was created with (`RunCreated.options`); None: it has none."""
        said: Any = options.get("budget")
        if not isinstance(said, Mapping):
            return None
        limits = cast("Mapping[str, Any]", said)
        return cls(max_cost_usd=limits.get("max_cost_usd"), max_tokens=limits.get("max_tokens"))

    def spend(self, usage: Mapping[str, Any] | None) -> str | None:
        """Add what an attempt has used; return what is to be said when that is too much."""
        if usage is None:
            return None
        for entry in entries_of(usage):
            self.spent.add(entry)
        cost, tokens = self.spent.cost_usd, self.spent.tokens
        if self.max_cost_usd is not None and cost is not None and cost > self.max_cost_usd:
            return f"The run has spent {cost:.6g} US dollars on models; its budget is {self.max_cost_usd:g}."
        if self.max_tokens is not None and tokens > self.max_tokens:
            return f"The run has used {tokens:,} tokens; its budget is {self.max_tokens:,}."
        return None
