"""`mcp_tool_call`: calls a tool of an MCP server.

Effectful: what a tool does is known to its server alone. A tool may say that it only reads, or that it can be repeated; that is
a hint of somebody else's, so it never changes silently what the engine may do. Who trusts it says so twice: `effect` on the
stage, which the engine obeys, and `require_effect` here, which is held against the tool before it is called.

An answer that does not come leaves open whether the tool was called. For a tool that may be repeated that is a temporary
error; for any other it is `mcp_in_doubt`, and nobody repeats it silently. An answer that has come counts, whatever goes wrong in
leaving the server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, Field
from referencing import Registry
from referencing.exceptions import Unresolvable

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.mcp_client import effect_of, tools_of, visit
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, TemporaryError, nearest
from flowmason_ray.spec.bounded_validation import BoundedValidator, UnusablePattern

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

MAX_RESULT_BYTES = 16 * 1024 * 1024
"""A larger result is no message between stages."""
KEY = "flowmason/idempotency-key"
"""Where a call carries the attempt's idempotency key, for servers that know it (`_meta` of the request)."""
_RANK = {"read_only": 0, "idempotent": 1, "effectful": 2}


@operator(effect="effectful", cost="io", category="mcp")
class McpToolCall:
    """Calls a tool of an MCP server of the project and returns what it says."""

    class Input(BaseModel):
        """Which tool, and with what."""

        model_config = closed({"server": "notes", "tool": "search", "arguments": {"query": "leave"}})

        server: str = Field(
            description="The server's name under 'mcp_servers' in flowmason.json.",
            json_schema_extra=names_connection("mcp"),
        )
        tool: str = Field(description="The tool's name.")
        arguments: dict[str, Any] = Field(
            default={}, description="Its arguments; checked against its schema before the call."
        )
        require_effect: Literal["read_only", "idempotent"] | None = Field(
            default=None,
            description="Refuse to call the tool unless it declares that it only reads, or that it can be repeated. Give the "
            "stage the 'effect' that fits.",
        )
        fail_on_error: bool = Field(
            default=True, description="Whether an error that the tool reports fails the stage; else 'is_error' is true."
        )
        timeout: float | None = Field(
            default=None, gt=0, le=86_400, description="Seconds for connecting and calling; null: the server's."
        )

    class Output(BaseModel):
        """What the tool says."""

        content: str = Field(description="Its texts, joined by line breaks.")
        data: Any = Field(
            description="Its structured result; else its text read as JSON, if it is an object or a list; else null."
        )
        parts: list[dict[str, Any]] = Field(
            description="All that it returned: texts, images, links, as the protocol has them."
        )
        is_error: bool = Field(description="Whether the tool reports an error.")
        effect: Literal["read_only", "idempotent", "effectful"] = Field(
            description="What the tool declares that it does."
        )

    async def execute(self, input: Input, context: Context) -> Output:
        """Call it.

        Raises:
            PermanentError: there is no such server or tool, the arguments do not fit (`mcp_invalid_arguments`), the tool declares
                less than is required (`mcp_effect`), it reports an error (`mcp_tool_error`), or nobody knows whether it was
                called (`mcp_in_doubt`).
            TemporaryError: the server cannot be reached, or has not answered and may be asked again.
        """
        called: list[Tool] = []

        async def ask(client: Client) -> tuple[CallToolResult, Tool]:
            tool = _tool(await tools_of(client, input.server), input)
            _check_effect(tool, input)
            _check_arguments(tool, input)
            called.append(tool)
            return await _call(client, tool, input, context), tool

        try:
            result, tool = await visit(context, input.server, ask, timeout_s=input.timeout)
        except TemporaryError as exc:
            if called and effect_of(called[0]) == "effectful":
                raise PermanentError(
                    f"{exc.message} Tool {input.tool!r} may have done its work or not, and does not say that it can be repeated.",
                    code="mcp_in_doubt",
                ) from exc
            raise
        return self._output(result, tool, input)

    def _output(self, result: CallToolResult, tool: Tool, input: Input) -> Output:
        parts = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]
        structured = result.structured_content
        size = sum(_size(part) for part in (*parts, *([] if structured is None else [structured])))
        if size > MAX_RESULT_BYTES:
            raise PermanentError(
                f"Tool {input.tool!r} returned {size:,} bytes; up to {MAX_RESULT_BYTES:,} are taken.",
                code="mcp_too_large",
            )
        _check_result(tool, result, input.server)
        content = "\n".join(part["text"] for part in parts if part["type"] == "text")
        if result.is_error and input.fail_on_error:
            raise PermanentError(
                f"Tool {input.tool!r} of MCP server {input.server!r} reports an error: {content[:1000] or 'it says nothing more'}",
                code="mcp_tool_error",
            )
        data: Any = structured
        if data is None:
            data = _as_json(content)
        return self.Output.model_validate(
            {"content": content, "data": data, "parts": parts, "is_error": result.is_error, "effect": effect_of(tool)}
        )


async def _call(client: Client, tool: Tool, input: McpToolCall.Input, context: Context) -> CallToolResult:
    async def note(progress: float, total: float | None, message: str | None) -> None:
        context.progress(progress, total)
        if message:
            context.log("info", message)

    # The library would check the result with the server's own patterns in a way that may hang; `_check_result` does not.
    client.session.validate_tool_result = _not_checked
    meta: Any = {KEY: context.idempotency_key}
    return await client.call_tool(tool.name, input.arguments, progress_callback=note, meta=meta)


def _tool(tools: Sequence[Tool], input: McpToolCall.Input) -> Tool:
    found = next((tool for tool in tools if tool.name == input.tool), None)
    if found is None:
        names = [tool.name for tool in tools]
        near = nearest(input.tool, names)
        raise PermanentError(
            f"MCP server {input.server!r} has no tool {input.tool!r}.{f' Did you mean {near!r}?' if near else ''} "
            f"It has: {', '.join(names[:30]) or 'none'}.",
            code="unknown_tool",
        )
    return found


def _check_effect(tool: Tool, input: McpToolCall.Input) -> None:
    declared = effect_of(tool)
    if input.require_effect is not None and _RANK[declared] > _RANK[input.require_effect]:
        raise PermanentError(
            f"Tool {tool.name!r} declares itself {declared!r}, and 'require_effect' asks for {input.require_effect!r}. "
            "It was not called.",
            code="mcp_effect",
        )


def _check_arguments(tool: Tool, input: McpToolCall.Input) -> None:
    """Refuse arguments that miss the tool's schema, before the server sees them."""
    if errors := _misfits(tool.input_schema, input.arguments):
        raise PermanentError(
            f"The arguments of tool {tool.name!r} do not fit its schema: {_words(errors)}. It was not called.",
            code="mcp_invalid_arguments",
        )


def _misfits(schema: dict[str, Any], value: Any) -> list[Any]:
    """Return how a value misses a server's schema. What cannot be checked (a schema that is none, a pattern that RE2 does
    not know) is the server's affair.
    """
    try:
        Draft202012Validator.check_schema(schema)
        # A registry of its own: nothing is fetched, whatever the schema refers to.
        registry = cast("Any", Registry)()  # its resources have no type of their own
        return list(BoundedValidator(schema, registry=registry).iter_errors(value))
    except (SchemaError, Unresolvable, UnusablePattern, RecursionError):
        return []


def _words(errors: Sequence[Any]) -> str:
    return "; ".join(f"/{'/'.join(map(str, e.absolute_path))}: {e.message[:500]}" for e in errors[:5])


def _size(part: Any) -> int:
    """Return how many bytes a value takes as JSON."""
    return len(json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogatepass"))


async def _not_checked(name: str, result: CallToolResult) -> None:
    pass


def _check_result(tool: Tool, result: CallToolResult, server: str) -> None:
    """Refuse a result that misses what the tool promises. What cannot be checked is taken, as for arguments."""
    if tool.output_schema is None or result.is_error:
        return
    if result.structured_content is None and "structured_content" not in result.model_fields_set:
        problem = "It has no structured content."
    else:
        errors = _misfits(tool.output_schema, result.structured_content)
        problem = _words(errors) if errors else None
    if problem is not None:
        raise PermanentError(
            f"What tool {tool.name!r} of MCP server {server!r} returned does not fit its output schema: {problem}",
            code="mcp_error",
        )


def _as_json(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
