"""One HTTP exchange over judged addresses: the part of `http_request` that touches the network.

The request goes to the address itself; the `Host` header and the name in the TLS handshake (against which the certificate
is checked) stay those of the URL. Proxy settings and `.netrc` of the environment are ignored: a proxy would look the name
up again. Redirects are followed here, one by one, because each hop must be judged.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import httpx

from flowmason_ray.components.builtin.safe_addresses import Address, judged_addresses
from flowmason_ray.errors import PermanentError

_HARMLESS = frozenset({"accept", "accept-encoding", "accept-language", "range", "user-agent"})
"""Headers that may follow a redirect to another origin. The rest is for the origin that it was written for: a key may stand in any."""
_OF_THE_BODY = ("content-length", "content-type", "content-encoding", "transfer-encoding")


class TooLarge(Exception):
    """The body is larger than was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer that was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    charset: str
    url: httpx.URL


def shown(url: httpx.URL) -> str:
    """Return the URL without what may be secret: user, password, query, fragment."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


@lru_cache(maxsize=2)
def _trust(verify: bool) -> ssl.SSLContext:
    # Reading the certificate store takes about 20 ms: once per process, not once per request.
    return httpx.create_ssl_context(verify=verify, trust_env=False)


async def exchange(
    request: httpx.Request, *, allow_hosts: Sequence[str], max_redirects: int, max_bytes: int, verify: bool
) -> Reply:
    """Send `request` and read the answer, following up to `max_redirects` redirects (0: the redirect is the answer).

    Raises:
        PermanentError: an address may not be reached (`http_blocked`), too many redirects (`http_redirects`).
        TemporaryError: a host cannot be resolved (`http_connect`).
        TooLarge: the body is longer than `max_bytes`, after decompression.
        httpx.HTTPError: whatever else the network does.
    """
    # One connection per exchange: a pool keyed by address could reuse a connection under another name.
    async with httpx.AsyncClient(verify=_trust(verify), trust_env=False, timeout=None) as client:
        for _ in range(max_redirects + 1):
            port = request.url.port or (443 if request.url.scheme == "https" else 80)
            addresses = await judged_addresses(request.url.host, port, allow_hosts)
            response = await _send(client, request, addresses)
            try:
                target = response.headers.get("location")
                if not max_redirects or target is None or response.status_code not in (301, 302, 303, 307, 308):
                    return await _read(response, request.url, max_bytes)
            finally:
                await response.aclose()
            request = _redirected(request, response.status_code, target)
    raise PermanentError(
        f"More than {max_redirects} redirects, the last to {shown(request.url)}.", code="http_redirects"
    )


async def _send(client: httpx.AsyncClient, request: httpx.Request, addresses: Sequence[Address]) -> httpx.Response:
    failure: httpx.TransportError | None = None
    for address in addresses:
        attempt = httpx.Request(
            request.method,
            request.url.copy_with(host=str(address)),
            headers=request.headers,
            stream=request.stream,
            extensions={"sni_hostname": request.url.host},
        )
        try:
            return await client.send(attempt, stream=True, follow_redirects=False, auth=None)
        except httpx.ConnectError as exc:  # nothing was sent yet: the next address may answer
            failure = exc
    assert failure is not None, "a resolved host has at least one address"
    raise failure


async def _read(response: httpx.Response, url: httpx.URL, max_bytes: int) -> Reply:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge
    headers = {k.lower(): v for k, v in response.headers.items()}
    return Reply(
        status=response.status_code,
        headers=headers,
        body=bytes(body),
        charset=response.charset_encoding or "utf-8",
        url=url,
    )


def _redirected(request: httpx.Request, status: int, location: str) -> httpx.Request:
    try:
        url = request.url.join(location)
    except httpx.InvalidURL as exc:
        raise PermanentError(
            f"{shown(request.url)} redirects to something that is no URL.", code="http_redirects"
        ) from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise PermanentError(f"{shown(request.url)} redirects to {shown(url)!r}.", code="http_blocked")
    headers = httpx.Headers(request.headers)
    del headers["host"]
    if _origin(url) != _origin(request.url):
        for name in set(headers) - _HARMLESS - set(_OF_THE_BODY):
            del headers[name]
    method, content = request.method, request.content
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        method, content = "GET", b""
        for name in _OF_THE_BODY:
            headers.pop(name, None)
    return httpx.Request(method, url.copy_with(username=None, password=None), headers=headers, content=content or None)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)
