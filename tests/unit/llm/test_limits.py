"""Token buckets under a clock of our own, and what responses say about limits."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.llm.limits import LocalLimiter, closed_for
from flowmason_ray.settings import ProviderLimits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limiter(clock: Clock, **limits: float) -> LocalLimiter:
    async def make() -> LocalLimiter:
        return LocalLimiter(ProviderLimits.model_validate(limits), clock)

    return asyncio.run(make())


@settings(max_examples=60, deadline=None)
@given(
    rpm=st.floats(1, 6000),
    waits=st.lists(st.floats(0, 20), min_size=1, max_size=40),
)
def test_no_minute_sees_more_requests_than_the_rate_and_one_second_of_it(rpm: float, waits: list[float]) -> None:
    clock = Clock()
    gate = limiter(clock, rpm=rpm)
    taken: list[float] = []
    for wait in waits:
        while (missing := gate.take(1)) > 0:
            clock.now += missing
        taken.append(clock.now)
        clock.now += wait
    allowed = rpm + max(1.0, rpm / 60) + 1e-6
    for start in taken:
        assert sum(start <= at < start + 60 for at in taken) <= allowed


def test_tokens_are_owed_and_settled() -> None:
    clock = Clock()
    gate = limiter(clock, tpm=600)  # ten a second, a hundred held
    assert gate.take(5000) == 0, "more than the bucket holds goes when it is full"
    assert gate.take(1) == pytest.approx((5000 - 100 + 1) / 10)
    gate.settle(-4950)  # it took fifty only
    assert gate.take(50) == 0
    assert gate.take(1) > 0
    clock.now += 0.2
    assert gate.take(1) == 0


def test_a_closed_gate_opens_again() -> None:
    clock = Clock()
    gate = limiter(clock)
    assert gate.take(1) == 0
    gate.close_for(5)
    assert gate.take(1) == 5
    clock.now += 5
    assert gate.take(1) == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "9s"}, 0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}, 62),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "350ms"}, 0.35),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.5"}, 7.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9h"}, 120),
        ({"x-ratelimit-remaining-requests": "none", "x-ratelimit-reset-requests": "9s"}, 0),
        (
            {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "1970-01-01T00:00:30Z"},
            30,
        ),
        ({"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "Tuesday"}, 0),
    ],
)
def test_what_responses_say_is_understood(headers: dict[str, str], seconds: float) -> None:
    assert closed_for(headers, now=lambda: 0.0) == pytest.approx(seconds)
