"""Pausing a run: nothing new begins, what may be begun again is stopped, what may not is waited for.

A paused run can be resumed by any process, so nothing of it may be in doubt. An attempt that is pure or idempotent is
stopped, and begins again later under the same number. One with an effect that must not be repeated is waited for: its
outcome is recorded before the run counts as paused. What was to begin meanwhile does not.
"""

from __future__ import annotations

from collections.abc import Callable

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.events import Event, StageFailed, StageStopped

WAITED_FOR = "The run is to pause; it waits for this stage, whose effect must not be repeated."
"""What is said of a stage that is waited for. `fm pause` reads it beside the run log, to name the stage."""


class Pause:
    """What is under way in one run, and what becomes of it when somebody pauses the run."""

    def __init__(self, stop: Callable[[CancelStage], None]) -> None:
        """`stop` asks the executor to stop an attempt; it answers as to any cancellation."""
        self._stop = stop
        self.asked = False
        self.by: str | None = None
        self._under_way: dict[str, StartStage | GatherResults] = {}
        self._held: dict[str, StartStage | GatherResults] = {}
        """What was to begin and has not."""
        self._stopping: dict[str, StartStage | GatherResults] = {}
        self._stopped: dict[str, StartStage | GatherResults] = {}

    # -- what the runner tells ----------------------------------------------------------------------------------------

    def began(self, command: StartStage | GatherResults) -> None:
        """An attempt is with the executor, which has not answered yet."""
        self._under_way[command.path] = command

    def hold(self, command: StartStage | GatherResults) -> None:
        """Keep an attempt from beginning: the run is being paused."""
        self._held[command.path] = command

    def ask(self, by: str | None) -> None:
        """Begin to pause: stop what may be begun again."""
        self.asked, self.by = True, by
        for path, command in list(self._under_way.items()):
            if not _must_be_waited_for(command):
                self._stopping[path] = command
                self._stop(CancelStage(path=path, attempt=command.attempt))

    def takes(self, event: Event) -> bool:
        """Take note of a report. True: it only says that an attempt has stopped as it was told to, and that is all."""
        path: str | None = getattr(event, "path", None)
        if path is None:
            return False
        command = self._under_way.get(path)
        if command is None or command.attempt != getattr(event, "attempt", 0):
            return False
        del self._under_way[path]
        told = self._stopping.pop(path, None)
        if told is None or not isinstance(event, (StageStopped, StageFailed)):
            return False  # it has succeeded meanwhile: that is not lost
        self._stopped[path] = told
        return True

    def cancelled(self, command: CancelStage) -> StageStopped | None:
        """Answer the cancellation of an attempt that is not under way because of the pause; None: it is the executor's."""
        self._stopping.pop(command.path, None)  # told to stop already; now its answer counts
        for kept in (self._held, self._stopped):
            if kept.pop(command.path, None) is not None:
                return StageStopped(path=command.path, attempt=command.attempt)
        return None

    # -- what the runner asks -----------------------------------------------------------------------------------------

    @property
    def watching(self) -> bool:
        """Whether anything is under way; if not, `takes` need not be asked."""
        return bool(self._under_way)

    @property
    def complete(self) -> bool:
        """Whether nothing is under way any more."""
        return self.asked and not self._under_way

    @property
    def waits_for(self) -> list[str]:
        """The attempts that are waited for."""
        return sorted(path for path, command in self._under_way.items() if _must_be_waited_for(command))

    @property
    def stopped(self) -> tuple[str, ...]:
        """The attempts that will begin again, or begin at last, when the run is resumed."""
        return tuple(sorted({**self._stopped, **self._held}))


def _must_be_waited_for(command: StartStage | GatherResults) -> bool:
    return isinstance(command, StartStage) and command.stage.effect is Effect.EFFECTFUL
