"""What runs on a Ray worker: the attempts of one call, or the putting together of one construct's results.

The coordinator sends stages as data and says where every value that their templates read comes from (`ray_messages`).
Templates are rendered here, so large values go from producer to consumer and never through the coordinator. What comes back:
a report per attempt, always small, and per attempt the value if it is large, which stays in the object store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, cast

import orjson
import ray

from flowmason_ray.engine.attempt import DECLINED, Value, at_once, fail, finish, is_final, prepare
from flowmason_ray.engine.component import ComponentSpec, Cost, Effect
from flowmason_ray.engine.context import AttemptContext
from flowmason_ray.engine.digests import contents_of
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.memory_limit import limited
from flowmason_ray.engine.executors.ray_copying import BEHIND_BYTES, written
from flowmason_ray.engine.executors.ray_frames import portable, restore
from flowmason_ray.engine.executors.ray_losses import lost_failure, lost_object
from flowmason_ray.engine.executors.ray_messages import (
    AttemptData,
    Binding,
    CallData,
    CallReport,
    Report,
    pack,
    unpack,
)
from flowmason_ray.engine.executors.ray_stages import Work, WorkerScope, instance_of, run_of, work_of
from flowmason_ray.engine.executors.ray_telling import Teller
from flowmason_ray.engine.executors.surroundings import surroundings
from flowmason_ray.engine.executors.threads import AttemptStopped
from flowmason_ray.engine.values import INLINE_LIMIT_BYTES, recorded_size
from flowmason_ray.stores.encoding import Encoder

INTERRUPT_S = 0.1
"""How often an asynchronous component's loop wakes up to be interrupted: well within `STOP_GRACE_S`."""

NOT_RUN = Report(status="not_run")
STOPPED = Report(status="stopped")

_ray: Any = ray  # under this name without types: those of Ray are partly unknown


def run_call(classes: Mapping[str, Any], packed: bytes, *arguments: Any) -> tuple[Any, ...]:
    """Run the attempts of a call. All that can go wrong in them is in their reports; only the worker's own death is not.

    Args:
        classes: Component classes that cannot be imported here, by name.
        packed: What is to be done, a `CallData`.
        arguments: The values that bindings point at.

    Returns:
        The `CallReport`, packed; then per attempt its value if it is too large for a report, else None.
    """
    reports, kept = run_attempts(classes, unpack(packed, "driver"), arguments, execute)
    return (pack(CallReport(reports, node_id())), *kept)


Execute = Callable[[Work, Any, AttemptContext], Any]
"""Calls a component, and waits for it."""


def run_attempts(
    classes: Mapping[str, Any], call: CallData, arguments: Sequence[Any], execute: Execute
) -> tuple[tuple[Report, ...], list[Any]]:
    """Run the attempts of a call in order; return their reports, and per attempt its value if it is too large for that."""
    reports: list[Report] = []
    made: list[Any] = []
    kept: list[Any] = []
    for data in call.attempts:
        if any(reports[earlier].status != "succeeded" for earlier in data.reads):
            report, value, large = NOT_RUN, None, None
        else:
            report, value, large = run_attempt(classes, call, data, arguments, made, execute)
        reports.append(report)
        made.append(value)
        kept.append(large)
    return tuple(reports), kept


_node: list[str] = []


def node_id() -> str:
    """Return the id of the node on which this process runs."""
    if not _node:
        _node.append(_ray.get_runtime_context().get_node_id())
    return _node[0]


def run_attempt(
    classes: Mapping[str, Any],
    call: CallData,
    data: AttemptData,
    arguments: Sequence[Any],
    made: Sequence[Any],
    execute: Execute,
) -> tuple[Report, Any, Any]:
    """Run one attempt of a call.

    Returns:
        The report; the value, for later attempts of the same call; and the value again, fit to be sent, if it is too large
        for the report (else None).
    """
    started = perf_counter()
    teller = Teller(data.path, data.attempt)
    begun = done = False
    context: AttemptContext | None = None
    try:
        run = run_of(call.run)
        if data.live and call.mailbox is not None:
            teller.post_to(call.mailbox)
            if data.timed:
                teller.began()
        work = work_of(data, classes)
        started = perf_counter()  # importing and compiling a stage is no part of it: this worker does that once
        scope = WorkerScope(data, work.id, run, arguments, made, _ray.get)
        given = prepare(work, scope)
        if given is DECLINED:
            return Report(status="declined", drew_time=scope.drew_time), None, None
        drew_time, begun = scope.drew_time, True
        if work.component is None:
            value: Value = given
        else:
            context = AttemptContext(
                run,
                stage_id=work.id,
                path=data.path,
                attempt=data.attempt,
                first_started_at=data.first_started_at,
                tell=teller.tell,
                key=data.idempotency_key,
                llm=work.llm,
            )
            with surroundings(run, teller.tell, data.path, data.attempt, away=True):
                result = execute(work, given, context)
            done = work.component.effect is Effect.EFFECTFUL
            value = finish(work.component, result, work.schema)
            drew_time = drew_time or context.drew_time
        report, large = _report(value, run, perf_counter() - started)
        usage = _closed(context)
        return report._replace(usage=usage, told=teller.told(), drew_time=drew_time), value.value, large
    except AttemptStopped:
        return STOPPED._replace(usage=_closed(context), told=teller.told()), None, None
    except Exception as exc:  # foreign code runs here: any exception is a failed attempt
        lost = None if begun else lost_object(exc)
        failure = lost_failure(lost, data.path, data.attempt) if lost else fail(exc, data.path, data.attempt)
        # An effect that is done is not done again because something was wrong with what came of it.
        duration_s, final = perf_counter() - started, done or is_final(exc)
        usage = _closed(context)
        report = Report(
            status="failed", failure=failure, final=final, duration_s=duration_s, usage=usage, told=teller.told()
        )
        return report, None, None
    finally:  # also when Ray interrupts it
        teller.over()


def _closed(context: AttemptContext | None) -> Mapping[str, Any] | None:
    """End what an attempt has shown so far; return what it has used of models."""
    return None if context is None else context.close()


def execute(work: Work, given: Any, context: AttemptContext) -> Any:
    """Call a component in this thread, which Ray interrupts when the call is cancelled."""
    assert work.component is not None
    if work.memory_mib is not None:
        with limited(work.memory_mib):
            return _called(work, work.component, given, context)
    return _called(work, work.component, given, context)


def _called(work: Work, component: ComponentSpec, given: Any, context: AttemptContext) -> Any:
    result = instance_of(component, context.run_id).execute(given, context)
    if not component.is_async:
        return result
    if component.cost is Cost.TRIVIAL:
        return at_once(component, result)  # an event loop takes longer to make than it runs
    return asyncio.run(_interruptible(result))


async def _interruptible(call: Coroutine[Any, Any, Any]) -> Any:
    """Await a component so that cancelling its task reaches it.

    Ray cancels by asking the interpreter for a KeyboardInterrupt, which waits for the next bytecode: a loop that sleeps in
    the kernel would not notice before its worker is killed.
    """

    async def beat() -> None:
        while True:  # noqa: ASYNC110  # waking up is the point
            await asyncio.sleep(INTERRUPT_S)

    beating = asyncio.create_task(beat())
    try:
        return await call
    finally:
        beating.cancel()


def gather_results(
    head: dict[str, Any], parts: dict[str, Any], base: Binding, packed_run: bytes, *arguments: Any
) -> tuple[bytes, Any]:
    """Put a construct's value together from values of which some are large. Returns as `run_call`."""
    run = run_of(packed_run)

    def bound(part: Any) -> Any:
        """Put the values into a part whose handles the coordinator has replaced by bindings, or by null."""
        if isinstance(part, Binding):
            return restore(part.of if part.source == "value" else arguments[part.of])
        if isinstance(part, dict):
            return {name: bound(each) for name, each in cast("dict[str, Any]", part).items()}
        return [bound(each) for each in cast("list[Any]", part)] if isinstance(part, list) else None

    value: dict[str, Any] = {**(bound(base) or {}), **head, **{name: bound(part) for name, part in parts.items()}}
    report, large = _report(Value(value), run, 0.0)
    return pack(CallReport((report,), node_id())), large


def _report(value: Value, run: RunInfo, duration_s: float) -> tuple[Report, Any]:
    """Return the report on a value, and the value fit to be sent if it does not go into the report."""
    key, text = Encoder(None, secrets=run.hidden).value(value.value)
    if key == "value" and len(text) <= INLINE_LIMIT_BYTES:
        return Report(status="succeeded", duration_s=duration_s, decision=value.decision, value=value.value), None
    size_bytes = len(text) if key == "value" else recorded_size(value.value)
    # Without blobs a frame is recorded by what it looks like.
    known = key == "packed" and run.blobs is None
    if run.blobs is not None and size_bytes < BEHIND_BYTES:
        # The component has done its work: that its copy cannot be written now is no reason to call it failed, and to do it
        # again. As a larger value it is written behind the run (`ray_copies`), which also says so if that cannot be done.
        with suppress(Exception):
            key, text = written(value.value, run)
            known = key == "packed"
    report = Report(
        status="succeeded",
        duration_s=duration_s,
        decision=value.decision,
        inline=False,
        packed=orjson.dumps(orjson.Fragment(text)) if known else None,
        size_bytes=size_bytes,
        contents=contents_of(value.value) if run.fingerprints else None,
    )
    return report, portable(value.value)
