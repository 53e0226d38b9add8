"""What attempts on workers say while they run, from the worker's side: messages, progress, and what they print (`prints`).

Everything said goes two ways. A thread of the worker posts it to the run's mailbox (`ray_mailbox`), all that was said within a
short while in one letter. And what has been said lately goes with the report too, because a letter may be slower than the
report, or get lost; numbers tell the coordinator what it has heard already. What an attempt may say is bounded.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from itertools import count
from random import SystemRandom
from time import monotonic, sleep, time
from typing import Any

import orjson
import ray
from ray import cloudpickle
from ray.exceptions import RayError

from flowmason_ray.engine.events import Event, StageBegan, StageLogged, StageProgressed
from flowmason_ray.engine.executors.prints import LONGEST_LINE

Letter = tuple[str, int, int, Event]
"""The attempt (path and number), the number of the message among the attempt's, and the message."""

FLUSH_S = 0.05
"""How long the thread collects before it posts: a live view shows 20 frames a second."""
RETRY_S = 0.25
"""How long it waits for a mailbox that is not there yet."""
RECENT_S = 5.0
"""What was posted so long ago has arrived, or never will."""
MOST_MESSAGES = 2_000
"""How many messages an attempt may send at once; the log of a run is no place for data."""
MESSAGES_PER_S = 100.0
"""How many it may send in a second after that, as long as it runs."""
MOST_CHARS = 2**20
"""How much text they may have."""
LINE_CHARS = LONGEST_LINE
"""How much of one line that is printed, or one message, is passed on."""
AGAIN_S = 5.0
"""How often an attempt with a time limit says again that it runs: a letter that is lost must not make the limit void."""
TELLERS = 2**32
"""By how much the numbers of one teller's messages differ from another's: an attempt that is carried out again, because its worker
died, begins to count anew."""

_tellers = count(SystemRandom().getrandbits(30))
"""Numbers for this process's tellers, from where no other process's are likely to begin; the system is asked once, not for each attempt."""

_ray: Any = ray
_cloudpickle: Any = cloudpickle
# Under these names without types: those of Ray are partly unknown.


class Teller:
    """What one attempt says."""

    def __init__(self, path: str, attempt: int) -> None:
        """Everything goes with the report alone, until `post_to` names a mailbox."""
        self._mailbox: tuple[str, str] | None = None
        self._path = path
        self._attempt = attempt
        self._lock = threading.Lock()
        self._count = next(_tellers) * TELLERS
        self._chars = 0
        self._dropped = 0
        self._left = float(MOST_MESSAGES)
        self._filled_at = monotonic()
        self._recent: deque[tuple[float, int, Event]] = deque()
        self._begun: Letter | None = None

    def post_to(self, mailbox: tuple[str, str]) -> None:
        """Have what is said posted too: to the mailbox of that name, and there in that box."""
        self._mailbox = mailbox

    def began(self) -> None:
        """Say at once that the attempt runs, and again every now and then as long as it does."""
        if self._mailbox is not None:
            self._begun = (self._path, self._attempt, -1, StageBegan(at=time(), path=self._path, attempt=self._attempt))
            _post.repeat(self._mailbox, self._begun)

    def tell(self, event: Event) -> None:
        """Say something."""
        with self._lock:
            if isinstance(event, StageLogged):
                if event.dropped:  # said with those that are dropped here
                    self._dropped += event.dropped
                    return
                event = _plain(event)
                self._chars += len(event.message)
                if self._chars > MOST_CHARS:
                    self._dropped += 1
                    return
            if not self._may_speak():
                self._dropped += 1
                return
            number, self._count = self._count, self._count + 1
            self._keep(number, event)
        if self._mailbox is not None:
            _post.send(self._mailbox, (self._path, self._attempt, number, event))

    def _may_speak(self) -> bool:
        """Take one message of what the attempt may send, which fills up again with time."""
        now = monotonic()
        self._left = min(float(MOST_MESSAGES), self._left + (now - self._filled_at) * MESSAGES_PER_S)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _keep(self, number: int, event: Event) -> None:
        now = monotonic()
        while self._mailbox is not None and self._recent and now - self._recent[0][0] > RECENT_S:
            self._recent.popleft()
        if isinstance(event, StageProgressed) and self._recent and isinstance(self._recent[-1][2], StageProgressed):
            self._recent.pop()  # only how far it is now is of interest
        self._recent.append((now, number, event))

    def over(self) -> None:
        """The attempt is over, however it has ended: what is repeated as long as it runs is so no more."""
        if self._begun is not None:
            _post.settle(self._begun)

    def told(self) -> tuple[tuple[int, Event], ...]:
        """Return what has been said lately, each with its number; the attempt is over."""
        with self._lock:
            if self._dropped:
                message = f"It said more than is passed on: {self._dropped} messages or lines were dropped."
                event = StageLogged(at=time(), path=self._path, level="warning", message=message, dropped=self._dropped)
                self._recent.append((monotonic(), self._count, event))
            return tuple((number, event) for _, number, event in self._recent)


def _plain(event: StageLogged) -> StageLogged:
    """Return a message that is not too long, with plain JSON in its fields: components put there what they like."""
    message, fields = event.message, event.fields
    if len(message) > LINE_CHARS:
        message = f"{message[:LINE_CHARS]}… ({len(message) - LINE_CHARS} more characters)"
    if fields:
        try:
            fields = orjson.loads(orjson.dumps(fields, default=repr, option=orjson.OPT_NON_STR_KEYS))
        except (TypeError, ValueError):  # too deep, a number too large, or half a surrogate pair
            fields = {"fields": repr(fields)[:LINE_CHARS]}
    return StageLogged(at=event.at, path=event.path, level=event.level, message=message, fields=fields)


class _Post:
    """The thread that posts letters; started by the first one."""

    def __init__(self) -> None:
        self._queue: deque[tuple[tuple[str, str], Letter]] = deque()
        self._filled = threading.Event()
        self._urgent = False
        self._thread: threading.Thread | None = None
        self._actors: dict[str, Any] = {}
        self._repeated: dict[int, tuple[tuple[str, str], Letter]] = {}
        """What is said until it is settled, by the identity of the letter."""

    def repeat(self, mailbox: tuple[str, str], letter: Letter) -> None:
        """Post a letter at once, and again until it is settled."""
        self._repeated[id(letter)] = (mailbox, letter)
        self.send(mailbox, letter, urgent=True)

    def settle(self, letter: Letter) -> None:
        """Post a letter no more."""
        self._repeated.pop(id(letter), None)

    def send(self, mailbox: tuple[str, str], letter: Letter, *, urgent: bool = False) -> None:
        self._urgent = self._urgent or urgent
        self._queue.append((mailbox, letter))
        self._filled.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flowmason-telling", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            if not self._filled.wait(AGAIN_S if self._repeated else None):
                self._queue.extend(self._repeated.copy().values())
            elif not self._urgent:
                sleep(FLUSH_S)
            self._filled.clear()
            self._urgent = False
            letters: dict[tuple[str, str], list[Letter]] = {}
            while self._queue:
                mailbox, letter = self._queue.popleft()
                letters.setdefault(mailbox, []).append(letter)
            for mailbox, several in letters.items():
                with suppress(RayError, RuntimeError):  # the coordinator has gone, and the mailbox with it
                    self._deliver(mailbox, several)

    def _deliver(self, mailbox: tuple[str, str], letters: list[Letter]) -> None:
        name, box = mailbox
        actor = self._actors.get(name)
        if actor is None:
            try:
                actor = self._actors[name] = _ray.get_actor(name)
            except ValueError:  # it is not there yet, or not any more
                now = time()
                for letter in letters:
                    if now - letter[3].at < RECENT_S:
                        self._queue.append((mailbox, letter))
                sleep(RETRY_S)
                self._filled.set()
                return
        actor.post.remote(box, _cloudpickle.dumps(letters))


_post = _Post()
