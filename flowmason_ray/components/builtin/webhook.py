"""`webhook`: tells somebody of something by HTTP, signed.

Signed as the Standard Webhooks specification says (version 1.0.0), for which receivers find libraries in every language: the headers
`webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature`, `v1,` with the base64 of HMAC-SHA256 over
`id.timestamp.body`. A key that begins with `whsec_` is base64 behind it; any other is used as its UTF-8 bytes. The id is the
attempt's idempotency key, so that a receiver can tell a repetition; it also stands in `Idempotency-Key`.

Effectful: nobody knows whether the receiver looks at the key. If it does, the stage may say `"effect": "idempotent"`.
Redirects are not followed: what is signed is meant for one address.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any, Literal, cast

import httpx
from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.contents import json_bytes
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.http_exchange import shown
from flowmason_ray.components.builtin.http_sending import body_of, refused, sent
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.frames import is_frame
from flowmason_ray.connections import WebhookConnection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

MAX_ANSWER_BYTES = 1024 * 1024


@operator(effect="effectful", cost="io", category="delivery", tags=("http", "delivery"))
class Webhook:
    """Sends a signed message to a URL. Private and loopback addresses must be allowed by the project."""

    class Input(BaseModel):
        """To whom and what."""

        model_config = closed(
            {"connection": "orders_hook", "event_type": "order.paid", "payload": {"id": 7, "total": 12.5}}
        )

        connection: str | None = Field(
            default=None,
            description="The connection of type webhook in flowmason.json.",
            json_schema_extra=names_connection("webhook"),
        )
        url: str | None = Field(default=None, description="Or an http or https URL.")
        payload: Any = Field(description="What is sent, as JSON.")
        event_type: str | None = Field(
            default=None, description="What it is about; sent as the header `webhook-event`."
        )
        method: Literal["POST", "PUT", "PATCH"] = Field(default="POST", description="The method.")
        headers: dict[str, str] = Field(default={}, description="Further headers.", repr=False)
        secret: str | None = Field(
            default=None,
            description="The key to sign with; use {{secrets.NAME}}. Default: the connection's.",
            repr=False,
        )
        timeout: float = Field(default=30.0, gt=0, le=600, description="Seconds for the whole exchange.")
        verify_ssl: bool = Field(default=True, description="Whether the server's certificate must be valid.")

    class Output(BaseModel):
        """What the receiver said."""

        delivered: bool = Field(description="Always true: anything but 2xx fails the stage.")
        status_code: int = Field(description="The HTTP status.")
        webhook_id: str = Field(description="The message's id.")
        signed: bool = Field(description="Whether it was signed.")
        response: Any = Field(description="The answer's body: parsed when it is JSON, a text, or base64.")
        elapsed_ms: float = Field(description="How long it took.")
        url: str = Field(description="Where it went, without user, password and query.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Send it.

        Raises:
            PermanentError: `http_blocked`, `http_invalid_request`, `http_status` for 4xx and redirects, `invalid_secret`, ….
            TemporaryError: `http_connect`, `http_timeout`, `http_protocol`, `http_status` for 429 and 5xx.
        """
        url, secret, headers, allow = _receiver(input, context)
        request = _request(input, url, headers, secret, context.idempotency_key, int(time.time()))
        started = time.monotonic()
        reply = await sent(
            request,
            allow_hosts=allow,
            within_s=input.timeout,
            max_redirects=0,
            max_bytes=MAX_ANSWER_BYTES,
            verify=input.verify_ssl,
        )
        if not 200 <= reply.status < 300:
            raise refused(reply, f"{input.method} {shown(reply.url)} answered {reply.status}, expected 2xx")
        return self.Output(
            delivered=True,
            status_code=reply.status,
            webhook_id=context.idempotency_key,
            signed=secret is not None,
            response=body_of(reply)[0],
            elapsed_ms=round((time.monotonic() - started) * 1000, 3),
            url=shown(reply.url),
        )


def _receiver(input: Webhook.Input, context: Context) -> tuple[httpx.URL, str | None, dict[str, str], list[str]]:
    """Return the URL, the key, the headers, and the hosts that may be reached although they are not public."""
    if (input.connection is None) == (input.url is None):
        raise PermanentError(
            "Give either 'connection', a connection of flowmason.json, or 'url'.", code="invalid_input"
        )
    allow = list(context.settings.http.allow_hosts)
    if input.connection is None:
        return _parsed(str(input.url)), input.secret, {k.lower(): v for k, v in input.headers.items()}, allow
    found = context.connection(input.connection, WebhookConnection)
    url = _parsed(str(found.url))
    # The project names this address itself; that is as good as naming it under http.allow_hosts.
    allow.append(f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}")
    headers = {**cast("dict[str, str]", found.headers), **input.headers}
    secret = input.secret if input.secret is not None else cast("str | None", found.secret)
    return url, secret, {k.lower(): v for k, v in headers.items()}, allow


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host:
        raise PermanentError("The URL must look like https://host/path.", code="http_invalid_request")
    return url


def _request(
    input: Webhook.Input, url: httpx.URL, headers: dict[str, str], secret: str | None, key: str, now: int
) -> httpx.Request:
    if is_frame(input.payload):
        raise PermanentError("A table cannot be sent as it is; write it with table_write.", code="http_invalid_request")
    body = json_bytes(input.payload, "'payload'", compact=True)
    said = {
        "content-type": "application/json",
        "user-agent": "flowmason-ray",
        **headers,
        "idempotency-key": key,
        "webhook-id": key,
        "webhook-timestamp": str(now),
    }
    if input.event_type is not None:
        said["webhook-event"] = input.event_type
    if secret is not None:
        said["webhook-signature"] = signature(secret, message_id=key, timestamp=now, body=body)
    if url.username or url.password:
        pair = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        said.setdefault("authorization", f"Basic {pair}")
    try:
        return httpx.Request(input.method, url.copy_with(username=None, password=None), headers=said, content=body)
    except (UnicodeEncodeError, TypeError, ValueError) as exc:
        # Not the exception's own words: a header's value may be a secret.
        raise PermanentError(f"A header cannot be sent: {type(exc).__name__}.", code="http_invalid_request") from None


def signature(secret: str, *, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`.

    Raises:
        PermanentError: the key is empty, or begins with `whsec_` and goes on with something that is not base64 (`invalid_secret`).
    """
    digest = hmac.new(_key(secret), f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    if not secret.removeprefix("whsec_").strip():
        raise PermanentError(
            "The key to sign with is empty: everybody could sign with it. Is its environment variable set?",
            code="invalid_secret",
        )
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise PermanentError(
            "The key to sign with begins with 'whsec_', and what follows is not base64.", code="invalid_secret"
        ) from None


def is_signed(secret: str, headers: Mapping[str, str], body: bytes, *, now: float, tolerance_s: int = 300) -> bool:
    """Tell whether a message that was received carries a valid signature and is not older than the tolerance.

    For receivers in Python, and for tests. `headers` have their names in lower case; several signatures may be given.
    """
    try:
        stamp = int(headers.get("webhook-timestamp", ""))
    except ValueError:
        return False
    expected = signature(secret, message_id=headers.get("webhook-id", ""), timestamp=stamp, body=body)
    given = headers.get("webhook-signature", "").split()
    return abs(now - stamp) <= tolerance_s and any(hmac.compare_digest(expected.encode(), g.encode()) for g in given)
