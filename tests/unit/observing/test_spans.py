"""One span per run and attempt, nested as the run is; what components trace lies in their attempt's span."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from flowmason_ray import Context, TemporaryError, operator, run, telemetry
from flowmason_ray.api import PreparedRun
from flowmason_ray.resuming import prepare_resume
from flowmason_ray.wiring import open_workspace
from tests.cli_kit import pipeline, stage


class Numbered(BaseModel):
    n: int = 0


@operator(name="spans_traced", effect="pure", cost="io")
class Traced:
    """Traces what it does."""

    Input = Numbered
    Output = Numbered

    def execute(self, input: Numbered, context: Context) -> Numbered:
        with trace.get_tracer("test").start_as_current_span(f"inside {input.n}"):
            return input


@operator(name="spans_traced_async", effect="pure", cost="io")
class TracedAsync:
    """Traces what it does, on an event loop."""

    Input = Numbered
    Output = Numbered

    async def execute(self, input: Numbered, context: Context) -> Numbered:
        with trace.get_tracer("test").start_as_current_span(f"inside {input.n}"):
            await asyncio.sleep(0)
            return input


@operator(name="spans_flaky", effect="pure", cost="io")
class Flaky:
    """Fails the first time."""

    Input = Numbered
    Output = Numbered

    def execute(self, input: Numbered, context: Context) -> Numbered:
        if context.attempt == 1:
            raise TemporaryError("not yet", code="busy")
        return input


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    telemetry.configure(SimpleSpanProcessor(made))
    yield made
    telemetry.configure(None)


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return what was exported, by path or by name: one of each."""
    exported = exporter.get_finished_spans()
    found = {str((span.attributes or {}).get(telemetry.STAGE_PATH, span.name)): span for span in exported}
    assert len(found) == len(exported), sorted(span.name for span in exported)
    return found


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


NESTED = pipeline(
    stage("each", "foreach", config={"items": [1, 2], "item_variable": "i", "loop_stages": ["work"]}),
    stage("work", "spans_traced", config={"n": "{{ i }}"}),
    stage("late", "spans_traced_async", ["each"], config={"n": 9}),
)


def test_spans_are_nested_as_the_run_is(exporter: InMemorySpanExporter) -> None:
    result = run(NESTED, components=[Traced, TracedAsync])
    found = spans(exporter)
    whole = found["flowmason.run P"]
    assert set(found) == {
        "flowmason.run P",
        "each",
        "each[0]/work",
        "each[1]/work",
        "late",
        "inside 1",
        "inside 2",
        "inside 9",
    }
    assert whole.attributes is not None
    assert whole.parent is None
    assert (whole.attributes[telemetry.RUN_ID], whole.attributes[telemetry.RUN_STATUS]) == (result.run_id, "succeeded")
    assert parent_of(found["each"]) == parent_of(found["late"]) == id_of(whole)
    assert parent_of(found["each[1]/work"]) == id_of(found["each"])
    assert parent_of(found["inside 2"]) == id_of(found["each[1]/work"]), "a thread's span"
    assert parent_of(found["inside 9"]) == id_of(found["late"]), "a coroutine's span"
    assert len({span.context.trace_id for span in found.values() if span.context}) == 1
    for span in found.values():
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
    each, work = found["each"], found["each[1]/work"]
    assert (each.start_time or 0) <= (work.start_time or 0)
    assert (work.end_time or 0) <= (each.end_time or 0)
    assert (work.attributes or {})[telemetry.COMPONENT] == "spans_traced"


def test_every_attempt_has_a_span(exporter: InMemorySpanExporter) -> None:
    retry = {"max_attempts": 2, "initial_delay_ms": 1}
    run(pipeline(stage("a", "spans_flaky", retry=retry)), components=[Flaky])
    first, second = [span for span in exporter.get_finished_spans() if span.name.startswith(telemetry.ATTEMPT_SPAN)]
    assert [dict(s.attributes or {})[telemetry.ATTEMPT_STATUS] for s in (first, second)] == ["failed", "succeeded"]
    assert (first.attributes or {})[telemetry.ERROR_CODE] == "busy"
    assert first.status.description == "not yet"
    assert id_of(first) != id_of(second)


def test_a_run_lies_in_the_span_around_it(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    with TracerProvider().get_tracer("program").start_as_current_span("program") as program:
        run(NESTED, components=[Traced, TracedAsync])
    whole = spans(exporter)["flowmason.run P"]
    assert parent_of(whole) == program.get_span_context().span_id
    exporter.clear()
    monkeypatch.setenv("TRACEPARENT", f"00-{'a' * 32}-{'b' * 16}-01")
    run(NESTED, components=[Traced, TracedAsync])
    whole = spans(exporter)["flowmason.run P"]
    assert whole.context is not None
    assert (f"{whole.context.trace_id:032x}", parent_of(whole)) == ("a" * 32, int("b" * 16, 16))


def test_what_is_not_sampled_is_not_exported(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", f"00-{'a' * 32}-{'b' * 16}-00")
    run(pipeline(stage("a", "spans_flaky", retry={"max_attempts": 2, "initial_delay_ms": 1})), components=[Flaky])
    assert exporter.get_finished_spans() == ()


def test_a_resumed_run_goes_on_in_its_trace(
    exporter: InMemorySpanExporter, project_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = project_dir / "p.pipeline.json"
    file.write_text(
        '{"name": "P", "stages": [{"id": "a", "component_type": "variable_set", "config": {"name": "x", "value": 1}}]}'
    )
    workspace = open_workspace(file)
    store = workspace.store()

    async def work() -> str:
        accepted = PreparedRun(file, store=store, workspace=workspace)
        await accepted.accept()
        result = await (await prepare_resume(store, accepted.run_id, on="local")).run()
        assert result.status == "succeeded"
        assert accepted.info.trace is not None
        return accepted.info.trace

    accepted = asyncio.run(work())
    found = spans(exporter)
    whole, first = found["flowmason.run P"], accepted.split("-")
    assert whole.context is not None
    assert whole.parent is not None
    assert (f"{whole.context.trace_id:032x}", f"{whole.parent.span_id:016x}") == (first[1], first[2])
    assert parent_of(found["a"]) == id_of(whole)
    assert (whole.attributes or {})[telemetry.RUN_RESUMED] is True


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "nobody_knows_it"},
    ],
)
def test_nothing_is_traced_unless_asked_for(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    telemetry.configure(None)
    try:
        assert telemetry.new_trace("r_1") is None
    finally:
        telemetry.configure(None)


def test_without_the_extra_nothing_is_traced(absent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    absent("opentelemetry")
    telemetry.configure(None)
    try:
        assert telemetry.new_trace("r_1") is None
    finally:
        telemetry.configure(None)
