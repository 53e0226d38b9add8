"""What the checks of run stores share: making runs, reading them, and seeing that something is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flowmason_ray.engine.events import Event, StageStarted, StageSucceeded
from flowmason_ray.engine.run_log import Recorded, RunLog, RunRecord, RunStore
from flowmason_ray.errors import Failure, FlowMasonError

OpenStore = Callable[[], RunStore]
Check = Callable[[OpenStore], Awaitable[None]]

FAILURE = Failure(code="boom", message="it broke", stage="a", details={"n": 1})
PATIENCE_S = 45.0
"""How long something is waited for that should be there at once."""


class Chapter:
    """Checks that belong together, by what they show."""

    def __init__(self) -> None:
        self.checks: dict[str, Check] = {}

    def __call__(self, body: Check) -> Check:
        """Take a check: used as a decorator."""
        self.checks[body.__name__] = body
        return body


def new_record(run_id: str = "r_1", *, created_at: float = 1.0, pipeline: str = "p") -> RunRecord:
    """Return the record of a run that begins."""
    return RunRecord(
        run_id=run_id, pipeline=pipeline, version="1.0.0", status="running", created_at=created_at, file="p.json"
    )


async def recorded(store: RunStore, run_id: str, after: int = 0) -> list[Recorded]:
    """Return the events of a run."""
    return [each async for each in store.read(run_id, after=after)]


async def begun(store: RunStore, run: RunRecord | None = None) -> RunLog:
    """Begin a run that is there for everybody: its first event is recorded."""
    log = store.create(run or new_record())
    log.append(started(0))
    await log.flush()
    return log


async def ran(store: RunStore, *events: Event, run: RunRecord | None = None) -> None:
    """Record a whole run."""
    log = store.create(run or new_record())
    for event in events:
        log.append(event)
    await log.close()


def started(number: int) -> StageStarted:
    """Return an event that tells apart."""
    return StageStarted(at=float(number), path=f"s{number}", attempt=1)


async def refused(error: type[FlowMasonError], work: Awaitable[Any], *words: str) -> None:
    """Make sure that something is refused, and that the message says some words."""
    message: str | None = None
    try:
        await work
    except error as exc:
        message = exc.message
    assert message is not None, f"no {error.__name__} was raised"
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


async def call(body: Callable[[], Any]) -> Any:
    """Make a call one that can be awaited, for `refused`."""
    return body()


async def followed(store: RunStore, run_id: str, after: int = 0) -> list[str]:
    """Follow a run to its end; return the kinds of its events."""
    return [each.event["kind"] async for each in store.follow(run_id, after=after)]


def succeeded(value: Any, decision: dict[str, Any] | None = None) -> StageSucceeded:
    """Return a stage's success."""
    return StageSucceeded(at=1.0, path="a", attempt=1, value=value, decision=decision)
