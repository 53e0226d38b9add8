"""Threads for components: synchronous ones get a thread each, asynchronous ones share an event loop of their own.

Components never run on the runner's event loop, unless they are declared trivial: so one that blocks cannot keep the run
from being cancelled, timed out or watched. Stopping one is real as far as Python allows it: an exception is raised inside
the thread, which ends pure Python code at its next instruction. A thread that sits in a C call (a long `time.sleep`, a
library that does not return) cannot be ended from outside; it is let go of after `STOP_GRACE_S`, does no more harm to the
run, and ends when its call returns. Processes that can be killed are Ray's affair.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, Literal


class AttemptStopped(BaseException):
    """Raised inside a component's thread to stop it. Not an Exception, so that `except Exception` does not swallow it."""


class ThreadJob:
    """A call in a worker thread. `done(result, error)` is called exactly once, in that thread."""

    def __init__(self, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._call = call
        self._done = done
        self._lock = threading.Lock()
        self._thread_id: int | None = None
        self._state: Literal["waiting", "running", "stopping", "ended"] = "waiting"

    def run(self) -> bool:
        """Do the work; return whether the thread can be used again (no stop was sent to it)."""
        result: Any = None
        error: BaseException | None = None
        try:
            with self._lock:
                if self._state != "waiting":
                    return True
                self._state = "running"
                self._thread_id = threading.get_ident()
            try:
                result = self._call()
            except BaseException as exc:  # foreign code runs here: whatever it raises is its outcome
                error = exc
            with self._lock:
                stopped = self._state == "stopping"  # pyright: ignore[reportUnnecessaryComparison]  # `stop` writes it in another thread
                self._state = "ended"
        except AttemptStopped as exc:  # the stop arrived after the call had returned
            error, stopped = exc, True
        self._done(result, error)
        return not stopped

    def stop(self) -> None:
        """Raise `AttemptStopped` inside the call, if it is under way; one that has not begun never will."""
        with self._lock:
            if self._state == "waiting":
                self._state = "ended"
                self._done(None, AttemptStopped())
            elif self._state == "running":
                self._state = "stopping"
                assert self._thread_id is not None
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread_id), ctypes.py_object(AttemptStopped)
                )


class WorkerThreads:
    """Daemon threads that are made when needed and kept for the next job."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[ThreadJob | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._alive = 0

    def submit(self, job: ThreadJob) -> None:
        """Run a job on an idle thread, or on a new one. How many run at a time is for the caller to bound."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                self._alive += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._alive}", daemon=True).start()
        self._jobs.put(job)

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                if not job.run():
                    break
                with self._lock:
                    self._idle += 1
        except AttemptStopped:
            pass  # arrived between jobs: the thread ends, the next job gets another
        finally:
            with self._lock:
                self._alive -= 1

    def close(self) -> None:
        """End the threads; one that is stuck in a call ends when the call does."""
        with self._lock:
            alive = self._alive
        for _ in range(alive):
            self._jobs.put(None)


class ComponentLoop:
    """An event loop in a thread of its own, for asynchronous components."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beat = 0
        self._thread = threading.Thread(target=self._run, name="flowmason-components", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def submit(
        self, make: Callable[[], Coroutine[Any, Any, Any]], name: str, done: Callable[[Any, BaseException | None], None]
    ) -> Callable[[], None]:
        """Run a coroutine; `done` is called on this loop's thread. Returns a function that cancels it, from any thread."""
        task: asyncio.Task[Any] | None = None
        told = False

        async def body() -> None:
            nonlocal told
            try:
                result = await make()
            except BaseException as exc:  # foreign code runs here: whatever it raises is its outcome
                told = True
                done(None, exc)
            else:
                told = True
                done(result, None)

        def over(ended: asyncio.Task[Any]) -> None:
            self._tasks.discard(ended)
            if not told:  # cancelled before its first step
                done(None, asyncio.CancelledError())

        def begin() -> None:
            nonlocal task
            task = self.loop.create_task(body(), name=name)
            self._tasks.add(task)
            task.add_done_callback(over)

        def stop() -> None:
            if task is not None:
                task.cancel()

        def cancel() -> None:
            self.loop.call_soon_threadsafe(stop)  # behind `begin`, which is in the queue already

        self.loop.call_soon_threadsafe(begin)
        return cancel

    def beat(self) -> bool:
        """Ask the loop for a sign of life; return whether it has answered the one asked for before."""
        answered = self._beat == 0
        self._beat = 1
        self.loop.call_soon_threadsafe(self._answer)
        return answered

    def _answer(self) -> None:
        self._beat = 0

    def blocked_by(self) -> str | None:
        """Return the name of the task that is keeping the loop busy right now."""
        task = asyncio.current_task(self.loop)
        return None if task is None else task.get_name()

    def close(self) -> None:
        """Cancel what still runs and end the loop; a blocked one ends when it unblocks."""

        def stop() -> None:
            for task in self._tasks:
                task.cancel()
            self.loop.call_soon(self.loop.call_soon, self.loop.stop)

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(stop)
            self._thread.join(timeout=0.2)
