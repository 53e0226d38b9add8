"""One call to a provider: wait for its limits, ask, repeat what is worth repeating, count what it took.

A request is repeated as long as nobody has seen any of the answer: what was shown cannot be taken back, and a second answer would
say something else. How long to wait is what the provider says, else a delay that doubles; a provider that wants more than
`LONGEST_WAIT_S` is left to the stage's retry policy, which does not hold a place meanwhile.

Every request is accounted for, those that fail too: a stream that breaks has used its input, and what came of the output.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Generic, TypeVar

from flowmason_ray.engine.models import Usage
from flowmason_ray.errors import StageError, TemporaryError
from flowmason_ray.llm import telemetry
from flowmason_ray.llm.account import Account, Call
from flowmason_ray.llm.base import Progress, Provider, Reply, Request
from flowmason_ray.llm.errors import too_slow
from flowmason_ray.llm.limits import Gate, Ticket
from flowmason_ray.llm.pricing import cost_of
from flowmason_ray.settings import ProviderSettings

T = TypeVar("T")

LONGEST_WAIT_S = 30.0
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
"""The delays of the companies' own clients (`_constants.py` of anthropic 2.12)."""
CHARS_A_TOKEN = 4
"""For estimates before a call; what it really took is settled afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The way to one provider: who answers, what it allows, and where it is counted."""

    name: str
    settings: ProviderSettings
    provider: Provider
    gate: Gate
    account: Account
    said: Mapping[str, Any]
    """The settings that hold for the call, for the log."""
    remark: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Generic[T]):
    """What a call came to."""

    value: T
    usage: Usage
    cost_usd: float | None


async def generate(line: Line, request: Request, on_text: Callable[[str], None] | None) -> Answered[Reply]:
    """Ask for text."""
    estimate = estimated_tokens(request)
    return await _repeated(
        line,
        request.model,
        estimate,
        lambda progress: line.provider.generate(request, progress),
        operation="chat",
        on_text=on_text,
        batch=request.batch,
    )


async def embed(
    line: Line, model: str, texts: tuple[str, ...], dimensions: int | None
) -> Answered[list[tuple[float, ...]]]:
    """Ask for vectors."""
    estimate = sum(len(text) for text in texts) // CHARS_A_TOKEN + 1
    return await _repeated(
        line,
        model,
        estimate,
        lambda progress: line.provider.embed(model, texts, dimensions, progress),
        operation="embeddings",
    )


async def other(line: Line, model: str, work: Callable[[], Awaitable[T]], *, operation: str) -> Answered[T]:
    """Ask for something whose tokens nobody counts (audio)."""
    return await _repeated(line, model, 0, lambda _: work(), operation=operation)


async def _repeated(
    line: Line,
    model: str,
    estimate: int,
    ask: Callable[[Progress], Awaitable[T]],
    *,
    operation: str,
    on_text: Callable[[str], None] | None = None,
    batch: bool = False,
) -> Answered[T]:
    used, cost = Usage(), 0.0
    known = True
    for attempt in range(line.settings.max_retries + 1):
        progress = Progress(on_text, line.gate.told, line.remark)
        try:
            value, price = await _once(line, model, estimate, ask, progress, operation, batch)
        except StageError as exc:
            delay = _delay(exc, attempt)
            if delay is None or progress.forwarded or attempt == line.settings.max_retries:
                raise
            price = _price(line, model, progress.usage, batch)
            used, known, cost = used + progress.usage, known and price is not None, cost + (price or 0.0)
            if exc.code in ("rate_limited", "provider_overloaded"):
                line.gate.close_for(delay)
            await asyncio.sleep(delay)
            continue
        total = cost + price if price is not None and known else None
        return Answered(value=value, usage=used + progress.usage, cost_usd=total)
    raise AssertionError("the last attempt returns or raises")


async def _once(
    line: Line,
    model: str,
    estimate: int,
    ask: Callable[[Progress], Awaitable[T]],
    progress: Progress,
    operation: str,
    batch: bool,
) -> tuple[T, float | None]:
    """Make one request and account for it, however it ends."""
    await line.provider.ready(line.remark)
    # Part of a batch is no request of its own: it takes no place and no rate.
    async with nullcontext(Ticket(0)) if batch else line.gate.ticket(estimate) as ticket:
        progress.started = perf_counter()
        failure: BaseException | None = None
        with telemetry.span(operation, line.name, line.settings, model) as span:
            try:
                # A batch takes as long as it takes; everything else ends.
                async with asyncio.timeout(None if batch else line.settings.timeout_s):
                    value = await ask(progress)
            except TimeoutError as exc:
                failure = too_slow(line.name, line.settings.timeout_s)
                raise failure from exc
            except BaseException as exc:
                failure = exc
                raise
            finally:
                if failure is not None and progress.seen_chars and not progress.exact:
                    progress.usage = _guessed(progress, estimate)
                price = _account(line, model, progress, ticket, failure, batch)
                telemetry.finish(span, progress, price, failure)
        return value, price


def _guessed(progress: Progress, estimate: int) -> Usage:
    """Return what an answer that broke off has used: what the provider told before, and about what was seen."""
    told = progress.usage
    return replace(
        told,
        input_tokens=told.input_tokens or estimate,
        output_tokens=max(told.output_tokens, progress.seen_chars // CHARS_A_TOKEN + 1),
        estimated=True,
    )


def _account(
    line: Line, model: str, progress: Progress, ticket: Ticket, failure: BaseException | None, batch: bool
) -> float | None:
    usage = progress.usage
    ticket.used = usage.total_tokens
    charged = failure is None or usage.total_tokens > 0
    price = _price(line, model, usage, batch) if charged else None
    line.account.add(
        Call(
            provider=line.name,
            model=model,
            settings=line.said,
            usage=usage,
            cost_usd=price,
            model_s=perf_counter() - progress.started,
            wait_s=ticket.waited_s,
            first_token_s=progress.first_token_s,
            ok=failure is None,
            charged=charged,
        )
    )
    return price


def _price(line: Line, model: str, usage: Usage, batch: bool) -> float | None:
    return cost_of(line.settings, model, usage, batch=batch)


def _delay(error: StageError, attempt: int) -> float | None:
    """Return after how long to ask again; None: not at all, or not here."""
    if not isinstance(error, TemporaryError) or error.code == "bad_response":
        return None
    if error.delay is not None:
        wanted = error.delay.total_seconds()
        return wanted if wanted <= LONGEST_WAIT_S else None
    # Spread, so that many that were refused together do not come back together.
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**attempt) * random.uniform(0.75, 1.0)


def estimated_tokens(request: Request) -> int:
    """Return about how many tokens a request takes, its answer included: what a token bucket is asked for beforehand."""
    chars = len(request.system or "") + sum(len(message.text) for message in request.messages)
    return chars // CHARS_A_TOKEN + 1 + (request.max_tokens or 0)
