"""What attempts on workers say while they run, from the coordinator's side: passed on once, in order, and before their end.

It comes through the mailbox, and what was said lately comes once more with the report; numbers tell what has been heard already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flowmason_ray.engine.events import Event, StageBegan
from flowmason_ray.engine.executor import Deliver
from flowmason_ray.engine.executors.ray_calls import Call
from flowmason_ray.engine.executors.ray_mailbox import Mailbox
from flowmason_ray.engine.executors.ray_telling import TELLERS, Letter

Ask = Callable[[], Mapping[str, Call]]
"""Returns the calls that are waited for, by the paths of their attempts."""


class Hearing:
    """Hears the attempts of one run."""

    def __init__(self, run_id: str, deliver: Deliver, calls: Ask) -> None:
        """
        Args:
            run_id: The run's.
            deliver: Takes live events.
            calls: Says who may still speak.
        """
        self.mailbox = Mailbox(run_id, self._letters, self._gone)
        self._deliver = deliver
        self._calls = calls
        self._heard: dict[tuple[str, int], dict[int, int]] = {}
        """By attempt and teller, how many messages have been passed on. An attempt has several tellers when it is carried out again."""

    @property
    def address(self) -> tuple[str, str] | None:
        """Where attempts are to post what they say; None: nowhere, the mailbox is gone."""
        return self.mailbox.address if self.mailbox.works else None

    def told(self, path: str, attempt: int, told: Sequence[tuple[int, Event]]) -> None:
        """Take what came with a report: what has not come before."""
        for number, event in told:
            self._hear(path, attempt, number, event)
        if attempt > 0:  # a setup's letters, whose numbers are negative, may still come
            self._heard.pop((path, attempt), None)

    def _letters(self, letters: list[Letter]) -> None:
        """Take what came through the mailbox."""
        calls = self._calls()
        for path, attempt, number, event in letters:
            call = calls.get(path)
            if attempt > 0 and (call is None or not call.waits_for(path, attempt)):
                continue  # its report is here, and has brought all of that
            if isinstance(event, StageBegan):
                self._deliver(event)
            else:
                self._hear(path, attempt, number, event)

    def _hear(self, path: str, attempt: int, number: int, event: Event) -> None:
        tellers = self._heard.setdefault((path, attempt), {})
        teller, number = divmod(number, TELLERS)
        if number >= tellers.get(teller, 0):
            tellers[teller] = number + 1
            self._deliver(event)

    def _gone(self) -> None:
        """The mailbox is gone: nobody will tell when attempts begin, so they are taken to have begun."""
        for call in set(self._calls().values()):
            for member in call.waited_for() if call.pool is None else ():
                self._deliver(StageBegan(path=member.path, attempt=member.attempt))
