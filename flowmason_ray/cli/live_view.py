"""A run on a terminal: its stages with their states, loops with a bar, rate and time left, in a few lines that change.

The height is bounded by the terminal's. When there are more stages than lines, those that are under way and those that
failed are shown, then those that ended last; the rest is a number.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from io import TextIOBase
from time import time
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from flowmason_ray.cli.tally import Row
from flowmason_ray.cli.watching import Watcher
from flowmason_ray.cli.words import COLOURS, REASONS, counted, duration, loop_progress, shortened

if TYPE_CHECKING:
    from flowmason_ray.api import RunResult
    from flowmason_ray.engine.events import StageRetrying

MOST_LINES = 24
"""Rows that are shown at most, however tall the terminal is: more is no longer seen at a glance."""
BAR_WIDTH = 24
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_SPINNER = "-\\|/"


class LiveView(Watcher):
    """Draws on stderr."""

    interval_s = 1 / 12

    def prepare(self) -> None:
        """Make the parts."""
        self._console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=False)
        unicode = self.signs["succeeded"] == "✓"
        self._spinner = SPINNER if unicode else PLAIN_SPINNER
        self._bar_parts = ("━", "╸", "─") if unicode else ("=", ">", "-")
        self._frame = 0
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._render,
            vertical_overflow="crop",
        )
        self._printed: deque[str] = deque()

    def open(self) -> None:
        """Take over the lines at the cursor; what others print is shown above them."""
        self._console.print(Text(self.title, style="bold"), no_wrap=True, overflow="ellipsis")
        self._streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = _Printed(self._printed, self._streams[1])
        self._live.start(refresh=True)

    def draw(self) -> None:
        """Draw one frame, below what has been said since the last one."""
        self._frame += 1
        said = [self._printed.popleft() for _ in range(len(self._printed))]
        lines = "".join(said).split("\n") if said else []
        if lines and not lines[-1]:
            lines.pop()
        lines += self.messages()
        if lines:
            self._console.print(Text("\n".join(lines)), soft_wrap=True)
        self._live.refresh()

    def close(self) -> None:
        """Leave the last frame on the screen."""
        sys.stdout, sys.stderr = self._streams
        try:
            self.draw()
        finally:
            self._live.stop()

    def end(self, result: RunResult) -> None:
        """Say how the run ended."""
        text = Text(f"{self.signs[result.status]} ", style=COLOURS[result.status])
        text.append(self.summary(result), style="bold")
        self._console.print(text)

    def abandon(self) -> None:
        """Show the cursor again."""
        import os

        os.write(2, b"\x1b[?25h\n")

    # -- a frame ------------------------------------------------------------------------------------------------------

    def _render(self) -> Text:
        now = time()
        height = max(3, min(MOST_LINES, self._console.size.height - 4))
        width = self._console.size.width - 1
        lines = [self._line(row, now) for row in self._rows(height)]
        if self.preparing is not None:
            spinner = self._spinner[self._frame % len(self._spinner)]
            lines.insert(0, Text(f"{spinner} {self.preparing}  {duration(now - self.started)}", style="cyan"))
        rest = self._rest(len(lines), height)
        if rest is not None:
            lines.append(rest)
        frame = Text("\n", no_wrap=True, overflow="ellipsis").join(_cut(line, width) for line in lines)
        frame.no_wrap, frame.overflow = True, "ellipsis"
        return frame

    def _rows(self, height: int) -> list[Row]:
        tally = self.tally
        if len(tally.rows) <= height:
            return list(tally.rows.values())
        chosen: dict[str, Row] = {}
        for source in (self._under_way(), list(tally.failed.values()), list(tally.recent)[::-1]):
            for row in source:
                if len(chosen) >= height - 1:
                    break
                chosen[row.key] = row
        order = {key: n for n, key in enumerate(tally.rows)} if len(tally.rows) < 2000 else None
        rows = list(chosen.values())
        # Of very many stages, those that ended come first, as they would in a log.
        rows.sort(key=lambda row: order[row.key] if order else (row.busy, row.ended_at or 0))
        return rows

    def _under_way(self) -> Iterator[Row]:
        for row in list(self.tally.busy.values()):
            if row.busy or row.loop is not None:
                yield row

    def _rest(self, shown: int, height: int) -> Text | None:
        tally = self.tally
        if len(tally.rows) <= height:
            return None
        busy = sum(row.busy for row in list(tally.busy.values()))
        text = f"  {tally.done:,} of {counted(tally.total, 'stage')} ended, {busy:,} under way"
        return Text(text, style="dim")

    def _line(self, row: Row, now: float) -> Text:
        status = row.status()
        sign = self._spinner[self._frame % len(self._spinner)] if status == "running" else self.signs[status]
        line = Text("  " * row.depth)
        line.append(f"{sign} ", style=COLOURS[status])
        line.append(row.id, style="dim" if status in ("waiting", "skipped") else "")
        line.append(" " * max(1, 28 - 2 * row.depth - len(row.id)))
        if row.is_loop and row.items and status in ("running", "retrying"):
            line.append_text(self._bar(row.items_done / row.items))
            line.append(f"  {loop_progress(row, now)}")
        elif row.loop is not None:
            line.append(self._in_loop(row), style="dim")
        else:
            line.append_text(self._single(row, status, now))
        return line

    def _single(self, row: Row, status: str, now: float) -> Text:
        """What is said about a stage outside of loops."""
        started = row.started_at
        took = duration((row.ended_at if not row.busy and row.ended_at else now) - started) if started else ""
        if status == "retrying":
            event = next(iter(list(row.retrying.values())), None)
            return Text(_countdown(event, now) if event else "", style="yellow")
        if status == "waiting":
            waits = f"waits for {', '.join(row.waits_for[:4])}" if row.waits_for else ""
            return Text(f"{waits}, …" if len(row.waits_for) > 4 else waits, style="dim")
        if status == "skipped":
            return Text(REASONS.get(row.skip_reason or "", ""), style="dim")
        text = Text(took, style="dim" if status != "running" else "")
        if row.asks is not None:
            text.append(f"  waits for an answer: {shortened(row.asks, 120)}", style="yellow")
        if status in ("failed", "fallback") and row.failure is not None:
            text.append(f"  {shortened(row.failure.message, 160)}", style="red")
        if row.attempts > 1:
            text.append(f"  attempt {row.attempts}", style="yellow")
        if row.is_loop and row.items:
            failures = f", {row.items_failed:,} failed" if row.items_failed else ""
            text.append(f"  {counted(row.items, 'item')}{failures}", style="dim")
        if status == "running" and row.progress is not None:
            done, total = row.progress
            if total:
                text.append("  ")
                text.append_text(self._bar(min(1.0, done / total)))
            text.append(f"  {done:,g}" + (f" of {total:,g}" if total else ""))
        return text

    @staticmethod
    def _in_loop(row: Row) -> str:
        """What is said about a stage in a loop: the numbers of its instances."""
        parts = [f"{row.running:,} running"] if row.running else []
        parts += [f"{len(row.retrying):,} waiting to retry"] if row.retrying else []
        words = (
            ("succeeded", "done"),
            ("reused", "reused"),
            ("fallback", "by fallback"),
            ("failed", "failed"),
            ("skipped", "skipped"),
        )
        parts += [f"{row.ended[key]:,} {word}" for key, word in words if row.ended.get(key)]
        return ", ".join(parts)

    def _bar(self, share: float) -> Text:
        full, head, empty = self._bar_parts
        filled = int(share * BAR_WIDTH)
        text = Text(full * filled, style="cyan")
        if filled < BAR_WIDTH:
            text.append(head, style="cyan")
            text.append(empty * (BAR_WIDTH - filled - 1), style="dim")
        return text


def _countdown(event: StageRetrying, now: float) -> str:
    left = max(0.0, event.at + event.delay_s - now)
    why = shortened(event.failure.message, 120)
    return f"attempt {event.attempt} failed, the next in {left:.1f} s: {why}"


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


class _Printed(TextIOBase):
    """Stands in for stdout and stderr: what is printed waits for the next frame, so that a flood of prints costs one drawing."""

    def __init__(self, queue: deque[str], stream: TextIO) -> None:
        self._queue = queue
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Queue text."""
        self._queue.append(text)
        return len(text)

    def fileno(self) -> int:
        """Return the real stream's descriptor, for child processes."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Tell what the real stream is."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # in C it is read-only too
        """The real stream's encoding."""
        return self._stream.encoding
