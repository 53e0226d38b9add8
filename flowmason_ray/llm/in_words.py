"""Conversations and tools in words, for models that are run here and read nothing else.

A model file knows a template for turns of text, and a grammar that holds its answer to a schema. That is enough for tools too: the model either
says which one it wants called with which arguments, or answers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from flowmason_ray.engine.models import FinishReason, Message, Text, ToolCall, ToolResult
from flowmason_ray.errors import PermanentError
from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Reply, Request

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""How a conversation is written for a model that does not say how it wants it: as most models do."""


def conversation(request: Request, who: str) -> list[dict[str, str]]:
    """Return the turns of a conversation, the instructions first.

    Args:
        request: What is asked.
        who: What the answering side is called in errors.

    Raises:
        PermanentError: it holds what only the larger APIs take.
    """
    made = [{"role": "system", "content": request.system}] if request.system else []
    return [*made, *({"role": message.role, "content": words(message, who)} for message in request.messages)]


def words(message: Message, who: str) -> str:
    """Return a message in words.

    Raises:
        PermanentError: it holds what only the larger APIs take.
    """
    parts: list[str] = []
    for part in message.parts:
        match part:
            case Text():
                parts.append(part.text)
            case ToolCall():
                parts.append(json.dumps({"tool": part.name, "arguments": dict(part.arguments)}))
            case ToolResult():
                parts.append(f"The tool returned: {part.content}")
            case _:
                message_ = f"{who} reads text only; ask another provider for images and audio."
                raise PermanentError(message_, code="not_supported_by_provider")
    return "\n".join(parts)


def wants_tools(request: Request) -> bool:
    """Tell whether the answer may be a wish to have a tool called."""
    return bool(request.tools) and request.tool_choice != "none"


def with_tools(request: Request, *, closed: bool = False) -> Request:
    """Return a request for tools as one for data: the tool and its arguments, or an answer.

    `closed`: say that there is nothing else, to engines that would add to it otherwise.
    """
    if not wants_tools(request):
        return request
    chosen = [tool for tool in request.tools if request.tool_choice in (None, "auto", "required", tool.name)]
    choices: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": {"tool": {"const": tool.name}, "arguments": dict(tool.parameters)},
            "required": ["tool", "arguments"],
        }
        for tool in chosen
    ]
    if request.tool_choice in (None, "auto"):
        choices.append({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]})
    if closed:
        choices = [{**choice, "additionalProperties": False} for choice in choices]
    told = "\n".join(f"- {tool.name}: {tool.description}" for tool in chosen)
    system = f"{request.system}\n\n" if request.system else ""
    return replace(request, system=f"{system}You may have these tools called:\n{told}", schema={"anyOf": choices})


def answered(request: Request, text: str, finish: FinishReason) -> Reply:
    """Return what a text says that was asked for with `with_tools`.

    Raises:
        TemporaryError: it broke off before it was clear what the model wants (code `bad_response`).
    """
    if not wants_tools(request):
        return Reply(text=text, finish_reason=finish)
    try:
        said = json.loads(text)
        if "tool" not in said:
            return Reply(text=str(said["answer"]), finish_reason=finish)
        call = ToolCall(id="call_0", name=str(said["tool"]), arguments=said["arguments"])
    except (ValueError, KeyError, TypeError) as exc:
        raise errors.bad_response("The model was cut off while it wanted a tool called.", text) from exc
    return Reply(text="", tool_calls=(call,), finish_reason="tool_use")
