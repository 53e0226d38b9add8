"""Whether a failed attempt is repeated, and after how long. Pure: the randomness of the jitter is an argument."""

from __future__ import annotations

from dataclasses import dataclass

from flowmason_ray.engine.component import Effect
from flowmason_ray.errors import Failure

NEVER_RETRIED = frozenset(
    {
        "permanent_error",
        "invalid_config",
        "invalid_output",
        "expression_error",
        "expression_budget",
        "missing_value",
        "infeasible_resources",
        "missing_extra",
        "cancelled",
        "in_doubt",
        "component_changed",
        "version_mismatch",
    }
)
"""Codes of failures that the same attempt would only repeat. `retry_on` can name one explicitly to override."""

OUTCOME_UNKNOWN = frozenset({"timeout", "stopped", "worker_died", "out_of_memory", "executor_error"})
"""Codes of attempts that were ended from outside: the component may have done its work, or half of it, and could not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and after how long an attempt is repeated. Delays are in seconds."""

    max_attempts: int = 1
    initial_delay_s: float = 1.0
    max_delay_s: float = 30.0
    backoff_multiplier: float = 2.0
    jitter: float = 0.25
    """The delay is spread evenly over ± this share of itself, so that stages that failed together do not return together."""
    retry_on: frozenset[str] = frozenset()
    """Codes or exception names; empty: every failure but `NEVER_RETRIED`."""


def wants_retry(
    policy: RetryPolicy, failure: Failure, attempt: int, *, final: bool = False, effect: Effect = Effect.PURE
) -> bool:
    """Tell whether an attempt that failed is followed by another.

    Args:
        policy: The stage's policy. What its `retry_on` names is repeated whatever else holds.
        failure: What happened.
        attempt: The attempt that failed, counted from 1.
        final: Whether the component has said that repeating cannot help.
        effect: What repeating does to the world: an effectful attempt of which nobody knows how far it came is not repeated.
    """
    if attempt >= policy.max_attempts:
        return False
    if policy.retry_on:
        return failure.code in policy.retry_on or (failure.error_type or "") in policy.retry_on
    if effect is Effect.EFFECTFUL and failure.code in OUTCOME_UNKNOWN:
        return False
    return not final and failure.code not in NEVER_RETRIED


def delay_before(policy: RetryPolicy, failure: Failure, attempt: int, draw: float) -> float:
    """Return the seconds to wait after `attempt` failed.

    Exponential backoff, capped, then spread by the jitter; a delay that the failure itself asks for is a lower bound.

    Args:
        policy: The stage's policy.
        failure: What happened; its `retry_after_s` may ask for more.
        attempt: The attempt that failed, counted from 1.
        draw: A random number in [0, 1).

    Returns:
        Seconds, >= 0 and <= max(max_delay_s * (1 + jitter), retry_after_s).
    """
    try:
        backoff = policy.initial_delay_s * policy.backoff_multiplier ** (attempt - 1)
    except OverflowError:
        backoff = policy.max_delay_s
    delay = min(backoff, policy.max_delay_s) * (1 + policy.jitter * (2 * draw - 1))
    return max(delay, failure.retry_after_s or 0.0, 0.0)
