"""Everything that speaks OpenAI's chat completions: OpenAI, Azure, Groq, vLLM's server, llama.cpp's server, Ollama, …, through the SDK.

They differ in what they have: JSON Schema, forced tools, counts in a stream, `max_completion_tokens`. What is lacking is found out by
asking (`llm.capabilities`) and remembered for each model; then the request is put another way. Retries of the SDK are off: ours hold.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, cast

import httpx2
import openai as sdk

from flowmason_ray.engine.models import (
    Audio,
    FinishReason,
    Image,
    Message,
    Part,
    Speech,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Transcript,
    Usage,
)
from flowmason_ray.errors import StageError
from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Opening, Progress, Reply, Request, Unable
from flowmason_ray.llm.capabilities import Capabilities, Feature
from flowmason_ray.llm.pages import media_type, no_service, refuse_page
from flowmason_ray.llm.schemas import is_strict
from flowmason_ray.llm.structured import with_instruction

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
}
_NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What reading an answer raises that is JSON, or not even that, and not as it should be."""


def make(opening: Opening) -> OpenAIProvider:
    """Return the provider."""
    return OpenAIProvider(opening)


class OpenAIProvider(Unable):
    """Asks a server that speaks OpenAI's API."""

    kind = "A server that speaks OpenAI's API"

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._client = sdk.AsyncOpenAI(
            api_key=opening.key or "no-key",  # said, so that the SDK does not take the company's key to another server
            base_url=opening.base_url,
            max_retries=0,
            timeout=opening.timeout_s,
            default_headers=dict(opening.headers),
        )
        self._capabilities = Capabilities(own=opening.base_url is None)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def generate(self, request: Request, progress: Progress) -> Reply:
        """Answer one request; what the server lacks is left out, or said another way."""
        lacking = self._capabilities.lacking(request.model)
        tried: set[Feature] = set()
        while True:
            body = _body(request, lacking | tried, self._opening.options)
            stream = not {"stream", "stream_options"} & (lacking | tried)  # without counts it is not worth having
            try:
                reply = await (self._stream if stream else self._whole)(request, body, progress)
            except _Refused as exc:
                suspect = self._capabilities.suspect(exc.message, body, lacking | tried)
                if suspect is None or progress.seen_chars:
                    raise exc.error from exc.__cause__
                tried.add(suspect)
                continue
            for feature in self._capabilities.learn(request.model, tried):
                progress.remark(f"Model {request.model!r} has no {feature!r}; it is asked without.")
            return reply

    async def _stream(self, request: Request, body: dict[str, Any], progress: Progress) -> Reply:
        reading = _Reading(self._opening.name, request, progress)
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**body, stream=True)
            progress.headers(raw.headers)
            await refuse_page(self._opening.name, raw.http_response)
            stream = cast("Any", raw.parse())
            if hasattr(stream, "__await__"):
                stream = await stream
            async with stream:
                async for chunk in stream:
                    reading.take(chunk.to_dict())
        except (sdk.OpenAIError, httpx2.HTTPError, httpx2.StreamError, *_NOT_UNDERSTOOD) as exc:
            raise self._error(request.model, exc, progress) from exc
        reply = reading.reply()
        if not progress.usage.total_tokens:
            # It said nothing about counts although it was asked: from now on it is asked for the whole answer, which has them.
            self._capabilities.learn(request.model, {"stream"})
            progress.usage = reading.guess()
        return reply

    async def _whole(self, request: Request, body: dict[str, Any], progress: Progress) -> Reply:
        given = {name: value for name, value in body.items() if name != "stream_options"}
        try:
            raw: Any = await cast("Any", self._client.chat.completions.with_raw_response).create(**given)
            progress.headers(raw.headers)
            await refuse_page(self._opening.name, raw.http_response)
            data: Any = raw.parse().to_dict()
            choice: Any = data["choices"][0]
            message: Any = choice["message"]
            wanted: list[Any] = message.get("tool_calls") or []
        except (sdk.OpenAIError, httpx2.HTTPError, *_NOT_UNDERSTOOD) as exc:
            raise self._error(request.model, exc, progress) from exc
        progress.usage = _usage(data.get("usage"))
        text = message.get("content") or ""
        calls = [
            {"id": call.get("id"), "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            for call in wanted
        ]
        progress.text(text)
        progress.first_token_s = None  # it came all at once
        return _reply(
            self._opening.name,
            request,
            text,
            calls,
            choice.get("finish_reason"),
            message.get("refusal"),
            data.get("model"),
        )

    def _error(self, model: str, exc: Exception, progress: Progress) -> Exception:
        name = self._opening.name
        if isinstance(exc, StageError):
            return exc
        if isinstance(exc, sdk.APITimeoutError):
            return errors.too_slow(name, self._opening.timeout_s)
        if isinstance(exc, sdk.APIStatusError):
            progress.headers(exc.response.headers)
            kind = str(exc.code or exc.type or "")
            error = errors.from_status(
                name, model, exc.status_code, exc.message, kind=kind, headers=exc.response.headers
            )
            return _Refused(exc.message, error) if exc.status_code in (400, 404, 415, 422, 501) else error
        if isinstance(exc, sdk.APIConnectionError):
            broke = progress.first_token_s is not None
            return errors.interrupted(name, "the connection broke") if broke else errors.not_reached(name, exc)
        if isinstance(exc, sdk.APIError):  # an error inside of the stream
            kind = str(exc.code or exc.type or "")
            status = 429 if "rate_limit" in kind else 529 if "overloaded" in kind else 400 if "invalid" in kind else 500
            return errors.from_status(name, model, status, exc.message, kind=kind)
        if isinstance(exc, (httpx2.HTTPError, httpx2.StreamError)):
            return errors.interrupted(name, str(exc) or type(exc).__name__)
        return errors.interrupted(name, f"it is not understood ({type(exc).__name__}: {exc})")

    async def embed(
        self, model: str, texts: Sequence[str], dimensions: int | None, progress: Progress
    ) -> list[tuple[float, ...]]:
        """Return a vector for each text."""
        more: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        try:
            raw = await self._client.embeddings.with_raw_response.create(model=model, input=list(texts), **more)
            progress.headers(raw.headers)
            await refuse_page(self._opening.name, raw.http_response)
            answer: Any = raw.parse()
            vectors = sorted(answer.data, key=lambda each: each.index)
            made = [tuple(float(number) for number in each.embedding) for each in vectors]
        except (sdk.OpenAIError, httpx2.HTTPError, *_NOT_UNDERSTOOD) as exc:
            raise self._final(model, exc, progress) from exc
        if len(made) != len(texts):
            raise errors.interrupted(self._opening.name, f"{len(made)} vectors came for {len(texts)} texts")
        used = getattr(answer, "usage", None)
        progress.usage = Usage(input_tokens=getattr(used, "prompt_tokens", 0) or 0)
        return made

    async def transcribe(
        self, model: str, audio: Audio, language: str | None, prompt: str | None, progress: Progress
    ) -> Transcript:
        """Return what is said in a recording."""
        more = {name: value for name, value in (("language", language), ("prompt", prompt)) if value is not None}
        try:
            transcriptions: Any = self._client.audio.transcriptions.with_raw_response
            raw = await transcriptions.create(model=model, file=(f"audio.{audio.format}", audio.data), **more)
            progress.headers(raw.headers)
            await refuse_page(self._opening.name, raw.http_response)
            answer: Any = raw.parse()
            if isinstance(answer, str):  # what the SDK makes of everything that is no JSON
                raise no_service(self._opening.name, raw.headers, answer)
            told: Any = answer.to_dict()
            said = str(told["text"] or "")
        except (sdk.OpenAIError, httpx2.HTTPError, *_NOT_UNDERSTOOD) as exc:
            raise self._final(model, exc, progress) from exc
        progress.usage = _listening(told)
        return Transcript(
            text=said,
            language=told.get("language") or language,
            duration_s=told.get("duration") or progress.usage.audio_s or None,
        )

    async def speak(self, model: str, text: str, voice: str, format: str, progress: Progress) -> Speech:
        """Return a text, spoken."""
        name = self._opening.name
        try:
            raw: Any = await self._client.audio.speech.with_raw_response.create(
                model=model, input=text, voice=voice, response_format=cast("Any", format)
            )
            progress.headers(raw.headers)
            await refuse_page(name, raw.http_response)
            kind = media_type(raw.headers)
            if kind.startswith("text/") or kind.endswith(("json", "xml")):
                raise no_service(name, raw.headers, raw.http_response.text)
            data: bytes = raw.http_response.content
            if not data:
                raise errors.interrupted(name, "there is no sound in it")
        except (sdk.OpenAIError, httpx2.HTTPError, *_NOT_UNDERSTOOD) as exc:
            raise self._final(model, exc, progress) from exc
        progress.usage = Usage(characters=len(text))  # the service answers with sound alone
        return Speech(data=data, format=format)

    def _final(self, model: str, exc: Exception, progress: Progress) -> Exception:
        """Return what went wrong with a request that is put in one way only."""
        error = self._error(model, exc, progress)
        return error.error if isinstance(error, _Refused) else error


class _Refused(Exception):
    """A request was refused as wrong; perhaps only a part of it."""

    def __init__(self, message: str, error: StageError) -> None:
        super().__init__(message)
        self.message = message
        self.error = error


class _Reading:
    """Puts the chunks of a stream together."""

    def __init__(self, provider: str, request: Request, progress: Progress) -> None:
        self._provider = provider
        self._request = request
        self._progress = progress
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._model = ""

    def take(self, chunk: Any) -> None:
        """Take one chunk."""
        self._model = chunk.get("model") or self._model
        if usage := chunk.get("usage"):
            self._progress.usage = _usage(usage)
        choices: list[Any] = chunk.get("choices") or []
        for choice in choices:
            delta: Any = choice.get("delta") or {}
            if text := delta.get("content"):
                self._text.append(text)
                self._progress.text(text)
            if refusal := delta.get("refusal"):
                self._refusal.append(refusal)
            calls: list[Any] = delta.get("tool_calls") or []
            for call in calls:
                self._progress.first()
                made = self._calls.setdefault(call.get("index", 0), {"id": "", "name": "", "arguments": ""})
                made["id"] = call.get("id") or made["id"]
                function: Any = call.get("function") or {}
                made["name"] = function.get("name") or made["name"]
                made["arguments"] += function.get("arguments") or ""
            self._finish = choice.get("finish_reason") or self._finish

    def reply(self) -> Reply:
        """Return the whole reply.

        Raises:
            TemporaryError: it did not come to its end.
        """
        if self._finish is None:
            raise errors.interrupted(self._provider, "the stream ended before the answer did")
        calls = [self._calls[index] for index in sorted(self._calls)]
        refusal = "".join(self._refusal) or None
        return _reply(self._provider, self._request, "".join(self._text), calls, self._finish, refusal, self._model)

    def guess(self) -> Usage:
        """Return about what it took, for a server that does not tell."""
        asked = len(self._request.system or "") + sum(len(message.text) for message in self._request.messages)
        return Usage(input_tokens=asked // 4 + 1, output_tokens=self._progress.seen_chars // 4 + 1, estimated=True)


def _reply(
    provider: str,
    request: Request,
    text: str,
    calls: Sequence[dict[str, Any]],
    finish: str | None,
    refusal: str | None,
    model: str | None,
) -> Reply:
    """Return a reply.

    Raises:
        PermanentError: it is a refusal.
        TemporaryError: a tool's arguments are no JSON.
    """
    if refusal or finish == "content_filter":
        raise errors.refused(provider, request.model, refusal or "")
    made: list[ToolCall] = []
    for position, each in enumerate(calls):
        try:
            arguments = json.loads(each["arguments"] or "{}")
        except ValueError as exc:
            message = f"Model {request.model!r} ({provider!r}) wants {each['name']!r} called with what is not JSON."
            raise errors.bad_response(message, str(each["arguments"])) from exc
        made.append(ToolCall(id=str(each["id"] or f"call_{position}"), name=str(each["name"]), arguments=arguments))
    reason = _FINISH.get(finish or "stop", "stop")
    # Some servers say `stop` although they want tools called.
    return Reply(text=text, tool_calls=tuple(made), finish_reason="tool_use" if made else reason, model=model or "")


def _usage(usage: Any) -> Usage:
    counts: Any = usage or {}
    of_input: Any = counts.get("prompt_tokens_details") or {}
    of_output: Any = counts.get("completion_tokens_details") or {}
    return Usage(
        input_tokens=counts.get("prompt_tokens") or 0,
        output_tokens=counts.get("completion_tokens") or 0,
        cached_tokens=of_input.get("cached_tokens") or 0,
        reasoning_tokens=of_output.get("reasoning_tokens") or 0,
    )


def _listening(told: Any) -> Usage:
    """Return what listening took: OpenAI's service counts tokens or seconds, by the model; older servers say at most how long it is."""
    usage: Any = told.get("usage") or {}
    of_input: Any = usage.get("input_token_details") or {}
    if usage.get("type") == "tokens" or "input_tokens" in usage:
        return Usage(
            input_tokens=usage.get("input_tokens") or 0,
            output_tokens=usage.get("output_tokens") or 0,
            audio_tokens=of_input.get("audio_tokens") or 0,
        )
    return Usage(audio_s=float(usage.get("seconds") or told.get("duration") or 0.0))


# -- what is sent -------------------------------------------------------------------------------------------------------------


def _body(request: Request, lacking: set[Feature], options: Any) -> dict[str, Any]:
    if request.schema is not None and "json_schema" in lacking:
        request = with_instruction(request)
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for message in request.messages:
        messages += _messages(message)
    body: dict[str, Any] = {"model": request.model, "messages": messages, "stream_options": {"include_usage": True}}
    if request.max_tokens is not None:
        older = "max_completion_tokens" in lacking and "max_tokens" not in lacking
        name = "max_tokens" if older else "max_completion_tokens"
        body[name] = request.max_tokens
    for name in ("temperature", "top_p", "seed"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.schema is not None:
        format: dict[str, Any] = {"name": "answer", "schema": dict(request.schema), "strict": is_strict(request.schema)}
        if "json_schema" not in lacking:
            body["response_format"] = {"type": "json_schema", "json_schema": format}
        elif "json_object" not in lacking:
            body["response_format"] = {"type": "json_object"}
    if request.tools:
        body["tools"] = [_tool(each) for each in request.tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _choice(request.tool_choice)
    for name in ("stream_options", "temperature", "top_p", "seed", "stop", "tool_choice"):
        if name in lacking:
            body.pop(name, None)
    if options:
        body["extra_body"] = dict(options)
    return body


def _messages(message: Message) -> list[dict[str, Any]]:
    """Return one message as the API has it: results of tools are messages of their own there."""
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    rest = [part for part in message.parts if not isinstance(part, ToolResult)]
    made: list[dict[str, Any]] = [{"role": "tool", "tool_call_id": r.call_id, "content": r.content} for r in results]
    calls = [part for part in rest if isinstance(part, ToolCall)]
    said = [part for part in rest if not isinstance(part, ToolCall)]
    if not said and not calls:
        return made
    plain = all(isinstance(part, Text) for part in said)
    content: Any = message.text if plain else [_part(part) for part in said]
    entry: dict[str, Any] = {"role": message.role, "content": content or None}
    if calls:
        entry["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for call in calls
        ]
    return [*made, entry]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Image(data=None):
            return {"type": "image_url", "image_url": {"url": part.url}}
        case Image():
            data = base64.b64encode(part.data or b"").decode()
            return {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{data}"}}
        case Audio():
            data = base64.b64encode(part.data).decode()
            return {"type": "input_audio", "input_audio": {"data": data, "format": part.format}}
        case Text():
            return {"type": "text", "text": part.text}
        case ToolCall() | ToolResult():
            raise AssertionError("these are not part of a message's content here")


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    if tool.strict and is_strict(tool.parameters):
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(choice: str) -> Any:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "function": {"name": choice}}
