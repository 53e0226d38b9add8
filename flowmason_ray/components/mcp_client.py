"""Speaking to MCP servers: connecting by either transport, listing tools, and turning what goes wrong into errors of ours.

A server is reached for one attempt and left again: a program is started and ended, its error output kept for messages. Attempts
share no session, so that none sees what another left, or goes down with it (docs/adr/0021). What has been answered is answered:
how the closing goes, and how long it takes, changes nothing about it. What a server says is data, never a reason to crash: its
errors come as groups of exceptions from inside the library's tasks, and are taken apart here.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from threading import Thread
from typing import IO, Generic, TypeVar, cast

from flowmason_ray.components.extras import needs
from flowmason_ray.components.files import resolve_inside
from flowmason_ray.connections import MCP_PREFIX, McpServer, find_server
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, StageError, TemporaryError

with needs("Calling tools of MCP servers", extra="mcp"):
    import anyio
    import httpx2
    from mcp import Client, MCPError, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.types import Tool
    from pydantic import ValidationError

T = TypeVar("T")

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


async def visit(context: Context, name: str, use: Callable[[Client], Awaitable[T]], *, timeout_s: float | None) -> T:
    """Connect to a server of the project, use it, and leave it again; return what using it gave.

    Connecting and using take no longer than the limit. Closing is not part of it and has bounds of its own, those of the
    library: a program is waited for (2 s after its input has ended), sent SIGTERM, and 2 s later killed. What `use` has
    returned or raised by then is what comes of the visit, however the closing goes, and also if the caller is cancelled in it.

    Cancelling the caller breaks off what `use` does and waits until the server has been left; cancelling it again ends only
    the waiting.

    Args:
        context: Knows the project.
        name: The server.
        use: What to do there. It runs in another thread, on an event loop of its own.
        timeout_s: The limit; None: the server's.

    Raises:
        PermanentError: `unknown_mcp_server`, `missing_secret`, `mcp_connect` for a program that cannot be started,
            `mcp_error` for an error that the server reports.
        TemporaryError: `mcp_connect`, `mcp_timeout`.
    """
    server = server_of(context, name)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        with suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    stay = _Visit(server, context, name, use, server.timeout_s if timeout_s is None else timeout_s, end)
    Thread(target=copy_context().run, args=(stay.run,), name=f"flowmason-mcp-{name}", daemon=False).start()
    try:
        await ended.wait()
    except asyncio.CancelledError:
        if not stay.answers:
            stay.stop()
            await ended.wait()
            if not stay.answers:
                raise
    return stay.outcome()


class _Visit(Generic[T]):
    """One visit, in a thread of its own.

    Cancelling a task defeats what the library shields against its own kind of cancelling, and an executor's event loop may end
    any time: both would leave programs behind. Nothing cancels the task in this thread, its loop ends when the server has been
    left, and the process waits for it, too.
    """

    def __init__(
        self,
        server: McpServer,
        context: Context,
        name: str,
        use: Callable[[Client], Awaitable[T]],
        limit_s: float,
        ended: Callable[[], None],
    ) -> None:
        self._server, self._context, self._name = server, context, name
        self._use, self._limit_s, self._ended = use, limit_s, ended
        self._running: tuple[asyncio.AbstractEventLoop, anyio.CancelScope] | None = None
        self._told = False
        self._error: BaseException | None = None
        self.answers: list[T] = []
        """What `use` has returned, once it has."""

    def run(self) -> None:
        """Make the visit, in this thread."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """Break off, from any thread."""
        self._told = True  # before looking: it looks after it has begun
        if self._running is not None:
            loop, clock = self._running
            with suppress(RuntimeError):  # over already
                loop.call_soon_threadsafe(clock.cancel)

    def outcome(self) -> T:
        """Return what `use` returned, or raise what came instead."""
        if self.answers:
            return self.answers[0]
        assert self._error is not None
        raise self._error

    async def _run(self) -> None:
        try:
            with tempfile.TemporaryFile() as words:
                await self._live(words)
        except BaseException as exc:  # whatever it is, it is raised where the visit was asked for
            self._error = self._error or exc
        finally:
            self._ended()

    async def _live(self, words: IO[bytes]) -> None:
        clock = anyio.CancelScope(deadline=anyio.current_time() + self._limit_s)
        failure: BaseException | None = None
        try:
            with clock:
                self._running = asyncio.get_running_loop(), clock
                if self._told:
                    clock.cancel()
                async with _client(self._server, self._context, words) as client:
                    try:
                        self.answers.append(await self._use(client))
                    except StageError as exc:
                        self._error = exc
                    clock.deadline = math.inf
        except (BaseExceptionGroup, MCPError, OSError, ValueError, httpx2.HTTPError) as exc:
            failure = exc
        if self.answers or self._error is not None:
            return
        if clock.cancel_called:  # what breaks off then fails in ways of its own
            message = f"MCP server {self._name!r} has not answered in {self._limit_s:g} s.{_said(words)}"
            raise TemporaryError(message, code="mcp_timeout") from failure
        assert failure is not None
        if isinstance(failure, BaseExceptionGroup):
            raise _of_group(failure, self._name, words) from failure
        raise _error(failure, self._name, words) from failure


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
