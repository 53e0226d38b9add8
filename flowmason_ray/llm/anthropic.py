"""Anthropic's Messages API, through the company's SDK (2.x).

Always as a stream: so the time to the first token is known, a cancelled call ends at once, and long answers meet no time limit of
a proxy. An error in the middle of a stream comes as an event after status 200; the SDK raises it without a useful status and does not retry
it (`_streaming.py`, 2.12), so its own name is what counts here. Retries and tracing of the SDK are off: ours hold.

The SDK's `create` has no `temperature` or `top_p` any more, because newer models have none. They are sent where somebody asks for
them; a model that refuses them is remembered, and said so.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

import anthropic as sdk
import httpx2
from anthropic import transform_schema

from flowmason_ray.engine.models import (
    Audio,
    FinishReason,
    Image,
    Message,
    Part,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from flowmason_ray.errors import PermanentError, StageError
from flowmason_ray.llm import errors
from flowmason_ray.llm.anthropic_batches import Batches
from flowmason_ray.llm.base import Opening, Progress, Reply, Request, Unable
from flowmason_ray.llm.pages import refuse_page
from flowmason_ray.llm.schemas import has_only_known_properties, is_closed, with_single_types
from flowmason_ray.llm.structured import with_instruction

DEFAULT_MAX_TOKENS = 4096
"""The API wants a limit. Enough for a long text, and within what every model of the last years allows."""
CACHED_FROM_CHARS = 6000
"""From here on the instructions are marked for the provider's cache: some 1,500 tokens, a little more than the smallest that it
keeps (1,024 for most models). Shorter marks are ignored, longer prompts are usually asked again (loops, conversations)."""

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_use",
}
_SAMPLING = ("temperature", "top_p")


def make(opening: Opening) -> AnthropicProvider:
    """Return the provider."""
    return AnthropicProvider(opening)


class AnthropicProvider(Unable):
    """Asks Anthropic."""

    kind = "Anthropic's API"

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._client = sdk.AsyncAnthropic(
            api_key=opening.key or "no-key",  # said, so that the SDK looks for no other credentials
            base_url=opening.base_url,
            max_retries=0,
            timeout=opening.timeout_s,
            open_telemetry=False,
            default_headers=dict(opening.headers),
        )
        self._without: dict[str, set[str]] = {}
        """By model: the settings that it does not have, as far as that was told."""
        self._batches = Batches(self._client, opening)

    async def close(self) -> None:
        """Close the connections."""
        await self._batches.close()
        await self._client.close()

    async def generate(self, request: Request, progress: Progress) -> Reply:
        """Answer one request."""
        without = self._without.setdefault(request.model, set())
        if request.seed is not None and "seed" not in without:  # the API has none at all
            without.add("seed")
            _remark_lacking(request, "seed", progress)
        while True:
            body = self._body(request)
            try:
                if request.batch:
                    return _reply(self._opening.name, request, await self._batches.ask(body, request.key), progress)
                return await self._stream(request, body, progress)
            except _Refused as exc:
                refused = self._refuses(request, exc.message)
                if refused is None:
                    raise exc.error from exc.__cause__
                _remark_lacking(request, refused, progress)

    async def _stream(self, request: Request, body: dict[str, Any], progress: Progress) -> Reply:
        name = self._opening.name
        message: Any = None
        try:
            raw = await self._client.messages.with_raw_response.create(**body, stream=True)
            progress.headers(raw.headers)
            await refuse_page(name, raw.http_response)
            stream = cast("Any", raw.parse())
            if hasattr(stream, "__await__"):
                stream = await stream
            reading = _Reading(progress)
            async with stream:
                async for event in stream:
                    reading.take(event)
            message = reading.message()
            if message is None:
                raise errors.interrupted(name, "the stream ended before the answer did")
        except StageError:
            raise
        except sdk.APITimeoutError as exc:
            raise errors.too_slow(name, self._opening.timeout_s) from exc
        except sdk.APIStatusError as exc:
            progress.headers(exc.response.headers)
            error = self._error(request.model, exc)
            if exc.status_code == 400:
                raise _Refused(str(exc.message), error) from exc
            raise error from exc
        except sdk.APIConnectionError as exc:
            if progress.first_token_s is not None:
                raise errors.interrupted(name, "the connection broke") from exc
            raise errors.not_reached(name, exc) from exc
        except (httpx2.HTTPError, httpx2.StreamError) as exc:
            raise errors.interrupted(name, str(exc) or type(exc).__name__) from exc
        except (sdk.AnthropicError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise errors.interrupted(name, f"it is not understood ({type(exc).__name__}: {exc})") from exc
        return _reply(name, request, message, progress)

    def _error(self, model: str, exc: sdk.APIStatusError) -> StageError:
        return error_of(self._opening.name, model, exc.body, exc.status_code, str(exc.message), exc.response.headers)

    def _refuses(self, request: Request, message: str) -> str | None:
        """Remember which sampling setting a model refuses, if that is what it says; return it."""
        for setting in _SAMPLING:
            known = self._without.setdefault(request.model, set())
            if getattr(request, setting) is not None and setting in message and setting not in known:
                known.add(setting)
                return setting
        return None

    def _body(self, request: Request) -> dict[str, Any]:
        schema = None if request.schema is None else _sendable(request.schema)
        if request.schema is not None and schema is None:
            request = with_instruction(request)
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
            "messages": [_message(each) for each in request.messages],
        }
        if request.system:
            block: dict[str, Any] = {"type": "text", "text": request.system}
            if len(request.system) >= CACHED_FROM_CHARS:
                block["cache_control"] = {"type": "ephemeral"}
            body["system"] = [block]
        if request.stop:
            body["stop_sequences"] = list(request.stop)
        if schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if request.tools:
            body["tools"] = [_tool(each) for each in request.tools]
            if request.tool_choice is not None:
                body["tool_choice"] = _choice(request.tool_choice)
        without = self._without.get(request.model, set())
        sampling = {n: v for n in _SAMPLING if (v := getattr(request, n)) is not None and n not in without}
        extra = {**sampling, **self._opening.options}
        if extra:
            body["extra_body"] = extra
        return body

    async def count_tokens(self, request: Request) -> int:
        """Ask how many tokens the request has."""
        body = self._body(request)
        given = {name: body[name] for name in ("model", "messages", "system", "tools") if name in body}
        name = self._opening.name
        try:
            raw = await self._client.messages.with_raw_response.count_tokens(**given)
            await refuse_page(name, raw.http_response)
            return int(cast("Any", await raw.parse()).input_tokens)
        except sdk.APITimeoutError as exc:
            raise errors.too_slow(name, self._opening.timeout_s) from exc
        except sdk.APIStatusError as exc:
            raise self._error(request.model, exc) from exc
        except sdk.APIConnectionError as exc:
            raise errors.not_reached(name, exc) from exc
        except (sdk.AnthropicError, httpx2.HTTPError, ValueError, TypeError, AttributeError) as exc:
            raise errors.interrupted(name, f"it is not understood ({type(exc).__name__}: {exc})") from exc


def _remark_lacking(request: Request, setting: str, progress: Progress) -> None:
    progress.remark(f"Model {request.model!r} has no {setting!r}; it is asked without.")


def _sendable(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a schema as the API guarantees it; None: it cannot, and the model is told in words.

    The API knows closed objects only, so one that may have any properties would come back empty. The SDK's own
    rewriting fails on what it does not know (2.12: lists of types).
    """
    if not has_only_known_properties(schema):
        return None
    try:
        return transform_schema(with_single_types(schema))
    except (AssertionError, ValueError, TypeError, AttributeError):
        return None


class _Refused(Exception):
    """A request was refused as wrong; perhaps only a setting of it."""

    def __init__(self, message: str, error: StageError) -> None:
        super().__init__(message)
        self.message = message
        self.error = error


def error_of(
    provider: str, model: str, body: Any, status: int, message: str, headers: Mapping[str, str] | None = None
) -> StageError:
    """Return what an error of the API means; inside of a stream its name is all there is."""
    whole = cast("dict[str, Any]", body if isinstance(body, dict) else {})
    said: Any = whole.get("error", whole)
    detail = cast("dict[str, Any]", said if isinstance(said, dict) else {})
    kind = str(detail.get("type", ""))
    text = str(detail.get("message") or message)
    if status < 400:
        status = _STATUS.get(kind, 500)
    return errors.from_status(provider, model, status, text, kind=kind, headers=headers)


class _Reading:
    """Puts the events of a stream together (Messages API, "Streaming messages")."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._start: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._json: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}
        self._stop: dict[str, Any] = {}
        self._over = False

    def take(self, event: Any) -> None:
        """Take one event."""
        data = event.to_dict()
        match data.get("type"):
            case "message_start":
                self._start = data["message"]
                self._use(self._start.get("usage"))
            case "content_block_start":
                self._blocks[data["index"]] = dict(data["content_block"])
            case "content_block_delta":
                self._delta(data["index"], data["delta"])
            case "message_delta":
                self._stop = data["delta"]
                self._use(data.get("usage"))
            case "message_stop":
                self._over = True
            case _:
                pass

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks[index]
        if delta["type"] == "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
            self._progress.text(delta["text"])
        elif delta["type"] == "input_json_delta":
            self._progress.first()
            self._json.setdefault(index, []).append(delta["partial_json"])
        else:
            self._progress.first()  # thinking: the answer has begun, but says nothing yet

    def _use(self, usage: dict[str, Any] | None) -> None:
        self._usage |= {name: value for name, value in (usage or {}).items() if value is not None}
        self._progress.usage = usage_of(self._usage)

    def message(self) -> dict[str, Any] | None:
        """Return the whole message; None: it did not come to its end."""
        if not self._over:
            return None
        import json

        for index, parts in self._json.items():
            if text := "".join(parts):
                self._blocks[index]["input"] = json.loads(text)
        content = [self._blocks[index] for index in sorted(self._blocks)]
        return {**self._start, **self._stop, "content": content, "usage": self._usage}


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """Return the API's counts in ours: it counts what its cache had apart from the other input."""
    cached = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    details: Any = usage.get("output_tokens_details") or {}
    return Usage(
        input_tokens=(usage.get("input_tokens") or 0) + cached + written,
        output_tokens=usage.get("output_tokens") or 0,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=details.get("thinking_tokens") or 0,
    )


def _reply(provider: str, request: Request, message: dict[str, Any], progress: Progress) -> Reply:
    """Return the reply that a whole message is.

    Raises:
        PermanentError: it is a refusal.
    """
    progress.usage = usage_of(message.get("usage") or {})
    blocks: list[dict[str, Any]] = message.get("content") or []
    text = "".join(block.get("text", "") for block in blocks if block.get("type") == "text")
    stop = str(message.get("stop_reason") or "end_turn")
    if stop == "refusal":
        raise errors.refused(provider, request.model, text)
    calls = tuple(
        ToolCall(id=str(block["id"]), name=str(block["name"]), arguments=block.get("input") or {})
        for block in blocks
        if block.get("type") == "tool_use"
    )
    model = str(message.get("model") or "")
    return Reply(text=text, tool_calls=calls, finish_reason=_FINISH.get(stop, "stop"), model=model)


# -- what is sent -------------------------------------------------------------------------------------------------------------


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            block: dict[str, Any] = {"type": "text", "text": part.text}
            return {**block, "cache_control": {"type": "ephemeral"}} if part.cache else block
        case Image(data=None):
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        case Image():
            data = base64.b64encode(part.data or b"").decode()
            return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}
        case Audio():
            message = "Anthropic's API takes no audio; ask another provider for that (llm_settings.provider)."
            raise PermanentError(message, code="not_supported_by_provider")
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": dict(part.arguments)}
        case ToolResult():
            result: dict[str, Any] = {"type": "tool_result", "tool_use_id": part.call_id, "content": part.content}
            return {**result, "is_error": True} if part.is_error else result


def _tool(tool: Tool) -> dict[str, Any]:
    strict = tool.strict and is_closed(tool.parameters)
    made = {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
    return {**made, "strict": True} if strict else made


def _choice(choice: str) -> dict[str, Any]:
    plain = {"auto": "auto", "none": "none", "required": "any"}
    return {"type": plain[choice]} if choice in plain else {"type": "tool", "name": choice}
