"""What was asked and answered, as attributes of a span: only for who opts in, and never with the run's secrets.

Opted in by OpenTelemetry's own variable. The shapes are those of the semantic conventions 1.37 ("GenAI", JSON schemas of input messages, output
messages and system instructions). Pictures and sound are told by kind and size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, assert_never

from flowmason_ray.engine.models import Audio, Image, Part, Text, ToolCall, ToolResult

if TYPE_CHECKING:
    from flowmason_ray.llm.base import Reply, Request

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_YES = frozenset({"true", "span_only", "span_and_event"})
SYSTEM = "gen_ai.system_instructions"
INPUT = "gen_ai.input.messages"
OUTPUT = "gen_ai.output.messages"
TOOLS = "gen_ai.tool.definitions"


def is_wanted() -> bool:
    """Tell whether content is told in spans."""
    return os.environ.get(VARIABLE, "").strip().lower() in _YES


def asked(request: Request, mask: Callable[[str], str]) -> Mapping[str, str]:
    """Return what was asked."""
    messages = [{"role": each.role, "parts": [_part(part) for part in each.parts]} for each in request.messages]
    told: dict[str, Any] = {INPUT: messages}
    if request.system:
        told[SYSTEM] = [{"type": "text", "content": request.system}]
    if request.tools:
        told[TOOLS] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            }
            for tool in request.tools
        ]
    return _texts(told, mask)


def said(reply: Reply, mask: Callable[[str], str]) -> Mapping[str, str]:
    """Return what was answered."""
    parts: list[Part] = [Text(text=reply.text)] if reply.text else []
    parts += reply.tool_calls
    message = {"role": "assistant", "parts": [_part(part) for part in parts], "finish_reason": reply.finish_reason}
    return _texts({OUTPUT: [message]}, mask)


def _texts(told: Mapping[str, Any], mask: Callable[[str], str]) -> dict[str, str]:
    return {name: json.dumps(_masked(value, mask), ensure_ascii=False) for name, value in told.items()}


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Return a JSON value with its texts masked: before it is written as JSON, which may write a secret differently."""
    match value:
        case str():
            return mask(value)
        case dict():
            return {mask(str(name)): _masked(each, mask) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # JSON
        case list():
            return [_masked(each, mask) for each in value]  # pyright: ignore[reportUnknownVariableType]  # JSON
        case _:
            return value


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"type": "text", "content": text}
        case ToolCall():
            return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": dict(part.arguments)}
        case ToolResult():
            return {"type": "tool_call_response", "id": part.call_id, "result": part.content}
        case Image(url=str(url)):
            return {"type": "uri", "modality": "image", "uri": url}
        case Image():
            size = len(part.data or b"")
            return {"type": "blob", "modality": "image", "mime_type": part.media_type, "size_bytes": size}
        case Audio():
            return {
                "type": "blob",
                "modality": "audio",
                "mime_type": f"audio/{part.format}",
                "size_bytes": len(part.data),
            }
        case _:
            assert_never(part)
