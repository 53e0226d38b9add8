"""Sending a request within a time limit, and saying in a pipeline's words what the network did: for all that speak HTTP.

URLs appear without user, password, query and fragment: those are where keys hide.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx

from flowmason_ray.components.builtin.http_exchange import Reply, TooLarge, exchange, shown
from flowmason_ray.errors import PermanentError, StageError, TemporaryError


async def sent(
    request: httpx.Request,
    *,
    allow_hosts: Sequence[str],
    within_s: float,
    max_redirects: int,
    max_bytes: int,
    verify: bool,
) -> Reply:
    """Send a request and return the answer, whatever its status.

    Raises:
        PermanentError: `http_blocked`, `http_invalid_request`, `http_too_large`, `http_redirects`.
        TemporaryError: `http_connect`, `http_timeout`, `http_protocol`.
    """
    where = f"{request.method} {shown(request.url)}"
    try:
        async with asyncio.timeout(within_s):
            return await exchange(
                request, allow_hosts=allow_hosts, max_redirects=max_redirects, max_bytes=max_bytes, verify=verify
            )
    except (TimeoutError, httpx.TimeoutException) as exc:
        raise TemporaryError(f"{where} got no answer within {within_s:g} s.", code="http_timeout") from exc
    except TooLarge as exc:
        raise PermanentError(
            f"{where} answered with more than {max_bytes} bytes; raise 'max_response_bytes' if that is right.",
            code="http_too_large",
        ) from exc
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
        # Not the exception's own words: they repeat the header that is wrong, which may be a secret.
        raise PermanentError(
            f"{where} cannot be sent: a header holds characters that headers cannot hold.",
            code="http_invalid_request",
        ) from None
    except httpx.ConnectError as exc:
        raise TemporaryError(f"{where} cannot connect: {exc}.", code="http_connect") from exc
    except httpx.HTTPError as exc:
        raise TemporaryError(f"{where} broke off: {type(exc).__name__}: {exc}.", code="http_protocol") from exc


def refused(reply: Reply, message: str) -> StageError:
    """Return the error for an answer whose status is one: for 429 and 5xx a temporary one, with the delay that it asks for."""
    details = {"status_code": reply.status}
    if reply.status == 429 or reply.status >= 500:
        delay = _retry_after(reply.headers.get("retry-after"))
        return TemporaryError(f"{message}.", code="http_status", delay=delay, details=details)
    return PermanentError(f"{message}.", code="http_status", details=details)


def _retry_after(value: str | None) -> timedelta | None:
    """Return the delay that a `Retry-After` header asks for (RFC 9110, 10.2.3: seconds or a date), or None."""
    if value is None:
        return None
    if value.strip().isdigit():
        return timedelta(seconds=min(int(value), 86_400))
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(until - datetime.now(UTC), timedelta(0))


def body_of(reply: Reply) -> tuple[Any, Literal["json", "text", "base64"]]:
    """Return the body as JSON when it is such, else as a text, else as base64; and which of these it is."""
    media_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            return json.loads(reply.body), "json"
        except (ValueError, RecursionError):
            pass  # it says JSON and is not, or more than can be read: show what came
    try:
        return reply.body.decode(reply.charset), "text"
    except (UnicodeDecodeError, LookupError):
        return base64.b64encode(reply.body).decode("ascii"), "base64"
