"""The simulated world: a clock that jumps, and an executor that carries out commands by looking up fate.

Templates are really rendered, in the scope that the command carries; what a stage has seen goes into the value that it
reports. Everything else is made up: how long it takes, in which order reports arrive, whether one comes twice, whether an
attempt that is told to stop still answers with a success. The world also keeps the truth about what is under way, because
the state machine's own books are what is being examined.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from zlib import crc32

import orjson

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage, StartTimer, resolve_part
from flowmason_ray.engine.context import LocalScope
from flowmason_ray.engine.events import (
    ApprovalAnswered,
    CancelRequested,
    Event,
    StageDeclined,
    StageFailed,
    StageReused,
    StageStopped,
    StageSucceeded,
    TimerFired,
)
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.values import Items
from flowmason_ray.errors import Failure
from flowmason_ray.testing.simulation.fate import Fate

POISON = "poison"
"""What a report claims that must not count: it may show up nowhere."""


def digest(path: str, seen: Any) -> dict[str, Any]:
    """Return what a working stage outputs: where it is, and a sum over what it has seen."""
    text = orjson.dumps(seen, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return {"path": path, "sum": crc32(text)}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A stimulus on its way. One that is not genuine (late, doubled) must have no effect."""

    event: Event
    genuine: bool


@dataclass(slots=True)
class _Flight:
    """An attempt or a gathering that is under way; `number` finds its report in the queue."""

    attempt: int
    number: int
    report: Event
    gathering: bool


class World:
    """One coordinator's world. After a crash, the next one gets a new one."""

    def __init__(self, fate: Fate, random: Random, run: RunInfo, now: float) -> None:
        self.fate = fate
        self.random = random
        self.run = run
        self.now = now
        self.flights: dict[str, _Flight] = {}
        self.seen: dict[str, Any] = {}
        """By path: what an attempt has read, for the story of a failure."""
        self._queue: list[tuple[float, int, Event, bool]] = []
        self._dropped: set[int] = set()
        self._count = 0

    # -- the clock --------------------------------------------------------------------------------------------------------

    def send(self, event: Event, delay: float, *, genuine: bool = True) -> int:
        """Let a stimulus arrive after `delay` seconds."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, event, genuine))
        return self._count

    def next(self) -> Arrival | None:
        """Move the clock to the next stimulus and return it; None when nothing is on its way."""
        while self._queue:
            at, number, event, genuine = heapq.heappop(self._queue)
            if number in self._dropped:
                continue
            self.now = max(self.now, at)
            event = replace(event, at=self.now)
            path: str = getattr(event, "path", "")
            flight = self.flights.get(path)
            if flight is not None and flight.number == number:
                del self.flights[path]
                self._maybe_repeat(event)
            elif isinstance(event, TimerFired) and genuine and self.random.random() < self.fate.mood.duplicates:
                self.send(event, self._delay(), genuine=False)
            return Arrival(event, genuine)
        return None

    def _delay(self) -> float:
        spread = self.fate.mood.spread
        return self.random.random() ** 3 * spread if spread else 0.0

    def _maybe_repeat(self, event: Any) -> None:
        """Let a report that has just arrived come again later: as it was, or with a contradiction."""
        random = self.random
        if random.random() >= self.fate.mood.duplicates:
            return
        choice = random.randrange(4)
        again: Event = event
        facts: dict[str, Any] = {"path": event.path, "attempt": event.attempt}
        if choice == 1:
            again = StageSucceeded(**facts, value={POISON: event.path}, decision={"branch": "true", "count": 2})
        elif choice == 2:
            failure = Failure(code=POISON, message=POISON, stage=event.path)
            again = StageFailed(**facts, failure=failure)
        elif choice == 3:
            again = StageStopped(**facts)
        self.send(again, random.choice((0.0, self._delay(), 3 * self._delay())), genuine=False)

    # -- the executor -----------------------------------------------------------------------------------------------------

    def carry_out(self, command: StartStage | GatherResults | CancelStage | StartTimer) -> None:
        """Begin or stop something."""
        if isinstance(command, StartStage):
            self._fly(command.path, command.attempt, self._outcome(command), gathering=False)
        elif isinstance(command, GatherResults):
            self._fly(command.path, command.attempt, self._gathered(command), gathering=True)
        elif isinstance(command, StartTimer):
            self.send(TimerFired(path=command.path, attempt=command.attempt), command.delay_s)
        else:
            self._stop(command)

    def _fly(self, path: str, attempt: int, report: Event, *, gathering: bool) -> None:
        number = self.send(report, self._delay())
        self.flights[path] = _Flight(attempt, number, report, gathering)

    def _stop(self, command: CancelStage) -> None:
        """Answer soon: with the stop, or with what the attempt came to meanwhile."""
        flight = self.flights[command.path]
        choice = self.random.randrange(4)
        if choice == 0:
            return  # it ends by itself, as if nobody had asked
        self._dropped.add(flight.number)
        answer: Event = flight.report
        if choice >= 2:
            answer = StageStopped(path=command.path, attempt=command.attempt)
        flight.number = self.send(answer, self._delay() / 5)

    def ask(self, path: str) -> None:
        """Let a person be asked: who answers after a while, and perhaps twice."""
        answer = ApprovalAnswered(path=path, data=f"yes to {path}", by="somebody")
        self.send(answer, self.random.random() * 4)
        if self.random.random() < self.fate.mood.duplicates:
            self.send(replace(answer, data=POISON), 4 + self._delay(), genuine=False)

    def decide_doubt(self, command: StartStage) -> None:
        """Settle an effectful attempt whose outcome a crash has hidden: it counts as failed."""
        self.fate.in_doubt.add((command.path, command.attempt))
        failure = self.fate.failure(command.path, command.attempt)
        assert failure is not None
        report = StageFailed(path=command.path, attempt=command.attempt, failure=failure)
        self._fly(command.path, command.attempt, report, gathering=False)

    def answer_stop(self, command: CancelStage) -> None:
        """Report an attempt as stopped that was told to before a crash."""
        self._fly(
            command.path, command.attempt, StageStopped(path=command.path, attempt=command.attempt), gathering=False
        )

    def cancel_run(self) -> None:
        """Have the run cancelled, by somebody or because its time is over; twice sometimes."""
        code = self.random.choice(("cancelled", "cancelled", "timeout"))
        self.send(CancelRequested(code=code), 0.0)
        if self.random.random() < 0.3:
            self.send(CancelRequested(code="cancelled"), self._delay())

    # -- outcomes -----------------------------------------------------------------------------------------------------------

    def _outcome(self, command: StartStage) -> Event:
        stage, path, attempt, fate = command.stage, command.path, command.attempt, self.fate
        facts: dict[str, Any] = {"path": path, "attempt": attempt}
        if stage.when is not None and fate.declines(path):
            return StageDeclined(**facts)
        failure = fate.failure(path, attempt)
        if failure is not None:
            return StageFailed(**facts, failure=failure, draw=self.random.random())
        scope = LocalScope(self.run, command.scope, stage, path, attempt, command.first_started_at)
        config = self.seen[path] = stage.template.render(scope)
        value, decision = decide(fate, stage.component.name if stage.component else None, path, config)
        if fate.reuses(path):
            return StageReused(**facts, value=value, decision=decision, source={"run": "r_before", "how": "record"})
        return StageSucceeded(**facts, value=value, decision=decision)

    def _gathered(self, command: GatherResults) -> Event:
        failure = self.fate.gather_failure(command.path)
        facts: dict[str, Any] = {"path": command.path, "attempt": command.attempt}
        if failure is not None:
            return StageFailed(**facts, failure=failure)
        parts = {name: resolve_part(part, lambda handle: handle) for name, part in command.parts.items()}
        return StageSucceeded(**facts, value={**(command.base or {}), **command.head, **parts})


def decide(fate: Fate, component: str | None, path: str, config: Any) -> tuple[Any, dict[str, Any] | None]:
    """Return the value and the decision of an attempt that succeeds, given what it has read."""
    if component is None:
        return config, None
    if component == "sim_work":
        return digest(path, config), None
    if component == "variable_set":
        return {config["name"]: config["value"]}, None
    if component in ("return", "break_loop", "continue_loop"):
        fact, field = ("returns", "return_value") if component == "return" else ("taken", "result")
        leaves = fate.leaves(path)
        return config[field] if leaves else {"stays": path}, {fact: leaves}
    if component in ("parallel", "wait_for_approval"):
        return None, {"message": ""}
    if component == "trycatch":
        return {"data": path}, {}
    if component == "subpipeline":
        return config["input_data"], {"default_result": config.get("default_result")}
    if component == "foreach":
        count, indices = fate.indices(path)
        items = Items([f"{path}#{i}" for i in range(count)], indices)
        facts: dict[str, Any] = {"count": len(items)}
        if indices is not None:
            facts["indices"] = indices
        return items, facts
    branch = fate.branch(component, path)
    return {"took": branch, "at": path}, {"branch": branch}
