"""What `mcp_tool_call` makes of a server's schemas and results, without a server."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp.types import CallToolResult, TextContent, Tool

from flowmason_ray.components.builtin import mcp_tool_call
from flowmason_ray.components.builtin.mcp_tool_call import McpToolCall
from flowmason_ray.errors import PermanentError

EVIL = {"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}


def given(**arguments: Any) -> McpToolCall.Input:
    return McpToolCall.Input(server="s", tool="t", arguments=arguments)


def output(schema: dict[str, Any] | None = None, **result: Any) -> McpToolCall.Output:
    tool = Tool(name="t", input_schema={"type": "object"}, output_schema=schema)
    answer = CallToolResult(content=[TextContent(text="said")], **result)
    return McpToolCall()._output(answer, tool, given())  # pyright: ignore[reportPrivateUsage]  # no server is needed


def refused(schema: dict[str, Any] | None = None, **result: Any) -> str:
    with pytest.raises(PermanentError) as caught:
        output(schema, **result)
    return caught.value.code


def test_structured_content_counts_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_tool_call, "MAX_RESULT_BYTES", 1000)
    assert output(structured_content={"a": "x" * 500}).data == {"a": "x" * 500}
    assert refused(structured_content={"a": "x" * 1000}) == "mcp_too_large"
    assert refused(structured_content={"a": "ü" * 500}) == "mcp_too_large"


def test_a_result_is_held_against_what_the_tool_promises() -> None:
    schema = {"properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert output(schema, structured_content={"n": 1}).data == {"n": 1}
    assert refused(schema, structured_content={"n": "x"}) == "mcp_error"
    assert refused(schema) == "mcp_error"
    assert refused(schema, is_error=True) == "mcp_tool_error"


@pytest.mark.timeout(60)  # that it ends at all is the property: with a matcher that backtracks it takes years
def test_patterns_of_a_server_cannot_hang() -> None:
    value = "a" * 60 + "!"
    assert refused(EVIL, structured_content={"a": value}) == "mcp_error"
    tool = Tool(name="t", input_schema={"type": "object", **EVIL})
    with pytest.raises(PermanentError, match="does not match"):
        mcp_tool_call._check_arguments(tool, given(a=value))  # pyright: ignore[reportPrivateUsage]  # no server is needed


def test_patterns_that_cannot_be_checked_are_the_servers_affair() -> None:
    schema = {"properties": {"a": {"pattern": "(?=x)y"}}}
    assert output(schema, structured_content={"a": "b"}).data == {"a": "b"}
