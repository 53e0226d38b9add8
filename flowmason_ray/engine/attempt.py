"""The body of an attempt, the same on every executor: from a stage's templates to its value.

    prepare   `when`, templates, the component's Input model
    call      the component's `execute` (the executor's affair: in place, on a loop, in a thread, on a worker)
    finish    the component's Output model, down to JSON and frames
    fail      an exception becomes a `Failure`

Foreign code runs in `call` alone; what it raises, and what it returns, is turned into data here.
"""

from __future__ import annotations

import traceback
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson
from pydantic import ValidationError

from flowmason_ray.engine.component import ComponentSpec, Kind
from flowmason_ray.engine.kept import plain
from flowmason_ray.engine.output_dump import dump_output
from flowmason_ray.engine.values import Decision, is_frame, printable, recorded_size
from flowmason_ray.errors import Failure, FlowMasonError, PermanentError, StageError, TemporaryError

if TYPE_CHECKING:
    from flowmason_ray.spec.expressions import Expression, Scope
    from flowmason_ray.spec.input_schema import InputSchema
    from flowmason_ray.spec.templates import Template

TRACEBACK_LIMIT_CHARS = 4000
"""How much of a component's traceback a failure keeps: enough for the frames that matter, little enough for the log."""


class Work(Protocol):
    """The part of a stage that an attempt needs; a `PlanStage` is one, and so is what a worker rebuilds."""

    @property
    def component(self) -> ComponentSpec | None:
        """None: the value is the rendered template itself."""
        ...

    @property
    def template(self) -> Template:
        """What is rendered."""
        ...

    @property
    def fixed(self) -> Mapping[str, Any]:
        """What is handed over as it is written."""
        ...

    @property
    def when(self) -> Expression | None:
        """Whether it runs at all."""
        ...

    @property
    def schema(self) -> InputSchema | None:
        """What the rendered template must satisfy."""
        ...


class Value(NamedTuple):
    """What an attempt returned: the value, and for control flow the facts that were decided."""

    value: Any
    decision: Mapping[str, Any] | None = None
    size_bytes: int = 0
    """About how much there is to record; 0: little, or not known."""


class SetupFailed(StageError):
    """A component's `setup` raised (its cause is what), or did not end in time."""

    code = "component_setup_failed"


def setup_failed(component: ComponentSpec, exc: BaseException) -> SetupFailed:
    """Return the error for a `setup` that raised `exc`."""
    words = f"{type(exc).__name__}: {_words_of(exc)}".removesuffix(": ")
    error = SetupFailed(f"setup() of component {component.name!r} failed. {words}")
    error.__cause__ = exc
    return error


def setup_overdue(component: ComponentSpec) -> SetupFailed:
    """Return the error for a `setup` that takes longer than it may."""
    return SetupFailed(
        f"setup() of component {component.name!r} did not end within {component.setup_timeout_s:g} s. If it needs longer, declare "
        "the component with actors=Actors(setup_timeout_s=…), in seconds; None sets no limit."
    )


def is_final(exc: BaseException) -> bool:
    """Tell whether an error says that repeating cannot help."""
    return isinstance(exc.__cause__ if isinstance(exc, SetupFailed) else exc, PermanentError)


DECLINED = object()
"""Returned by `prepare` when the stage's `when` is false."""


class InvalidOutput(StageError):
    """A component returned something that is not its Output."""

    code = "invalid_output"


class InvalidConfig(StageError):
    """A rendered config does not fit the component's Input."""

    code = "invalid_config"


def prepare(work: Work, scope: Scope) -> Any:
    """Render the config; return the component's Input, a `Value` for a hidden stage, or `DECLINED`.

    Raises:
        StageError: a template cannot be rendered, or the result does not fit the Input.
    """
    if work.when is not None and not work.when.evaluate(scope):
        return DECLINED
    config = work.template.render(scope)
    component = work.component
    if component is None:
        if work.schema is not None:
            config = plain(config)
            conform(config, work.schema)
        try:
            return Value(config, size_bytes=recorded_size(config))
        except TypeError as exc:
            raise InvalidOutput(f"The value that a template made is not JSON: {exc}.") from exc
    if component.kind is not Kind.CONTROL_FLOW:
        config = plain(config)  # a loop goes over a lazy list as it is; other components know plain ones only
    if work.fixed:
        config = {**config, **work.fixed}
    try:
        return component.input_model.model_validate(config)
    except ValidationError as exc:
        raise InvalidConfig(_violations(f"The config of component {component.name!r}", exc)) from exc


def _checked(decision: Decision, schema: InputSchema | None) -> Any:
    """Return a decision's value, held against the stage's schema if it is to be.

    Raises:
        InvalidInput: it is the input of a called pipeline and does not fit.
        InvalidOutput: it is to be the pipeline's output and does not fit.
    """
    if schema is None or decision.checked is None:
        return decision.value
    value = plain(decision.value)
    if decision.checked == "input":
        return schema.apply(value)
    conform(value, schema)
    return value


def conform(value: Any, schema: InputSchema) -> None:
    """Hold the pipeline's output against its schema.

    Raises:
        InvalidOutput: it does not fit; every violation is listed.
    """
    if problems := schema.violations(value, subject="output"):
        message = "The pipeline's output misses its schema: " + "; ".join(p.message for p in problems)
        raise InvalidOutput(message, details={"problems": [p.to_json() for p in problems]})


def finish(component: ComponentSpec, result: Any, schema: InputSchema | None = None) -> Value:
    """Turn what `execute` returned into a value of JSON and frames.

    Raises:
        InvalidOutput: it is not an Output, nor an object that makes one.
    """
    if type(result) is Decision:
        return Value(_checked(result, schema), result.facts)
    model = component.output_model
    if not isinstance(result, model):
        if not isinstance(result, Mapping):
            raise InvalidOutput(
                f"Component {component.name!r} returned {_kind(result)}; expected its Output or an object."
            )
        try:
            result = model.model_validate(result)
        except ValidationError as exc:
            raise InvalidOutput(_violations(f"The output of component {component.name!r}", exc)) from exc
    try:
        value = dump_output(result, is_frame)
        size_bytes = recorded_size(value)
    except (TypeError, ValueError) as exc:
        raise InvalidOutput(f"The output of component {component.name!r} is not JSON: {exc}.") from exc
    decision = {"branch": value.get("branch")} if component.kind == "control_flow" else None
    return Value(value, decision, size_bytes)


def at_once(component: ComponentSpec, call: Coroutine[Any, Any, Any]) -> Any:
    """Run the `execute` of a trivial component, which waits for nothing, without an event loop; return its result.

    Raises:
        StageError: it waits for something.
    """
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    except RuntimeError as exc:
        if "no running event loop" not in str(exc):
            raise
    call.close()
    message = (
        f"Component {component.name!r} is declared 'trivial' but waits for something. "
        "Declare it cost='io', so that it runs on an event loop."
    )
    raise StageError(message, code="invalid_component")


def fail(exc: BaseException, path: str, attempt: int) -> Failure:
    """Describe how an attempt failed."""
    if isinstance(exc, FlowMasonError):
        delay = exc.delay.total_seconds() if isinstance(exc, TemporaryError) and exc.delay else None
        return Failure(
            code=str(exc.code),
            message=printable(str(exc.message)),
            stage=path,
            attempts=attempt,
            error_type=type(exc).__name__,
            retry_after_s=delay,
            details=_plain(getattr(exc, "details", None)),
            traceback=_frames_of_component(exc.__cause__) if isinstance(exc, SetupFailed) and exc.__cause__ else None,
        )
    name = type(exc).__name__
    text = _words_of(exc)
    code, message = "component_error", f"{name}: {text}" if text else name
    if isinstance(exc, TypeError | ValueError) and "DataFrame" in text and "serializ" in text:
        # What a field of an Input may hold, a table or only JSON, is known to the component alone; its encoder stumbles.
        code = "invalid_input"
        message = f"The component takes JSON, and found a table in it ({text}). Write the table with table_write, or hand on its values."
    return Failure(
        code=code,
        message=printable(message),
        stage=path,
        attempts=attempt,
        error_type=name,
        traceback=_frames_of_component(exc),
    )


def _words_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as unspeakable:  # an exception's __str__ is foreign code too
        return f"(it cannot be printed: {type(unspeakable).__name__})"


def _plain(details: Any) -> dict[str, Any] | None:
    """Return the details of an error as plain JSON: they go into the run log, whatever a component put there."""
    if not isinstance(details, Mapping):
        return None
    try:
        return orjson.loads(orjson.dumps(dict(details), default=repr, option=orjson.OPT_NON_STR_KEYS))  # pyright: ignore[reportUnknownArgumentType]  # keys and values of any kind
    except (TypeError, ValueError):
        return {"details": printable(repr(details))}  # pyright: ignore[reportUnknownArgumentType]


def _frames_of_component(exc: BaseException) -> str:
    """Return the traceback from the component's own code on: what lies above it is ours and says nothing."""
    frames = traceback.extract_tb(exc.__traceback__)
    first = next((i for i, f in enumerate(frames) if f"{'/'}flowmason_ray/engine/" not in f.filename), 0)
    lines = traceback.format_list(frames[first:])
    return printable("".join(lines)[-TRACEBACK_LIMIT_CHARS:])


def _violations(what: str, exc: ValidationError) -> str:
    found: list[str] = []
    for error in exc.errors(include_url=False, include_input=False):
        where = ".".join(str(p) for p in error["loc"]) or "it"
        found.append(f"{where}: {error['msg']}")
    return f"{what} does not fit: {'; '.join(found)}."


def _kind(value: Any) -> str:
    return "nothing (None)" if value is None else f"a value of type {type(value).__name__!r}"
