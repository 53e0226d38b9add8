"""Limits of model providers that all workers of a driver keep together: the buckets live in one small actor for each provider and key.

A worker asks it for every request that a limit holds for, which takes about a millisecond; providers without `rpm` and `tpm` cost nothing. The
actor belongs to the worker that asked first. When that one has gone, the next to ask makes a new one, whose buckets are full: at worst one
second's worth of requests is made too early.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError

from flowmason_ray.llm.limits import LocalLimiter
from flowmason_ray.settings import ProviderLimits

_ray: Any = ray  # under this name without types: those of Ray are partly unknown

ATTEMPTS = 3
"""How often an actor that has gone is made again before the limits are kept by this worker alone."""


class _Buckets:
    """What the actor holds."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self._limiter = LocalLimiter(ProviderLimits.model_validate(limits), monotonic)

    def take(self, tokens: int) -> float:
        """Take what a request needs; return 0, or after how long to ask again."""
        return self._limiter.take(tokens)

    def settle(self, difference: int) -> None:
        """Correct an estimate."""
        self._limiter.settle(difference)

    def close_for(self, seconds: float) -> None:
        """Let nobody through for a while."""
        self._limiter.close_for(seconds)


class SharedLimiter:
    """The rates of one provider and key in all workers of a driver (`llm.limits.Limiter`)."""

    def __init__(self, name: str, limits: ProviderLimits) -> None:
        self._name = f"flowmason-limits-{name}"
        self._limits = limits
        self._actor: Any = None
        self._alone = LocalLimiter(limits, monotonic)

    def _buckets(self) -> Any:
        if self._actor is None:
            remote = _ray.remote(_Buckets).options(name=self._name, get_if_exists=True, num_cpus=0)
            self._actor = remote.remote(self._limits.model_dump())
        return self._actor

    async def acquire(self, tokens: int) -> float:
        """Wait for the rate to allow a request."""
        began = monotonic()
        lost = 0
        while lost < ATTEMPTS:
            try:
                wait: float = await self._buckets().take.remote(tokens)
            except (RayError, ValueError):  # ValueError: its name is being given up
                self._actor, lost = None, lost + 1
                await asyncio.sleep(0.05 * lost)
                continue
            if wait <= 0:
                return monotonic() - began
            await asyncio.sleep(wait)
        await self._alone.acquire(tokens)
        return monotonic() - began

    def settle(self, difference: int) -> None:
        """Correct an estimate."""
        with suppress(RayError, ValueError):
            self._buckets().settle.remote(difference)

    def close_for(self, seconds: float) -> None:
        """Let nobody through for a while."""
        with suppress(RayError, ValueError):
            self._buckets().close_for.remote(seconds)
