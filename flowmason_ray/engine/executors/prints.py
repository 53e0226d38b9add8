"""What components print, heard line by line beside where it goes anyway.

`sys.stdout` and `sys.stderr` are wrapped while somebody wants to hear: whatever is written passes through unchanged, and what is
written by an attempt (its thread, its task) is told as a log message too. What an attempt's own threads, child processes or C
code write cannot be told apart, so it only passes through.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from time import time
from typing import Any

from flowmason_ray.engine.events import Event, StageLogged

LONGEST_LINE = 8 * 1024
"""Characters after which a line is told although it has not ended."""
MOST_LINES = 20_000
"""Lines of one attempt that are told; the others are counted. Much more than is kept: this bounds what is under way."""


class Listener:
    """Makes log messages of what one attempt writes."""

    def __init__(self, tell: Callable[[Event], None], path: str, attempt: int, *, shown: bool) -> None:
        """
        Args:
            tell: Takes the messages; called on whatever thread writes.
            path: The attempt's stage instance.
            attempt: Its number.
            shown: Whether the person who follows the run sees this process's own streams.
        """
        self._tell = tell
        self._path = path
        self._attempt = attempt
        self._shown = shown
        self._begun: dict[str, str] = {}
        """Lines that have not ended, by stream."""
        self._left = MOST_LINES
        self._dropped: dict[str, int] = {}

    def hear(self, stream: str, text: str) -> None:
        """Take what was written to a stream."""
        *lines, rest = (self._begun.get(stream, "") + text).split("\n")
        while len(rest) > LONGEST_LINE:
            lines.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        self._begun[stream] = rest
        for line in lines:
            self._say(stream, line)

    def close(self) -> None:
        """Tell the lines that have not ended."""
        for stream, rest in self._begun.items():
            if rest:
                self._say(stream, rest)
        self._begun.clear()
        for stream, count in self._dropped.items():
            self._pass_on(f"{count:,} more lines were printed", {"stream": stream}, count)

    def _say(self, stream: str, line: str) -> None:
        if not (line := line.rstrip("\r")):
            return
        if self._left:
            self._left -= 1
            self._pass_on(line, {"stream": stream})
        else:
            self._dropped[stream] = self._dropped.get(stream, 0) + 1

    def _pass_on(self, message: str, fields: dict[str, Any], dropped: int = 0) -> None:
        self._tell(
            StageLogged(
                at=time(),
                path=self._path,
                attempt=self._attempt,
                level="info",
                message=message,
                fields=fields,
                shown=self._shown,
                dropped=dropped,
            )
        )


_listener: ContextVar[Listener | None] = ContextVar("flowmason_listener", default=None)


class _Ear:
    """A stream that passes on what is written to it, and lets the listener of the writing attempt hear it."""

    def __init__(self, name: str, stream: Any) -> None:
        self._name = name
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        written: int = self.stream.write(text)
        listener = _listener.get()
        if listener is not None:
            listener.hear(self._name, text)
        return written

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_lock = threading.Lock()
_wanted = 0
_ears: list[_Ear] = []


def open_ears() -> None:
    """Begin to listen to this process's streams. For every call there is one of `close_ears`."""
    global _wanted
    with _lock:
        _wanted += 1
        if _wanted == 1:
            for name in ("stdout", "stderr"):
                stream: Any = getattr(sys, name)
                if stream is not None:
                    ear = _Ear(name, stream)
                    _ears.append(ear)
                    setattr(sys, name, ear)


def close_ears() -> None:
    """Stop listening when nobody else wants to; streams that somebody has put in the place of ours meanwhile stay."""
    global _wanted
    with _lock:
        _wanted -= 1
        if _wanted == 0:
            for ear in _ears:
                if getattr(sys, ear._name) is ear:  # pyright: ignore[reportPrivateUsage]  # of this module
                    setattr(sys, ear._name, ear.stream)  # pyright: ignore[reportPrivateUsage]
            _ears.clear()


_always = False


def keep_ears_open() -> None:
    """Listen for as long as this process lives: it is a worker, and serves nothing else."""
    global _always
    if not _always:
        _always = True
        open_ears()


@contextmanager
def heard(tell: Callable[[Event], None], path: str, attempt: int, *, shown: bool = True) -> Generator[None]:
    """Let what is printed in the body be told as what an attempt says. For one thread or one task."""
    listener = Listener(tell, path, attempt, shown=shown)
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
        listener.close()
