"""Where a run is, in numbers: an observer that is cheap enough to see every event of a loop over 100,000 items.

There is a row for every stage of the plan, not for every stage instance: what happens in the iterations of a loop is
counted in the rows of its body. Views read the rows a few times a second, from a thread of their own; nothing here draws.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.plan_tree import StageView, plan_tree
from flowmason_ray.engine.events import (
    ApprovalAnswered,
    ApprovalRequested,
    Event,
    ItemEnded,
    LoopExpanded,
    RunResumed,
    StageDeclined,
    StageEnded,
    StageFailed,
    StageLogged,
    StageProgressed,
    StageRetrying,
    StageReused,
    StageSkipped,
    StageStarted,
    StageStopped,
    StageSucceeded,
    Success,
)

if TYPE_CHECKING:
    from flowmason_ray.engine.plan import Plan
    from flowmason_ray.errors import Failure

_POSITION = re.compile(r"\[\d+\]")

RECENT = 40
"""Ended rows that are remembered for display."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One stage of the plan, and what became of its instances so far."""

    key: str
    id: str
    depth: int
    loop: Row | None
    """The innermost loop around it; None: it has one instance."""
    construct: bool
    is_loop: bool
    waits_for: tuple[str, ...]
    running: int = 0
    retrying: dict[str, StageRetrying] = field(default_factory=dict[str, StageRetrying])
    ended: dict[str, int] = field(default_factory=dict[str, int])
    """Instances by how they ended: succeeded, reused, fallback, failed, skipped, cancelled."""
    started_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    asks: str | None = None
    """What it asks a person, while it waits for the answer."""
    failure: Failure | None = None
    skip_reason: str | None = None
    items: int = 0
    """For a loop: the items of all its instances."""
    items_done: int = 0
    items_failed: int = 0
    progress: tuple[float, float | None] | None = None
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque[tuple[float, int]](maxlen=60))
    """For a loop: (time, items done), from which views take its rate."""

    @property
    def busy(self) -> bool:
        """Whether an instance of it is under way."""
        return bool(self.running or self.retrying)

    @property
    def count(self) -> int:
        """How many instances have ended."""
        return sum(self.ended.values())

    def status(self) -> str:
        """Return a word for the row as a whole: the worst that is true of its instances."""
        if self.retrying and len(self.retrying) >= self.running:
            return "retrying"
        if self.running:
            return "running"
        for word in ("failed", "cancelled", "fallback", "succeeded", "reused", "skipped"):
            if self.ended.get(word):
                return word
        return "waiting"


Ended = Callable[[Row, str, str, Event], None]
"""Is told that a stage instance ended: its row, its path, its status, the event that says so."""


class Tally:
    """Counts what happens."""

    def __init__(self, plan: Plan) -> None:
        self.rows: dict[str, Row] = {}
        self.busy: dict[str, Row] = {}
        """Rows with an instance under way, in the order in which they began."""
        self.failed: dict[str, Row] = {}
        self.recent: deque[Row] = deque(maxlen=RECENT)
        """Rows outside loops that ended last."""
        self.total = 0
        """Stages outside loops."""
        self.done = 0
        self.messages: deque[StageLogged] = deque(maxlen=1000)
        self.messages_lost = 0
        self.on_ended: Ended | None = None
        self.on_retrying: Callable[[Row, StageRetrying], None] | None = None
        self.on_asked: Callable[[ApprovalRequested], None] | None = None
        self._active: dict[str, Row] = {}
        """Attempts in flight and open constructs, by path."""
        self._opened: set[str] = set()
        self.asking: dict[str, ApprovalRequested] = {}
        """Questions that wait for an answer, by path."""
        self._take: dict[type[Event], Callable[[Any], None]] = {
            StageStarted: self._started,
            StageSucceeded: self._succeeded,
            StageReused: self._succeeded,
            StageEnded: self._ended,
            ItemEnded: self._item_ended,
            StageSkipped: self._skipped,
            StageFailed: self._attempt_ended,
            StageDeclined: self._attempt_ended,
            StageStopped: self._attempt_ended,
            StageRetrying: self._retrying,
            ApprovalRequested: self._asked,
            ApprovalAnswered: self._answered,
            LoopExpanded: self._expanded,
            StageProgressed: self._progressed,
            StageLogged: self._logged,
            RunResumed: self._resumed,
        }
        """What is done with which event; the others are passed over."""
        for view in plan_tree(plan).stages:
            self._add(view, 0, None)

    def _add(self, view: StageView, depth: int, loop: Row | None) -> None:
        is_loop = any(body.loop for body in view.bodies)
        row = self.rows[view.key] = Row(
            key=view.key,
            id=view.stage.id,
            depth=depth,
            loop=loop,
            construct=view.stage.construct is not None,
            is_loop=is_loop,
            waits_for=view.waits_for,
        )
        self.total += loop is None
        for body in view.bodies:
            for inner in body.stages:
                self._add(inner, depth + 1, row if body.loop else loop)

    def row(self, path: str) -> Row | None:
        """Return the row of a stage instance; None for the hidden stages that make results."""
        row = self.rows.get(path)
        if row is None:
            loop, bracket, rest = path.partition("[")
            if bracket:
                # A path in one loop, the usual case, costs a third of what a regular expression does.
                inner = rest.partition("]")[2]
                row = self.rows.get(loop + (inner if "[" not in inner else _POSITION.sub("", inner)))
        return row

    def catch_up(self, events: Iterable[Event], *, under_way: bool = False) -> None:
        """Count what happened before this process took the run up, or began to watch it; nobody is told of it.

        What another process has `under_way` is still so.
        """
        for event in events:
            self(event)
        if under_way:
            return
        self._stand_still()
        for row in self.rows.values():
            if row.busy or not row.ended:
                row.started_at = None  # the time in between is not time that it takes

    def _resumed(self, event: RunResumed) -> None:
        self._stand_still()

    def _stand_still(self) -> None:
        """No attempt is under way any more: what is begun again says so. Open constructs stay open."""
        for path in [path for path in self._active if path not in self._opened]:
            self._attempt_over(path)

    # -- events -------------------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Take one event."""
        take = self._take.get(type(event))
        if take is not None:
            take(event)

    def _started(self, event: StageStarted) -> None:
        row = self.row(event.path)
        if row is None:
            return
        self._active[event.path] = row
        row.running += 1
        if event.attempt > 1:
            row.retrying.pop(event.path, None)
        row.attempts = max(row.attempts, event.attempt)
        if row.started_at is None:
            row.started_at = event.at
        self.busy.setdefault(row.key, row)

    def _succeeded(self, event: Success) -> None:
        path = event.path
        row = self._active.get(path)
        if row is None:
            return  # hidden, or late
        if row.construct:  # it has decided; `StageEnded` follows when its bodies have ended
            self._opened.add(path)
            return
        del self._active[path]
        status = "succeeded" if type(event) is StageSucceeded else "reused"
        self._end(row, path, status, event, was_running=True)

    def _item_ended(self, event: ItemEnded) -> None:
        row = self.row(event.path)
        if row is not None:
            row.items_done += 1
            row.items_failed += event.failure is not None

    def _ended(self, event: StageEnded) -> None:
        row = self._active.pop(event.path, None)
        found = row or self.row(event.path)
        self._opened.discard(event.path)
        if found is not None:
            found.failure = event.failure or found.failure
            self._end(found, event.path, event.status, event, was_running=row is not None)

    def _skipped(self, event: StageSkipped) -> None:
        row = self.row(event.path)
        if row is not None:
            row.skip_reason = event.reason.value
            self._end(row, event.path, "skipped", event, was_running=False)

    def _retrying(self, event: StageRetrying) -> None:
        row = self.row(event.path)
        if row is not None:
            row.retrying[event.path] = event
            self.busy.setdefault(row.key, row)
            if self.on_retrying is not None:
                self.on_retrying(row, event)

    def _asked(self, event: ApprovalRequested) -> None:
        row = self.row(event.path)
        if row is not None:
            row.asks = event.message
            self.asking[event.path] = event
            if self.on_asked is not None:
                self.on_asked(event)

    def _answered(self, event: ApprovalAnswered) -> None:
        row = self.row(event.path)
        self.asking.pop(event.path, None)
        if row is not None:
            row.asks = None

    def _expanded(self, event: LoopExpanded) -> None:
        row = self.row(event.path)
        if row is not None:
            row.items += event.count

    def _progressed(self, event: StageProgressed) -> None:
        row = self.row(event.path)
        if row is not None and row.loop is None:
            row.progress = (event.done, event.total)

    def _logged(self, event: StageLogged) -> None:
        if event.level != "debug" and not event.shown:
            self.messages_lost += len(self.messages) == self.messages.maxlen
            self.messages.append(event)

    def _attempt_ended(self, event: StageFailed | StageDeclined | StageStopped) -> None:
        self._attempt_over(event.path)

    def _attempt_over(self, path: str) -> None:
        """An attempt ended without success; what follows from it is told by the next event."""
        row = self._active.pop(path, None)
        if row is not None:
            self._opened.discard(path)
            row.running -= 1
            self._rest(row)

    def _end(self, row: Row, path: str, status: str, event: Event, *, was_running: bool) -> None:
        if was_running:
            row.running -= 1
        row.retrying.pop(path, None)
        row.ended[status] = row.ended.get(status, 0) + 1
        row.ended_at = event.at
        row.asks = None
        self.asking.pop(path, None)
        if row.loop is None:
            self.done += 1
            self.recent.append(row)
        if status == "failed":
            self.failed.setdefault(row.key, row)
        self._rest(row)
        if self.on_ended is not None:
            self.on_ended(row, path, status, event)

    def _rest(self, row: Row) -> None:
        """Take a row that has nothing under way out of the busy ones; what is in a loop stays there until the loop ends."""
        if row.running or row.retrying or row.loop is not None:
            return
        self.busy.pop(row.key, None)
        if row.is_loop:
            inside = f"{row.key}/"
            for key in [key for key in self.busy if key.startswith(inside)]:
                del self.busy[key]
