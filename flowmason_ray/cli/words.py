"""How numbers, times and states are written for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowmason_ray.cli.terminal import can_show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TextIO

    from flowmason_ray.cli.tally import Row

_SIGNS = {
    "succeeded": "✓",
    "reused": "=",
    "fallback": "~",
    "failed": "✗",
    "skipped": "-",
    "cancelled": "■",
    "retrying": "↻",
    "running": "▶",
    "waiting": "·",
    "interrupted": "?",
    "paused": "‖",
}
_PLAIN_SIGNS = {
    "succeeded": "ok",
    "reused": "=",
    "fallback": "~",
    "failed": "x",
    "skipped": "-",
    "cancelled": "c",
    "retrying": "r",
    "running": ">",
    "waiting": ".",
    "interrupted": "?",
    "paused": "=",
}
COLOURS = {
    "succeeded": "green",
    "reused": "green",
    "fallback": "yellow",
    "failed": "red",
    "skipped": "dim",
    "cancelled": "yellow",
    "retrying": "yellow",
    "running": "cyan",
    "waiting": "dim",
    "interrupted": "yellow",
    "paused": "cyan",
}
"""How states are painted; each also has a sign of its own."""

REASONS = {
    "disabled": "it is disabled",
    "when": "its 'when' is false",
    "upstreams_skipped": "everything before it was skipped",
    "branch_not_taken": "its branch was not taken",
    "ended_early": "what is around it ended before",
}
"""Why a stage was skipped."""


def signs(stream: TextIO) -> dict[str, str]:
    """Return the sign of each state, for what the stream can show."""
    return _SIGNS if can_show(stream, "".join(_SIGNS.values())) else _PLAIN_SIGNS


def duration(seconds: float) -> str:
    """Return a time span: `0.4 ms`, `120 ms`, `3.2 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 0.01:
        return f"{max(0.0, seconds) * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def counted(number: int, noun: str) -> str:
    """Return `1 item`, `2 items`, `1,234 items`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shortened(text: str, limit: int) -> str:
    """Return the first line of a text, cut at `limit` characters."""
    line = text.split("\n", 1)[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"


def rate_of(row: Row, now: float) -> tuple[float, float] | None:
    """Return a loop's items per second over the last half minute and the seconds that are left; None: too early to say."""
    samples = row.samples
    if not samples or samples[-1][0] <= now - 0.5:
        samples.append((now, row.items_done))
    began, before = samples[0]
    span, done = now - began, row.items_done - before
    if span < 1 or done < 2:
        return None
    rate = done / span
    return rate, (row.items - row.items_done) / rate


def loop_progress(row: Row, now: float) -> str:
    """Return how far a loop is: `412 of 1,000 items, 3 failed, 83/s, 7.1 s left`."""
    parts = [f"{row.items_done:,} of {counted(row.items, 'item')}"]
    if row.items_failed:
        parts.append(f"{row.items_failed:,} failed")
    rate = rate_of(row, now) if row.items_done < row.items else None
    if rate is not None:
        per_second = rate[0]
        parts.append(f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s")
        parts.append(f"{duration(rate[1])} left")
    return ", ".join(parts)


def reused_from(source: Mapping[str, Any]) -> str:
    """Return where a reused result comes from: `from run r_… (as extract)`, `from the cache (run r_…)`."""
    run = source.get("run", "?")
    if source.get("how") == "cache":
        return f"from the cache (run {run})"
    return f"from run {run}" + (f" ({source['path']} there)" if source.get("path") else "")


def when(at: float) -> str:
    """Return a time as `2026-01-31 14:05:09`, in the local time zone."""
    from datetime import datetime

    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
