"""Shows a run while it goes on: on a terminal as a view that changes, elsewhere as lines.

The run's own thread only counts (`tally`); a thread beside it draws, so that neither a slow terminal nor a stage that
keeps the processor busy gets in the way of the other.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from time import time
from typing import TYPE_CHECKING, Protocol

from flowmason_ray.cli.terminal import is_terminal
from flowmason_ray.cli.usage_words import usage_words
from flowmason_ray.cli.words import counted, duration, signs

if TYPE_CHECKING:
    from flowmason_ray.api import RunResult
    from flowmason_ray.cli.tally import Tally
    from flowmason_ray.engine.events import Event, StageLogged
    from flowmason_ray.engine.plan import Plan

MESSAGES_A_TICK = 20
"""Log messages shown at a time; a loop that logs for every item is told by numbers, not by a flood."""


class Shown(Protocol):
    """What a view has to know about a run: a `PreparedRun`, or one that is read from its log."""

    @property
    def plan(self) -> Plan:
        """What is run."""
        ...

    @property
    def on(self) -> str:
        """Where it runs; "" when that is not known."""
        ...

    @property
    def run_id(self) -> str:
        """Its id."""
        ...

    @property
    def recorded(self) -> Sequence[Event]:
        """What happened in it so far."""
        ...


class Watcher(ABC):
    """Follows one run. An observer: it is called with every event."""

    interval_s = 0.1
    """Between two drawings."""

    tally: Tally

    def __init__(self) -> None:
        self.signs = signs(sys.stderr)
        self.started = time()
        self.title = ""
        self.sayings: deque[str] = deque()
        """Lines to be shown as soon as possible; safe to append to from a signal handler."""
        self.preparing: str | None = None
        """What is done before the first stage can start, until the first event."""
        self._over = threading.Event()

    def begin(self, prepared: Shown, *, under_way: bool = False) -> None:
        """Get to know the run, before it starts; one that is `under_way` goes on in another process meanwhile."""
        from flowmason_ray.cli.tally import Tally

        self.tally = Tally(prepared.plan)
        self.tally.catch_up(prepared.recorded, under_way=under_way)
        where = f" on {prepared.on}" if prepared.on else ""
        self.title = f"{prepared.plan.name} {prepared.plan.version}{where}, run {prepared.run_id}"
        self.started = time()
        if prepared.on == "ray":
            address = os.environ.get("RAY_ADDRESS")
            self.preparing = f"connecting to Ray at {address}…" if address else "starting Ray…"
        self.tally.on_asked = lambda event: self.say(
            f"{event.path} asks: {event.message}  Answer with: "
            + shlex.join(["fm", "runs", "answer", prepared.run_id, event.path, "--data", "JSON"])
        )
        for asked in self.tally.asking.values():  # by an earlier process: the question stands
            self.tally.on_asked(asked)
        self.prepare()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.preparing = None
        self.tally(event)

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show the run while the body runs."""
        self.open()
        thread = threading.Thread(target=self._tick, name="flowmason-view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(timeout=2)
            self.safely(self.close)

    def _tick(self) -> None:
        while not self._over.wait(self.interval_s):
            self.safely(self.draw)

    @staticmethod
    def safely(act: Callable[[], None]) -> None:
        """Draw, whatever happens: nobody watching any more, or rows that change meanwhile, must not disturb the run."""
        with suppress(OSError, ValueError, RuntimeError):
            act()

    def say(self, text: str) -> None:
        """Show a line soon. May be called from a signal handler."""
        self.sayings.append(text)

    def messages(self) -> list[str]:
        """Return what is to be said now: our own lines, and what components logged since the last time."""
        lines = [self.sayings.popleft() for _ in range(len(self.sayings))]
        waiting = self.tally.messages
        shown = [waiting.popleft() for _ in range(min(len(waiting), MESSAGES_A_TICK))]
        lines += [_message(each) for each in shown]
        if len(waiting) > 10 * MESSAGES_A_TICK or self.tally.messages_lost:
            lost = len(waiting) + self.tally.messages_lost
            waiting.clear()
            self.tally.messages_lost = 0
            lines.append(f"… {counted(lost, 'more message')} not shown")
        return lines

    def summary(self, result: RunResult) -> str:
        """Return the closing line."""
        tally = self.tally
        text = f"{result.status} in {duration(result.duration_s)}, {tally.done:,} of {counted(tally.total, 'stage')}"
        reused = sum(row.ended.get("reused", 0) for row in tally.rows.values())
        if reused:
            text += f", {reused:,} reused"
        items = sum(row.items_done for row in tally.rows.values() if row.is_loop)
        if items:
            text += f", {counted(items, 'item')}"
        if result.usage:
            text += f", {usage_words(result.usage)}"
        return text

    # -- what a view does ---------------------------------------------------------------------------------------------

    @abstractmethod
    def prepare(self) -> None:
        """Get ready; `tally` is there."""

    @abstractmethod
    def open(self) -> None:
        """Begin to show."""

    @abstractmethod
    def draw(self) -> None:
        """Show how things are now."""

    @abstractmethod
    def close(self) -> None:
        """Show how things are for the last time."""

    @abstractmethod
    def end(self, result: RunResult) -> None:
        """Say how the run ended."""

    @abstractmethod
    def abandon(self) -> None:
        """Put the terminal right, because the process is about to leave at once."""


def _message(said: StageLogged) -> str:
    if "stream" in said.fields:  # a line that it printed
        return f"[{said.path}] {said.message}"
    return f"[{said.path}] {said.level}: {said.message}{_fields(said.fields)}"


def _fields(fields: object) -> str:
    items = fields.items() if isinstance(fields, dict) else ()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return "".join(f" {name}={value!r}" for name, value in items)  # pyright: ignore[reportUnknownVariableType]


def make_watcher(*, quiet: bool, stream: bool = False) -> Watcher | None:
    """Return the view that suits stderr; None when nothing is to be shown. `stream`: texts are shown as they grow."""
    if quiet:
        return None
    if stream:
        from flowmason_ray.cli.stream_view import StreamView

        return StreamView()
    if is_terminal(sys.stderr) and os.environ.get("TERM", "dumb") != "dumb":
        from flowmason_ray.cli.live_view import LiveView

        return LiveView()
    from flowmason_ray.cli.plain_view import PlainView

    return PlainView()
