"""Following a run: reading its events as they are recorded, in pages, until it ends, pauses or is interrupted.

What is left to each store is only how it waits for news. Whether the run goes on is asked before its events are read, so that
nothing is missed that was recorded before it stopped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from flowmason_ray.engine.events import RUN_ENDED, RunPaused
from flowmason_ray.engine.run_log import Recorded, RunRecord


class Readable(Protocol):
    """What following needs of a store."""

    async def find(self, run_id: str) -> RunRecord:
        """Return a run."""
        ...

    def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield its events."""
        ...


_LAST = frozenset(event.kind for event in (*RUN_ENDED, RunPaused))


async def follow(
    store: Readable, run_id: str, after: int, news: Callable[[], Awaitable[None]]
) -> AsyncIterator[Recorded]:
    """Yield a run's events from the one behind position `after`.

    Args:
        store: Where it is recorded.
        run_id: Its whole id.
        after: The position before the first event.
        news: Waits until something may have been recorded, or a moment has passed.

    Raises:
        RunNotFound: there is no such run.
    """
    kind = ""
    while True:
        goes_on = (await store.find(run_id)).status == "running"
        async for recorded in store.read(run_id, after=after):
            after = recorded.position
            kind = recorded.event["kind"]
            yield recorded
        if kind in _LAST or not goes_on:
            return
        await news()
