"""One call to a provider: wait for its limits, ask, repeat what is worth repeating, count what it took.

A request is repeated as long as nobody has seen any of the answer: what was shown cannot be taken back, and a second answer would
say something else. How long to wait is what the provider says, else a delay that doubles; a provider that wants more than
`LONGEST_WAIT_S` is left to the stage's retry policy, which does not hold a place meanwhile. Either way nobody else asks it before.

Every request is accounted for, those that fail too: a stream that breaks has used its input, and what came of the output; what we do not wait for any more has used its input.
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
from flowmason_ray.llm.spending import Spending
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
    spending: Spending
    said: Mapping[str, Any]
    """The settings that hold for the call, for the log."""
    remark: Callable[[str], None]
    mask: Callable[[str], str]
    """Hides the run's secrets in a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Generic[T]):
    """What a call came to."""

    value: T
    usage: Usage
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question(Generic[T]):
    """What is asked of a provider, and how."""

    operation: str
    """As OpenTelemetry's conventions call it."""
    model: str
    read: int
    """About how many tokens the model will read."""
    write: int = 0
    """How many it may write."""
    ask: Callable[[Progress], Awaitable[T]]
    request: Request | None = None
    """Of a question for text."""

    @property
    def batch(self) -> bool:
        """Whether it may take hours."""
        return self.request is not None and self.request.batch


async def generate(line: Line, request: Request, on_text: Callable[[str], None] | None) -> Answered[Reply]:
    """Ask for text."""
    question = _Question(
        operation="chat",
        model=request.model,
        read=read_tokens(request),
        write=request.max_tokens or 0,
        ask=lambda progress: line.provider.generate(request, progress),
        request=request,
    )
    return await _repeated(line, question, on_text)


async def embed(
    line: Line, model: str, texts: tuple[str, ...], dimensions: int | None
) -> Answered[list[tuple[float, ...]]]:
    """Ask for vectors."""
    question = _Question(
        operation="embeddings",
        model=model,
        read=sum(len(text) for text in texts) // CHARS_A_TOKEN + 1,
        ask=lambda progress: line.provider.embed(model, texts, dimensions, progress),
    )
    return await _repeated(line, question)


async def other(line: Line, model: str, ask: Callable[[Progress], Awaitable[T]], *, operation: str) -> Answered[T]:
    """Ask for something whose tokens nobody can tell before (audio)."""
    return await _repeated(line, _Question(operation=operation, model=model, read=0, ask=ask))


async def _repeated(line: Line, question: _Question[T], on_text: Callable[[str], None] | None = None) -> Answered[T]:
    used, cost = Usage(), 0.0
    known = True
    for attempt in range(line.settings.max_retries + 1):
        progress = Progress(on_text, line.gate.told, line.remark)
        try:
            value, price = await _once(line, question, progress)
        except StageError as exc:
            delay = _delay(exc, attempt)
            if delay is not None and (progress.forwarded or attempt == line.settings.max_retries):
                delay = None
            if exc.code in ("rate_limited", "provider_overloaded"):
                # Also when it is not asked again from here: nobody else is to run into the same refusal.
                line.gate.close_for(_asked_wait_s(exc) or delay or 0.0)
            if delay is None:
                raise
            price = _price(line, question, progress.usage) if progress.usage.measured else 0.0
            used, known, cost = used + progress.usage, known and price is not None, cost + (price or 0.0)
            await _pause(line, question, delay)
            continue
        total = cost + price if price is not None and known else None
        return Answered(value=value, usage=used + progress.usage, cost_usd=total)
    raise AssertionError("the last attempt returns or raises")


async def _pause(line: Line, question: _Question[T], seconds: float) -> None:
    """Wait before it is asked again; that is no time of the model's."""
    began = perf_counter()
    try:
        await asyncio.sleep(seconds)
    finally:
        line.account.waited(line.name, question.model, perf_counter() - began)


async def _once(line: Line, question: _Question[T], progress: Progress) -> tuple[T, float | None]:
    """Make one request and account for it, however it ends."""
    began = perf_counter()
    await line.provider.ready(line.remark, question.operation)
    ready_s = perf_counter() - began
    request, batch = question.request, question.batch
    beginning = "" if request is None else request.beginning
    # Part of a batch is no request of its own: it takes no place and no rate.
    async with (
        nullcontext(Ticket(0)) if batch else line.gate.ticket(question.read + question.write, beginning) as ticket
    ):
        ticket.waited_s += ready_s
        line.spending.check()
        progress.started = perf_counter()
        failure: BaseException | None = None
        answer: T | None = None
        with telemetry.span(question.operation, line.name, line.settings, question.model, request, line.mask) as span:
            try:
                # A batch takes as long as it takes; everything else ends.
                async with asyncio.timeout(None if batch else line.settings.timeout_s):
                    answer = value = await question.ask(progress)
            except TimeoutError as exc:
                failure = too_slow(line.name, line.settings.timeout_s)
                raise failure from exc
            except BaseException as exc:
                failure = exc
                raise
            finally:
                if failure is not None and not progress.exact and (progress.seen_chars or _gave_up(failure, question)):
                    progress.usage = _guessed(progress, question.read)
                price = _account(line, question, progress, ticket, failure)
                telemetry.finish(span, progress, price, failure, answer)
        return value, price


def _gave_up(failure: BaseException, question: _Question[T]) -> bool:
    """Tell whether it was us who ended the waiting: what was sent is read then, and paid for, although nothing came back.

    Not so in a batch, which goes on, or is cancelled before that.
    """
    stopped = isinstance(failure, asyncio.CancelledError) or getattr(failure, "code", "") == "provider_timeout"
    return stopped and not question.batch and question.read > 0


def _guessed(progress: Progress, read: int) -> Usage:
    """Return what an answer that broke off has used: what the provider told before, and about what was asked and seen."""
    told, seen = progress.usage, progress.seen_chars
    return replace(
        told,
        input_tokens=told.input_tokens or read,
        output_tokens=max(told.output_tokens, seen // CHARS_A_TOKEN + 1 if seen else 0),
        estimated=True,
    )


def _account(
    line: Line, question: _Question[T], progress: Progress, ticket: Ticket, failure: BaseException | None
) -> float | None:
    usage = progress.usage
    ticket.used = usage.total_tokens
    charged = failure is None or usage.measured
    price = _price(line, question, usage) if charged else None
    line.spending.add(usage, price)
    line.account.add(
        Call(
            provider=line.name,
            model=question.model,
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


def _price(line: Line, question: _Question[T], usage: Usage) -> float | None:
    return cost_of(line.settings, question.model, usage, batch=question.batch)


def _asked_wait_s(error: StageError) -> float | None:
    """Return how long the provider wants to be left alone, if it says."""
    delay = error.delay if isinstance(error, TemporaryError) else None
    return None if delay is None else delay.total_seconds()


def _delay(error: StageError, attempt: int) -> float | None:
    """Return after how long to ask again; None: not at all, or not here."""
    if not isinstance(error, TemporaryError) or error.code == "bad_response":
        return None
    wanted = _asked_wait_s(error)
    if wanted is not None:
        return wanted if wanted <= LONGEST_WAIT_S else None
    # Spread, so that many that were refused together do not come back together.
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**attempt) * random.uniform(0.75, 1.0)


def read_tokens(request: Request) -> int:
    """Return about how many tokens a request has: what a token bucket is asked for beforehand, beside those of the answer."""
    chars = len(request.system or "") + sum(len(message.text) for message in request.messages)
    return chars // CHARS_A_TOKEN + 1
