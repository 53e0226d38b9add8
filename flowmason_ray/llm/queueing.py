"""The queue before a model that answers one request at a time: what begins like the request before comes first.

A model in this process keeps what it has read. Requests of a loop share a long beginning (instructions, a document) in groups; taken in the
order in which they come, each would push out what the next one could have used. So of those that wait, the one is taken that shares the
longest beginning with the last. Nobody is passed over more than `MOST_PASSED_OVER` times. The order of a loop's results does not depend on this.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from os.path import commonprefix
from typing import Any, TypeVar

T = TypeVar("T")

MOST_PASSED_OVER = 64
"""Four times as many as wait by default."""

Work = Callable[[threading.Event], Any]
"""Is told by the event that nobody waits for it any more."""


class Waiting:
    """A request that waits for its turn. `text`: what it reads, from its beginning."""

    def __init__(self, text: str, work: Work) -> None:
        self.text = text
        self.work = work
        self.passed_over = 0
        self.stop = threading.Event()
        self.done: Future[Any] = Future()


class PrefixQueue:
    """Does one thing after the other in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []
        self._last = ""

    async def ask(self, work: Callable[[threading.Event], T], *, text: str = "") -> T:
        """Do `work` when its turn comes. When whoever waits is cancelled, it is told so, or never begun."""
        entry = self.put(text, work)
        self._thread.submit(self._serve)
        try:
            return await asyncio.wrap_future(entry.done)
        except asyncio.CancelledError:
            entry.stop.set()
            raise

    def _serve(self) -> None:
        entry = self.choose()
        if not entry.done.set_running_or_notify_cancel():
            return  # cancelled before its turn
        try:
            entry.done.set_result(entry.work(entry.stop))
        except BaseException as exc:  # whoever waits is to know, whatever it is
            entry.done.set_exception(exc)

    def choose(self) -> Waiting:
        """Take the next one out of the queue; there is one for every call."""
        with self._lock:
            overdue = next((each for each in self._waiting if each.passed_over >= MOST_PASSED_OVER), None)
            chosen = overdue or max(self._waiting, key=lambda each: _shared(self._last, each.text))
            position = self._waiting.index(chosen)
            for each in self._waiting[:position]:
                each.passed_over += 1
            del self._waiting[position]
            self._last = chosen.text or self._last
            return chosen

    def put(self, text: str, work: Work) -> Waiting:
        """Add to the queue without beginning anything: for `choose`."""
        entry = Waiting(text, work)
        with self._lock:
            self._waiting.append(entry)
        return entry

    async def close(self, last: Callable[[], None]) -> None:
        """Do a last thing, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, last)
        self._thread.shutdown(wait=False)


def _shared(a: str, b: str) -> int:
    """Return how many characters two texts share from their beginning."""
    return len(commonprefix([a, b]))  # noqa: RUF071  # they are texts, not paths
