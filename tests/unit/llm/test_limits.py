"""Token buckets under a clock of our own, and what responses say about limits."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.llm.limit_headers import LONGEST_GATE_S, Pace, closed_for
from flowmason_ray.llm.limits import LocalLimiter
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


def openai(kind: str, limit: float, left: float, whole: str) -> dict[str, str]:
    names = (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}")
    return dict(zip(names, (str(limit), str(left), whole), strict=True))


def paced(clock: Clock, headers: dict[str, str], *, others: int = 0, tokens: int = 0) -> Pace:
    """Return a pace that was told something with the answer to a request, while others were under way."""
    pace = Pace(clock)
    for _ in range(others + 1):
        pace.begin(tokens)
    pace.told(headers, lambda: 0.0)
    pace.end(tokens)
    return pace


def test_no_more_go_than_are_left_and_the_others_as_fast_as_they_come_back() -> None:
    clock = Clock()
    pace = paced(clock, openai("requests", 60, 3, "57s"))
    for _ in range(3):
        assert pace.missing_s(5000) == 0
        pace.begin(0)
    assert pace.missing_s(0) == pytest.approx(1)
    clock.now += 1
    assert pace.missing_s(0) == pytest.approx(0)
    pace.begin(0)
    assert pace.missing_s(0) == pytest.approx(1)
    clock.now += 57
    assert pace.missing_s(0) == 0, "it is whole again"


def test_those_on_their_way_are_counted() -> None:
    pace = paced(Clock(), openai("requests", 60, 3, "57s"), others=2)
    assert pace.missing_s(0) == 0
    pace.begin(0)
    assert pace.missing_s(0) == pytest.approx(1)


def test_a_limit_that_is_whole_again_holds_nobody_up() -> None:
    pace = paced(Clock(), openai("requests", 60, 0, "57s"))
    assert pace.missing_s(0) > 0
    pace.told(openai("requests", 60, 60, "0s"), lambda: 0.0)
    assert pace.missing_s(0) == 0


def test_tokens_are_paced_too_and_more_than_there_ever_is_goes_when_all_is_there() -> None:
    anthropic = {
        "anthropic-ratelimit-tokens-limit": "10000",
        "anthropic-ratelimit-tokens-remaining": "4000",
        "anthropic-ratelimit-tokens-reset": "1970-01-01T00:01:00Z",
    }
    pace = paced(Clock(), anthropic, others=1, tokens=1000)
    assert pace.missing_s(3000) == 0
    assert pace.missing_s(4000) == pytest.approx(10)
    assert pace.missing_s(50_000) == pytest.approx(60)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"},
        openai("requests", 0, 0, "9s"),
        openai("requests", float("nan"), 0, "9s"),
        openai("requests", 9, 0, "0s"),
        openai("requests", 9, 0, "soon"),
        openai("output-tokens", 9, 0, "9s"),
    ],
)
def test_what_says_too_little_paces_nobody(headers: dict[str, str]) -> None:
    assert paced(Clock(), headers).missing_s(100) == 0


@settings(max_examples=150, deadline=None)
@given(
    limit=st.floats(1, 1000),
    left=st.floats(0, 1),
    whole_s=st.floats(0.001, 1e6),
    others=st.integers(0, 50),
    tokens=st.integers(0, 5000),
)
def test_everybody_goes_in_bounded_time(limit: float, left: float, whole_s: float, others: int, tokens: int) -> None:
    clock = Clock()
    told = {**openai("requests", limit, limit * left, f"{whole_s:f}s"), **openai("tokens", limit, 0, f"{whole_s:f}s")}
    pace = paced(clock, told, others=others, tokens=tokens)
    wait = pace.missing_s(tokens)
    assert 0 <= wait <= LONGEST_GATE_S
    clock.now += wait + 1e-6
    assert pace.missing_s(tokens) == pytest.approx(0, abs=1e-3)
