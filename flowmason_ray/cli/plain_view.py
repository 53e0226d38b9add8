"""A run as lines, for log files, CI and pipes: one for every stage that ends, a few for every loop."""

from __future__ import annotations

import sys
from collections import deque
from time import time
from typing import TYPE_CHECKING

from flowmason_ray.cli.tally import Row
from flowmason_ray.cli.terminal import note
from flowmason_ray.cli.watching import Watcher
from flowmason_ray.cli.words import REASONS, counted, duration, loop_progress, reused_from, shortened
from flowmason_ray.engine.events import Event, StageEnded, StageRetrying, StageReused, StageSucceeded

if TYPE_CHECKING:
    from flowmason_ray.api import RunResult

ITEMS_IN_FULL = 10
"""Loops of up to this many items are told stage by stage, longer ones in numbers."""
LINES_IN_FULL = 400
"""Stages that are told one by one; after that, in numbers. Failures are told up to twice as often."""
REPORT_EVERY_S = 5.0
"""Between two lines about the same loop, or about the run as a whole when its stages are no longer told one by one."""


class PlainView(Watcher):
    """Writes lines to stderr."""

    def prepare(self) -> None:
        """Be told what ends."""
        self._lines: deque[str] = deque()
        self._told = 0
        self._reported: dict[str, tuple[float, int]] = {}
        self._reported_run = (time(), 0)
        self.tally.on_ended = self._ended
        self.tally.on_retrying = self._retrying

    def open(self) -> None:
        """Say what runs."""
        note(self.title)
        if self.preparing is not None:
            note(self.preparing)

    # -- told by the run's thread: only queue -------------------------------------------------------------------------

    def _ended(self, row: Row, path: str, status: str, event: Event) -> None:
        if row.is_loop:
            self._reported.pop(row.key, None)
        failed = status == "failed"
        if self._told >= LINES_IN_FULL * (2 if failed else 1):
            return
        if row.loop is not None and row.loop.items > ITEMS_IN_FULL and not failed:
            return
        self._told += 1
        self._lines.append(self._line(row, path, status, event))

    def _line(self, row: Row, path: str, status: str, event: Event) -> str:
        sign = self.signs[status]
        if status == "skipped":
            return f"{sign} {path} skipped: {REASONS.get(row.skip_reason or '', 'no reason given')}"
        if isinstance(event, StageEnded) and event.failure is not None:
            failure = event.failure
            tries = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
            what = "failed, its fallback stands in" if status == "fallback" else "failed"
            return f"{sign} {path} {what}{tries}: {shortened(failure.message, 200)} [{failure.code}]"
        if status == "cancelled":
            return f"{sign} {path} cancelled"
        if isinstance(event, StageReused):
            return f"{sign} {path} reused {reused_from(event.source)}"
        if row.loop is None and row.started_at is not None:
            took = duration(event.at - row.started_at)
        else:
            took = duration(event.duration_s) if isinstance(event, StageSucceeded) else ""
        text = f"{sign} {path}{f' {took}' if took else ''}"
        if row.is_loop and row.loop is None:
            failures = f", {row.items_failed:,} failed" if row.items_failed else ""
            text += f" ({counted(row.items, 'item')}{failures})"
        return text

    def _retrying(self, row: Row, event: StageRetrying) -> None:
        if self._told < LINES_IN_FULL:
            self._told += 1
            why = f"{shortened(event.failure.message, 160)} [{event.failure.code}]"
            sign = self.signs["retrying"]
            self._lines.append(
                f"{sign} {event.path} attempt {event.attempt} failed: {why}; the next in {duration(event.delay_s)}"
            )

    # -- the drawing thread -------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Write what has been queued, and how far long loops are."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        lines += self.messages()
        now = time()
        for row in list(self.tally.busy.values()):
            if row.is_loop and row.items:
                since, done = self._reported.setdefault(row.key, (now, row.items_done))
                text = loop_progress(row, now)
                if now - since >= REPORT_EVERY_S and row.items_done != done:
                    self._reported[row.key] = (now, row.items_done)
                    lines.append(f"  {row.key}: {text}")
        since, done = self._reported_run
        if self._told >= LINES_IN_FULL and now - since >= REPORT_EVERY_S and self.tally.done != done:
            self._reported_run = (now, self.tally.done)
            lines.append(f"  {self.tally.done:,} of {counted(self.tally.total, 'stage')} have ended")
        if lines:
            note("\n".join(lines))

    def close(self) -> None:
        """Write the rest."""
        self.draw()

    def abandon(self) -> None:
        """Write what has been queued."""
        self.safely(self.draw)

    def end(self, result: RunResult) -> None:
        """Say how the run ended; a failure is told in full by whoever started it."""
        sign = self.signs[result.status]
        note(f"{sign} {self.summary(result)}")
        sys.stderr.flush()
