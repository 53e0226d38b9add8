"""What refusals of providers mean: a rate that is over for a moment is no empty purse."""

from __future__ import annotations

import pytest

from flowmason_ray.errors import TemporaryError
from flowmason_ray.llm.errors import from_status

RATE = (
    "Rate limit reached for gpt-4o in organization org-1 on requests per min (RPM): Limit 3, Used 3. Please try again in 12s. "
    "You can increase your rate limit by adding a payment method to your account at https://platform.openai.com/account/billing."
)
QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    ("status", "kind", "message", "code"),
    [
        (429, "rate_limit_exceeded", RATE, "rate_limited"),
        (429, "requests", RATE, "rate_limited"),
        (429, "", QUOTA, "rate_limited"),  # without its name it may as well be a free plan's rate of a minute
        (429, "insufficient_quota", QUOTA, "provider_quota_exhausted"),
        (429, "billing_not_active", "Your account is not active.", "provider_quota_exhausted"),
        (429, "", '{"error": "insufficient_quota"}', "provider_quota_exhausted"),
        (400, "invalid_request_error", "Your credit balance is too low to access the API.", "provider_quota_exhausted"),
        (402, "billing_error", "There is a problem with your payment.", "provider_quota_exhausted"),
        (402, "", "Insufficient Balance", "provider_quota_exhausted"),
        (400, "invalid_request_error", "messages.0: 'billing address' is no role", "provider_refused_request"),
        (500, "", "the billing service does not answer", "provider_error"),
    ],
)
def test_no_money_is_told_from_too_fast(status: int, kind: str, message: str, code: str) -> None:
    error = from_status("p", "m", status, message, kind=kind)
    assert error.code == code
    assert isinstance(error, TemporaryError) == (code in ("rate_limited", "provider_error"))
