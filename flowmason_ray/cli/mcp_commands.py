"""`fm mcp`: FlowMason as a server of the Model Context Protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flowmason_ray.cli.errors import command

group = typer.Typer(help="Offer pipelines to programs that speak the Model Context Protocol.", no_args_is_help=True)

TOKEN_VARIABLE = "FLOWMASON_MCP_TOKEN"
SHORTEST_TOKEN = 16


@group.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]  # makes 'serve' a sub-command although it is the only one
    """Offer pipelines to programs that speak the Model Context Protocol."""


@group.command("serve")
@command
def serve(
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            help=f"Serve by HTTP instead of stdio; requests need the token in {TOKEN_VARIABLE}, or the one that is printed.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="With --http: another name that requests may carry as their host, such as a proxy's. Repeatable.",
        ),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", metavar="DIR", help="The project to offer. Default: the one around here.")
    ] = ".",
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="local|ray", help="Where pipelines run. Default: ray when RAY_ADDRESS is set, else local."
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Offer looking at pipelines and runs only; nothing can be run.")
    ] = False,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Record runs in the project's run log, for 'fm runs'.")
    ] = True,
) -> None:
    """Serve the project's pipelines as tools, by stdio or HTTP."""
    import asyncio

    from flowmason_ray.cli.mcp_server import serve_http, serve_stdio
    from flowmason_ray.cli.mcp_tools import ProjectTools
    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.settings import find_project
    from flowmason_ray.wiring import choose_executor

    if not Path(project).is_dir():
        raise InvalidCall(f"--project: there is no directory {project!r}.")
    if allow_host and http is None:
        raise InvalidCall("--allow-host is for --http; by stdio nobody names a host.")
    also = [_host(name) for name in allow_host or ()]
    if on is not None:
        choose_executor(on)
    tools = ProjectTools(root=find_project(Path(project)).root, on=on, store=store, read_only=read_only)
    if http is None:
        asyncio.run(serve_stdio(tools))
        return
    host, port = _address(http)
    token = _token(host)
    from flowmason_ray.cli.mcp_server import PATH, WILDCARDS, listening
    from flowmason_ray.cli.terminal import note

    with listening(host, port) as at:
        shown = f"[{host}]" if ":" in host else host
        note(f"Serving {tools.root.name} on http://{shown}:{at.getsockname()[1]}{PATH}")
        if host in WILDCARDS and not also:
            note(
                "Requests that name another host than this machine's loopback are refused; --allow-host NAME adds names."
            )
        if TOKEN_VARIABLE not in os.environ:
            note(f"Clients send the header 'Authorization: Bearer {token}'. To choose the token, set {TOKEN_VARIABLE}.")
        asyncio.run(serve_http(tools, at, host, token, also=also))


def _address(text: str) -> tuple[str, int]:
    from flowmason_ray.errors import InvalidCall

    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidCall(f"--http: {text!r} is no address; write HOST:PORT, for example 127.0.0.1:8765 (port 0: any).")
    return host, int(port)


def _host(name: str) -> str:
    """Return a host's name as requests carry it: in small letters, without brackets.

    Raises:
        InvalidCall: it is none.
    """
    from ipaddress import IPv6Address

    from flowmason_ray.errors import InvalidCall

    host = name.lower().removeprefix("[").removesuffix("]")
    try:
        return str(IPv6Address(host))
    except ValueError:
        pass
    if not host or not all(part and part.replace("-", "").replace("_", "").isalnum() for part in host.split(".")):
        raise InvalidCall(
            f"--allow-host: {name!r} is no name of a host; write it without scheme and port, such as 'tools.example.org'."
        )
    return host


def _token(host: str) -> str:
    """Return the token that requests need: the one that is set, or a random one.

    Raises:
        InvalidCall: the one that is set is too short; or other machines could connect and none is set.
    """
    import secrets

    from flowmason_ray.cli.mcp_server import LOOPBACK
    from flowmason_ray.errors import InvalidCall

    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        if host not in LOOPBACK:
            raise InvalidCall(
                f"--http: on {host!r} other machines can connect; set {TOKEN_VARIABLE} to a token that they have to present."
            )
        return secrets.token_urlsafe(24)
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidCall(
            f"{TOKEN_VARIABLE} needs at least {SHORTEST_TOKEN} printable ASCII characters without spaces."
        )
    return token
