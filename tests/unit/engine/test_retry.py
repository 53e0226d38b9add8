"""Whether and when a failed attempt is repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.retry import NEVER_RETRIED, OUTCOME_UNKNOWN, RetryPolicy, delay_before, wants_retry
from flowmason_ray.errors import Failure

SECONDS = st.floats(min_value=0, max_value=1e6)
POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1_000_000),
    initial_delay_s=SECONDS,
    max_delay_s=SECONDS,
    backoff_multiplier=st.floats(min_value=1, max_value=1000),
    jitter=st.floats(min_value=0, max_value=1),
)
DRAWS = st.floats(min_value=0, max_value=1, exclude_max=True)
ATTEMPTS = st.integers(1, 1_000_000)


def failure(**facts: object) -> Failure:
    return Failure(**{"code": "x", "message": "m", **facts})  # pyright: ignore[reportArgumentType]  # facts of any kind


@given(POLICIES, ATTEMPTS, DRAWS, st.none() | SECONDS)
def test_every_delay_is_within_its_bounds(policy: RetryPolicy, attempt: int, draw: float, asked: float | None) -> None:
    delay = delay_before(policy, failure(retry_after_s=asked), attempt, draw)
    wait = min(
        policy.initial_delay_s * min(policy.backoff_multiplier ** min(attempt - 1, 100), 1e300), policy.max_delay_s
    )
    assert delay >= max(0.0, asked or 0.0)
    assert delay <= max(policy.max_delay_s * (1 + policy.jitter), asked or 0.0) * (1 + 1e-9)
    if attempt <= 100:
        assert delay >= wait * (1 - policy.jitter) * (1 - 1e-9) - 1e-9


@given(POLICIES, DRAWS)
def test_without_jitter_delays_never_shrink(policy: RetryPolicy, draw: float) -> None:
    steady = RetryPolicy(
        initial_delay_s=policy.initial_delay_s,
        max_delay_s=policy.max_delay_s,
        backoff_multiplier=policy.backoff_multiplier,
        jitter=0,
    )
    delays = [delay_before(steady, failure(), attempt, draw) for attempt in (1, 2, 3, 50, 10_000)]
    assert delays == sorted(delays)


def test_delays_grow_and_are_capped() -> None:
    policy = RetryPolicy(max_attempts=9, initial_delay_s=1, max_delay_s=5, backoff_multiplier=2, jitter=0)
    assert [delay_before(policy, failure(), n, 0.3) for n in (1, 2, 3, 4)] == [1, 2, 4, 5]


def test_the_jitter_spreads_evenly() -> None:
    policy = RetryPolicy(initial_delay_s=8, max_delay_s=8, jitter=0.25)
    assert [delay_before(policy, failure(), 1, draw) for draw in (0, 0.5, 0.75)] == [6, 8, 9]


@given(POLICIES, ATTEMPTS)
def test_the_last_attempt_is_not_repeated(policy: RetryPolicy, attempt: int) -> None:
    assert wants_retry(policy, failure(), attempt) == (attempt < policy.max_attempts)


@pytest.mark.parametrize("code", sorted(NEVER_RETRIED))
def test_what_would_only_repeat_is_retried_only_when_named(code: str) -> None:
    assert not wants_retry(RetryPolicy(max_attempts=2), failure(code=code), 1)
    assert wants_retry(RetryPolicy(max_attempts=2, retry_on=frozenset({code})), failure(code=code), 1)


def test_what_a_component_calls_permanent_is_final_whatever_its_code() -> None:
    policy = RetryPolicy(max_attempts=3)
    gone = Failure(code="gone", message="It is gone.")
    assert wants_retry(policy, gone, 1)
    assert not wants_retry(policy, gone, 1, final=True)
    assert wants_retry(RetryPolicy(max_attempts=3, retry_on=frozenset({"gone"})), gone, 1, final=True)


@pytest.mark.parametrize("code", sorted(OUTCOME_UNKNOWN))
def test_an_effect_of_which_nobody_knows_how_far_it_came_is_not_repeated(code: str) -> None:
    policy = RetryPolicy(max_attempts=3)
    unknown = Failure(code=code, message="It was ended.")
    assert wants_retry(policy, unknown, 1, effect=Effect.IDEMPOTENT)
    assert not wants_retry(policy, unknown, 1, effect=Effect.EFFECTFUL)
    named = RetryPolicy(max_attempts=3, retry_on=frozenset({code}))
    assert wants_retry(named, unknown, 1, effect=Effect.EFFECTFUL)
    assert wants_retry(policy, Failure(code="busy", message="Later."), 1, effect=Effect.EFFECTFUL)
