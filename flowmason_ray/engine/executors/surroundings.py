"""What is around a component while it runs, wherever that is: its prints are heard, and what it traces belongs to its attempt."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from flowmason_ray.engine.events import Event
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.prints import heard, keep_ears_open
from flowmason_ray.telemetry import attempt_context

_NOTHING: AbstractContextManager[None] = nullcontext()


def surroundings(
    run: RunInfo, tell: Callable[[Event], None], path: str, attempt: int, *, away: bool = False
) -> AbstractContextManager[None]:
    """Return what to call a component in. For one thread or one task: an asynchronous one enters it in its own task.

    Args:
        run: The run.
        tell: Takes what the attempt prints.
        path: The stage instance's.
        attempt: Its number.
        away: Whether this is not the process in which the run is driven: nobody sees its streams, and it may be killed as soon
            as the attempt has ended.
    """
    if run.trace is None and not (run.listens or away):
        return _NOTHING
    return _both(run, tell, path, attempt, away)


@contextmanager
def _both(run: RunInfo, tell: Callable[[Event], None], path: str, attempt: int, away: bool) -> Generator[None]:
    with attempt_context(run.trace, path, attempt, flush=away):
        if run.listens or away:
            if away:
                keep_ears_open()
            with heard(tell, path, attempt, shown=not away):
                yield
        else:
            yield
