"""What a provider allows: so many requests and tokens a minute, so many at a time; and what it says in its responses.

Two buckets that fill all the time. A request takes one from the first and its estimated tokens from the second; what it really
took is settled afterwards, so that the second may owe for a while. The buckets hold one second's worth of requests and ten
seconds' worth of tokens: no minute sees more than the rate allows plus that.

Responses say more: how much is left and until when (`anthropic-ratelimit-…`, `x-ratelimit-…`), and a refusal says when to come
back. Both close the gate for everybody who uses the same provider and key. Where little is left, no more go than it is enough for
(`limit_headers`). Runs on the hub's loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from flowmason_ray.llm.limit_headers import LONGEST_GATE_S, Pace, closed_for
from flowmason_ray.llm.queueing import PrefixOrder, Waiting
from flowmason_ray.settings import ProviderLimits

REQUESTS_HELD_S = 1.0
TOKENS_HELD_S = 10.0


class Ticket:
    """The right to make one request. `waited_s`: how long it took to get it."""

    def __init__(self, tokens: int) -> None:
        self.estimated = tokens
        self.used: int | None = None
        self.waited_s = 0.0


class Limiter(Protocol):
    """Hands out tickets."""

    async def acquire(self, tokens: int) -> float:
        """Wait for the rate to allow a request of about so many tokens. Returns: how long that took, in seconds."""
        ...

    def settle(self, difference: int) -> None:
        """Correct an estimate: so many more tokens were used (fewer: negative)."""
        ...

    def close_for(self, seconds: float) -> None:
        """Let nobody through for a while."""
        ...


class _Bucket:
    """Fills at a rate. May be overdrawn by one taker at a time."""

    def __init__(self, per_minute: float, held_s: float, now: float) -> None:
        self.rate = per_minute / 60
        self.capacity = max(1.0, self.rate * held_s)
        self.level = self.capacity
        self.at = now

    def missing_s(self, now: float, amount: float) -> float:
        """Return after how long `amount` can be taken; what is more than the bucket holds, when it is full."""
        self.level = min(self.capacity, self.level + (now - self.at) * self.rate)
        self.at = now
        return max(0.0, min(amount, self.capacity) - self.level) / self.rate


class LocalLimiter:
    """The rates of one provider and key in this process. `now`: a clock in seconds; the loop's unless a test brings one."""

    def __init__(self, limits: ProviderLimits, now: Callable[[], float]) -> None:
        self._now = now
        began = now()
        self._requests = None if limits.rpm is None else _Bucket(limits.rpm, REQUESTS_HELD_S, began)
        self._tokens = None if limits.tpm is None else _Bucket(limits.tpm, TOKENS_HELD_S, began)
        self._closed_until = 0.0
        self._turn = asyncio.Lock()

    def take(self, tokens: int) -> float:
        """Take what a request needs; return 0, or after how long to ask again (nothing is taken then)."""
        now = self._now()
        wait = max(0.0, self._closed_until - now)
        if self._requests is not None:
            wait = max(wait, self._requests.missing_s(now, 1))
        if self._tokens is not None:
            wait = max(wait, self._tokens.missing_s(now, tokens))
        if wait > 1e-9:
            return wait
        if self._requests is not None:
            self._requests.level -= 1
        if self._tokens is not None:
            self._tokens.level -= tokens
        return 0.0

    async def acquire(self, tokens: int) -> float:
        """Wait in line."""
        began = self._now()
        async with self._turn:  # first come, first served
            while (wait := self.take(tokens)) > 0:  # noqa: ASYNC110  # what is waited for is time
                await asyncio.sleep(wait)
        return self._now() - began

    def settle(self, difference: int) -> None:
        """Correct an estimate."""
        if self._tokens is not None:
            self._tokens.level -= difference

    def close_for(self, seconds: float) -> None:
        """Let nobody through for a while."""
        self._closed_until = max(self._closed_until, self._now() + min(seconds, LONGEST_GATE_S))


class _Caller(Waiting):
    """A call that waits for a place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Gate:
    """A provider's limits as a call meets them: its place among those at the same time, then its turn.

    Of the calls that wait for a place the one is let through that begins most like the last (`queueing`): what services keep of a
    prompt is then still there. A place that is given back is given on at once.
    """

    def __init__(self, limits: ProviderLimits, limiter: Limiter) -> None:
        self._free = limits.concurrency
        self._order = PrefixOrder[_Caller]()
        self._limiter = limiter
        self._pace = Pace(asyncio.get_running_loop().time)
        self._turn = asyncio.Lock()
        self._told = asyncio.Event()

    @asynccontextmanager
    async def ticket(self, tokens: int, text: str = "") -> AsyncGenerator[Ticket]:
        """Wait for the right to make a request of about so many tokens; give the place back afterwards.

        Args:
            tokens: What it will take, about.
            text: What it asks, from its beginning.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        ticket = Ticket(tokens)
        async with self._place(text):
            async with self._turn:  # first come, first served
                await self._until_there_is_enough(tokens)
                self._pace.begin(tokens)
            try:
                await self._limiter.acquire(tokens)
                ticket.waited_s = loop.time() - began
                yield ticket
            finally:
                self._pace.end(tokens)
                if ticket.used is not None:
                    self._limiter.settle(ticket.used - ticket.estimated)

    @asynccontextmanager
    async def _place(self, text: str) -> AsyncGenerator[None]:
        if self._free > 0:  # then nobody waits
            self._free -= 1
            self._order.went(text)
        else:
            caller = _Caller(text)
            self._order.put(caller)
            try:
                await caller.granted
            except asyncio.CancelledError:
                self._order.leave(caller)
                if not caller.granted.cancelled():
                    self._give_on()  # it had been let through in the same moment
                raise
        try:
            yield
        finally:
            self._give_on()

    def _give_on(self) -> None:
        """Give a place to the next one who still wants it."""
        while len(self._order):
            caller = self._order.choose()
            if not caller.granted.done():
                caller.granted.set_result(None)
                return
        self._free += 1

    async def _until_there_is_enough(self, tokens: int) -> None:
        while (wait := self._pace.missing_s(tokens)) > 0:
            self._told.clear()
            with suppress(TimeoutError):  # time alone has brought enough
                await asyncio.wait_for(self._told.wait(), wait)

    def told(self, headers: Mapping[str, str]) -> None:
        """Take a response's headers: where too little is left, nobody goes before it is there again."""
        self._pace.told(headers)
        self._told.set()
        wait = closed_for(headers)
        if wait > 0:
            self._limiter.close_for(wait)

    def close_for(self, seconds: float) -> None:
        """Let nobody through for a while: the provider has said so."""
        self._limiter.close_for(seconds)
