"""An actor of a component's pool, seen from inside: one process that holds one instance, set up once, and runs calls with it.

Calls run in threads of Ray's group `calls`, as many at a time as the component allows; asynchronous components share one event
loop, on which they also were set up. Beside them the group `control` stays free, so that an attempt can be stopped.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import ray

from flowmason_ray.engine.attempt import SetupFailed, fail, is_final, setup_failed
from flowmason_ray.engine.context import AttemptContext, InstanceContext
from flowmason_ray.engine.events import Event
from flowmason_ray.engine.executors.instances import Instance
from flowmason_ray.engine.executors.memory_limit import limited, own_bytes
from flowmason_ray.engine.executors.prints import heard, keep_ears_open
from flowmason_ray.engine.executors.ray_messages import (
    CallData,
    CallReport,
    ComponentRef,
    VersionMismatch,
    pack,
    unpack,
)
from flowmason_ray.engine.executors.ray_stages import ComponentChanged, Work, component_of, instance_of, run_of
from flowmason_ray.engine.executors.ray_telling import Teller
from flowmason_ray.engine.executors.ray_worker import node_id, run_attempts
from flowmason_ray.engine.executors.threads import AttemptStopped, ComponentLoop, ThreadJob
from flowmason_ray.errors import Failure

CONTROL_THREADS = 2
"""One waits for the actor's end; the other for the beginning of its setup, then it is free to stop attempts."""

_ray: Any = ray  # under this name without types: those of Ray are partly unknown


class Ready(NamedTuple):
    """How an actor's setup ended."""

    failure: Failure | None
    """None: it is ready."""
    final: bool
    told: tuple[tuple[int, Event], ...]
    node: str
    setup_s: float


class ComponentActor:
    """Runs calls with one instance of a component."""

    def __init__(self, classes: Mapping[str, Any], packed_run: bytes, reference: ComponentRef) -> None:
        self._classes = classes
        self._packed_run = packed_run
        self._reference = reference
        self._instance: Instance | None = None
        self._loop: ComponentLoop | None = None
        self._one_by_one = True
        """Whether there is one call at a time: then the memory that this process grows by is that of the call."""
        self._running: dict[tuple[str, int], Callable[[], None]] = {}
        self._kept: dict[tuple[str, int], Any] = {}
        self._begins = threading.Event()
        self._never = threading.Event()

    def set_up(self, path: str, number: int, mailbox: tuple[str, str] | None) -> Ready:
        """Make the instance ready. What it says counts to `path`, that of the attempt which it is needed for first.

        `number` tells setups apart, in the place of an attempt's number: it is negative.
        """
        started = perf_counter()
        teller = Teller(path, number)
        failure, final = None, False
        try:
            run = run_of(self._packed_run)
            if mailbox is not None:
                teller.post_to(mailbox)
            component = component_of(self._reference, self._classes)
            self._one_by_one = component.actors is None or component.actors.concurrency == 1
            keep_ears_open()
            try:
                instance = Instance(component)
                if component.is_async:
                    self._loop = ComponentLoop()
                with heard(teller.tell, path, number, shown=False):
                    self._set_up(instance, lambda: InstanceContext(run, path, teller.tell))
                self._instance = instance
            except SetupFailed:
                raise
            except Exception as exc:  # its constructor: foreign code too
                raise setup_failed(component, exc) from exc
        except Exception as exc:  # the module of the component is foreign code as well
            failure, final = fail(exc, path, 1), is_final(exc)
            if not isinstance(exc, (ComponentChanged, VersionMismatch)):
                failure = replace(failure, code="component_setup_failed")
        return Ready(failure, final, teller.told(), node_id(), perf_counter() - started)

    def _set_up(self, instance: Instance, say: Callable[[], InstanceContext]) -> None:
        self._begins.set()
        if self._loop is None:
            instance.ready(say)
        else:
            self._on_loop(lambda: instance.ready_async(say), "setup", lambda _: None)

    def begins(self) -> None:
        """Return when the instance's `setup` begins."""
        self._begins.wait()

    def run(self, packed: bytes, *arguments: Any) -> bytes:
        """Run a call (`ray_worker.run_call`); values that are too large for the report stay here until they are taken."""
        assert self._instance is not None, "calls come after set_up"
        call: CallData = unpack(packed, "driver")
        reports, kept = run_attempts(self._classes, call, arguments, self._execute)
        for data, report, value in zip(call.attempts, reports, kept, strict=True):
            if report.status == "succeeded" and not report.inline:
                self._kept[data.path, data.attempt] = value
        return pack(CallReport(reports, node_id(), own_mib()))

    def _execute(self, work: Work, given: Any, context: AttemptContext) -> Any:
        assert work.component is not None
        assert self._instance is not None
        own = work.component.name == self._instance.component.name
        target = self._instance.object if own else instance_of(work.component, context.run_id)
        key = (context.path, context.attempt)
        memory_mib = work.memory_mib if self._one_by_one else None

        def call() -> Any:
            with limited(memory_mib):
                return target.execute(given, context)

        try:
            if not work.component.is_async:
                return self._in_this_thread(call, key)
            self._loop = self._loop or ComponentLoop()
            with limited(memory_mib, stop=lambda: self.stop(*key)):
                return self._on_loop(
                    lambda: target.execute(given, context),
                    context.path,
                    lambda stop: self._running.__setitem__(key, stop),
                )
        finally:
            self._running.pop(key, None)

    def _on_loop(self, make: Callable[[], Any], name: str, started: Callable[[Callable[[], None]], None]) -> Any:
        assert self._loop is not None
        over: Future[Any] = Future()

        def done(result: Any, error: BaseException | None) -> None:
            if isinstance(error, asyncio.CancelledError):
                over.set_exception(AttemptStopped())
            elif error is not None:
                over.set_exception(error)
            else:
                over.set_result(result)

        started(self._loop.submit(make, name, done))
        return over.result()

    def _in_this_thread(self, call: Callable[[], Any], key: tuple[str, int]) -> Any:
        ended: list[tuple[Any, BaseException | None]] = []
        job = ThreadJob(call, lambda result, error: ended.append((result, error)))
        self._running[key] = job.stop
        job.run()
        result, error = ended[0]
        if error is not None:
            raise error
        return result

    def take(self, path: str, attempt: int) -> tuple[None, Any]:
        """Hand out a value that stayed here, after something small whose arrival tells that it is handed out."""
        return None, self._kept.pop((path, attempt))

    def stop(self, path: str, attempt: int) -> None:
        """Stop an attempt, if it is running."""
        stop = self._running.get((path, attempt))
        if stop is not None:
            stop()

    def tear_down(self) -> str | None:
        """Call the component's `teardown`; returns what went wrong, if anything."""
        instance = self._instance
        if instance is None or not instance.wants_teardown:
            return None
        try:
            if self._loop is None:
                instance.tear_down()
            else:
                self._on_loop(instance.tear_down_async, "teardown", lambda _: None)
        except Exception as exc:  # foreign code runs here
            return f"teardown() of component {instance.component.name!r} failed. {type(exc).__name__}: {exc}"
        return None

    def watch(self) -> None:
        """Never return: whoever waits for this notices when the process dies."""
        self._never.wait()


def own_mib() -> float:
    """Return how much memory this process has for itself; 0 where the system does not say."""
    return (own_bytes() or 0) / 2**20


def _grouped(name: str, group: str) -> Any:
    return _ray.method(concurrency_group=group)(getattr(ComponentActor, name))


class _RemoteActor(ComponentActor):
    """The same with Ray's concurrency groups."""

    set_up = _grouped("set_up", "calls")
    begins = _grouped("begins", "control")
    run = _grouped("run", "calls")
    take = _ray.method(concurrency_group="control", num_returns=2)(ComponentActor.take)
    stop = _grouped("stop", "control")
    tear_down = _grouped("tear_down", "calls")
    watch = _grouped("watch", "control")


@lru_cache(maxsize=64)  # Ray exports a class to the cluster again for every object that `ray.remote` returns
def remote_actor(concurrency: int) -> Any:
    """Return the actor class for a component that carries out `concurrency` calls at a time."""
    groups = {"calls": concurrency, "control": CONTROL_THREADS}
    return _ray.remote(concurrency_groups=groups, max_restarts=0, max_task_retries=0)(_RemoteActor)
