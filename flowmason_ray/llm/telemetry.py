"""OpenTelemetry spans and metrics of model calls, by the GenAI semantic conventions; nothing where it is not installed.

Names and attributes: OpenTelemetry semantic conventions 1.37, "GenAI". Every request is a span, one that is repeated too: a retry is
another span of the same attempt, with what it took itself, so sums over spans or metrics are what the provider counted. The SDKs' own
tracing is off. What was asked and answered is data of those who wrote it, and only told when that is opted in
(`telemetry_content`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowmason_ray.llm.base import Reply
from flowmason_ray.llm.telemetry_content import asked, is_wanted, said
from flowmason_ray.telemetry import SCOPE, serve_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowmason_ray.llm.base import Progress, Request
    from flowmason_ray.settings import ProviderSettings

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STOP = "gen_ai.request.stop_sequences"
OUTPUT_TYPE = "gen_ai.output.type"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
TOKEN_TYPE = "gen_ai.token.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
COST = "flowmason.cost_usd"
PROVIDER_LABEL = "flowmason.provider"
TOKENS_METRIC = "gen_ai.client.token.usage"
DURATION_METRIC = "gen_ai.client.operation.duration"
FIRST_TOKEN_METRIC = "gen_ai.server.time_to_first_token"

_KINDS = {"openai_compatible": "openai"}
"""What the conventions call a type of provider, where they have another word."""
_SAID = {
    REQUEST_MAX_TOKENS: "max_tokens",
    REQUEST_TEMPERATURE: "temperature",
    REQUEST_TOP_P: "top_p",
    REQUEST_SEED: "seed",
}
# The conventions' own boundaries ("Generative AI metrics"): powers of four of tokens, doublings of 10 ms.
_TOKEN_BOUNDS = [4**power for power in range(14)]
_SECOND_BOUNDS = [0.01 * 2**power for power in range(14)]


class Call:
    """A call that is being told of: its span, and what its metrics are told apart by."""

    def __init__(self, span: Any, labels: dict[str, Any], mask: Callable[[str], str]) -> None:
        self.span = span
        self.labels = labels
        self.mask = mask


@lru_cache(maxsize=1)
def _instruments() -> Any:
    try:
        from opentelemetry import metrics, trace
    except ModuleNotFoundError:
        return None
    serve_metrics()
    meter = metrics.get_meter(SCOPE)

    def histogram(name: str, unit: str, bounds: list[float], about: str) -> Any:
        return meter.create_histogram(name, unit=unit, description=about, explicit_bucket_boundaries_advisory=bounds)

    return {
        "tracer": trace.get_tracer(SCOPE),
        "client": trace.SpanKind.CLIENT,
        "error": trace.StatusCode.ERROR,
        "tokens": histogram(TOKENS_METRIC, "{token}", [*_TOKEN_BOUNDS], "Tokens read and written, by call."),
        "duration": histogram(DURATION_METRIC, "s", _SECOND_BOUNDS, "From sending a request to the end of its answer."),
        "first": histogram(FIRST_TOKEN_METRIC, "s", _SECOND_BOUNDS, "From sending a request to its first token."),
    }


@contextmanager
def span(
    operation: str,
    name: str,
    settings: ProviderSettings,
    model: str,
    request: Request | None,
    mask: Callable[[str], str],
) -> Generator[Call | None]:
    """Open the span of a call; yields None where there is no OpenTelemetry.

    Args:
        operation: As the conventions call it, such as `chat`.
        name: The provider, as the project calls it.
        settings: The provider.
        model: The model that is asked.
        request: What is asked, of calls for text.
        mask: Hides secrets in what is told of content.
    """
    found = _instruments()
    if found is None:
        yield None
        return
    labels: dict[str, Any] = {
        OPERATION: operation,
        PROVIDER: _KINDS.get(settings.type, settings.type),
        REQUEST_MODEL: model,
        PROVIDER_LABEL: name,
        **_server(settings),
    }
    with found["tracer"].start_as_current_span(
        f"{operation} {model}",
        kind=found["client"],
        attributes={**labels, **_requested(request)},
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        if request is not None and opened.is_recording() and is_wanted():
            opened.set_attributes(asked(request, mask))
        yield Call(opened, labels, mask)


def _server(settings: ProviderSettings) -> dict[str, Any]:
    try:
        url = urlsplit(settings.base_url or "")
        port = url.port or {"https": 443, "http": 80}.get(url.scheme)
    except ValueError:
        return {}
    return {SERVER_ADDRESS: url.hostname, SERVER_PORT: port} if url.hostname and port else {}


def _requested(request: Request | None) -> dict[str, Any]:
    if request is None:
        return {}
    told = {name: value for name, word in _SAID.items() if (value := getattr(request, word)) is not None}
    if request.stop:
        told[REQUEST_STOP] = list(request.stop)
    return {**told, OUTPUT_TYPE: "text" if request.schema is None else "json"}


def finish(
    call: Call | None, progress: Progress, cost_usd: float | None, failure: BaseException | None, value: Any
) -> None:
    """Say in the span, and in the metrics, what a call took. `value`: its answer, if there is one."""
    found = _instruments()
    if found is None or call is None:
        return
    labels, told = dict(call.labels), dict[str, Any]()
    usage = progress.usage
    if usage.total_tokens:
        told |= {INPUT_TOKENS: usage.input_tokens, OUTPUT_TOKENS: usage.output_tokens}
    if usage.cached_tokens:
        told[CACHED_TOKENS] = usage.cached_tokens
    if usage.cache_write_tokens:
        told[CACHE_WRITE_TOKENS] = usage.cache_write_tokens
    if cost_usd is not None:
        told[COST] = cost_usd
    if isinstance(value, Reply):
        labels[RESPONSE_MODEL] = told[RESPONSE_MODEL] = value.model or labels[REQUEST_MODEL]
        told[FINISH_REASONS] = [value.finish_reason]
        if call.span.is_recording() and is_wanted():
            told |= said(value, call.mask)
    if failure is not None:
        labels[ERROR_TYPE] = told[ERROR_TYPE] = str(getattr(failure, "code", type(failure).__name__))
        call.span.set_status(found["error"])
    call.span.set_attributes(told)
    found["duration"].record(perf_counter() - progress.started, labels)
    for kind, amount in (("input", usage.input_tokens), ("output", usage.output_tokens)):
        if amount:
            found["tokens"].record(amount, {**labels, TOKEN_TYPE: kind})
    if progress.first_token_s is not None:
        found["first"].record(progress.first_token_s, labels)
