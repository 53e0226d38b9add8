"""What is asked of a run while it is under way, from this process or another: answers to its questions, to pause, to stop.

Requests of other processes come through the run's log (`RunLog.requests`), which is looked at every `LISTEN_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import time
from typing import Any

from flowmason_ray.engine.events import ApprovalAnswered, CancelRequested, Event, StageLogged
from flowmason_ray.engine.run_log import Request, RunLog
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.errors import Fenced, StoreError
from flowmason_ray.spec.input_schema import InputSchema

LISTEN_S = 0.4
"""How often the log is asked for requests: half of the second within which they are to take effect."""


class Requests:
    """Takes what is asked of one run, and delivers it as events."""

    def __init__(
        self,
        state: RunState,
        log: RunLog,
        deliver: Callable[[Event], None],
        *,
        pause: Callable[[str | None], None],
        lost: Callable[[StoreError], None],
        asked_before: int,
    ) -> None:
        """
        Args:
            state: The run's state: what it asks.
            log: Where other processes' requests are.
            deliver: Takes what is asked, as events.
            pause: Is told that somebody (who) wants the run to pause.
            lost: Is told when another process has taken the run over.
            asked_before: The number of the last request that is over: it was made of somebody else (`listen`).
        """
        self._state = state
        self._log = log
        self._deliver = deliver
        self._pause = pause
        self._lost = lost
        self._asked_before = asked_before
        self._taken = 0
        """The number of the last request that was looked at."""
        self._deaf = False

    def answer(self, path: str, data: Any, by: str | None) -> None:
        """Take an answer to what the stage at `path` asks; what was not asked, or does not fit the form, is passed over."""
        asked = self._state.asked.get(path)
        if asked is None:
            self._warn(path, "An answer came that this stage does not wait for; it was passed over.")
            return
        scope, index = asked
        form = scope.plan.stages[index].options.form
        problems = InputSchema(form).violations(data, subject="answer") if form is not None else []
        if problems:
            words = "; ".join(problem.message for problem in problems)
            self._warn(path, f"An answer does not fit the form and was passed over: {words}")
        else:
            self._deliver(ApprovalAnswered(at=time(), path=path, data=data, by=by))

    def _warn(self, path: str, message: str) -> None:
        self._deliver(StageLogged(at=time(), path=path, level="warning", message=message))

    async def listen(self) -> None:
        """Take up what other processes ask, until cancelled.

        What was asked of an earlier process of this run, before somebody took it up again, is over: but for answers, which are
        still good. A process that takes the place of one that died, without anybody's doing, heeds what that one was asked.
        """
        while True:
            try:
                await self.look()
            except Fenced as exc:
                self._lost(exc)
                return
            await asyncio.sleep(LISTEN_S)

    async def look(self) -> None:
        """Take up what has been asked since the last look.

        Raises:
            Fenced: another process has taken the run over.
        """
        requests: Sequence[Request] = ()
        try:
            requests = await self._log.requests(after=self._taken)
        except Fenced:
            raise
        except StoreError as exc:  # a log that can be written but not read: the run goes on, deaf for now
            if not self._deaf:  # a server that restarts is away for many a look
                self._warn("", f"Requests from other processes cannot be read for now: {exc.message}")
                self._deaf = True
        else:
            if self._deaf:
                self._warn("", "Requests from other processes can be read again.")
                self._deaf = False
        for request in requests:
            self._taken = request.number
            self._take(request, over=request.number <= self._asked_before)

    def _take(self, request: Request, *, over: bool) -> None:
        body = request.body
        if request.kind == "answer":
            if not over or body.get("path") in self._state.asked:
                self.answer(str(body.get("path")), body.get("data"), body.get("by"))
        elif over:
            return
        elif request.kind == "pause":
            self._pause(body.get("by"))
        elif request.kind == "cancel":
            message = str(body.get("message") or "The run was cancelled.")
            self._deliver(CancelRequested(at=time(), message=message))
