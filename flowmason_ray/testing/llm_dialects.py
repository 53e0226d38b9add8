"""How the test server (`llm_server`) says things in Anthropic's and in OpenAI's API.

Shapes as the two companies document them (Messages API with its SDK 2.12; chat completions, embeddings
and audio of OpenAI's API v1), as far as clients look at them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any, cast

from flowmason_ray.testing.llm_server import KEY, Asked, Handler, LlmServer, Turn, pause, tokens_of

_ids = count(1)
_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_ANTHROPIC_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_use": "tool_use", "refused": "refusal"}
_OPENAI_STOPS = {"stop": "stop", "length": "length", "tool_use": "tool_calls", "refused": "content_filter"}
VECTOR_LENGTH = 8


def respond(server: LlmServer, asked: Asked, out: Handler) -> None:
    """Answer a request."""
    anthropic = asked.path.startswith("/v1/messages")
    key = asked.headers.get("x-api-key") or asked.headers.get("authorization", "").removeprefix("Bearer ")
    if server.page is not None:
        out.send_bytes(server.page.encode(), "text/html; charset=utf-8")
    elif key != KEY:
        _refuse(out, anthropic, 401, "invalid key")
    elif asked.path == "/v1/messages/count_tokens":
        out.send_json({"input_tokens": asked.tokens_in})
    elif asked.path.startswith("/v1/messages/batches"):
        _batches(server, asked, out)
    elif asked.path in ("/v1/messages", "/v1/chat/completions"):
        _generate(server, asked, out, anthropic)
    elif asked.path == "/v1/embeddings":
        _embed(server, asked, out)
    elif asked.path == "/v1/audio/transcriptions":
        turn = server.take(asked)
        _fail(out, False, turn) if turn.status != 200 else out.send_json({"text": turn.text, **turn.more})
    elif asked.path == "/v1/audio/speech":
        out.send_bytes(b"RIFF" + str(asked.body.get("input")).encode(), "audio/wav")
    elif asked.path == "/v1/models":
        out.send_json(
            {"object": "list", "data": [{"id": "gpt-test", "object": "model", "created": 0, "owned_by": "test"}]}
        )
    else:
        _refuse(out, anthropic, 404, f"there is no {asked.path}")


def _refuse(out: Handler, anthropic: bool, status: int, message: str) -> None:
    _fail(out, anthropic, Turn(status=status, message=message))


def _fail(out: Handler, anthropic: bool, turn: Turn) -> None:
    headers = dict(turn.headers)
    if turn.retry_after is not None:
        headers["retry-after"] = turn.retry_after
    message = turn.message or f"status {turn.status}"
    if anthropic:
        body: dict[str, Any] = _anthropic_error(turn.error or _ANTHROPIC_ERRORS.get(turn.status, "api_error"), message)
    else:
        body = {"error": {"message": message, "type": turn.error or "invalid_request_error", "code": turn.error}}
    out.send_json(body, status=turn.status, headers=headers)


def _anthropic_error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def _lacking(server: LlmServer, asked: Asked) -> str | None:
    """Return what the request has that this server refuses."""
    body = asked.body
    has = {
        "json_schema": asked.schema is not None,
        "tool_choice": isinstance(body.get("tool_choice"), dict) or body.get("tool_choice") == "required",
        "stream_options": "stream_options" in body,
        "temperature": "temperature" in body,
        "top_p": "top_p" in body,
        "seed": "seed" in body,
        "max_completion_tokens": "max_completion_tokens" in body,
        "max_tokens": "max_tokens" in body,
    }
    names = {"json_schema": "response_format"} if "response_format" in body else {"json_schema": "output_config"}
    return next((names.get(name, name) for name in has if has[name] and name in server.lacks), None)


def _generate(server: LlmServer, asked: Asked, out: Handler, anthropic: bool) -> None:
    lacking = _lacking(server, asked)
    if lacking is not None:
        _refuse(out, anthropic, 400, f"{lacking}: unsupported parameter")
        return
    turn = server.take(asked)
    pause(turn.wait_s)
    server.answering(asked)
    if turn.status != 200:
        _fail(out, anthropic, turn)
        return
    reply = _Reply(server, asked, turn)
    stream = bool(asked.body.get("stream"))
    if not stream and turn.cut_after is not None:
        out.cut()
    elif not stream:
        pause(turn.token_s * len(reply.tokens))
        out.send_json(reply.anthropic() if anthropic else reply.openai(), headers=turn.headers)
    else:
        _stream(reply, out, anthropic)


class _Reply:
    """One answer, in either dialect."""

    def __init__(self, server: LlmServer, asked: Asked, turn: Turn) -> None:
        body = asked.body
        self.server = server
        self.asked = asked
        self.turn = turn
        self.model = str(body.get("model"))
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        tokens, self.finish = tokens_of(turn.text), turn.finish or ("tool_use" if turn.tools else "stop")
        if limit is not None and len(tokens) > limit:
            tokens, self.finish = tokens[:limit], "length"
        self.tokens = tokens
        self.text = "".join(tokens)
        self.tools = [(f"call_{next(_ids)}", name, arguments) for name, arguments in turn.tools]
        self.tokens_in = asked.tokens_in
        self.tokens_out = len(tokens) + len(self.tools)

    def anthropic_usage(self, out: int) -> dict[str, Any]:
        return {
            "input_tokens": self.tokens_in - self.turn.cached,
            "cache_read_input_tokens": self.turn.cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": out,
        }

    def anthropic(self) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": self.text}] if self.text else []
        content += [{"type": "tool_use", "id": i, "name": n, "input": dict(a)} for i, n, a in self.tools]
        return {
            "id": f"msg_{next(_ids)}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": _ANTHROPIC_STOPS.get(self.finish, self.finish),
            "stop_sequence": None,
            "usage": self.anthropic_usage(self.tokens_out),
        }

    def openai_usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.tokens_in,
            "completion_tokens": self.tokens_out,
            "total_tokens": self.tokens_in + self.tokens_out,
            "prompt_tokens_details": {"cached_tokens": self.turn.cached},
        }

    def _openai_calls(self, *, indexed: bool) -> list[dict[str, Any]]:
        return [
            {
                **({"index": position} if indexed else {}),
                "id": i,
                "type": "function",
                "function": {"name": n, "arguments": json.dumps(dict(a))},
            }
            for position, (i, n, a) in enumerate(self.tools)
        ]

    def openai(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.finish == "refused":
            message = {"role": "assistant", "content": None, "refusal": self.text or "No."}
        if self.tools:
            message["tool_calls"] = self._openai_calls(indexed=False)
        return {
            "id": f"chatcmpl-{next(_ids)}",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": _OPENAI_STOPS.get(self.finish, self.finish)}],
            "usage": self.openai_usage(),
        }

    # -- as streams ---------------------------------------------------------------------------------------------------

    def anthropic_events(self) -> Iterator[dict[str, Any]]:
        """Yield the events; those with `_token` are tokens."""
        start: dict[str, Any] = {
            **self.anthropic(),
            "content": [],
            "stop_reason": None,
            "usage": self.anthropic_usage(1),
        }
        yield {"type": "message_start", "message": start}
        yield {"type": "ping"}
        index = 0
        if self.tokens:
            yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            for token in self.tokens:
                delta = {"type": "text_delta", "text": token}
                yield {"type": "content_block_delta", "index": 0, "delta": delta, "_token": True}
            yield {"type": "content_block_stop", "index": 0}
            index = 1
        for position, (call, name, arguments) in enumerate(self.tools, index):
            block: dict[str, Any] = {"type": "tool_use", "id": call, "name": name, "input": {}}
            yield {"type": "content_block_start", "index": position, "content_block": block}
            text = json.dumps(dict(arguments))
            for part in (text[: len(text) // 2], text[len(text) // 2 :]):
                delta = {"type": "input_json_delta", "partial_json": part}
                yield {"type": "content_block_delta", "index": position, "delta": delta}
            yield {"type": "content_block_stop", "index": position}
        stop = {"stop_reason": _ANTHROPIC_STOPS.get(self.finish, self.finish), "stop_sequence": None}
        yield {"type": "message_delta", "delta": stop, "usage": self.anthropic_usage(self.tokens_out)}
        yield {"type": "message_stop"}

    def openai_events(self) -> Iterator[dict[str, Any]]:
        """Yield the chunks; those with `_token` are tokens."""

        def chunk(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
            choice = {"index": 0, "delta": dict(delta), "finish_reason": finish}
            return {**head, "choices": [choice], **more}

        head = {"id": f"chatcmpl-{next(_ids)}", "object": "chat.completion.chunk", "created": 0, "model": self.model}
        yield chunk({"role": "assistant", "content": ""})
        for token in self.tokens:
            yield chunk({"content": token}, _token=True)
        for call in self._openai_calls(indexed=True):
            function = call["function"]
            text = function["arguments"]
            yield chunk({"tool_calls": [{**call, "function": {**function, "arguments": text[: len(text) // 2]}}]})
            rest = {"index": call["index"], "function": {"arguments": text[len(text) // 2 :]}}
            yield chunk({"tool_calls": [rest]})
        yield chunk({}, _OPENAI_STOPS.get(self.finish, self.finish))
        options: Any = self.asked.body.get("stream_options") or {}
        if options.get("include_usage") and "stream_usage" not in self.server.lacks:
            yield {**head, "choices": [], "usage": self.openai_usage()}


def _stream(reply: _Reply, out: Handler, anthropic: bool) -> None:
    turn, sent = reply.turn, 0
    out.begin_stream(turn.headers)
    for event in reply.anthropic_events() if anthropic else reply.openai_events():
        if event.pop("_token", False):
            if turn.cut_after is not None and sent >= turn.cut_after:
                out.cut()
                return
            if turn.error_after is not None and sent >= turn.error_after:
                _error_in_stream(turn, out, anthropic)
                return
            pause(turn.token_s)
            sent += 1
        out.send_event(event, str(event["type"]) if anthropic else None)
    if turn.cut_after is not None:
        out.cut()
        return
    if not anthropic:
        out.send_event("[DONE]")
    out.end_stream()


def _error_in_stream(turn: Turn, out: Handler, anthropic: bool) -> None:
    if anthropic:
        out.send_event(_anthropic_error(turn.error or "overloaded_error", turn.message or "Overloaded"), "error")
    else:
        kind = turn.error or "server_error"
        out.send_event({"error": {"message": turn.message or "Overloaded", "type": kind, "code": kind}})
    out.end_stream()


def vector_of(text: str, length: int = VECTOR_LENGTH) -> list[float]:
    """Return the vector that the server gives a text: of length 1, and closer for texts that share words."""
    vector = [0.0] * length
    for word in text.lower().split():
        digest = sha256(word.encode()).digest()
        for position in range(length):
            vector[position] += digest[position % 32] / 128 - 1
    size = sum(each * each for each in vector) ** 0.5 or 1.0
    return [each / size for each in vector]


def _embed(server: LlmServer, asked: Asked, out: Handler) -> None:
    import base64
    import struct

    given: Any = asked.body.get("input") or []
    texts = [given] if isinstance(given, str) else cast("Sequence[str]", given)
    turn = server.take(asked)
    if turn.status != 200:
        _fail(out, False, turn)
        return
    length = int(asked.body.get("dimensions") or VECTOR_LENGTH)
    data: list[dict[str, Any]] = []
    for position, text in enumerate(texts):
        vector: Any = vector_of(text, length)
        if asked.body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{length}f", *vector)).decode()
        data.append({"object": "embedding", "index": position, "embedding": vector})
    total = sum(len(tokens_of(text)) for text in texts)
    usage = {"prompt_tokens": total, "total_tokens": total}
    out.send_json({"object": "list", "data": data, "model": asked.body.get("model"), "usage": usage})


def _batches(server: LlmServer, asked: Asked, out: Handler) -> None:
    """Message batches: made, polled, read, cancelled."""
    parts = asked.path.split("/")[4:]
    if not parts and not asked.raw:
        listed = [_batch(server, name) for name in reversed(server.batches)]
        ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {}
        out.send_json({"data": listed, "has_more": False, **ends})
        return
    if not parts and server.refuse_batches > 0:
        server.refuse_batches -= 1
        _refuse(out, True, 400, "no batch")
        return
    if not parts:
        name = f"msgbatch_{next(_ids)}"
        server.batches[name] = {"requests": asked.body["requests"], "polls": 0, "at": datetime.now(UTC)}
        if server.cut_batches > 0:
            server.cut_batches -= 1
            out.cut()
        else:
            out.send_json(_batch(server, name))
        return
    name = parts[0]
    if name not in server.batches:
        _refuse(out, True, 404, "no such batch")
    elif parts[1:] == ["results"]:
        lines: list[str] = []
        for request in server.batches[name]["requests"]:
            single = Asked(path="/v1/messages", body=request["params"], headers={}, at=asked.at)
            turn = server.take(single)
            if turn.status == 200:
                result: dict[str, Any] = {"type": "succeeded", "message": _Reply(server, single, turn).anthropic()}
            else:
                kind = turn.error or _ANTHROPIC_ERRORS.get(turn.status, "api_error")
                result = {"type": "errored", "error": _anthropic_error(kind, turn.message or f"status {turn.status}")}
            lines.append(json.dumps({"custom_id": request["custom_id"], "result": result}))
        cut_after = None
        if server.cut_results > 0:
            server.cut_results -= 1
            cut_after = len(lines[0].encode()) + 20
        out.send_bytes("\n".join(lines).encode(), "application/x-jsonl", cut_after=cut_after)
    elif parts[1:] == ["cancel"]:
        server.batches[name]["cancelled"] = True
        out.send_json(_batch(server, name))
    elif server.fail_polls > 0:
        server.fail_polls -= 1
        _refuse(out, True, 529, "overloaded")
    else:
        server.batches[name]["polls"] += 1
        out.send_json(_batch(server, name))


def _batch(server: LlmServer, name: str) -> dict[str, Any]:
    batch = server.batches[name]
    ended = batch["polls"] > server.batch_polls or batch.get("cancelled", False)
    total = len(batch["requests"])
    counts = {"processing": 0 if ended else total, "succeeded": total if ended else 0}
    return {
        "id": name,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": {"canceled": 0, "errored": 0, "expired": 0, **counts},
        "created_at": batch["at"].isoformat(),
        "expires_at": (batch["at"] + timedelta(days=1)).isoformat(),
        "ended_at": datetime.now(UTC).isoformat() if ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{server.url}/v1/messages/batches/{name}/results" if ended else None,
    }
