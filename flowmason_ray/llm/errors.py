"""What goes wrong with providers, in our words: one function for each case, so that all adapters say the same.

Temporary: repeated by `llm.calling` while nothing of the answer was seen, then left to the stage's retry policy.
Permanent: the stage fails at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from flowmason_ray.errors import PermanentError, StageError, TemporaryError

_TOO_LONG = (
    "context length",
    "context_length",
    "context window",
    "too many tokens",
    "prompt is too long",
    "maximum context",
)
_NO_MONEY = ("insufficient_quota", "credit balance")
"""Not the bare word "billing": ordinary refusals for the rate link to the page of that name."""
TEXT_LIMIT_CHARS = 20_000
"""How much of an answer that could not be used is kept in the log."""


def shortened(text: str) -> str:
    """Return a text as the log keeps it."""
    return text if len(text) <= TEXT_LIMIT_CHARS else text[:TEXT_LIMIT_CHARS] + " …"


def not_reached(provider: str, exc: BaseException) -> TemporaryError:
    """The provider cannot be reached, or the connection broke before it answered."""
    return TemporaryError(f"Provider {provider!r} cannot be reached: {_words(exc)}.", code="provider_unreachable")


def too_slow(provider: str, timeout_s: float) -> TemporaryError:
    """The answer did not come in time."""
    message = f"Provider {provider!r} did not answer within {timeout_s:g} s (its 'timeout_s')."
    return TemporaryError(message, code="provider_timeout")


def interrupted(provider: str, why: str) -> TemporaryError:
    """The answer broke off in the middle."""
    return TemporaryError(f"The answer of provider {provider!r} broke off: {why}.", code="stream_interrupted")


def refused(provider: str, model: str, why: str = "") -> PermanentError:
    """The model, or a filter around it, declines to answer."""
    said = f" It said: {why!r}." if why else ""
    return PermanentError(
        f"Model {model!r} of provider {provider!r} refuses to answer this.{said}", code="content_refused"
    )


def too_long(provider: str, model: str, why: str) -> PermanentError:
    """The question, or question and answer together, do not fit the model."""
    message = f"What is asked does not fit model {model!r} of provider {provider!r}: {why}. Shorten it, or take a larger model."
    return PermanentError(message, code="context_too_long")


def bad_response(message: str, text: str) -> TemporaryError:
    """The answer cannot be used. It is kept in the log."""
    return TemporaryError(message, code="bad_response", details={"text": shortened(text)})


def from_status(
    provider: str, model: str, status: int, message: str, *, kind: str = "", headers: Mapping[str, str] | None = None
) -> StageError:
    """Return the error that an HTTP status means.

    Args:
        provider: The provider's name.
        model: What was asked.
        status: The HTTP status; for an error inside of a stream, the one that it would have had.
        message: What the provider says.
        kind: The provider's own name for the error.
        headers: Of the response: they may say when to come back.
    """
    said = message.rstrip(". ") or f"status {status}"
    lower = f"{kind} {said}".lower()
    delay = retry_after(headers or {})
    who = f"Provider {provider!r}"
    if status == 402 or "billing" in kind.lower() or any(sign in lower for sign in _NO_MONEY):
        return PermanentError(f"{who} wants to be paid first: {said}.", code="provider_quota_exhausted")
    if status == 429:
        return TemporaryError(f"{who} has had too many requests: {said}.", code="rate_limited", delay=delay)
    if status in (529, 503) or kind == "overloaded_error":
        return TemporaryError(f"{who} is overloaded: {said}.", code="provider_overloaded", delay=delay)
    if status in (408, 409, 425) or status >= 500:
        return TemporaryError(f"{who} failed (status {status}): {said}.", code="provider_error", delay=delay)
    if status == 413 or (status == 400 and any(sign in lower for sign in _TOO_LONG)):
        return too_long(provider, model, said)
    if status in (401, 403):
        hint = "Check the key that its 'api_key' names."
        return PermanentError(f"{who} refuses the key, or what it may do: {said}. {hint}", code="provider_refused_key")
    if status == 404:
        return PermanentError(f"{who} has no model {model!r}, or not at this address: {said}.", code="model_not_found")
    return PermanentError(f"{who} refuses the request (status {status}): {said}.", code="provider_refused_request")


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Return how long a response asks to wait (RFC 9110, 10.2.3; `retry-after-ms` is both companies' finer form)."""
    try:
        if (precise := headers.get("retry-after-ms")) is not None:
            return timedelta(milliseconds=max(0.0, float(precise)))
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        return timedelta(seconds=min(max(0.0, seconds), 86_400.0))
    except (ValueError, TypeError, OverflowError):
        return None


def _words(exc: BaseException) -> str:
    inner: Any = exc.__cause__ or exc
    return f"{type(inner).__name__}: {inner}".rstrip(". :")
