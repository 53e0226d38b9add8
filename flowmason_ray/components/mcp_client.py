"""Speaking to MCP servers: connecting by either transport, listing tools, and turning what goes wrong into errors of ours.

A server is reached for one attempt and left again: a program is started and ended, its error output kept for messages. Attempts
share no session, so that none sees what another left, or goes down with it (docs/adr/0021). What a server says is data, never a
reason to crash: its errors come as groups of exceptions from inside the library's tasks, and are taken apart here.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import IO, cast

from flowmason_ray.components.extras import needs
from flowmason_ray.components.files import resolve_inside
from flowmason_ray.connections import MCP_PREFIX, McpServer, find_server
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, StageError, TemporaryError

with needs("Calling tools of MCP servers", extra="mcp"):
    import httpx2
    from mcp import Client, MCPError, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.types import Tool
    from pydantic import ValidationError

MAX_PAGES = 100
"""A list of tools that goes on for longer does not end."""
_LAST_WORDS = 400


def server_of(context: Context, name: str) -> McpServer:
    """Return a server of the project, its secrets filled in.

    Raises:
        PermanentError: there is none of that name (`unknown_mcp_server`), or a secret is not set (`missing_secret`).
    """
    find_server(context.settings.mcp_servers, name)
    return context.connection(MCP_PREFIX + name, McpServer)


@asynccontextmanager
async def connected(context: Context, name: str, *, timeout_s: float | None) -> AsyncGenerator[Client]:
    """Connect to a server of the project; leave it in the end. All of it takes no longer than its time limit.

    Args:
        context: Knows the project.
        name: The server.
        timeout_s: The limit; None: the server's.

    Raises:
        PermanentError: `unknown_mcp_server`, `missing_secret`, `mcp_connect` for a program that cannot be started,
            `mcp_error` for an error that the server reports.
        TemporaryError: `mcp_connect`, `mcp_timeout`.
    """
    server = server_of(context, name)
    limit = server.timeout_s if timeout_s is None else timeout_s
    clock = asyncio.timeout(limit)
    with tempfile.TemporaryFile() as words:
        try:
            async with clock, _client(server, context, words) as client:
                yield client
        except (BaseExceptionGroup, MCPError, OSError, ValueError, httpx2.HTTPError) as exc:
            if clock.expired():  # what breaks off then fails in ways of its own
                message = f"MCP server {name!r} has not answered in {limit:g} s.{_said(words)}"
                raise TemporaryError(message, code="mcp_timeout") from exc
            if isinstance(exc, BaseExceptionGroup):
                raise _of_group(exc, name, words) from exc
            raise _error(exc, name, words) from exc


@asynccontextmanager
async def _client(server: McpServer, context: Context, words: IO[bytes]) -> AsyncGenerator[Client]:
    if server.command is not None:
        parameters = StdioServerParameters(
            command=server.command,
            args=server.args,
            env={key: str(value) for key, value in server.env.items()},
            cwd=resolve_inside(context.project_dir, server.cwd, reading=True),
        )
        # The library only hands it on as a file descriptor; a program may write bytes that are no text.
        with os.fdopen(os.dup(words.fileno()), "w", errors="replace") as log:
            async with Client(stdio_client(parameters, errlog=log)) as client:
                yield client
        return
    headers = {key: str(value) for key, value in server.headers.items()}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=None)) as http,
        Client(streamable_http_client(str(server.url), http_client=http)) as client,
    ):
        yield client


def _of_group(group: BaseExceptionGroup[BaseException], name: str, words: IO[bytes]) -> BaseException:
    """Return the one error that a group stands for."""
    left: list[BaseException] = [group]
    found: list[BaseException] = []
    while left:
        each = left.pop(0)
        if isinstance(each, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", each).exceptions
        else:
            found.append(each)
    ours = next((each for each in found if isinstance(each, StageError | asyncio.CancelledError)), None)
    return ours if ours is not None else _error(found[0], name, words)


def _error(exc: BaseException, name: str, words: IO[bytes]) -> BaseException:
    if isinstance(exc, MCPError):
        gone = "closed" in str(exc).lower()
        kind, code = (TemporaryError, "mcp_connect") if gone else (PermanentError, "mcp_error")
        return kind(f"MCP server {name!r}: {exc}.{_said(words)}", code=code)
    if isinstance(exc, FileNotFoundError | PermissionError):
        return PermanentError(f"MCP server {name!r} cannot be started: {exc}.", code="mcp_connect")
    if isinstance(exc, ValidationError):
        return PermanentError(
            f"MCP server {name!r} answers what the protocol does not allow: {exc.error_count()} problem(s), the first is "
            f"{exc.errors()[0]['msg']!r}.",
            code="mcp_error",
        )
    if isinstance(exc, OSError | httpx2.HTTPError):
        # Not the whole exception: an address may hold what is secret.
        return TemporaryError(
            f"MCP server {name!r} cannot be reached: {type(exc).__name__}.{_said(words)}", code="mcp_connect"
        )
    if isinstance(exc, Exception):
        return PermanentError(f"MCP server {name!r}: {type(exc).__name__}: {exc}.{_said(words)}", code="mcp_error")
    return exc


def _said(words: IO[bytes]) -> str:
    """Return the last words of a program's error output."""
    words.seek(0, os.SEEK_END)
    words.seek(max(words.tell() - 4096, 0))
    text = " ".join(words.read().decode(errors="replace").split())
    return f" It said: …{text[-_LAST_WORDS:]}" if text else ""


async def tools_of(client: Client, name: str) -> Sequence[Tool]:
    """Return all tools of a server, page by page.

    Raises:
        PermanentError: the list does not end (`mcp_error`).
    """
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise PermanentError(f"MCP server {name!r} lists tools without end.", code="mcp_error")


def effect_of(tool: Tool) -> str:
    """Return what a tool says that calling it does: `read_only`, `idempotent`, or `effectful`, which is also what silence means."""
    hints = tool.annotations
    if hints is not None and hints.read_only_hint:
        return "read_only"
    return "idempotent" if hints is not None and hints.idempotent_hint else "effectful"
