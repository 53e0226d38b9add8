"""What others see of a run: its spans at a collector, and what its stages said, in-process and on Ray."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_kit import Done, command, environment, pipeline, stage
from tests.otlp_kit import Collector, Received, collecting

pytestmark = pytest.mark.timeout(400)

WORK = '''
"""A component that traces, logs and prints."""

import sys
from opentelemetry import trace
from pydantic import BaseModel
from flowmason_ray import TemporaryError, operator


@operator(effect="pure", cost="cpu")
class Speak:
    """Says what it is told."""

    class Input(BaseModel):
        text: str
        times: int = 1
        fails: int = 0

    class Output(BaseModel):
        text: str

    def execute(self, input, context):
        with trace.get_tracer("mine").start_as_current_span(f"inside {input.text}"):
            context.log("warning", f"logged {input.text}", secret=context.settings.name)
        for _ in range(input.times):
            print(f"printed {input.text}")
        print("not ended", file=sys.stderr, end="")
        if context.attempt <= input.fails:
            raise TemporaryError("not yet")
        return {"text": input.text}
'''


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flowmason.json").write_text(json.dumps({"name": "spoken", "secrets": ["PASSWORD"]}))
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "speak.py").write_text(WORK)
    file = pipeline(
        stage("each", "foreach", config={"items": ["a", "b"], "item_variable": "i", "loop_stages": ["speak"]}),
        stage("speak", "speak", config={"text": "{{ i }}"}),
        stage("last", "speak", ["each"], config={"text": "{{ secrets.PASSWORD }}", "times": "{{ input.times }}"}),
        stage("twice", "speak", config={"text": "c", "fails": 1}, retry={"max_attempts": 2, "initial_delay_ms": 1}),
        input_schema={"type": "object", "properties": {"times": {"type": "integer", "default": 1}}},
    )
    (tmp_path / "p.pipeline.json").write_text(json.dumps(file))
    return tmp_path


def fm(project: Path, *arguments: str, **variables: str) -> Done:
    done = subprocess.run(
        command(*arguments),
        cwd=project,
        env=environment(PASSWORD="swordfish", **variables),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def name_of(span: Received) -> str:
    """Return what a span is about: its name, or the attempt, by its path."""
    path, attempt = (span.attributes.get(f"flowmason.{name}", "") for name in ("stage.path", "attempt.number"))
    return f"flowmason.attempt {path} {attempt}" if path else span.name


def check_spans(collector: Collector, run_id: str) -> None:
    """Every span is there, and in its place."""
    inside, first = collector.by_name("inside swordfish"), collector.by_name("inside a")
    for name, count in (("inside b", 1), ("inside c", 2)):  # workers send theirs when they get to it
        collector.named(name, count)
    # The process of the run has ended: all spans of its own have been sent.
    assert Counter(name_of(span) for span in collector.spans) == {
        "flowmason.run P": 1,
        "flowmason.attempt each 1": 1,
        "flowmason.attempt each[0]/speak 1": 1,
        "flowmason.attempt each[1]/speak 1": 1,
        "flowmason.attempt last 1": 1,
        "flowmason.attempt twice 1": 1,
        "flowmason.attempt twice 2": 1,
        "inside a": 1,
        "inside b": 1,
        "inside c": 2,
        "inside swordfish": 1,
    }
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)
    found = {name_of(span): span for span in collector.spans}
    run, each, last = (found[f"flowmason.{name}"] for name in ("run P", "attempt each 1", "attempt last 1"))
    assert run.attributes["flowmason.run.id"] == run_id
    speaks = found["flowmason.attempt each[0]/speak 1"]
    assert (each.parent_id, last.parent_id, inside.parent_id) == (run.span_id, run.span_id, last.span_id)
    assert (first.parent_id, speaks.parent_id) == (speaks.span_id, each.span_id)
    assert {span.trace_id for span in collector.spans} == {run.trace_id}
    assert {span.service for span in collector.spans} == {"flowmason"}


def check_logs(project: Path) -> None:
    """All that was said is kept with the attempt that said it, without the secret."""
    told = [json.loads(line) for line in fm(project, "runs", "logs", "last", "--json").out.splitlines()]
    by_path: dict[str, list[tuple[str, str]]] = {}
    for each in told:
        by_path.setdefault(each["path"], []).append((each["fields"].get("stream", each["level"]), each["message"]))
    assert by_path["each[1]/speak"] == [("warning", "logged b"), ("stdout", "printed b"), ("stderr", "not ended")]
    assert by_path["last"] == [("warning", "logged ***"), ("stdout", "printed ***"), ("stderr", "not ended")]
    warnings = fm(project, "runs", "logs", "last", "each[1]", "--level", "warning").out.splitlines()
    assert len(warnings) == 1
    assert "logged b secret='spoken'" in warnings[0]


def test_a_run_is_traced_and_heard(project: Path, collector: Collector) -> None:
    done = fm(project, "run", "p.pipeline.json", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    assert done.code == 0, done.err
    check_spans(collector, done.json["run_id"])
    check_logs(project)
    assert (
        fm(project, "runs", "show", "last", "--json").json["trace_id"] == collector.by_name("flowmason.run P").trace_id
    )
    created = json.loads(fm(project, "runs", "events", "last").out.splitlines()[0])
    assert created["options"]["trace"].split("-")[1] == collector.by_name("flowmason.run P").trace_id


def test_a_run_on_ray_is_traced_and_heard_the_same(project: Path, collector: Collector, ray_cluster: str) -> None:
    done = fm(
        project,
        *("run", "p.pipeline.json", "--json", "--address", ray_cluster),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )
    assert done.code == 0, done.err
    check_spans(collector, done.json["run_id"])
    check_logs(project)


def test_a_collector_that_is_not_there_does_not_matter(project: Path) -> None:
    done = fm(
        project,
        *("run", "p.pipeline.json", "-q"),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize("where", ["local", "ray"])
def test_a_flood_of_prints_is_bounded_and_said(project: Path, where: str, ray_cluster: str) -> None:
    on = ["--address", ray_cluster] if where == "ray" else ["--on", "local"]
    done = fm(project, "run", "p.pipeline.json", "-q", "-i", '{"times": 30000}', *on)
    assert done.code == 0, done.err
    told = [json.loads(line) for line in fm(project, "runs", "logs", "last", "last", "--json").out.splitlines()]
    assert 900 < len(told) < 5_000
    dropped = sum(each["fields"].get("dropped", 0) for each in told)
    assert dropped + sum("dropped" not in each["fields"] for each in told) == 30_002
