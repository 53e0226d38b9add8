"""FlowMason as an MCP server: the tools of a project, spoken by stdio or by streamable HTTP.

By stdio nothing but the protocol reaches stdout: the library takes the descriptor for itself and puts stderr in its place, so
what components and their child processes print goes there. By HTTP every request needs a token, on the loopback too, because
other users and web pages can reach that; the host that a request names is checked against DNS rebinding.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from flowmason_ray import __version__
from flowmason_ray.cli.mcp_tools import Answered, Offered, ProjectTools
from flowmason_ray.components.extras import needs
from flowmason_ray.engine.values import presentable
from flowmason_ray.errors import InvalidCall

with needs("'fm mcp serve'", extra="mcp"):
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel.server import Server
    from mcp.server.stdio import stdio_server
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp.types import (
        CallToolRequestParams,
        CallToolResult,
        ListToolsResult,
        PaginatedRequestParams,
        TextContent,
        Tool,
        ToolAnnotations,
    )

PATH = "/mcp"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARDS = frozenset({"0.0.0.0", "::"})  # compared with, not listened on
_INSTRUCTIONS = (
    "Pipelines of a FlowMason project. list_pipelines says what there is; each runnable pipeline is also a tool of its own, "
    "'run_…', whose arguments are the pipeline's input. show_run tells what happened in a run."
)

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def make_server(tools: ProjectTools) -> Server[Any]:
    """Return the protocol's side of a project's tools."""

    async def list_tools(
        context: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        offered = await asyncio.to_thread(tools.offered)
        return ListToolsResult(tools=[_tool(each) for each in offered])

    async def call_tool(context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
        telling: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()

        def progress(ended: int) -> None:
            def tell() -> None:
                task = loop.create_task(_tell(context, ended))
                telling.add(task)
                task.add_done_callback(telling.discard)

            loop.call_soon_threadsafe(tell)

        answered = await tools.call(params.name, params.arguments or {}, progress)
        await asyncio.gather(*telling)
        return _result(answered)

    return Server(
        "flowmason",
        version=__version__,
        title="FlowMason",
        instructions=_INSTRUCTIONS,
        get_tool_input_schema=tools.schema_of,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _tell(context: ServerRequestContext[Any, Any], ended: int) -> None:
    with suppress(Exception):  # whoever asked may have gone; the run goes on
        await context.session.report_progress(ended, None, f"{ended} stage(s) have ended")


def _tool(offered: Offered) -> Tool:
    return Tool(
        name=offered.name,
        title=offered.title,
        description=offered.description,
        input_schema=dict(offered.input_schema),
        annotations=ToolAnnotations(read_only_hint=offered.read_only, open_world_hint=not offered.read_only),
    )


def _result(answered: Answered) -> CallToolResult:
    document = presentable(dict(answered.document))
    text = json.dumps(document, ensure_ascii=False, default=str)
    return CallToolResult(
        content=[TextContent(text=text)], structured_content=json.loads(text), is_error=answered.is_error
    )


async def serve_stdio(tools: ProjectTools) -> None:
    """Speak on standard input and output until the input ends."""
    server = make_server(tools)
    async with stdio_server() as (read, write):
        try:
            await server.run(read, write, server.create_initialization_options())
        finally:
            await tools.finish()


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that its port is known before anything is served.

    Raises:
        InvalidCall: it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()
    except OSError as exc:
        raise InvalidCall(f"--http: cannot listen on {host}:{port}: {exc.strerror or exc}.") from exc
    return made


async def serve_http(
    tools: ProjectTools, at: socket.socket, host: str, token: str, *, also: Sequence[str] = ()
) -> None:
    """Speak by streamable HTTP on `/mcp` until a signal ends it.

    Args:
        tools: What is offered.
        at: The socket.
        host: The host that it listens on, which clients name. One that means all of them is no name: then the loopback's are.
        token: What they present, as `Authorization: Bearer TOKEN`.
        also: More names of hosts that requests may carry, such as the one of a proxy; each with any port, or none.
    """
    import uvicorn

    names = [*_names(host), *(_shown(name) for name in also)]
    hosts = [each for name in names for each in (name, f"{name}:*")]
    security = TransportSecuritySettings(
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{each}" for scheme in ("http", "https") for each in hosts],
    )
    app = make_server(tools).streamable_http_app(streamable_http_path=PATH, host=host, transport_security=security)
    config = uvicorn.Config(guarded(app, token), log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    try:
        await uvicorn.Server(config).serve(sockets=[at])
    finally:
        await tools.finish()


def _names(host: str) -> list[str]:
    if host in LOOPBACK or host in WILDCARDS:
        return [_shown(name) for name in LOOPBACK]
    return [_shown(host)]


def _shown(name: str) -> str:
    """Return a host as requests carry it."""
    return f"[{name}]" if ":" in name else name


def guarded(app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application that lets requests with the token through, and no other."""
    expected = f"Bearer {token}".encode()

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], expected):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b'{"code": "unauthorized"}'})
                return
        elif scope["type"] != "lifespan":
            return
        await app(scope, receive, send)

    return check
