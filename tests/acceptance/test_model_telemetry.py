"""What a collector hears of model calls: spans and metrics by the GenAI conventions, equal to what the server counted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.testing.llm_server import LlmServer
from tests.cli_kit import command, environment
from tests.llm_kit import make_project, model_server
from tests.otlp_kit import Collector, Received, collecting
from tests.processes_kit import wait_until

pytestmark = pytest.mark.timeout(400)
CHAT = "chat gpt-test"
CLIENT = 3
"""The kind of a span in OTLP (`SPAN_KIND_CLIENT`)."""
CONTENT = ("gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with model_server() as serving:
        yield serving


@pytest.fixture
def pipeline(tmp_path: Path, server: LlmServer) -> Path:
    """A loop that asks; the third prompt has a secret in it."""
    file = make_project(tmp_path / "project")
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    said["stages"][1]["config"] = {"prompt": "say {{ it }} to {{ secrets.WHOM }}", "system": "Be brief."}
    said["stages"][1]["llm_settings"] = {"max_tokens": 50, "temperature": 0.5}
    file.write_text(json.dumps(said), encoding="utf-8")
    settings = {
        "providers": {"openai": server.providers()["openai"]},
        "llm_settings": {"provider": "openai"},
        "secrets": ["WHOM"],
    }
    (file.parent / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")
    return file


def ask(pipeline: Path, collector: Collector, items: list[str], *options: str, code: int = 0, **variables: str) -> None:
    done = subprocess.run(
        command("run", str(pipeline), "-q", "-i", json.dumps({"items": items}), *options),
        cwd=pipeline.parent,
        env=environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_METRIC_EXPORT_INTERVAL="500",
            WHOM="mellon-3141",
            **variables,
        ),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def check(collector: Collector, server: LlmServer, calls: int) -> list[Received]:
    """Spans and metrics say what the server has counted, each call once, within the attempt that made it."""
    spans = collector.named(CHAT, calls)
    assert len(spans) == calls == len(server.requests)
    attempts = {each.span_id: each for each in collector.named("flowmason.attempt ask", calls)}
    assert {attempts[each.parent_id].attributes["flowmason.stage.path"] for each in spans} == {
        each.attributes["flowmason.stage.path"] for each in attempts.values()
    }
    for each in spans:
        told = each.attributes
        assert each.kind == CLIENT
        assert (told["gen_ai.operation.name"], told["gen_ai.provider.name"]) == ("chat", "openai")
        assert (told["gen_ai.request.model"], told["gen_ai.request.max_tokens"]) == ("gpt-test", 50)
        assert (told["gen_ai.request.temperature"], told["gen_ai.output.type"]) == (0.5, "text")
        assert (told["server.address"], told["flowmason.provider"]) == ("127.0.0.1", "openai")
        assert f":{told['server.port']}" in server.url
    answered = [each.attributes for each in spans if not each.failed]
    assert [(a["gen_ai.response.model"], a["gen_ai.response.finish_reasons"]) for a in answered] == [
        ("gpt-test", ["stop"])
    ] * len(answered)
    read = sum(each["gen_ai.usage.input_tokens"] for each in answered)
    written = sum(each["gen_ai.usage.output_tokens"] for each in answered)
    wait_until(  # workers send theirs in their own time
        lambda: (
            sum(each.count for each in collector.measured("gen_ai.client.operation.duration")) >= calls
            and sum(each.count for each in collector.measured("gen_ai.client.token.usage")) >= 2 * len(answered)
            and sum(each.count for each in collector.measured("gen_ai.server.time_to_first_token")) >= len(answered)
        ),
        "not everything is measured",
    )
    for kind, total in (("input", read), ("output", written)):
        points = [
            p for p in collector.measured("gen_ai.client.token.usage") if p.attributes["gen_ai.token.type"] == kind
        ]
        assert (sum(p.sum for p in points), sum(p.count for p in points)) == (total, len(answered))
        assert {p.unit for p in points} == {"{token}"}
    durations = collector.measured("gen_ai.client.operation.duration")
    assert sum(each.count for each in durations) == calls
    assert {each.unit for each in durations} == {"s"}
    assert all(each.bounds[:2] == [0.01, 0.02] for each in durations)
    assert sum(each.count for each in collector.measured("gen_ai.server.time_to_first_token")) == len(answered)
    return spans


def test_calls_are_told_as_the_conventions_say(collector: Collector, server: LlmServer, pipeline: Path) -> None:
    ask(pipeline, collector, ["one", "two words", "three"])
    spans = check(collector, server, 3)
    counted = sorted(each.tokens_in for each in server.requests)
    assert sorted(each.attributes["gen_ai.usage.input_tokens"] for each in spans) == counted
    assert not any(name in each.attributes for each in spans for name in CONTENT)
    assert not any("say one" in json.dumps(each.attributes) for each in collector.spans)


def test_a_retry_is_a_span_of_its_own_and_counts_nothing_twice(
    collector: Collector, server: LlmServer, pipeline: Path
) -> None:
    server.fails(429, retry_after="0")
    server.fails(503, retry_after="0")
    spans_asked = ["one"]
    ask(pipeline, collector, spans_asked)
    spans = collector.named(CHAT, 3)
    assert len(spans) == 3
    assert len({each.parent_id for each in spans}) == 1, "the attempt is the parent of all"
    failed = [each.attributes["error.type"] for each in spans if each.failed]
    assert failed == ["rate_limited", "provider_overloaded"]
    points = collector.measured("gen_ai.client.token.usage")
    assert sum(each.count for each in points) == 2, "input and output of the one that was answered"
    durations = collector.measured("gen_ai.client.operation.duration")
    errors = {each.attributes.get("error.type"): each.count for each in durations}
    assert errors == {None: 1, "rate_limited": 1, "provider_overloaded": 1}


def test_what_fails_for_good_is_told_as_an_error(collector: Collector, server: LlmServer, pipeline: Path) -> None:
    server.fails(400, message="no")
    ask(pipeline, collector, ["one"], code=1)
    (span,) = collector.named(CHAT, 1)
    assert (span.failed, span.attributes["error.type"]) == (True, "provider_refused_request")
    assert "gen_ai.usage.input_tokens" not in span.attributes
    assert collector.measured("gen_ai.client.token.usage") == []


def test_content_is_told_to_who_opts_in_and_without_secrets(
    collector: Collector, server: LlmServer, pipeline: Path
) -> None:
    ask(pipeline, collector, ["hello"], OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true")
    assert "mellon-3141" in server.requests[0].last
    (span,) = collector.named(CHAT, 1)
    system, asked, said = (json.loads(span.attributes[name]) for name in CONTENT)
    assert system == [{"type": "text", "content": "Be brief."}]
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "say hello to ***"}]}]
    (answer,) = said
    assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")
    assert answer["parts"] == [{"type": "text", "content": "You said: say hello to ***"}]
    assert "mellon" not in json.dumps([each.attributes for each in collector.spans])


def test_calls_from_ray_workers_are_told_the_same(
    collector: Collector, server: LlmServer, pipeline: Path, ray_cluster: str
) -> None:
    ask(pipeline, collector, ["one", "two", "three"], "--address", ray_cluster)
    check(collector, server, 3)
