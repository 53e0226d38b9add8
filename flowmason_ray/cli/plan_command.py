"""`fm plan`: what would run, in which order, as text, JSON, Mermaid or a drawing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.engine.pacing import Pacing
    from flowmason_ray.engine.plan import Plan
    from flowmason_ray.wiring import Workspace

FORMATS = ("text", "json", "mermaid", "svg")

_BY_SUFFIX = {".json": "json", ".mmd": "mermaid", ".mermaid": "mermaid", ".svg": "svg", ".txt": "text"}


@command
def plan(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The pipeline file.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="|".join(FORMATS), help="How to show it. Default: by the name of -o, else text."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of to stdout.")
    ] = None,
    measured: Annotated[
        bool,
        typer.Option("--measured", help="Count in how long the stages took in earlier runs, as the next run would."),
    ] = False,
) -> None:
    """Show how a pipeline would run: the stages in order, what waits for what, what each is and costs, what runs together.

    Nothing is run.
    """
    from pathlib import Path

    from flowmason_ray.cli import plan_views
    from flowmason_ray.cli.terminal import json_bytes, note, painter, plain, write_bytes
    from flowmason_ray.wiring import load, open_workspace

    chosen = _format(format, output)
    loaded = load(file)
    workspace = open_workspace(Path(file))
    made = workspace.plan(loaded)
    pacing = _measured(workspace, made) if measured else None
    if chosen == "json":
        content = json_bytes(plan_views.as_json(made, loaded, pacing), indent=True) + b"\n"
    elif chosen == "mermaid":
        content = plan_views.as_mermaid(made, pacing).encode()
    elif chosen == "svg":
        content = plan_views.as_svg(made, pacing).encode()
    else:
        paint = painter(sys.stdout) if output is None else plain
        content = plan_views.as_text(made, paint, pacing).encode("utf-8", "backslashreplace")
    if output is None:
        write_bytes(content)
    else:
        write_output(output, content)
        note(f"Wrote {output}.")


def _measured(workspace: Workspace, made: Plan) -> Pacing:
    """Return what the project's run log knows about how long the stages take.

    Raises:
        StoreError: it cannot be read.
    """
    import asyncio

    from flowmason_ray.engine.definitions import Definitions
    from flowmason_ray.engine.pacing import Pacing
    from flowmason_ray.engine.timings import Timings

    timings = asyncio.run(Timings.read(workspace.store(), made, Definitions(made)))
    return Pacing(made, timings.usable())


def _format(format: str | None, output: str | None) -> str:
    from pathlib import Path

    from flowmason_ray.errors import InvalidCall, nearest

    if format is None:
        return _BY_SUFFIX.get(Path(output).suffix.lower(), "text") if output else "text"
    if format not in FORMATS:
        close = nearest(format, FORMATS)
        hint = f" Did you mean {close!r}?" if close else ""
        raise InvalidCall(f"There is no format {format!r}; there is: {', '.join(FORMATS)}.{hint}")
    return format


def write_output(file: str, content: bytes) -> None:
    """Write what `-o` asks for.

    Raises:
        InvalidCall: it cannot be written.
    """
    from pathlib import Path

    from flowmason_ray.errors import InvalidCall

    try:
        Path(file).write_bytes(content)
    except OSError as exc:
        raise InvalidCall(f"Cannot write {file!r}: {exc.strerror or exc}.") from None
