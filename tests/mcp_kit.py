"""A real MCP server for tests, made with the SDK: `python -m tests.mcp_kit [--http]`; by HTTP it prints its port first."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.context import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "Bearer mcp-test-token"


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


def make_server() -> Any:
    """Return the server."""
    server: Any = MCPServer("notes", version="1.2.3", instructions="Ask for notes.")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True), title="Find notes")
    def search(query: str, limit: int = 3) -> dict[str, Any]:
        """Find notes."""
        return {"query": query, "found": [f"note {n}" for n in range(limit)]}

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True), structured_output=False)
    def put(path: str) -> str:
        """Write a file that says in which environment it was written."""
        Path(path).write_text(f"{os.environ.get('NOTES_KEY')} {os.environ.get('HOME_SECRET')}")
        return f"wrote {path}"

    @server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
    def whoami() -> str:
        """Tell a secret."""
        return f"My key is {os.environ.get('NOTES_KEY')}"

    @server.tool(structured_output=False)
    async def slow(path: str, seconds: float) -> str:
        """Take its time, then do something."""
        _write(path, "begun")
        await asyncio.sleep(seconds)
        return "done"

    @server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
    async def slow_look(seconds: float) -> str:
        """Take its time, only looking."""
        await asyncio.sleep(seconds)
        return "done"

    @server.tool(structured_output=False)
    def fail() -> str:
        """Fail."""
        raise ToolError("the notes are gone")

    @server.tool(structured_output=False)
    def text(value: str) -> str:
        """Return a text as it is."""
        return value

    @server.tool(structured_output=False)
    def die() -> str:
        """End the server in the middle of a call."""
        print("out of memory", file=sys.stderr, flush=True)
        os._exit(3)

    @server.tool(structured_output=False)
    async def steps(ctx: Context[Any]) -> str:
        """Report progress."""
        for done in range(1, 4):
            await ctx.report_progress(done, 3, f"step {done}")
        return "done"

    return server


def serve_http() -> None:
    """Serve on a free port, which is printed; requests need `TOKEN`."""
    import socket

    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # before anybody is told: what comes while the server starts waits, and is not refused
    print(listening.getsockname()[1], flush=True)
    app = make_server().streamable_http_app()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != TOKEN.encode():
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await app(scope, receive, send)

    asyncio.run(uvicorn.Server(uvicorn.Config(guarded, log_config=None, lifespan="on")).serve(sockets=[listening]))


@contextmanager
def http_server() -> Generator[str]:
    """Run the server in a process of its own; return its address."""
    import subprocess

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.mcp_kit", "--http"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def stdio_settings(**more: Any) -> dict[str, Any]:
    """Return what `mcp_servers` says of the server as a program."""
    return {
        "command": sys.executable, "args": ["-m", "tests.mcp_kit"], "timeout_s": 60,
        "env": {"PYTHONPATH": str(ROOT), **more.pop("env", {})}, **more,
    }  # fmt: skip


if __name__ == "__main__":
    if "--http" in sys.argv:
        serve_http()
    else:
        make_server().run("stdio")
