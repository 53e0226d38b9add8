"""One event loop in a thread, with this process's clients and limits: where all talk with providers happens.

Attempts run on many loops and threads (on Ray every attempt has a loop of its own), and the SDKs' connections belong to the loop
that opened them. So calls come here: connections are kept alive from one attempt to the next, and what a provider allows is
known in one place. `call` brings a coroutine here and its result back, and stops it when whoever waits is cancelled.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from flowmason_ray.llm.base import Provider
from flowmason_ray.llm.limits import Gate, Limiter, LocalLimiter
from flowmason_ray.settings import ProviderLimits

T = TypeVar("T")

KEPT_PROVIDERS = 32
"""Clients kept: each has a pool of connections, or a model in memory."""
CLOSE_S = 6.0
"""How long clients are given to end with the process: engines have processes of their own."""
STOP_WAIT_S = 0.2
"""How long a cancelled call is waited for, so that what it has used is known: less than `STOP_GRACE_S`."""


class Hub:
    """The loop, its thread, and what lives on it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._providers: OrderedDict[Hashable, Provider] = OrderedDict()
        self._gates: dict[Hashable, Gate] = {}
        self._background: set[asyncio.Task[None]] = set()
        self.pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="flowmason-models", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> Job[T]:
        """Begin a coroutine on the loop. From any thread."""
        return Job(self.loop, work)

    def provider(self, key: Hashable, make: Callable[[], Provider]) -> Provider:
        """Return the provider of that key, made when it is first asked for. On the loop only."""
        found = self._providers.get(key)
        if found is None:
            found = self._providers[key] = make()
        self._providers.move_to_end(key)
        while len(self._providers) > KEPT_PROVIDERS:
            _, old = self._providers.popitem(last=False)
            task = self.loop.create_task(_closed(old))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        return found

    def gate(
        self, key: Hashable, limits: ProviderLimits, shared: Callable[[ProviderLimits], Limiter] | None = None
    ) -> Gate:
        """Return the limits of a provider and key. On the loop only. `shared`: makes a limiter that other processes share."""
        found = self._gates.get(key)
        if found is None:
            limiter = LocalLimiter(limits, self.loop.time) if shared is None else shared(limits)
            found = self._gates[key] = Gate(limits, limiter)
        return found

    def close(self) -> None:
        """Close every client and stop the thread."""
        atexit.unregister(self.close)
        if self.loop.is_closed() or self.pid != os.getpid():
            return
        job = self.submit(self._close_all())
        with suppress(TimeoutError, Exception):
            job.done.result(timeout=CLOSE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self.loop.close()

    async def _close_all(self) -> None:
        providers = list(self._providers.values())
        self._providers.clear()
        self._gates.clear()
        await asyncio.gather(*(_closed(provider) for provider in providers))
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


async def _closed(provider: Provider) -> None:
    with suppress(Exception):  # it is not needed any more, whatever it says
        await provider.close()


class Job(Generic[T]):
    """A coroutine on the hub's loop, seen from elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._stopped = False
        self._context = contextvars.copy_context()  # what is traced there is the parent of what is traced here
        self.done: Future[T] = Future()
        loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._stopped:
            self._work.close()
            self.done.cancel()
            return
        self._task = self._loop.create_task(self._work, context=self._context)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.done.cancel()
        elif not self.done.set_running_or_notify_cancel():
            task.exception()  # nobody waits any more
        elif (error := task.exception()) is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(task.result())

    def stop(self) -> None:
        """Cancel it. From any thread."""

        def cancel() -> None:
            self._stopped = True
            if self._task is not None:
                self._task.cancel()

        with suppress(RuntimeError):  # the hub is closed: nothing runs any more
            self._loop.call_soon_threadsafe(cancel)

    async def result(self) -> T:
        """Wait for it on any loop; when whoever waits is cancelled, it is stopped."""
        waiting = asyncio.wrap_future(self.done)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([waiting], timeout=STOP_WAIT_S)
            if not waiting.cancel() and not waiting.cancelled():
                waiting.exception()  # seen: it is of no interest any more
            raise


_hub: Hub | None = None
_lock = threading.Lock()


def the_hub() -> Hub:
    """Return this process's hub; it is made when it is first needed, and anew in a process that was forked."""
    global _hub
    with _lock:
        if _hub is None or _hub.pid != os.getpid() or _hub.loop.is_closed():
            _hub = Hub()
        return _hub


def close_hub() -> None:
    """Close this process's hub, if there is one: for tests, and for who wants its threads and memory back."""
    global _hub
    with _lock:
        hub, _hub = _hub, None
    if hub is not None:
        hub.close()


async def call(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the hub's loop and wait for it here."""
    return await the_hub().submit(work).result()
