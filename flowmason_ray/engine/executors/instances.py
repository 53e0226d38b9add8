"""Instances of components in one process: made when first needed, set up once before their first `execute`, torn down at the end.

Several attempts may need an instance while it is being set up: they wait for that one setup. When it fails, or takes too long, they
fail with it, and the next attempt after that begins anew with a fresh instance.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from flowmason_ray.engine.attempt import SetupFailed, setup_failed, setup_overdue
from flowmason_ray.engine.component import ComponentSpec, SetupContext
from flowmason_ray.engine.executors.threads import AttemptStopped, ThreadJob
from flowmason_ray.errors import StageError

POLL_S = 0.005
"""How often a thread that waits for another one's setup looks: it stays open to being stopped, which a lock would not be."""
TEARDOWN_S = 5.0
"""How long the end of a run waits for a `teardown`: enough to say good-bye to a server, too short to hang on one."""

Say = Callable[[], SetupContext]
"""Makes the context of a setup."""


class _Turn:
    """Somebody who needs an instance."""

    __slots__ = ("begins",)

    def __init__(self) -> None:
        self.begins = False
        """Whether it is up to them to set it up."""


class Instance:
    """The instance of one component."""

    def __init__(self, component: ComponentSpec) -> None:
        self.component = component
        self.object: Any = component.create()
        self._lock = threading.Lock()
        self._ready = not component.has_setup
        self._owner: _Turn | None = None
        """Who is setting it up."""
        self._began = 0.0
        """Since when."""
        self._spoilt = False
        """Whether the object has been through a setup that failed: the next one gets another."""
        self._failures = 0
        self._cause: Exception | None = None
        """What the last of them was; None: it took too long."""

    @property
    def waits(self) -> bool:
        """Whether its setup has not succeeded yet."""
        return not self._ready

    def ready(self, context: Say) -> Any:
        """Return the object, set up; called in a thread that may block.

        Args:
            context: Is called when a setup begins here.

        Raises:
            SetupFailed: its setup raised or took too long, here or in the attempt that was waited for.
        """
        me, seen = _Turn(), self._failures
        try:
            while self._must_wait(me, seen):
                time.sleep(POLL_S)
            if me.begins:
                result = self._begun(me).setup(context())
                if inspect.isawaitable(result):
                    asyncio.run(_awaited(result))
                self._succeeded(me)
        except BaseException as exc:  # foreign code runs here; a stop, which may come at any point, is passed on too
            self._failed(me, exc)
            raise
        return self.object

    async def ready_async(self, context: Say) -> Any:
        """Return the object, set up; called on an event loop.

        Args:
            context: Is called when a setup begins here.

        Raises:
            SetupFailed: its setup raised or took too long, here or in the attempt that was waited for.
        """
        me, seen = _Turn(), self._failures
        try:
            while self._must_wait(me, seen):  # noqa: ASYNC110  # who sets it up may be on another loop
                await asyncio.sleep(POLL_S)
            if me.begins:
                setup, given = self._begun(me).setup, context()
                if inspect.iscoroutinefunction(setup):
                    await setup(given)
                else:
                    await in_thread(lambda: setup(given))
                self._succeeded(me)
        except BaseException as exc:  # foreign code runs here; a cancellation is passed on too
            self._failed(me, exc)
            raise
        return self.object

    def _must_wait(self, me: _Turn, seen: int) -> bool:
        """Tell whether somebody else is setting it up; if nobody has to or does, `me` takes that on."""
        with self._lock:
            if self._failures > seen:
                raise self._failure()
            if self._ready:
                return False
            if self._owner is not None:
                return True
            self._owner, self._began, me.begins = me, time.monotonic(), True
            return False

    def _begun(self, me: _Turn) -> Any:
        """Return the object that is to be set up: a fresh one."""
        with self._lock:
            if self._owner is not me:
                raise setup_overdue(self.component)
            if self._spoilt:
                self.object, self._spoilt = self.component.create(), False
            return self.object

    def _succeeded(self, me: _Turn) -> None:
        with self._lock:
            if self._owner is not me:  # it was given up meanwhile
                raise setup_overdue(self.component)
            self._ready = True
            self._owner = None

    def _failed(self, me: _Turn, exc: BaseException) -> None:
        """If it was `me` who set it up, let the next one begin anew, and raise what those who wait are told."""
        with self._lock:
            if self._owner is not me:
                return
            self._owner, self._spoilt = None, True
            if isinstance(exc, Exception):
                self._failures += 1
                self._cause = exc
        if isinstance(exc, Exception):
            raise self._failure()

    def _failure(self) -> SetupFailed:
        return setup_overdue(self.component) if self._cause is None else setup_failed(self.component, self._cause)

    def left_s(self) -> float | None:
        """Return for how long the setup that is under way may go on, in seconds; None: without limit, or there is none."""
        limit_s = self.component.setup_timeout_s
        with self._lock:
            return None if self._owner is None or limit_s is None else self._began + limit_s - time.monotonic()

    def give_up(self) -> SetupFailed | None:
        """Let the setup that is under way count as failed, whatever becomes of it; None: there is none any more."""
        with self._lock:
            if self._owner is None:
                return None
            self._owner, self._spoilt = None, True
            self._failures += 1
            self._cause = None
            return self._failure()

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
            await in_thread(self.object.teardown)


async def in_thread(call: Callable[[], Any]) -> Any:
    """Await a call that blocks, in a thread of its own: one that is stopped if this is cancelled, and for which no process stays.

    Threads of `asyncio.to_thread` are waited for when the process ends, also those that hang.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if over.done():
            return
        if error is None:
            over.set_result(result)
        else:
            over.set_exception(error)

    def done(result: Any, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    around = copy_context()
    job = ThreadJob(lambda: around.run(call), done)

    def work() -> None:
        with suppress(AttemptStopped):  # arrived after the call had ended
            job.run()

    threading.Thread(target=work, name="flowmason-blocking", daemon=True).start()
    try:
        return await over
    except asyncio.CancelledError:
        job.stop()
        raise


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
