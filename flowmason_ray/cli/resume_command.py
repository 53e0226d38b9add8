"""`fm resume`: goes on with a run that has stopped: where it was, or under an edited pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flowmason_ray.cli.errors import command
from flowmason_ray.cli.run_command import EXIT_CODES, WaitForResources, drive, tell, wait_for_resources

if TYPE_CHECKING:
    from flowmason_ray.api import PreparedRun
    from flowmason_ray.cli.watching import Watcher
    from flowmason_ray.engine.reuse import InDoubt


@command
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or 'last'.")],
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", "-p", metavar="FILE", help="Go on in a new run, under this edited pipeline."),
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="STAGE", help="With --pipeline: run this stage again. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", "--plan", help="With --pipeline: only tell what would be reused, what would run, and why."
        ),
    ] = False,
    in_doubt: Annotated[
        str,
        typer.Option(
            "--in-doubt",
            metavar="ask|retry|skip|fail",
            help="What holds for effectful stages of which it is not known whether they did their work.",
        ),
    ] = "ask",
    on: Annotated[str | None, typer.Option("--on", metavar="local|ray", help="Where to go on.")] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="The Ray cluster to go on on. Default: RAY_ADDRESS."),
    ] = None,
    wait_s: WaitForResources = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Hand the run to a coordinator in the Ray cluster, and leave.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, as 'fm run' does.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show what models say while they say it, on stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the result and errors.")] = False,
    project: Annotated[
        str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
    ] = ".",
) -> int:
    """Go on with a run that was interrupted or paused, where it was; or with any that is over, under an edited pipeline.

    What has been done is not repeated. With --pipeline, what is reused, what runs again and why is told first; a stage that has
    had an effect never has it again with other inputs, unless that is forced.
    """
    import os

    from flowmason_ray.cli.watching import make_watcher
    from flowmason_ray.errors import FlowMasonError, InvalidCall
    from flowmason_ray.wiring import load

    try:
        if in_doubt not in ("ask", "retry", "skip", "fail"):
            raise InvalidCall(f"--in-doubt is ask, retry, skip or fail; found {in_doubt!r}.")
        if pipeline is None and (force or dry_run):
            raise InvalidCall(
                "--force and --dry-run belong to --pipeline FILE: without it, a run goes on where it was."
            )
        on = "ray" if on is None and (address or detach) else on
        if detach:
            from flowmason_ray.cli.detaching import check_detach

            check_detach(on=on, address=address, store=True)
        wait_for_resources(wait_s)
        watcher = None if detach else make_watcher(quiet=quiet, stream=stream)
        if address is not None:
            os.environ["RAY_ADDRESS"] = address  # of this process alone, and of what it starts
        if pipeline is None:
            prepared = _where_it_was(project, run, in_doubt, on, watcher, stream)
        else:
            edited = _edited(
                project, run, pipeline, tuple(force or ()), in_doubt, on, watcher, stream, dry_run, as_json, quiet
            )
            if edited is None:
                return 0
            prepared = edited
        if detach:
            from flowmason_ray.cli.detaching import hand_over

            again = None if pipeline is not None else in_doubt
            hand_over(
                prepared, prepared.workspace.project, address=address, as_json=as_json, quiet=quiet, in_doubt=again
            )
            return 0
        if watcher is not None:
            watcher.begin(prepared)
        result = drive(prepared, watcher)
    except FlowMasonError as exc:
        if not as_json:
            raise
        from flowmason_ray.cli.errors import error_document
        from flowmason_ray.cli.terminal import write_json

        write_json(error_document(exc))
        return exc.exit_code
    loaded = load(prepared.plan.file or "")
    tell(result, prepared, loaded, as_json=as_json, stored=True)
    return EXIT_CODES[result.status]


def _where_it_was(
    project: str, run: str, in_doubt: InDoubt, on: str | None, watcher: Watcher | None, stream: bool
) -> PreparedRun:
    import asyncio
    from pathlib import Path

    from flowmason_ray.resuming import prepare_resume
    from flowmason_ray.wiring import open_workspace

    store = open_workspace(Path(project)).store()
    observers = [watcher] if watcher is not None else ()
    streamed = stream and watcher is not None
    return asyncio.run(prepare_resume(store, run, in_doubt=in_doubt, on=on, observers=observers, stream=streamed))


def _edited(
    project: str,
    run: str,
    pipeline: str,
    force: tuple[str, ...],
    in_doubt: InDoubt,
    on: str | None,
    watcher: Watcher | None,
    stream: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> PreparedRun | None:
    """Return the new run, after telling what it will do; None: it was only to be told."""
    import asyncio
    from pathlib import Path

    from flowmason_ray.api import Reuse
    from flowmason_ray.cli.outlook_page import outlook_page
    from flowmason_ray.cli.terminal import note, write_json
    from flowmason_ray.resuming import prepare_edited
    from flowmason_ray.wiring import open_workspace

    store = open_workspace(Path(project)).store()
    observers = [watcher] if watcher is not None else ()
    prepared = asyncio.run(
        prepare_edited(
            store,
            run,
            Path(pipeline),
            reuse=Reuse(force=force),
            in_doubt=in_doubt,
            on=on,
            observers=observers,
            stream=stream and watcher is not None,
        )
    )
    if dry_run and as_json:
        write_json({"run_id": prepared.earlier_run_id, **prepared.outlook.to_json()})
    elif dry_run or not quiet:
        note(outlook_page(prepared.outlook, prepared.earlier_run_id, pipeline, in_doubt))
    if dry_run:
        return None
    prepared.check_doubt()  # before anything looks as if it had begun
    return prepared
