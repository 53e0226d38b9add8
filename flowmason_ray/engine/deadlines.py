"""Time limits of attempts: when one is over, the attempt is stopped, and what comes back is a timeout.

The executor only knows how to stop an attempt; that it was its time that was over is known here. An attempt that has to
queue for a place in the executor does not use up its time, if the executor tells when it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from flowmason_ray.engine.commands import CancelStage, StartStage
from flowmason_ray.engine.events import Event, StageFailed, StageStopped
from flowmason_ray.errors import Failure

Attempt = tuple[str, int]
"""The path of a stage instance, and the number of the attempt."""


class Deadlines:
    """The time limits of one run's attempts."""

    def __init__(self, stop: Callable[[CancelStage], None]) -> None:
        """`stop` stops an attempt; its answer is to be shown to `completed`."""
        self._stop = stop
        self.watching = False
        """Whether any attempt has had a time limit so far; until then `completed` need not be asked."""
        self._waiting: dict[Attempt, StartStage] = {}
        self._running: dict[Attempt, asyncio.TimerHandle] = {}
        self._overdue: dict[Attempt, float] = {}

    def watch(self, command: StartStage, *, begun: bool) -> None:
        """Note that an attempt with a time limit is about to start; it counts from now if it has `begun`, else from `begin`."""
        self.watching = True
        self._waiting[command.path, command.attempt] = command
        if begun:
            self.begin(command.path, command.attempt)

    def begin(self, path: str, attempt: int) -> None:
        """An attempt has got its place: from now on its time counts."""
        command = self._waiting.pop((path, attempt), None)
        if command is not None:
            assert command.stage.timeout_s is not None
            loop = asyncio.get_running_loop()
            self._running[path, attempt] = loop.call_later(command.stage.timeout_s, self._over, command)

    def _over(self, command: StartStage) -> None:
        self._running.pop((command.path, command.attempt), None)
        assert command.stage.timeout_s is not None
        self._overdue[command.path, command.attempt] = command.stage.timeout_s
        self._stop(CancelStage(path=command.path, attempt=command.attempt))

    def completed(self, event: Event) -> Event:
        """Take the end of an attempt; return it, or the timeout that it really was."""
        if not (self._waiting or self._running or self._overdue):
            return event
        attempt: Attempt = (getattr(event, "path", ""), getattr(event, "attempt", 0))
        self._waiting.pop(attempt, None)
        handle = self._running.pop(attempt, None)
        if handle is not None:
            handle.cancel()
        timeout_s = self._overdue.pop(attempt, None)
        if timeout_s is None or not isinstance(event, (StageFailed, StageStopped)):
            return event
        message = f"The attempt did not end within {timeout_s:g} s and was stopped."
        if isinstance(event, StageFailed):  # it answered the stop in its own way
            message += f" While it was being stopped: {event.failure.message}"
        failure = Failure(code="timeout", message=message, stage=event.path, attempts=event.attempt)
        if isinstance(event, StageFailed):
            return replace(event, failure=failure, duration_s=timeout_s)
        # What it has used of models was used, whatever ended it.
        return StageFailed(
            at=event.at,
            path=event.path,
            attempt=event.attempt,
            failure=failure,
            duration_s=timeout_s,
            usage=event.usage,
        )

    def close(self) -> None:
        """Forget all of them."""
        for handle in self._running.values():
            handle.cancel()
        self._running.clear()
        self._waiting.clear()
