"""What runs on a Ray worker: one attempt, or the putting together of one construct's results.

The coordinator sends the stage as data (`StageData`) and says where every value that its templates read comes from
(`Bindings`): either the value itself, or the position of an argument that Ray has brought along. Templates are rendered
here, so large values go from producer to consumer and never through the coordinator. Two things come back: a report, always
small, and the value, which stays in the object store when it is large.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import PickleBuffer
from time import perf_counter
from typing import Any, Literal, cast

import orjson

from flowmason_ray.components.base import spec_of
from flowmason_ray.components.registry import load_project_module
from flowmason_ray.engine.attempt import DECLINED, Value, fail, finish, prepare
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.context import AttemptContext, context_root, draw_text
from flowmason_ray.engine.digests import Contents, contents_of
from flowmason_ray.engine.events import Event
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.secrecy import Secret
from flowmason_ray.engine.values import INLINE_LIMIT_BYTES, Items, is_frame
from flowmason_ray.errors import Failure, PermanentError
from flowmason_ray.llm.gateway import unpack as unpack_models
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.spec.expressions import Expression, StageView, parse_expression
from flowmason_ray.spec.input_schema import InputSchema
from flowmason_ray.spec.templates import Template, parse_template
from flowmason_ray.stores.blobs import open_blobs
from flowmason_ray.stores.encoding import Encoder

INTERRUPT_S = 0.1
"""How often an asynchronous component's loop wakes up to be interrupted: well within `STOP_GRACE_S`."""
KEPT_STAGES = 4096
"""Compiled stages that a worker keeps: compiling one takes about as long as a Ray call."""
KEPT_VALUES = 4
"""Lists of loop items that a worker keeps, so that the iterations of a loop do not each load the whole list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageData:
    """A stage as data: what a worker needs to run an attempt of it."""

    digest: str
    """Identifies the content, so that a worker compiles a stage once."""
    id: str
    component: tuple[str, str, str, str | None] | None
    """(name, module, qualified name, file) of the component; None for a hidden stage."""
    template: Any
    fixed: Mapping[str, Any]
    when: str | None
    schema: Mapping[str, Any] | None
    llm: Mapping[str, Any] | None = None
    """The effective `llm_settings`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Where a value comes from: it is `value` itself, or argument number `argument`."""

    value: Any = None
    argument: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings:
    """Where everything comes from that a stage's templates read."""

    stages: Mapping[str, tuple[Binding, str, Mapping[str, Any] | None]] = field(
        default_factory=dict[str, tuple[Binding, str, Mapping[str, Any] | None]]
    )
    """By stage id: the output, the status, the error."""
    variables: Mapping[str, Binding] = field(default_factory=dict[str, Binding])
    """By name: the output of the stage that set it, a field of which it is."""
    loops: Mapping[str, tuple[Any, int, bool]] = field(default_factory=dict[str, tuple[Any, int, bool]])
    """By variable: (the items or a reference to them in a list, position, whether it is the index that is wanted)."""
    input: Binding | None = None
    """The scope's input, if it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptData:
    """One attempt as data."""

    stage: StageData
    bindings: Bindings
    path: str
    attempt: int
    first_started_at: float
    run_id: str
    idempotency_key: str | None
    run: bytes
    """The run's facts as JSON (`pack_run`): sent with every attempt, read once per worker, which beats a reference that every
    task would have to borrow (measured: 3 ms a task)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How an attempt ended, for the coordinator. Small whatever the value."""

    status: Literal["succeeded", "failed", "declined"]
    duration_s: float = 0.0
    decision: Mapping[str, Any] | None = None
    inline: bool = True
    """Whether `value` is the value; else it is the task's second result, and `packed` is how the log records it."""
    value: Any = None
    packed: bytes | None = None
    size_bytes: int = 0
    contents: Contents | None = None
    """What stands for `value` in fingerprints, when it is not here and the run asks for it."""
    failure: Failure | None = None
    final: bool = False
    """Whether the component has said that repeating cannot help."""
    usage: Mapping[str, Any] | None = None
    """What it took of models."""
    told: tuple[Event, ...] = ()
    """What the component said (`context.log`, `context.progress`) while it ran."""


# -- caches of this worker process ------------------------------------------------------------------------------------------

_stages: OrderedDict[str, _Work] = OrderedDict()
_runs: OrderedDict[bytes, RunInfo] = OrderedDict()
_items: OrderedDict[str, Any] = OrderedDict()


def _cached(cache: OrderedDict[Any, Any], key: Any, limit: int, make: Callable[[], Any]) -> Any:
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    value = cache[key] = make()
    while len(cache) > limit:
        cache.popitem(last=False)
    return value


@dataclass(slots=True)
class _Work:
    """A stage, compiled on this worker (`engine.attempt.Work`)."""

    component: ComponentSpec | None
    template: Template
    fixed: Mapping[str, Any]
    when: Expression | None
    schema: InputSchema | None
    instance: Any


def _compile(stage: StageData, run: RunInfo, classes: Mapping[str, Any]) -> _Work:
    component = _component(stage.component, classes) if stage.component is not None else None
    return _Work(
        component=component,
        template=parse_template(stage.template),
        fixed=stage.fixed,
        when=None if stage.when is None else parse_expression(stage.when),
        schema=None if stage.schema is None else InputSchema(stage.schema),
        instance=component.create() if component is not None else None,
    )


def _component(reference: tuple[str, str, str, str | None], classes: Mapping[str, Any]) -> ComponentSpec:
    name, module_name, qualname, file = reference
    target: Any
    if name in classes:
        target = classes[name]
    else:
        target = load_project_module(Path(file)) if file is not None else importlib.import_module(module_name)
        for part in qualname.split("."):
            target = getattr(target, part)
    spec = spec_of(target)
    assert spec is not None, f"{module_name}.{qualname} is no component on this worker"
    return spec


class _Scope:
    """Resolves an attempt's roots from its bindings (`spec.expressions.Scope`)."""

    def __init__(self, data: AttemptData, run: RunInfo, arguments: tuple[Any, ...], get: Callable[[Any], Any]) -> None:
        self._data = data
        self._run = run
        self._arguments = arguments
        self._get = get
        self._draws = 0
        self._loaded: dict[str, Any] = {}

    def lookup(self, root: str) -> Any:
        """Return the value of a root name.

        Raises:
            KeyError: it is not defined here.
        """
        if root not in self._loaded:
            self._loaded[root] = self._load(root)
        return self._loaded[root]

    def _load(self, root: str) -> Any:
        data, bindings, run = self._data, self._data.bindings, self._run
        if root == "stages":
            return {
                name: StageView(self._value(binding), status, error)
                for name, (binding, status, error) in bindings.stages.items()
            }
        if root == "input":
            if bindings.input is None:
                raise KeyError(root)
            return self._value(bindings.input)
        if root == "vars":
            return {name: self._value(binding)[name] for name, binding in bindings.variables.items()}
        if root == "context":
            return context_root(run, data.stage.id, data.path, data.attempt)
        if root == "env":
            return run.env
        if root == "secrets":
            return run.secrets
        source, position, wants_index = bindings.loops[root]
        items: Items = self._items(source)
        return items.index(position) if wants_index else items.item(position)

    def _items(self, source: Any) -> Items:
        if not isinstance(source, list):
            return source
        # The reference comes inside a list, so that Ray hands over the reference and not the whole value each time.
        reference: Any = cast("list[Any]", source)[0]
        return _cached(_items, reference.hex(), KEPT_VALUES, lambda: restore(self._get(reference)))

    def _value(self, binding: Binding) -> Any:
        return restore(binding.value if binding.argument is None else self._arguments[binding.argument])

    def draw(self, kind: Literal["now", "today", "uuid"]) -> str:
        """Return a value that a replay sees again."""
        self._draws += 1
        return draw_text(kind, self._run.seed, self._data.path, self._data.first_started_at, self._draws)


def pack_run(run: RunInfo) -> bytes:
    """Return a run's facts, its input excepted, for workers."""
    return orjson.dumps(
        {
            "run_id": run.run_id,
            "pipeline": run.pipeline,
            "version": run.version,
            "started_at": run.started_at,
            "seed": run.seed,
            "project_dir": str(run.project_dir),
            "settings": None if run.settings is None else run.settings.model_dump(mode="json"),
            "env": dict(run.env),
            "secrets": {name: secret.reveal() for name, secret in run.secrets.items()},
            "keys": {name: key.reveal() for name, key in run.keys.items()},
            "models": None if run.models is None else run.models.packed(),
            "streams": run.streams,
            "region": run.region,
            "blobs": None if run.blobs is None else run.blobs.address,
            "fingerprints": run.fingerprints,
        }
    )


def _unpack_run(packed: bytes) -> RunInfo:
    facts = orjson.loads(packed)
    facts["project_dir"] = Path(facts["project_dir"])
    facts["settings"] = None if facts["settings"] is None else ProjectSettings.model_validate(facts["settings"])
    facts["secrets"] = {name: Secret(value) for name, value in facts["secrets"].items()}
    facts["keys"] = {name: Secret(value) for name, value in facts["keys"].items()}
    if facts["models"] is not None:
        facts["models"] = unpack_models(facts["models"], facts["keys"])
    facts["blobs"] = None if facts["blobs"] is None else open_blobs(facts["blobs"])
    return RunInfo(**facts)


def run_attempt(classes: Mapping[str, Any], data: AttemptData, *arguments: Any) -> tuple[Report, Any]:
    """Run one attempt. Everything that can go wrong in it is in the report; only the worker's own death is not.

    Args:
        classes: Component classes that cannot be imported here, by name.
        data: The attempt.
        arguments: The values that bindings point at.

    Returns:
        The report, and the value if it is too large for the report (else None).
    """
    import ray

    started = perf_counter()
    told: list[Event] = []
    context: AttemptContext | None = None
    try:
        run: RunInfo = _cached(_runs, data.run, KEPT_VALUES, lambda: _unpack_run(data.run))
        work: _Work = _cached(_stages, data.stage.digest, KEPT_STAGES, lambda: _compile(data.stage, run, classes))
        given = prepare(work, _Scope(data, run, arguments, ray.get))
        if given is DECLINED:
            return Report(status="declined"), None
        if work.component is None:
            value: Value = given
        else:
            context = AttemptContext(
                run,
                stage_id=data.stage.id,
                path=data.path,
                attempt=data.attempt,
                first_started_at=data.first_started_at,
                tell=told.append,
                key=data.idempotency_key,
                llm=data.stage.llm,
            )
            result = work.instance.execute(given, context)
            if work.component.is_async:
                result = asyncio.run(_interruptible(result))
            value = finish(work.component, result, work.schema)
        usage = None if context is None else context.close()
        report, large = _report(value, run, perf_counter() - started, tuple(told))
        return (report if usage is None else replace(report, usage=usage)), large
    except Exception as exc:  # foreign code runs here: any exception is a failed attempt
        failure = fail(exc, data.path, data.attempt)
        duration_s, final = perf_counter() - started, isinstance(exc, PermanentError)
        usage = None if context is None else context.close()
        failed = Report(
            status="failed", failure=failure, final=final, duration_s=duration_s, usage=usage, told=tuple(told)
        )
        return failed, None


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
) -> tuple[Report, Any]:
    """Put a construct's value together from values of which some are large. Returns as `run_attempt`."""
    run = _unpack_run(packed_run)

    def bound(part: Any) -> Any:
        """Put the values into a part whose handles the coordinator has replaced by bindings, or by null."""
        if isinstance(part, Binding):
            return restore(part.value if part.argument is None else arguments[part.argument])
        if isinstance(part, dict):
            return {name: bound(each) for name, each in cast("dict[str, Any]", part).items()}
        return [bound(each) for each in cast("list[Any]", part)] if isinstance(part, list) else None

    value: dict[str, Any] = {**(bound(base) or {}), **head, **{name: bound(part) for name, part in parts.items()}}
    return _report(Value(value), run, 0.0, ())


def _report(value: Value, run: RunInfo, duration_s: float, told: tuple[Event, ...]) -> tuple[Report, Any]:
    key, text = Encoder(run.blobs, secrets=run.hidden).value(value.value)
    if key == "value" and len(text) <= INLINE_LIMIT_BYTES:
        report = Report(
            status="succeeded", duration_s=duration_s, decision=value.decision, value=value.value, told=told
        )
        return report, None
    report = Report(
        status="succeeded",
        duration_s=duration_s,
        decision=value.decision,
        inline=False,
        packed=orjson.dumps(orjson.Fragment(text)) if key == "packed" else None,
        size_bytes=len(text),
        contents=contents_of(value.value) if run.fingerprints else None,
        told=told,
    )
    return report, portable(value.value)


# -- frames between processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArrowFrame:
    """A frame on its way between processes: an Arrow IPC stream in one buffer, which Ray keeps in shared memory as it is.

    A receiver reads it there without copying. (Ray's own way with Arrow tables fails on slices with polars' strings: "Unhandled
    Arrow array type: string_view", Ray 2.60, `ray/_private/arrow_serialization.py`; a polars frame as such would be pickled.)
    """

    table: Any

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        import pyarrow  # pyright: ignore[reportMissingTypeStubs]  # it has none

        arrow: Any = pyarrow  # its types are partly unknown
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return (_arrow_frame, (PickleBuffer(sink.getvalue()),))


def _arrow_frame(buffer: Any) -> ArrowFrame:
    import pyarrow  # pyright: ignore[reportMissingTypeStubs]  # it has none

    arrow: Any = pyarrow  # its types are partly unknown
    return ArrowFrame(arrow.ipc.open_stream(arrow.py_buffer(buffer)).read_all())


def portable(value: Any) -> Any:
    """Return a value with its frames as `ArrowFrame`s; what holds none comes back as it is."""
    if is_frame(value):
        import polars

        return ArrowFrame(value.to_arrow(compat_level=polars.CompatLevel.newest()))
    if isinstance(value, Items):
        return Items(portable(value.source), value.indices, value.batch)
    return _rebuilt(value, portable)


def restore(value: Any) -> Any:
    """Undo `portable`, without copying the frames' data."""
    if isinstance(value, ArrowFrame):
        import polars

        return cast("Any", polars).from_arrow(value.table, rechunk=False)
    if isinstance(value, Items):
        return Items(restore(value.source), value.indices, value.batch)
    return _rebuilt(value, restore)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container with `change` made to everything in it; lists of plain values, however long, as they are."""
    if isinstance(value, dict):
        return {key: change(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if any(not isinstance(each, str | int | float | None) for each in items):
            return [change(each) for each in items]
    return value  # pyright: ignore[reportUnknownVariableType]  # whatever it is, it is passed on
