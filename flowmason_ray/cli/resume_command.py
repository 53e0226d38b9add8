"""`fm resume`: takes up a run that was interrupted, where it was."""

from __future__ import annotations

from typing import Annotated

import typer

from flowmason_ray.cli.errors import command
from flowmason_ray.cli.run_command import EXIT_CODES, drive, tell


@command
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or 'last'.")],
    in_doubt: Annotated[
        str,
        typer.Option(
            "--in-doubt",
            metavar="ask|retry|skip|fail",
            help="What holds for effectful stages of which it is not known whether they did their work.",
        ),
    ] = "ask",
    on: Annotated[str | None, typer.Option("--on", metavar="local|ray", help="Where to go on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, as 'fm run' does.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the result and errors.")] = False,
    project: Annotated[
        str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
    ] = ".",
) -> int:
    """Take up a run whose process was killed, where it was.

    What had finished is not repeated. The pipeline must be the one that the run was made with.
    """
    import asyncio
    from pathlib import Path

    from flowmason_ray.cli.watching import make_watcher
    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.resuming import prepare_resume
    from flowmason_ray.stores.sqlite import SqliteRunStore
    from flowmason_ray.wiring import load, open_workspace

    if in_doubt not in ("ask", "retry", "skip", "fail"):
        raise InvalidCall(f"--in-doubt is ask, retry, skip or fail; found {in_doubt!r}.")
    store = open_workspace(Path(project)).store()
    assert isinstance(store, SqliteRunStore)
    watcher = make_watcher(quiet=quiet)
    prepared = asyncio.run(
        prepare_resume(store, run, in_doubt=in_doubt, on=on, observers=[watcher] if watcher is not None else ())
    )
    if watcher is not None:
        watcher.begin(prepared)
    result = drive(prepared, watcher)
    loaded = load(prepared.plan.file or "")
    tell(result, prepared, loaded, as_json=as_json, stored=True)
    return EXIT_CODES[result.status]
