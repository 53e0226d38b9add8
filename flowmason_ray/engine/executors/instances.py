"""Instances of components in one process: made when first needed, set up once before their first `execute`, torn down at the end.

Several attempts may need an instance while it is being set up: they wait for that one setup. When it fails, they fail with
it, and the next attempt after that begins anew with a fresh instance.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from flowmason_ray.engine.attempt import setup_failed
from flowmason_ray.engine.component import ComponentSpec, SetupContext
from flowmason_ray.errors import StageError

POLL_S = 0.005
"""How often a thread that waits for another one's setup looks: it stays open to being stopped, which a lock would not be."""
TEARDOWN_S = 5.0
"""How long the end of a run waits for a `teardown`: enough to say good-bye to a server, too short to hang on one."""

Say = Callable[[], SetupContext]
"""Makes the context of a setup."""


class Instance:
    """The instance of one component."""

    def __init__(self, component: ComponentSpec) -> None:
        self.component = component
        self.object: Any = component.create()
        self._lock = threading.Lock()
        self._ready = not component.has_setup
        self._owner: object = None
        """Who is setting it up."""
        self._failures = 0
        self._cause: Exception | None = None

    @property
    def waits(self) -> bool:
        """Whether its setup has not succeeded yet."""
        return not self._ready

    def ready(self, context: Say) -> Any:
        """Return the object, set up; called in a thread that may block.

        Raises:
            SetupFailed: its setup raised, here or in the attempt that was waited for.
        """
        me, seen = object(), self._failures
        try:
            while self._must_wait(me, seen):
                time.sleep(POLL_S)
            if self._owner is me:
                result = self.object.setup(context())
                if inspect.isawaitable(result):
                    asyncio.run(_awaited(result))
                self._succeeded()
        except BaseException as exc:  # foreign code runs here; a stop, which may come at any point, is passed on too
            self._failed(me, exc)
            raise
        return self.object

    async def ready_async(self, context: Say) -> Any:
        """Return the object, set up; called on an event loop.

        Raises:
            SetupFailed: its setup raised, here or in the attempt that was waited for.
        """
        me, seen = object(), self._failures
        try:
            while self._must_wait(me, seen):  # noqa: ASYNC110  # who sets it up may be on another loop
                await asyncio.sleep(POLL_S)
            if self._owner is me:
                if inspect.iscoroutinefunction(self.object.setup):
                    await self.object.setup(context())
                else:
                    await asyncio.to_thread(self.object.setup, context())
                self._succeeded()
        except BaseException as exc:  # foreign code runs here; a cancellation is passed on too
            self._failed(me, exc)
            raise
        return self.object

    def _must_wait(self, me: object, seen: int) -> bool:
        """Tell whether somebody else is setting it up; if nobody has to or does, `me` takes that on."""
        with self._lock:
            if self._ready:
                return False
            if self._failures > seen and self._cause is not None:
                raise setup_failed(self.component, self._cause)
            if self._owner is not None:
                return True
            self._owner = me
            return False

    def _succeeded(self) -> None:
        with self._lock:
            self._ready = True
            self._owner = None

    def _failed(self, me: object, exc: BaseException) -> None:
        """If it was `me` who set it up, let the next one begin anew, and raise what those who wait are told."""
        with self._lock:
            if self._owner is not me:
                return
            self.object = self.component.create()
            self._owner = None
            if isinstance(exc, Exception):
                self._failures += 1
                self._cause = exc
        if isinstance(exc, Exception):
            raise setup_failed(self.component, exc)

    @property
    def wants_teardown(self) -> bool:
        """Whether there is something to tear down."""
        return self.component.has_teardown and self._ready

    def tear_down(self) -> None:
        """Call `teardown`, in a thread that may block."""
        result = self.object.teardown()
        if inspect.isawaitable(result):
            asyncio.run(_awaited(result))

    async def tear_down_async(self) -> None:
        """Call `teardown`, on the event loop on which the component has run."""
        if inspect.iscoroutinefunction(self.object.teardown):
            await self.object.teardown()
        else:
            await asyncio.to_thread(self.object.teardown)


async def _awaited(result: Any) -> Any:
    return await result


class Instances:
    """One instance per component class: `execute` gets all that differs from call to call as arguments."""

    def __init__(self) -> None:
        self._known: dict[int, Instance] = {}

    def of(self, component: ComponentSpec) -> Instance:
        """Return the instance of a component, made if need be."""
        key = id(component)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Instance(component)
        return found

    def leave(self) -> list[Instance]:
        """Forget all instances; return those that want to be torn down."""
        known, self._known = list(self._known.values()), {}
        return [each for each in known if each.wants_teardown]


def teardown_failed(component: ComponentSpec, exc: BaseException | None) -> str:
    """Say what went wrong when an instance was torn down; None: it did not end in time."""
    if exc is None:
        return f"teardown() of component {component.name!r} did not end within {TEARDOWN_S:g} s."
    words = exc.message if isinstance(exc, StageError) else f"{type(exc).__name__}: {exc}"
    return f"teardown() of component {component.name!r} failed. {words}"
