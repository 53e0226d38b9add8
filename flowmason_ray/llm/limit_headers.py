"""What services say in their responses about their limits, and how to keep to it before anything is refused.

Anthropic and OpenAI, and those who follow them, tell with every answer how much there may be, how much of it is left, and when it is whole
again. Where nothing is left nobody goes before that (`closed_for`). Where little is left only so many go as it is enough for, those counted
that are on their way and that the service may not know of yet; the others wait for what comes back with time (`Pace`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from time import time

LONGEST_GATE_S = 120.0
"""How long a response may hold anybody up: what asks for more is left to the error that comes then."""

_SPAN = re.compile(r"([0-9.]+)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_PACED = ("requests", "tokens")
"""Of which it is known before a request how much it will take."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What a response says of one limit."""

    kind: str
    limit: float | None
    """None: it does not say."""
    left: float
    whole_s: float
    """After how long it is whole again."""


def _all_told(headers: Mapping[str, str], now: Callable[[], float]) -> Iterator[_Told]:
    for kind in _KINDS:
        for form in (f"anthropic-ratelimit-{kind}-{{}}", f"x-ratelimit-{{}}-{kind}"):
            limit, left, reset = (headers.get(form.format(what)) for what in ("limit", "remaining", "reset"))
            if left is None:
                continue
            try:
                told = _Told(kind, None if limit is None else float(limit), float(left), _seconds(reset or "", now))
            except ValueError:
                continue  # nothing that we understand: the service will refuse, and say when to come back
            if isfinite(told.left + told.whole_s + (told.limit or 0.0)):
                yield told


def closed_for(headers: Mapping[str, str], now: Callable[[], float] = time) -> float:
    """Return for how long, in seconds, a response's headers say that nothing is left; 0: something is.

    Anthropic says the time at which a limit is whole again (RFC 3339), OpenAI and those who follow it a span (`6m0s`).
    """
    waits = [told.whole_s for told in _all_told(headers, now) if told.left <= 0]
    return min(max(waits, default=0.0), LONGEST_GATE_S)


def _seconds(text: str, now: Callable[[], float]) -> float:
    if "T" in text:
        return max(0.0, datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() - now())
    spans = _SPAN.findall(text)
    if spans:
        return sum(float(amount) * _UNITS[unit] for amount, unit in spans)
    return float(text) if text else 0.0


class _Left:
    """What is left of one limit: it comes back with time, and is whole in the end."""

    def __init__(self, level: float, limit: float, rate: float, at: float, whole_at: float) -> None:
        self.level = level
        self._limit = limit
        self._rate = rate
        self._at = at
        self._whole_at = whole_at

    def missing_s(self, amount: float, now: float) -> float:
        """Return after how long `amount` is there; what is more than the limit, when it is whole."""
        if now >= self._whole_at:
            return 0.0
        self.level = min(self._limit, self.level + (now - self._at) * self._rate)
        self._at = now
        missing = min(amount, self._limit) - self.level
        if missing <= 1e-9:
            return 0.0
        rest = self._whole_at - now
        return min(rest, missing / self._rate) if self._rate > 0 else rest


class Pace:
    """How fast one process may ask, by what the service has said last. `now`: a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._left: dict[str, _Left] = {}
        self._under_way = 0
        self._tokens = 0

    def told(self, headers: Mapping[str, str], wall: Callable[[], float] = time) -> None:
        """Take the headers of a response to a request that is still counted as under way. `wall`: the time of day."""
        now = self._now()
        others = max(0, self._under_way - 1)  # the service may not know of these yet
        share = others / self._under_way if self._under_way else 0.0
        for told in _all_told(headers, wall):
            if told.kind not in _PACED or told.limit is None or told.limit <= 0:
                continue
            if told.whole_s <= 0:  # it is whole
                self._left.pop(told.kind, None)
                continue
            left = min(told.left, told.limit)
            level = left - (others if told.kind == "requests" else self._tokens * share)
            whole_at = now + min(told.whole_s, LONGEST_GATE_S)
            self._left[told.kind] = _Left(level, told.limit, (told.limit - left) / told.whole_s, now, whole_at)

    def missing_s(self, tokens: int) -> float:
        """Return after how long there will be enough for a request of about so many tokens; 0: it may go."""
        now = self._now()
        amounts = {"requests": 1, "tokens": tokens}
        return max((left.missing_s(amounts[kind], now) for kind, left in self._left.items()), default=0.0)

    def begin(self, tokens: int) -> None:
        """Note that a request is on its way."""
        self._under_way += 1
        self._tokens += tokens
        for kind, left in self._left.items():
            left.level -= 1 if kind == "requests" else tokens

    def end(self, tokens: int) -> None:
        """Note that it is not any more."""
        self._under_way -= 1
        self._tokens -= tokens
