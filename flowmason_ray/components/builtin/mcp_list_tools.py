"""`mcp_list_tools`: what an MCP server offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.mcp_client import effect_of, tools_of, visit
from flowmason_ray.engine.component import Context

if TYPE_CHECKING:
    from mcp import Client


class ListedTool(BaseModel):
    """A tool."""

    name: str = Field(description="Its name, as mcp_tool_call takes it.")
    title: str | None = Field(description="What people call it.")
    description: str = Field(description="What it is for, in the server's words.")
    input_schema: dict[str, Any] = Field(description="JSON Schema of its arguments.")
    output_schema: dict[str, Any] | None = Field(description="JSON Schema of its structured result, if it has one.")
    effect: Literal["read_only", "idempotent", "effectful"] = Field(
        description="What the server says that calling it does; a server that says nothing means 'effectful'."
    )


@operator(effect="idempotent", cost="io", category="mcp")
class McpListTools:
    """Lists the tools of an MCP server of the project."""

    class Input(BaseModel):
        """Which server."""

        model_config = closed({"server": "notes"})

        server: str = Field(
            description="The server's name under 'mcp_servers' in flowmason.json.",
            json_schema_extra=names_connection("mcp"),
        )
        timeout: float | None = Field(
            default=None, gt=0, le=86_400, description="Seconds for connecting and answering; null: the server's."
        )

    class Output(BaseModel):
        """What it offers."""

        tools: list[ListedTool] = Field(description="The tools, in the server's order.")
        count: int = Field(description="How many there are.")
        server_name: str | None = Field(description="What the server calls itself.")
        server_version: str | None = Field(description="Its version.")
        protocol_version: str = Field(description="The version of the protocol that both speak.")
        instructions: str | None = Field(description="What the server says about its use.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask the server.

        Raises:
            StageError: it cannot be reached or answers wrongly (`mcp_connect`, `mcp_timeout`, `mcp_error`), or there is none
                of that name (`unknown_mcp_server`).
        """

        async def ask(client: Client) -> McpListTools.Output:
            tools = await tools_of(client, input.server)
            about = client.server_info
            return self.Output(
                tools=[
                    ListedTool.model_validate(
                        {
                            "name": tool.name,
                            "title": tool.title,
                            "description": tool.description or "",
                            "input_schema": tool.input_schema,
                            "output_schema": tool.output_schema,
                            "effect": effect_of(tool),
                        }
                    )
                    for tool in tools
                ],
                count=len(tools),
                server_name=None if about is None else about.name,
                server_version=None if about is None else about.version,
                protocol_version=client.protocol_version,
                instructions=client.instructions,
            )

        return await visit(context, input.server, ask, timeout_s=input.timeout)
