"""What of what stages say is kept beside the run's log: all of it, within bounds that one loud component cannot break.

Per attempt there is a budget of messages that fills up again with time, and one of characters that does not; the whole run has
one too. What is dropped is counted, and the count is kept when the attempt ends. Views that follow the run live are not bound
by this: they see everything that is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flowmason_ray.engine.events import StageLogged, StageStarted

BURST = 1_000
"""Messages that an attempt may say at once; what a person reads at the most."""
RATE_PER_S = 100.0
"""Messages a second after that."""
CHARACTERS = 2**20
"""Characters that are kept of one attempt: hours of a training that tells how it goes."""
MESSAGE_CHARACTERS = 8 * 1024
"""Characters that are kept of one message."""
RUN_CHARACTERS = 64 * 2**20
"""Characters that are kept of a run: a loop over very many items that all say something."""


@dataclass(slots=True)
class _Budget:
    """What an attempt may still say."""

    attempt: int
    messages: float = BURST
    filled_at: float = 0.0
    characters: int = CHARACTERS
    dropped: int = 0


class StageLogs:
    """Decides what is kept. Times are those of the events: nothing here looks at a clock."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}
        """The attempts after the first that are under way, by path."""
        self._budgets: dict[str, _Budget] = {}
        """Of the attempts that have said something."""
        self._left = RUN_CHARACTERS

    def started(self, event: StageStarted) -> None:
        """Take note that an attempt begins; needed of repeated ones only."""
        self._attempts[event.path] = event.attempt

    def ended(self, path: str, at: float) -> Iterator[StageLogged]:
        """Take note that the attempt at `path` has ended; yield what is kept about what was dropped of it."""
        self._attempts.pop(path, None)
        budget = self._budgets.pop(path, None)
        if budget is not None and budget.dropped:
            yield self._about_dropped(path, at, budget)

    @property
    def watching(self) -> bool:
        """Whether the end of an attempt matters."""
        return bool(self._budgets or self._attempts)

    def kept(self, said: StageLogged) -> Iterator[StageLogged]:
        """Yield what is kept of something that was said: itself, perhaps shortened; nothing; or what was dropped before, too."""
        attempt = said.attempt or self._attempts.get(said.path, 1)
        budget = self._budgets.get(said.path)
        if budget is None or budget.attempt < attempt:
            if budget is not None and budget.dropped:
                yield self._about_dropped(said.path, said.at, budget)
            budget = self._budgets[said.path] = _Budget(attempt=attempt, filled_at=said.at)
        if said.dropped:  # counted with those that are dropped here, and said with them
            budget.dropped += said.dropped
            return
        message = _shortened(said.message)
        size = len(message) + sum(len(name) + len(str(value)) for name, value in said.fields.items())
        if not self._takes(budget, said.at, size):
            budget.dropped += 1
            return
        if budget.dropped and budget.messages >= BURST / 10:  # it has been quiet for a while: say it where it was
            yield self._about_dropped(said.path, said.at, budget)
            budget.dropped = 0
        yield replace(said, message=message, attempt=attempt)

    def _takes(self, budget: _Budget, now: float, size: int) -> bool:
        budget.messages = min(float(BURST), budget.messages + max(0.0, now - budget.filled_at) * RATE_PER_S)
        budget.filled_at = max(now, budget.filled_at)
        if budget.messages < 1 or budget.characters < size or self._left < size:
            return False
        budget.messages -= 1
        budget.characters -= size
        self._left -= size
        return True

    def _about_dropped(self, path: str, at: float, budget: _Budget) -> StageLogged:
        why = (
            f"this run's stages have said {RUN_CHARACTERS // 2**20} MiB"
            if self._left < MESSAGE_CHARACTERS
            else f"an attempt may say {BURST:,} at once, {RATE_PER_S:g} a second after that, and {CHARACTERS // 2**20} MiB in all"
        )
        noun = "message was" if budget.dropped == 1 else "messages were"
        return StageLogged(
            at=at,
            path=path,
            attempt=budget.attempt,
            level="warning",
            message=f"{budget.dropped:,} {noun} not kept: {why}.",
            fields={"dropped": budget.dropped},
        )


def _shortened(message: str) -> str:
    left = len(message) - MESSAGE_CHARACTERS
    return message if left <= 0 else f"{message[:MESSAGE_CHARACTERS]}… ({left:,} more characters)"
