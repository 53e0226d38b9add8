"""`http_request`: one HTTP request, from a pipeline's point of view.

Declared idempotent: requests that may change something (POST, PUT, PATCH, DELETE) carry the header `Idempotency-Key` with the
attempt's key, so that a server which honours it does the work once however often the attempt is repeated. For a server
that does not, say `"effect": "effectful"` on the stage.

A status is data: 4xx gives `success: false`. What passes by itself is a temporary failure that the retry policy acts on:
no connection, a timeout, 429 and 5xx (`Retry-After` is the least delay). `expect_status` says otherwise.

URLs appear in outputs and messages without user, password, query and fragment: those are where keys hide.
"""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any, Literal, cast

import httpx
from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.contents import json_bytes
from flowmason_ray.components.builtin.http_exchange import Reply, shown
from flowmason_ray.components.builtin.http_sending import body_of, refused, sent
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class BearerAuth(BaseModel):
    """`Authorization: Bearer …`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["bearer"] = Field(description="The kind of authentication.")
    token: str = Field(description="The token; use {{secrets.NAME}}.", repr=False)


class BasicAuth(BaseModel):
    """`Authorization: Basic …`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["basic"] = Field(description="The kind of authentication.")
    username: str = Field(description="The user's name.")
    password: str = Field(description="The password; use {{secrets.NAME}}.", repr=False)


@operator(effect="idempotent", cost="io", category="network", tags=("http",))
class HttpRequest:
    """Sends an HTTP request and returns the answer. Private and loopback addresses must be allowed by the project."""

    class Input(BaseModel):
        """The request."""

        model_config = ConfigDict(extra="forbid")

        url: str = Field(description="An http or https URL.")
        method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = Field(
            default="GET", description="The method."
        )
        headers: dict[str, str] = Field(default={}, description="Headers to send.", repr=False)
        params: dict[str, Any] = Field(
            default={}, description="Query parameters; a list repeats the name, null leaves it out.", repr=False
        )
        body: Any = Field(default=None, description="A text is sent as it is; any other value as JSON.")
        form: dict[str, Any] | None = Field(
            default=None, description="Fields to send as a form, in place of 'body'; a list repeats the name."
        )
        auth: Annotated[BearerAuth | BasicAuth, Field(discriminator="type")] | None = Field(
            default=None, description="How to authenticate."
        )
        timeout: float = Field(
            default=30.0, gt=0, le=3600, description="Seconds for the whole exchange, redirects included."
        )
        follow_redirects: bool = Field(
            default=True,
            description="Whether to follow up to 10 redirects. To another host, scheme or port go only the headers accept…, range, user-agent, "
            "and those of the body.",
        )
        verify_ssl: bool = Field(default=True, description="Whether the server's certificate must be valid.")
        expect_status: list[int] | None = Field(
            default=None,
            description="The statuses that count as success; any other fails the stage (429 and 5xx: temporarily).",
        )
        raise_for_status: bool = Field(default=False, description="Whether a 4xx status fails the stage.")
        max_response_bytes: int = Field(
            default=10_485_760,
            gt=0,
            description="The most that is read of a body, after decompression; more is an error.",
        )

    class Output(BaseModel):
        """The answer."""

        status_code: int = Field(description="The HTTP status.")
        headers: dict[str, str] = Field(description="The headers, names in lower case.")
        body: Any = Field(description="The body: parsed when it is JSON, a text, or base64 (see body_encoding).")
        body_encoding: Literal["json", "text", "base64"] = Field(description="The form of 'body'.")
        elapsed_ms: float = Field(description="How long the exchange took.")
        success: bool = Field(description="2xx, or one of 'expect_status'.")
        url: str = Field(description="Where the answer came from, without user, password and query.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Send the request.

        Raises:
            PermanentError: `http_blocked`, `http_invalid_request`, `http_too_large`, `http_redirects`, `http_status`.
            TemporaryError: `http_connect`, `http_timeout`, `http_protocol`, `http_status` (429 and 5xx).
        """
        request = _request(input, context)
        allow = list(context.settings.http.allow_hosts)
        started = time.monotonic()
        reply = await sent(
            request,
            allow_hosts=allow,
            within_s=input.timeout,
            max_redirects=10 if input.follow_redirects else 0,
            max_bytes=input.max_response_bytes,
            verify=input.verify_ssl,
        )
        success = _judge(input, reply)
        body, encoding = body_of(reply)
        return self.Output(
            status_code=reply.status,
            headers=reply.headers,
            body=body,
            body_encoding=encoding,
            elapsed_ms=round((time.monotonic() - started) * 1000, 3),
            success=success,
            url=shown(reply.url),
        )


def _request(input: HttpRequest.Input, context: Context) -> httpx.Request:
    _check_fields("params", input.params)
    _check_fields("form", input.form or {})
    try:
        url = httpx.URL(input.url)
        if input.params:
            url = url.copy_merge_params({k: v for k, v in input.params.items() if v is not None})
    except (httpx.InvalidURL, TypeError, ValueError):
        raise PermanentError(
            "'url' with its 'params' is not a valid URL; it should look like https://host/path.",
            code="http_invalid_request",
        ) from None
    if url.scheme not in ("http", "https") or not url.host:
        raise PermanentError(
            f"'url' must start with http:// or https:// and name a host; found {shown(url)!r}.",
            code="http_invalid_request",
        )
    if input.body is not None and input.form is not None:
        raise PermanentError("Give 'body' or 'form', not both.", code="http_invalid_request")
    if is_frame(input.body):
        raise PermanentError("A table cannot be sent as it is; write it with table_write.", code="http_invalid_request")
    headers = {"accept": "*/*", "user-agent": "flowmason-ray", **{k.lower(): v for k, v in input.headers.items()}}
    if input.method in _CHANGING:
        headers.setdefault("idempotency-key", context.idempotency_key)
    content: bytes | None = None
    if isinstance(input.body, str):
        content = _utf8(input.body)
        headers.setdefault("content-type", "text/plain; charset=utf-8")
    elif input.body is not None:
        content = json_bytes(input.body, "'body'", compact=True, code="http_invalid_request")
        headers.setdefault("content-type", "application/json")
    if input.auth is not None:
        headers["authorization"] = _authorization(input.auth)
    elif url.username or url.password:
        headers.setdefault("authorization", _basic(url.username, url.password))
    try:
        return httpx.Request(
            input.method, url.copy_with(username=None, password=None), headers=headers, content=content, data=input.form
        )
    except (UnicodeEncodeError, TypeError, ValueError) as exc:
        # Not the exception's own words: a header's value may be a secret.
        raise PermanentError(
            f"A header or form field cannot be sent: {type(exc).__name__}.", code="http_invalid_request"
        ) from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise PermanentError(
            "'body' is not valid Unicode: it holds half of a surrogate pair.", code="http_invalid_request"
        ) from None


def _check_fields(what: str, fields: dict[str, Any]) -> None:
    """Refuse what a field of a URL or of a form has no usual way to say: each server wants nested values written in its own."""
    for name, value in fields.items():
        for each in cast("list[Any]", value) if isinstance(value, list) else [value]:
            if each is not None and not isinstance(each, str | int | float):
                found = (
                    "an object"
                    if isinstance(each, dict)
                    else "a list in a list"
                    if isinstance(each, list)
                    else type(each).__name__
                )
                raise PermanentError(
                    f"{what!r}: field {name!r} holds {found}; a field is a text, a number, true, false, null, or a list of these. "
                    "Write it out as the server wants it: as 'name[key]', or as JSON text ({{ … | tojson }}).",
                    code="http_invalid_request",
                )


def _authorization(auth: BearerAuth | BasicAuth) -> str:
    return f"Bearer {auth.token}" if isinstance(auth, BearerAuth) else _basic(auth.username, auth.password)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _judge(input: HttpRequest.Input, reply: Reply) -> bool:
    if input.expect_status is not None:
        success = reply.status in input.expect_status
        failed = not success
    else:
        success = 200 <= reply.status < 300
        failed = reply.status == 429 or reply.status >= 500 or (input.raise_for_status and reply.status >= 400)
    if failed:
        message = f"{input.method} {shown(reply.url)} answered {reply.status}"
        if input.expect_status is not None:
            message += f", expected {' or '.join(map(str, input.expect_status))}"
        raise refused(reply, message)
    return success
