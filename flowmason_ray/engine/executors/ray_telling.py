"""What attempts on workers say while they run, from the worker's side: messages, progress, and what they print.

Everything said goes two ways. A thread of the worker posts it to the run's mailbox (`ray_mailbox`), all that was said within a
short while in one letter. And what has been said lately goes with the report too, because a letter may be slower than the
report, or get lost; numbers tell the coordinator what it has heard already. What an attempt may say is bounded.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Literal, cast

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from flowmason_ray.engine.events import Event, StageBegan, StageLogged, StageProgressed

if TYPE_CHECKING:
    from collections.abc import Generator

Letter = tuple[str, int, int, Event]
"""The attempt (path and number), the number of the message among the attempt's, and the message."""

FLUSH_S = 0.05
"""How long the thread collects before it posts: a live view shows 20 frames a second."""
RETRY_S = 0.25
"""How long it waits for a mailbox that is not there yet."""
RECENT_S = 5.0
"""What was posted so long ago has arrived, or never will."""
MOST_MESSAGES = 2_000
"""How many messages an attempt may send; the log of a run is no place for data."""
MOST_CHARS = 2**20
"""How much text they may have."""
LINE_CHARS = 4_000
"""How much of one line that is printed, or one message, is passed on."""

_ray: Any = ray
_cloudpickle: Any = cloudpickle
# Under these names without types: those of Ray are partly unknown.

_speaking: ContextVar[Teller | None] = ContextVar("speaking", default=None)
"""The attempt that the running code belongs to."""


class Teller:
    """What one attempt says."""

    def __init__(self, path: str, attempt: int) -> None:
        """Everything goes with the report alone, until `post_to` names a mailbox."""
        self._run_id = ""
        self._mailbox: str | None = None
        self._path = path
        self._attempt = attempt
        self._lock = threading.Lock()
        self._count = 0
        self._chars = 0
        self._dropped = 0
        self._recent: deque[tuple[float, int, Event]] = deque()
        self._lines: dict[str, str] = {}

    def post_to(self, mailbox: str, run_id: str) -> None:
        """Have what is said posted to the mailbox of that name too."""
        self._mailbox, self._run_id = mailbox, run_id

    def began(self) -> None:
        """Say at once that the attempt runs."""
        if self._mailbox is not None:
            letter = (self._path, self._attempt, -1, StageBegan(path=self._path, attempt=self._attempt))
            _post.send(self._mailbox, self._run_id, letter, urgent=True)

    def tell(self, event: Event) -> None:
        """Say something."""
        with self._lock:
            if isinstance(event, StageLogged):
                if len(event.message) > LINE_CHARS:
                    event = _cut(event)
                self._chars += len(event.message)
            if self._count >= MOST_MESSAGES or self._chars > MOST_CHARS:
                self._dropped += 1
                return
            number, self._count = self._count, self._count + 1
            self._keep(number, event)
        if self._mailbox is not None:
            _post.send(self._mailbox, self._run_id, (self._path, self._attempt, number, event))

    def _keep(self, number: int, event: Event) -> None:
        now = monotonic()
        while self._mailbox is not None and self._recent and now - self._recent[0][0] > RECENT_S:
            self._recent.popleft()
        if isinstance(event, StageProgressed) and self._recent and isinstance(self._recent[-1][2], StageProgressed):
            self._recent.pop()  # only how far it is now is of interest
        self._recent.append((now, number, event))

    def printed(self, stream: str, text: str) -> None:
        """Take what the attempt prints; it is told line by line."""
        *lines, rest = (self._lines.get(stream, "") + text).split("\n")
        if len(rest) > LINE_CHARS:
            lines, rest = [*lines, rest], ""
        self._lines[stream] = rest
        for line in lines:
            self._line(stream, line)

    def _line(self, stream: str, line: str) -> None:
        level: Literal["info", "warning"] = "info"
        self.tell(
            StageLogged(at=time(), path=self._path, level=level, message=line.rstrip("\r"), fields={"stream": stream})
        )

    def told(self) -> tuple[tuple[int, Event], ...]:
        """Return what has been said lately, each with its number; the attempt is over."""
        for stream, line in self._lines.items():
            if line:
                self._line(stream, line)
        self._lines.clear()
        with self._lock:
            if self._dropped:
                message = f"It said more than is passed on: {self._dropped} messages or lines were dropped."
                event = StageLogged(at=time(), path=self._path, level="warning", message=message)
                self._recent.append((monotonic(), self._count, event))
            return tuple((number, event) for _, number, event in self._recent)


def _cut(event: StageLogged) -> StageLogged:
    message = f"{event.message[:LINE_CHARS]}… ({len(event.message) - LINE_CHARS} more characters)"
    return StageLogged(at=event.at, path=event.path, level=event.level, message=message, fields=event.fields)


class _Post:
    """The thread that posts letters; started by the first one."""

    def __init__(self) -> None:
        self._queue: deque[tuple[str, str, Letter]] = deque()
        self._filled = threading.Event()
        self._urgent = False
        self._thread: threading.Thread | None = None
        self._boxes: dict[str, Any] = {}

    def send(self, mailbox: str, run_id: str, letter: Letter, *, urgent: bool = False) -> None:
        self._urgent = self._urgent or urgent
        self._queue.append((mailbox, run_id, letter))
        self._filled.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flowmason-telling", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            self._filled.wait()
            if not self._urgent:
                sleep(FLUSH_S)
            self._filled.clear()
            self._urgent = False
            letters: dict[tuple[str, str], list[Letter]] = {}
            while self._queue:
                mailbox, run_id, letter = self._queue.popleft()
                letters.setdefault((mailbox, run_id), []).append(letter)
            for (mailbox, run_id), several in letters.items():
                with suppress(RayError, RuntimeError):  # the coordinator has gone, and the mailbox with it
                    self._deliver(mailbox, run_id, several)

    def _deliver(self, mailbox: str, run_id: str, letters: list[Letter]) -> None:
        box = self._boxes.get(mailbox)
        if box is None:
            try:
                box = self._boxes[mailbox] = _ray.get_actor(mailbox)
            except ValueError:  # it is not there yet, or not any more
                now = time()
                for letter in letters:
                    if now - letter[3].at < RECENT_S:
                        self._queue.append((mailbox, run_id, letter))
                sleep(RETRY_S)
                self._filled.set()
                return
        box.post.remote(run_id, _cloudpickle.dumps(letters))


_post = _Post()


class _Overheard:
    """Standard output or error: what is written goes where it went before, and to the attempt that writes it."""

    def __init__(self, under: Any, stream: str) -> None:
        self._under = under
        self._stream = stream

    def write(self, text: str) -> int:
        speaking = _speaking.get()
        if speaking is not None:
            speaking.printed(self._stream, text)
        return self._under.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)


@contextmanager
def speaking(teller: Teller) -> Generator[None]:
    """Take what is printed in this context to be said by an attempt.

    What other threads print that the attempt starts by itself, or libraries that write past Python's `sys.stdout`, is only in the
    worker's own log.
    """
    for stream in ("stdout", "stderr"):
        if not isinstance(getattr(sys, stream), _Overheard):
            setattr(sys, stream, cast("Any", _Overheard(getattr(sys, stream), stream)))
    token = _speaking.set(teller)
    try:
        yield
    finally:
        _speaking.reset(token)
