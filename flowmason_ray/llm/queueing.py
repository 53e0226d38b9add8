"""Who comes next of the requests that wait for a model: what begins like the request before comes first.

Models keep what they have read: one in this process its last request, servers and services as much as they have room for. Requests of a loop
share a long beginning (instructions, a document) in groups; taken in the order in which they come, each would push out what the next
one could have used. So of those that wait, the one is taken that shares the longest beginning with the last. Nobody is passed over more
than `MOST_PASSED_OVER` times by those who came later. The order of a loop's results does not depend on this.

`PrefixOrder` is that rule. `PrefixQueue` serves a model in this process by it, one request after the other; the places at a provider
(`limits.Gate`) are given by it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MOST_PASSED_OVER = 64
"""Four times as many as wait by default."""

Work = Callable[[threading.Event], Any]
"""Is told by the event that nobody waits for it any more."""


class Waiting:
    """Somebody who waits for their turn. `text`: what is to be read, from its beginning."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.passed_over = 0


W = TypeVar("W", bound=Waiting)


class PrefixOrder(Generic[W]):
    """Those who wait, and which of them is next. Not for several threads at once."""

    def __init__(self) -> None:
        self._waiting: list[W] = []
        self._last = ""

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def put(self, entry: W) -> None:
        """Let somebody wait."""
        self._waiting.append(entry)

    def choose(self) -> W:
        """Take the next one out. There must be one."""
        position = self._position()
        chosen = self._waiting.pop(position)
        for each in self._waiting[:position]:
            each.passed_over += 1
        self.went(chosen.text)
        return chosen

    def went(self, text: str) -> None:
        """Note whose turn it was, also of somebody who did not have to wait."""
        self._last = text or self._last

    def leave(self, entry: W) -> None:
        """Let go of somebody who does not wait any more."""
        if entry in self._waiting:
            self._waiting.remove(entry)

    def _position(self) -> int:
        """Return where the next one stands: who was passed over too often, else who begins most like the last, the first of equals."""
        best, shared, wanted = 0, 0, self._last[:1]
        for position, each in enumerate(self._waiting):
            if each.passed_over >= MOST_PASSED_OVER:
                return position
            # Most share less than the best so far, and are told by one comparison.
            if len(wanted) > shared and each.text.startswith(wanted):
                best, shared = position, _shared(self._last, each.text)
                wanted = self._last[: shared + 1]
        return best


class _Entry(Waiting):
    """Work that waits for its turn."""

    def __init__(self, text: str, work: Work) -> None:
        super().__init__(text)
        self.work = work
        self.stop = threading.Event()
        self.done: Future[Any] = Future()


class PrefixQueue:
    """Does one thing after the other in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._order = PrefixOrder[_Entry]()

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

    def choose(self) -> _Entry:
        """Take the next one out of the queue; there is one for every call."""
        with self._lock:
            return self._order.choose()

    def put(self, text: str, work: Work) -> _Entry:
        """Add to the queue without beginning anything: for `choose`."""
        entry = _Entry(text, work)
        with self._lock:
            self._order.put(entry)
        return entry

    async def close(self, last: Callable[[], None]) -> None:
        """Do a last thing, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, last)
        self._thread.shutdown(wait=False)


def _shared(a: str, b: str) -> int:
    """Return how many characters two texts share from their beginning: by halves, so that long texts are compared at memory's speed."""
    sure, unsure = 0, min(len(a), len(b))
    while sure < unsure:
        middle = (sure + unsure + 1) // 2
        if a[sure:middle] == b[sure:middle]:
            sure = middle
        else:
            unsure = middle - 1
    return sure
