"""Shows a growing text to whoever watches, without flooding them: a few events a second, and an end to it.

Models say hundreds of tokens a second, and a loop has many models speaking at once. What is shown is for eyes; the whole text
is in the stage's output. A secret that a model repeats comes in pieces: what could be the beginning of one is held back until it is
known what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic

from flowmason_ray.engine.secrecy import Masking

INTERVAL_S = 0.1
"""Between two events of one attempt: as often as the live view draws."""
MOST_CHARS = 200_000
"""What an attempt shows at most: about a hundred pages, which nobody reads as they scroll by."""


class LiveText:
    """Passes on one attempt's text. May be fed from any thread."""

    def __init__(self, show: Callable[[str], None], masking: Masking) -> None:
        self._show = show
        self._masking = masking
        self._lock = Lock()
        self._waiting: list[str] = []
        self._left = MOST_CHARS
        self._last = 0.0

    def add(self, text: str) -> None:
        """Take more of the text; it is shown now or with what comes next."""
        with self._lock:
            if self._left <= 0:
                return
            self._waiting.append(text[: self._left])
            self._left -= len(text)
            if self._left <= 0:
                self._waiting.append(" … (the rest is not shown)")
            now = monotonic()
            if now - self._last >= INTERVAL_S:
                self._last = now
                self._pass_on(over=False)

    def flush(self) -> None:
        """Show what waits: there is no more."""
        with self._lock:
            self._pass_on(over=True)

    def _pass_on(self, *, over: bool) -> None:
        text = self._masking.text("".join(self._waiting))
        held = 0 if over else self._masking.begun(text)
        self._waiting = [text[len(text) - held :]] if held else []
        if len(text) > held:
            self._show(text[: len(text) - held])
