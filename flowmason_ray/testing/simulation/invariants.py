"""What holds after every single event, whatever the pipeline: each law is one function, named for what it promises.

They are told what the state machine was handed and what it answered, and keep their own books (`Books`), together with the
truth of the simulated world. What must come of a run as a whole is the oracle's matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from flowmason_ray.engine.commands import CancelStage, GatherResults, Output, StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.events import (
    RUN_ENDED,
    ApprovalAnswered,
    CancelRequested,
    Event,
    ItemEnded,
    StageEnded,
    StageRetrying,
    StageReused,
    StageSkipped,
    StageSucceeded,
    TimerFired,
)
from flowmason_ray.engine.plan import Plan
from flowmason_ray.testing.simulation.world import World

ITERATION = re.compile(r"\[(\d+)\]/")


class Violation(AssertionError):
    """A law was broken. `law` is its name."""

    def __init__(self, law: str, message: str) -> None:
        super().__init__(f"{law}: {message}")
        self.law = law
        self.message = message


@dataclass(slots=True)
class Books:
    """What has been seen so far."""

    plan: Plan
    windows: dict[str, int]
    """Window of each loop, by stage id."""
    running: dict[str, int] = field(default_factory=dict[str, int])
    """Attempts and gatherings begun and not genuinely answered: path → attempt."""
    gathering: set[str] = field(default_factory=set[str])
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    retrying: dict[str, int] = field(default_factory=dict[str, int])
    """Path → the attempt after which a delay was asked for."""
    fired: set[str] = field(default_factory=set[str])
    stopping: set[str] = field(default_factory=set[str])
    succeeded: set[str] = field(default_factory=set[str])
    """Paths of plain stages and constructs of which an attempt succeeded."""
    done: dict[str, str] = field(default_factory=dict[str, str])
    """Path → how it ended, as narrated."""
    iterations: dict[str, dict[int, bool]] = field(default_factory=dict[str, dict[int, bool]])
    """Per loop instance, in the order in which they opened: index → whether it is still open."""
    touched: set[str] = field(default_factory=set[str])
    """Loop instances that the step at hand has opened iterations of."""
    cancelled: bool = False
    ended: Event | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One stimulus with its answer."""

    event: Event
    genuine: bool
    outputs: list[Output]
    world: World


def late_reports_change_nothing(books: Books, step: Step) -> str | None:
    """A report that is late or comes twice has no consequence."""
    if not step.genuine and step.outputs:
        return f"{step.event} was late or doubled, and led to {step.outputs[0]}"
    return None


def nothing_happens_after_the_end(books: Books, step: Step) -> str | None:
    """Once the run has ended, no stimulus has a consequence."""
    if books.ended is not None and step.outputs:
        return f"after {books.ended.kind}, {step.event.kind} led to {step.outputs[0]}"
    return None


def nothing_starts_after_cancel(books: Books, step: Step) -> str | None:
    """Once cancelling was asked for, no attempt is begun."""
    if books.cancelled or isinstance(step.event, CancelRequested):
        for output in step.outputs:
            if isinstance(output, (StartStage, GatherResults)):
                return f"{output.path} was begun"
    return None


def attempts_follow_each_other(books: Books, step: Step) -> str | None:
    """An instance has one attempt at a time, numbered from 1; a further one only after its delay."""
    for output in step.outputs:
        if not isinstance(output, StartStage):
            continue
        before = books.attempts.get(output.path, 0)
        if output.path in books.running:
            return f"{output.path} is begun while attempt {books.running[output.path]} of it runs"
        if output.attempt != before + 1:
            return f"attempt {output.attempt} of {output.path} follows attempt {before}"
        if before and output.path not in books.fired and not _fires(step, output.path):
            return f"attempt {output.attempt} of {output.path} did not wait for its delay"
    return None


def _fires(step: Step, path: str) -> bool:
    return isinstance(step.event, TimerFired) and step.genuine and step.event.path == path


def effects_happen_once(books: Books, step: Step) -> str | None:
    """Nothing that has succeeded, and nothing that has ended, is begun again."""
    for output in step.outputs:
        if isinstance(output, StartStage):
            if output.path in books.succeeded:
                effect = "effectful " if output.stage.effect is Effect.EFFECTFUL else ""
                return f"the {effect}stage {output.path} is begun again after its success"
            if output.path in books.done:
                return f"{output.path} is begun although it was {books.done[output.path]}"
    return None


def ends_are_final(books: Books, step: Step) -> str | None:
    """No instance ends twice."""
    said: set[str] = set()
    for output in step.outputs:
        if isinstance(output, (StageEnded, StageSkipped)):
            if output.path in books.done or output.path in said:
                return f"{output.path} was {books.done.get(output.path, 'ended')} and is {output}"
            said.add(output.path)
    return None


def max_parallel_is_kept(books: Books, step: Step) -> str | None:
    """No more attempts are under way than the pipeline allows."""
    limit = books.plan.max_parallel
    if limit is not None:
        begun = [path for path in books.running if path not in books.gathering]
        if len(begun) > limit and any(isinstance(o, StartStage) for o in step.outputs):
            return f"{len(begun)} attempts are under way, {limit} may be: {begun}"
    return None


def windows_are_kept(books: Books, step: Step) -> str | None:
    """No loop has more iterations open than its window."""
    for loop in books.touched:
        iterations = books.iterations[loop]
        window = books.windows[loop.rpartition("/")[2]]
        if sum(iterations.values()) > window:
            return f"{loop} has {[i for i, is_open in iterations.items() if is_open]} open, its window is {window}"
    return None


def windows_move_in_order(books: Books, step: Step) -> str | None:
    """Iterations open in the order of their items."""
    for loop in books.touched:
        iterations = books.iterations[loop]
        if list(iterations) != sorted(iterations):
            return f"{loop} opened its iterations in the order {list(iterations)}"
    return None


def only_what_runs_is_stopped(books: Books, step: Step) -> str | None:
    """Only an attempt that is under way is told to stop, and once."""
    for output in step.outputs:
        if isinstance(output, CancelStage):
            if step.world.flights.get(output.path) is None or output.attempt != books.running.get(output.path):
                return f"attempt {output.attempt} of {output.path} is told to stop; it is not under way"
            if output.path in books.stopping:
                return f"{output.path} is told to stop twice"
    return None


def what_is_cancelled_is_told_to_stop(books: Books, step: Step) -> str | None:
    """An attempt that runs when its stage is cancelled is told so."""
    told = {output.path for output in step.outputs if isinstance(output, CancelStage)}
    for output in step.outputs:
        if not isinstance(output, StageEnded) or output.status != "cancelled" or output.path in told:
            continue
        if output.path in books.running:
            return f"{output.path} is cancelled, and its attempt goes on"
    return None


def nothing_runs_when_the_run_has_ended(books: Books, step: Step) -> str | None:
    """When the run ends, every attempt has been answered."""
    if any(isinstance(output, RUN_ENDED) for output in step.outputs) and books.running:
        return f"{sorted(books.running)} are under way"
    return None


def the_run_ends_once(books: Books, step: Step) -> str | None:
    """There is one end, and it is the last thing that is said."""
    ends = [i for i, output in enumerate(step.outputs) if isinstance(output, RUN_ENDED)]
    if len(ends) > 1 or (ends and ends[0] != len(step.outputs) - 1):
        return f"{[getattr(o, 'kind', o) for o in step.outputs]}"
    return None


Law = Callable[[Books, Step], "str | None"]

BEFORE: tuple[Law, ...] = (
    late_reports_change_nothing,
    nothing_happens_after_the_end,
    nothing_starts_after_cancel,
    attempts_follow_each_other,
    effects_happen_once,
    ends_are_final,
    the_run_ends_once,
)
"""Judged with the books as they were before the step, but for the answered attempt."""
AFTER: tuple[Law, ...] = (
    max_parallel_is_kept,
    windows_are_kept,
    windows_move_in_order,
    only_what_runs_is_stopped,
    what_is_cancelled_is_told_to_stop,
    nothing_runs_when_the_run_has_ended,
)
"""Judged with the step in the books."""


def iterations_of(path: str) -> list[tuple[str, int]]:
    """Return the iterations that an instance lies in: (path of the loop, index)."""
    if "[" not in path:
        return []
    return [(path[: found.start()], int(found[1])) for found in ITERATION.finditer(path)]


def judge(books: Books, step: Step) -> None:
    """Enter one step into the books.

    Raises:
        Violation: a law was broken.
    """
    path = getattr(step.event, "path", None)
    if step.genuine and path is not None:
        _answered(books, step.event, path)
    for law in BEFORE:
        _apply(law, books, step)
    if step.genuine and isinstance(step.event, CancelRequested):
        books.cancelled = True
    books.touched.clear()
    for output in step.outputs:
        _enter(books, output)
    for law in AFTER:
        _apply(law, books, step)
    books.stopping.update(o.path for o in step.outputs if isinstance(o, CancelStage))


def _apply(law: Law, books: Books, step: Step) -> None:
    message = law(books, step)
    if message is not None:
        raise Violation(law.__name__, message)


def _answered(books: Books, event: Event, path: str) -> None:
    if isinstance(event, TimerFired):
        if books.retrying.get(path) == event.attempt:
            books.fired.add(path)
        return
    if isinstance(event, ApprovalAnswered):
        return
    if books.running.pop(path, None) is not None:
        if isinstance(event, (StageSucceeded, StageReused)) and path not in books.stopping:
            books.succeeded.add(path)
        books.gathering.discard(path)
        books.stopping.discard(path)


def _enter(books: Books, output: Output) -> None:
    if isinstance(output, StartStage):
        books.running[output.path] = books.attempts[output.path] = output.attempt
        books.fired.discard(output.path)
        _open_iterations(books, output.path)
    elif isinstance(output, GatherResults):
        books.running[output.path] = output.attempt
        books.gathering.add(output.path)
    elif isinstance(output, StageRetrying):
        books.retrying[output.path] = output.attempt
    elif isinstance(output, StageEnded):
        books.done[output.path] = output.status
        _close_iterations(books, output.path)
    elif isinstance(output, StageSkipped):
        books.done[output.path] = "skipped"
        _open_iterations(books, output.path)
    elif isinstance(output, ItemEnded):
        books.iterations.setdefault(output.path, {})[output.index] = False
    elif isinstance(output, RUN_ENDED):
        books.ended = output


def _open_iterations(books: Books, path: str) -> None:
    for loop, index in iterations_of(path):
        iterations = books.iterations.setdefault(loop, {})
        if index not in iterations:
            iterations[index] = True
            books.touched.add(loop)
        elif not iterations[index]:
            raise Violation("ended_iterations_stay_ended", f"{path} moves although item {index} of {loop} has ended")


def _close_iterations(books: Books, loop: str) -> None:
    """A loop that has ended has no iterations open, whether they were told to end or cut off."""
    iterations = books.iterations.get(loop)
    if iterations is not None:
        for index in iterations:
            iterations[index] = False
