"""Traces: the names that spans and their attributes have, the trace that a run belongs to, and the spans of a component. Metrics: where to.

OpenTelemetry is used when it is installed (extra `otel`) and asked for, as its own libraries are: by `OTEL_EXPORTER_OTLP_ENDPOINT`
or `OTEL_TRACES_EXPORTER` in the environment, or by `configure`. Otherwise nothing of it is imported and nothing is paid.

A span is named by what it is about: its id follows from the run's span, the stage's path and the attempt. So a worker that is
told the run's trace (one `traceparent`, W3C Trace Context) knows the attempt's span without being sent it, and what a component
traces itself nests there; the spans themselves are made from the run's events where the run is driven (`run_spans`).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import entry_points
from typing import Any
from uuid import uuid4

RUN_SPAN = "flowmason.run"
ATTEMPT_SPAN = "flowmason.attempt"
"""What the names of spans begin with; the pipeline's or the stage's name follows."""

RUN_ID = "flowmason.run.id"
RUN_STATUS = "flowmason.run.status"
RUN_RESUMED = "flowmason.run.resumed"
PIPELINE = "flowmason.pipeline.name"
PIPELINE_VERSION = "flowmason.pipeline.version"
STAGE = "flowmason.stage.id"
STAGE_PATH = "flowmason.stage.path"
COMPONENT = "flowmason.component"
ATTEMPT = "flowmason.attempt.number"
ATTEMPT_STATUS = "flowmason.attempt.status"
REUSED_FROM = "flowmason.reused.run"
ERROR_CODE = "error.type"
"""Attributes; the last is OpenTelemetry's own (semantic conventions, general attributes)."""

SCOPE = "flowmason_ray"
"""The instrumentation scope."""
FLUSH_MS = 2_000
"""How long spans that a component has made are waited for when its attempt has ended: a worker may be killed afterwards."""

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")

_METRIC_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_METRICS_EXPORTER")

_tracing: Tracing | None = None
_looked = False
_metrics: Any = None
"""The provider of meters that we have set, if we have."""


class Tracing:
    """A provider of spans whose ids are given."""

    def __init__(self, processor: Any) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        tracing = self

        class GivenIds(RandomIdGenerator):
            """The ids that were given for the next span, else random ones."""

            def generate_span_id(self) -> int:
                given, tracing.next_span = tracing.next_span, None
                return super().generate_span_id() if given is None else given

            def generate_trace_id(self) -> int:
                given, tracing.next_trace = tracing.next_trace, None
                return super().generate_trace_id() if given is None else given

        self.next_span: int | None = None
        self.next_trace: int | None = None
        resource = Resource.create({"service.name": _service()})
        self.provider = TracerProvider(resource=resource, id_generator=GivenIds())
        self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer(SCOPE)
        self.lock = threading.Lock()
        """Held while ids are given for a span: several runs may go on in this process."""
        self._own = TracerProvider(resource=resource, shutdown_on_exit=False)
        """For what components trace: their spans get ids of their own, also on several threads at once."""
        self._own.add_span_processor(processor)

    def serve_components(self) -> None:
        """Let what components trace be exported, unless the program has its own way of doing that."""
        from opentelemetry import trace

        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(self._own)

    def sampled(self, trace_id: int, name: str) -> bool:
        """Tell whether a new trace is recorded (`OTEL_TRACES_SAMPLER`)."""
        result = self.provider.sampler.should_sample(None, trace_id, name)
        return result.decision.is_sampled()

    def flush(self) -> None:
        """Send what has ended."""
        self.provider.force_flush(FLUSH_MS)


def tracing() -> Tracing | None:
    """Return what makes spans; None when nobody asked for them, or OpenTelemetry is not installed."""
    global _tracing, _looked
    if not _looked:
        _looked = True
        if _asked_for("TRACES", _ENDPOINTS):
            processor = _processor_from_environment()
            _tracing = None if processor is None else Tracing(processor)
    return _tracing


def configure(processor: Any) -> None:
    """Send spans to a span processor of OpenTelemetry's SDK, whatever the environment says; None: as the environment says."""
    global _tracing, _looked
    _looked = processor is not None
    _tracing = None if processor is None else Tracing(processor)


def flush() -> None:
    """Send what has ended, before this process may be killed."""
    _send_all()


def _send_all() -> None:
    if _tracing is not None:
        _tracing.flush()
    if _metrics is not None:
        _metrics.force_flush(FLUSH_MS)


def serve_metrics() -> None:
    """Let metrics be exported as the environment says, unless nobody asks for them or the program has its own way of doing that."""
    global _metrics
    if _metrics is not None or not _asked_for("METRICS", _METRIC_ENDPOINTS):
        return
    from opentelemetry import metrics

    # What the API itself answers with stands for a provider that nobody has set yet.
    if not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics"):
        return
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        reader = PeriodicExportingMetricReader(_exporter("METRICS", "opentelemetry_metrics_exporter"))
    except (ImportError, StopIteration):
        return
    # Sums of several processes are told apart by the instance.
    resource = Resource.create({"service.name": _service(), "service.instance.id": str(uuid4())})
    _metrics = MeterProvider(metric_readers=[reader], resource=resource)
    metrics.set_meter_provider(_metrics)


def _service() -> str:
    return os.environ.get("OTEL_SERVICE_NAME") or "flowmason"


def _asked_for(signal: str, endpoints: tuple[str, ...]) -> bool:
    environment = os.environ
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    chosen = environment.get(f"OTEL_{signal}_EXPORTER", "").strip()
    return chosen != "none" and any(environment.get(name) for name in endpoints)


def _processor_from_environment() -> Any:
    """Return a processor that exports as OTEL_* says; None when what that needs is not installed."""
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        return BatchSpanProcessor(_exporter("TRACES", "opentelemetry_traces_exporter"))
    except (ImportError, StopIteration):
        return None


def _exporter(signal: str, group: str) -> Any:
    """Return the exporter of a signal that OTEL_* names.

    Raises:
        ImportError, StopIteration: what that needs is not installed.
    """
    name = (os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp").split(",")[0].strip()
    if name == "otlp":
        protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL"
        )
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = entry_points(group=group, name=name)
    return next(iter(found)).load()()


# -- the trace of a run -------------------------------------------------------------------------------------------------------


def new_trace(run_id: str, *, earlier: str | None = None) -> tuple[str, str | None] | None:
    """Return the traceparent of a run's span, and that of the span around it; None when nothing is traced.

    Args:
        run_id: The run.
        earlier: The traceparent of the process that drove it before, whose trace goes on.
    """
    made = tracing()
    if made is None:
        return None
    parent = earlier or _ambient()
    found = None if parent is None else _TRACEPARENT.fullmatch(parent)
    if found is None:
        trace_id = sha256(f"trace {run_id}".encode()).hexdigest()[:32]
        flags = "01" if made.sampled(int(trace_id, 16), RUN_SPAN) else "00"
        return f"00-{trace_id}-{_span_id(run_id)}-{flags}", None
    span = _span_id(run_id if earlier is None else f"{run_id} after {found[2]}")
    return f"00-{found[1]}-{span}-{found[3]}", parent


def trace_id_of(trace: str) -> str:
    """Return the id by which a run's trace is looked up."""
    return trace.split("-")[1]


def attempt_span(trace: str, path: str, attempt: int) -> str:
    """Return the traceparent of an attempt's span."""
    _, trace_id, run_span, flags = trace.split("-")
    return f"00-{trace_id}-{_span_id(f'{run_span} {path} {attempt}')}-{flags}"


def _span_id(text: str) -> str:
    return sha256(f"span {text}".encode()).hexdigest()[:16]


def _ambient() -> str | None:
    """Return the span around this process or call: the current one, else `TRACEPARENT`, as CI systems and shells hand it on."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    return os.environ.get("TRACEPARENT")


def remote_context(traceparent: str) -> Any:
    """Return an OpenTelemetry context in which the span of a traceparent is the current one."""
    from opentelemetry import trace

    _, trace_id, span_id, flags = traceparent.split("-")
    span = trace.SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(flags, 16)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(span))


# -- where attempts run -------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Return what workers need to know to export spans as this process does."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


@contextmanager
def attempt_context(trace: str | None, path: str, attempt: int, *, flush: bool = False) -> Generator[None]:
    """Let what is traced in the body be part of an attempt's span.

    Args:
        trace: The run's traceparent; None: nothing is traced.
        path: The stage instance's.
        attempt: The attempt's number.
        flush: Send what was traced before this returns, because the process may be killed at any time.
    """
    if trace is None or (made := tracing()) is None:
        yield
        return
    from opentelemetry import context

    made.serve_components()
    token = context.attach(remote_context(attempt_span(trace, path, attempt)))
    try:
        yield
    finally:
        context.detach(token)
        if flush:
            _send_all()
