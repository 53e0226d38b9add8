"""A run as lines (`plain_view`), and between them what models say while they say it."""

from __future__ import annotations

import sys
from collections import deque

from flowmason_ray.cli.plain_view import PlainView
from flowmason_ray.engine.events import Event, StageStreamed

MOST_WAITING = 2_000
"""Pieces of text that wait to be written; a terminal that is slower than the models misses some."""


class StreamView(PlainView):
    """Writes texts to stderr as they grow; each is introduced by its stage when another one spoke before."""

    def prepare(self) -> None:
        """Get ready."""
        super().prepare()
        self._texts: deque[tuple[str, str]] = deque(maxlen=MOST_WAITING)
        self._speaking: str | None = None

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, StageStreamed):
            self._texts.append((event.path, event.text))
        else:
            super().__call__(event)

    def draw(self) -> None:
        """Write the texts, then what else there is to say."""
        for _ in range(len(self._texts)):
            path, text = self._texts.popleft()
            if path != self._speaking:
                self._stop_speaking()
                sys.stderr.write(f"[{path}] ")
                self._speaking = path
            sys.stderr.write(_harmless(text))
        sys.stderr.flush()
        if self._lines or self.sayings or self.tally.messages:
            self._stop_speaking()
        super().draw()

    def _stop_speaking(self) -> None:
        if self._speaking is not None:
            sys.stderr.write("\n")
            self._speaking = None

    def close(self) -> None:
        """Write the rest."""
        super().close()
        self._stop_speaking()


def _harmless(text: str) -> str:
    """Return a model's text without what would steer the terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
