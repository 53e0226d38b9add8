"""OpenTelemetry spans and metrics of model calls, by the GenAI semantic conventions; nothing where it is not installed.

Names and attributes: OpenTelemetry semantic conventions 1.37, "GenAI". What was asked and answered is never in them: prompts are
data of those who wrote them. The SDKs' own tracing is off, so that every call is counted once.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowmason_ray.llm.base import Progress
    from flowmason_ray.settings import ProviderSettings

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
TOKEN_TYPE = "gen_ai.token.type"
ERROR_TYPE = "error.type"
COST = "flowmason.cost_usd"
PROVIDER_LABEL = "flowmason.provider"
TOKENS_METRIC = "gen_ai.client.token.usage"
DURATION_METRIC = "gen_ai.client.operation.duration"
FIRST_TOKEN_METRIC = "gen_ai.server.time_to_first_token"

_KINDS = {"anthropic": "anthropic", "openai_compatible": "openai", "llama_cpp": "llama_cpp", "vllm": "vllm"}


@lru_cache(maxsize=1)
def _instruments() -> Any:
    try:
        from opentelemetry import metrics, trace
    except ModuleNotFoundError:
        return None
    meter = metrics.get_meter("flowmason_ray")
    return {
        "tracer": trace.get_tracer("flowmason_ray"),
        "client": trace.SpanKind.CLIENT,
        "error": trace.StatusCode.ERROR,
        "tokens": meter.create_histogram(TOKENS_METRIC, unit="{token}"),
        "duration": meter.create_histogram(DURATION_METRIC, unit="s"),
        "first": meter.create_histogram(FIRST_TOKEN_METRIC, unit="s"),
    }


@contextmanager
def span(operation: str, name: str, settings: ProviderSettings, model: str) -> Generator[Any]:
    """Open the span of a call; yields (span, attributes), or None where there is no OpenTelemetry."""
    found = _instruments()
    if found is None:
        yield None
        return
    attributes = {OPERATION: operation, PROVIDER: _KINDS[settings.type], REQUEST_MODEL: model, PROVIDER_LABEL: name}
    with found["tracer"].start_as_current_span(
        f"{operation} {model}", kind=found["client"], attributes=attributes, record_exception=False
    ) as opened:
        yield opened, attributes


def finish(opened: Any, progress: Progress, cost_usd: float | None, failure: BaseException | None) -> None:
    """Say in the span, and in the metrics, what the call took."""
    found = _instruments()
    if found is None or opened is None:
        return
    from time import perf_counter

    shown, attributes = opened
    usage = progress.usage
    shown.set_attribute(INPUT_TOKENS, usage.input_tokens)
    shown.set_attribute(OUTPUT_TOKENS, usage.output_tokens)
    if usage.cached_tokens:
        shown.set_attribute(CACHED_TOKENS, usage.cached_tokens)
    if cost_usd is not None:
        shown.set_attribute(COST, cost_usd)
    if failure is not None:
        code = str(getattr(failure, "code", type(failure).__name__))
        attributes = {**attributes, ERROR_TYPE: code}
        shown.set_attribute(ERROR_TYPE, code)
        shown.set_status(found["error"])
    found["duration"].record(perf_counter() - progress.started, attributes)
    for kind, amount in (("input", usage.input_tokens), ("output", usage.output_tokens)):
        if amount:
            found["tokens"].record(amount, {**attributes, TOKEN_TYPE: kind})
    if progress.first_token_s is not None:
        found["first"].record(progress.first_token_s, attributes)
