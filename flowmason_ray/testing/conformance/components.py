"""The components of the conformance scenarios. They live in an installed module, so that any worker can import them."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from functools import cache
from typing import Any, cast

from pydantic import BaseModel, ConfigDict

from flowmason_ray.components.base import control_flow, operator
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, TemporaryError


class Anything(BaseModel):
    """Any fields."""

    model_config = ConfigDict(extra="allow")


@operator(name="conf_trivial", effect="pure", cost="trivial")
class Trivial:
    """Returns what it is given, at once."""

    Input, Output = Anything, Anything

    async def execute(self, input: Anything, context: Context) -> dict[str, Any]:
        """Return the input."""
        return input.model_dump()


@operator(name="conf_async", effect="pure", cost="io")
class Async:
    """Returns what it is given, after it has waited for something."""

    Input, Output = Anything, Anything

    async def execute(self, input: Anything, context: Context) -> dict[str, Any]:
        """Return the input."""
        await asyncio.sleep(0)
        return dict(input)


@operator(name="conf_sync", effect="pure", cost="cpu")
class Sync:
    """Returns what it is given, from a thread or a worker."""

    Input, Output = Anything, Anything

    def execute(self, input: Anything, context: Context) -> dict[str, Any]:
        """Return the input."""
        return dict(input)


@operator(name="conf_large", effect="pure", cost="cpu")
class Large:
    """Returns a list of numbered objects, larger than what is kept inline."""

    class Input(BaseModel):
        """How many."""

        count: int

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Return `count` objects of about 100 bytes."""
        return {"items": [{"n": i, "text": "x" * 80} for i in range(input.count)], "count": input.count}


@operator(name="conf_frame", effect="pure", cost="cpu")
class Frame:
    """Returns a frame, by itself and deep inside of other values."""

    class Input(BaseModel):
        """How many rows."""

        rows: int

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Return frames with columns `n` and `word`."""
        import polars

        frame = polars.DataFrame({"n": range(input.rows), "word": [f"w{i % 7}" for i in range(input.rows)]})
        return {"frame": frame, "deep": {"list": [1, [{"frame": frame.head(3)}]]}}


@operator(name="conf_look", effect="pure", cost="cpu")
class Look:
    """Says what a value is, without returning it."""

    class Input(BaseModel):
        """The value."""

        model_config = ConfigDict(arbitrary_types_allowed=True)
        value: Any

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Return the kind, the length and the sum of the numbers `n`."""
        return look(input.value)


def look(value: Any) -> dict[str, Any]:
    """Describe a value: a frame, a list of objects, or anything."""
    if type(value).__name__ == "DataFrame":
        return {"kind": "frame", "length": value.height, "sum": int(value["n"].sum()), "columns": list(value.columns)}
    if isinstance(value, list):
        numbers = [each["n"] for each in cast("list[dict[str, int]]", value)]
        return {"kind": "list", "length": len(numbers), "sum": sum(numbers)}
    return {"kind": type(value).__name__, "length": None, "sum": None}


class Oops(Exception):
    """What `conf_raise` raises."""


@operator(name="conf_raise", effect="pure", cost="cpu")
class Raise:
    """Fails, in a way that is asked for."""

    class Input(BaseModel):
        """How."""

        how: str = "oops"
        until: int = 10**6
        """The attempts before this one fail."""
        delay_ms: int = 0

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Raise, unless enough attempts have."""
        if context.attempt >= input.until:
            return {"attempt": context.attempt, "key": context.idempotency_key}
        return fail(input.how, input.delay_ms)


def fail(how: str, delay_ms: int) -> dict[str, Any]:
    """Raise what is asked for."""
    if how == "temporary":
        raise TemporaryError("Not now.", delay=timedelta(milliseconds=delay_ms))
    if how == "permanent":
        raise PermanentError("Never.", code="never_ever", details={"why": "because"})
    raise Oops(f"It went wrong: {how}.")


@operator(name="conf_wrong", effect="pure", cost="cpu")
class Wrong:
    """Returns something that is not its Output."""

    class Input(BaseModel):
        """What."""

        what: str

    class Output(BaseModel):
        """What it should return."""

        number: int

    def execute(self, input: Input, context: Context) -> Any:
        """Return a wrong shape, nothing, or what is not JSON."""
        return {"shape": {"number": "many"}, "none": None, "text": "text", "huge": {"number": 2**70}}[input.what]


@operator(name="conf_sleep", effect="pure", cost="io")
class Sleep:
    """Waits, on an event loop."""

    class Input(BaseModel):
        """How long."""

        seconds: float
        mark: str | None = None

    Output = Anything

    async def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Wait; leave a mark when the wait was not cut short."""
        await asyncio.sleep(input.seconds)
        leave(context, input.mark)
        return {"slept": input.seconds}


@operator(name="conf_spin", effect="pure", cost="cpu")
class Spin:
    """Computes, in pure Python."""

    class Input(BaseModel):
        """How long."""

        seconds: float
        mark: str | None = None

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Compute; leave a mark when that was not cut short."""
        until = time.monotonic() + input.seconds
        rounds = 0
        while time.monotonic() < until:
            rounds += 1
        leave(context, input.mark)
        return {"span": [context.attempt, rounds > 0]}


def leave(context: Context, mark: str | None) -> None:
    """Leave a file in the project: how a test sees what an attempt did after nobody listened any more."""
    if mark is not None:
        (context.project_dir / mark).write_text(context.path)


@operator(name="conf_block", effect="pure", cost="cpu")
class Block:
    """Sits in a call that Python cannot interrupt."""

    class Input(BaseModel):
        """How long."""

        seconds: float
        mark: str | None = None

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Block; leave a mark when that was not cut short."""
        time.sleep(input.seconds)
        leave(context, input.mark)
        return {}


@operator(name="conf_interval", effect="pure", cost="io")
class Interval:
    """Says from when to when it ran, by the machine's clock: so that overlaps can be counted."""

    class Input(BaseModel):
        """How long."""

        seconds: float

    Output = Anything

    async def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Wait, and return when that began and ended."""
        began = time.time()
        await asyncio.sleep(input.seconds)
        return {"began": began, "ended": time.time()}


@operator(name="conf_exit", effect="effectful", cost="cpu")
class Exit:
    """Ends the process that it runs in."""

    class Input(BaseModel):
        """The last attempt that does."""

        until: int = 10**6

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """End the process, without a word."""
        if context.attempt < input.until:
            os._exit(17)
        return {"attempt": context.attempt}


@operator(name="conf_draws", effect="pure", cost="cpu")
class Draws:
    """Draws through the context, beside what the template has drawn."""

    class Input(BaseModel):
        """What the template drew."""

        uuid: str
        again: str
        now: str

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Return everything that was drawn."""
        return {
            "template": [input.uuid, input.again],
            "uuids": [str(context.uuid()), str(context.uuid())],
            "random": [context.random(), context.random()],
            "one_time": input.now == context.now().isoformat() and context.now() == context.now(),
        }


@operator(name="conf_context", effect="pure", cost="cpu")
class Facts:
    """Says what the context tells."""

    Input, Output = Anything, Anything

    def execute(self, input: Anything, context: Context) -> dict[str, Any]:
        """Return the facts of this attempt."""
        return {
            "facts": [context.run_id, context.pipeline, context.version, context.stage_id, context.path],
            "attempt": context.attempt,
            "project": str(context.project_dir),
            "settings": context.settings.name,
            "started_at": context.started_at.isoformat(),
            "template": dict(input),
        }


@operator(name="conf_tell", effect="pure", cost="cpu")
class Tell:
    """Speaks to whoever follows the run."""

    Input, Output = Anything, Anything

    def execute(self, input: Anything, context: Context) -> dict[str, Any]:
        """Log and report progress."""
        context.log("info", "half way", percent=50)
        context.progress(1, 2)
        context.log("warning", "done")
        return {}


@operator(name="conf_password", effect="pure", cost="cpu")
class Password:
    """Uses a secret."""

    class Input(BaseModel):
        """The secret, and how it is used."""

        password: str
        region: str
        shout: bool = False

    Output = Anything

    def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Return how long it is, or shout it out in an error."""
        if input.shout:
            raise Oops(f"The password {input.password} is wrong.")
        return {"length": len(input.password), "region": input.region}


@control_flow(name="conf_choose", cost="io")
class Choose:
    """A third party's construct, which decides where other components run."""

    class Input(BaseModel):
        """The branches."""

        branch: str | None
        left_stages: list[str] = []
        right_stages: list[str] = []

    class Output(BaseModel):
        """The branch taken."""

        branch: str | None

    async def execute(self, input: Input, context: Context) -> Output:
        """Take the branch that is asked for."""
        await asyncio.sleep(0)
        return self.Output(branch=input.branch)


COMPONENTS: tuple[type, ...] = (
    Trivial, Async, Sync, Large, Frame, Look, Raise, Wrong, Sleep, Spin, Block, Interval, Exit, Draws, Facts, Tell, Password,
    Choose,
)  # fmt: skip


@cache
def catalogue() -> Registry:
    """Return these components, and the built-in ones."""
    registry = Registry(entry_points=False)
    for component in COMPONENTS:
        registry.add(component)
    return registry
