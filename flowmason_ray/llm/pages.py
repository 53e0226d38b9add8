"""What answers with status 200, and is no model service: a proxy that wants a sign-in, a site that shows its front page.

Its words are no transcript and no sound, so a page is told from an answer before anything is read out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason_ray.errors import PermanentError

BEGINNING_CHARS = 200
"""How much is quoted of what is no answer."""
_PAGES = ("text/html", "application/xhtml+xml")


async def refuse_page(provider: str, response: Any) -> None:
    """Look at the media type of a response (httpx's), whether it was read or is a stream.

    Raises:
        PermanentError: it is a page for people (`provider_not_understood`).
    """
    if media_type(response.headers) not in _PAGES:
        return
    beginning = ""
    async for part in response.aiter_text():
        beginning += part
        if len(beginning) > BEGINNING_CHARS:
            break
    await response.aclose()
    raise no_service(provider, response.headers, beginning)


def media_type(headers: Mapping[str, str]) -> str:
    """Return what a response says that it is, without parameters; empty: it does not say."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def no_service(provider: str, headers: Mapping[str, str], text: str) -> PermanentError:
    """What answers for a provider is something else."""
    kind = media_type(headers)
    sent = "HTML" if kind in _PAGES else kind or "something without a media type"
    begins = " ".join(text.split())[:BEGINNING_CHARS]
    what = f" that begins with {begins!r}" if begins else ""
    message = (
        f"What answers for provider {provider!r} is no model service: it sends {sent}{what}. Is its 'base_url' right?"
    )
    return PermanentError(message, code="provider_not_understood")
