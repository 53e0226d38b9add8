"""`fm resume`: goes on with a run that has stopped: where it was, or under an edited pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from flowmason_ray.cli.control_commands import Project, RunId
from flowmason_ray.cli.errors import command
from flowmason_ray.cli.run_command import (
    EXIT_CODES,
    Quiet,
    Stream,
    WaitForResources,
    drive,
    tell,
    tell_error,
    wait_for_resources,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowmason_ray.api import PreparedRun
    from flowmason_ray.engine.reuse import InDoubt
    from flowmason_ray.engine.runner import Observer
    from flowmason_ray.resuming import EditedRun

Pipeline = Annotated[
    str | None, typer.Option("--pipeline", "-p", metavar="FILE", help="Go on in a new run, under this edited pipeline.")
]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="STAGE", help="With --pipeline: run this stage again. May be repeated."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", "--plan", help="With --pipeline: only tell what would be reused, what would run, and why."
    ),
]
Doubt = Annotated[
    str,
    typer.Option(
        "--in-doubt",
        metavar="ask|retry|skip|fail",
        help="What holds for effectful stages of which it is not known whether they did their work.",
    ),
]
On = Annotated[str | None, typer.Option("--on", metavar="local|ray", help="Where to go on.")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="The Ray cluster to go on on. Default: RAY_ADDRESS.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Hand the run to a coordinator in the Ray cluster, and leave.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, as 'fm run' does.")]


@command
def resume(
    run: RunId,
    pipeline: Pipeline = None,
    force: Force = None,
    dry_run: DryRun = False,
    in_doubt: Doubt = "ask",
    on: On = None,
    address: Address = None,
    wait_s: WaitForResources = None,
    detach: Detach = False,
    as_json: AsJson = False,
    stream: Stream = False,
    quiet: Quiet = False,
    project: Project = ".",
) -> int:
    """Go on with a run that was interrupted or paused, where it was; or with any that is over, under an edited pipeline.

    What has been done is not repeated. With --pipeline, what is reused, what runs again and why is told first; a stage that has
    had an effect never has it again with other inputs, unless that is forced.
    """
    import os

    from flowmason_ray.cli.watching import make_watcher
    from flowmason_ray.errors import FlowMasonError
    from flowmason_ray.wiring import load

    on = "ray" if on is None and (address or detach) else on
    try:
        doubt = _checked(in_doubt, pipeline, belongs_to_it=bool(force or dry_run))
        if detach:
            from flowmason_ray.cli.detaching import check_detach

            check_detach(on=on, address=address, store=True)
        wait_for_resources(wait_s)
        watcher = None if detach else make_watcher(quiet=quiet, stream=stream)
        if address is not None:
            os.environ["RAY_ADDRESS"] = address  # of this process alone, and of what it starts
        shown_to = [] if watcher is None else [watcher]
        how = _How(in_doubt=doubt, on=on, observers=shown_to, stream=stream and watcher is not None)
        if pipeline is None:
            prepared = _where_it_was(project, run, how)
        else:
            prepared = _edited(project, run, pipeline, force or (), how)
            _tell_outlook(prepared, pipeline, doubt, only=dry_run, as_json=as_json, quiet=quiet)
            if dry_run:
                return 0
            prepared.check_doubt()  # before anything looks as if it had begun
        if detach:
            from flowmason_ray.cli.detaching import hand_over

            where, again = prepared.workspace.project, doubt if pipeline is None else None
            hand_over(prepared, where, address=address, as_json=as_json, quiet=quiet, in_doubt=again)
            return 0
        if watcher is not None:
            watcher.begin(prepared)
        result = drive(prepared, watcher)
    except FlowMasonError as exc:
        return tell_error(exc, as_json=as_json)
    tell(result, prepared, load(prepared.plan.file or ""), as_json=as_json, stored=True)
    return EXIT_CODES[result.status]


class _How(TypedDict):
    """How a run goes on, whichever way: what `prepare_resume` and `prepare_edited` both take."""

    in_doubt: InDoubt
    on: str | None
    observers: Sequence[Observer]
    stream: bool


def _checked(in_doubt: str, pipeline: str | None, *, belongs_to_it: bool) -> InDoubt:
    """Return what holds for stages in doubt.

    Raises:
        InvalidCall: there is no such answer, or options are given that belong to --pipeline.
    """
    from flowmason_ray.errors import InvalidCall

    if in_doubt not in ("ask", "retry", "skip", "fail"):
        raise InvalidCall(f"--in-doubt is ask, retry, skip or fail; found {in_doubt!r}.")
    if pipeline is None and belongs_to_it:
        raise InvalidCall("--force and --dry-run belong to --pipeline FILE: without it, a run goes on where it was.")
    return in_doubt


def _where_it_was(project: str, run: str, how: _How) -> PreparedRun:
    import asyncio
    from pathlib import Path

    from flowmason_ray.resuming import prepare_resume
    from flowmason_ray.wiring import open_workspace

    return asyncio.run(prepare_resume(open_workspace(Path(project)).store(), run, **how))


def _edited(project: str, run: str, pipeline: str, force: Sequence[str], how: _How) -> EditedRun:
    import asyncio
    from pathlib import Path

    from flowmason_ray.api import Reuse
    from flowmason_ray.resuming import prepare_edited
    from flowmason_ray.wiring import open_workspace

    store, reuse = open_workspace(Path(project)).store(), Reuse(force=tuple(force))
    return asyncio.run(prepare_edited(store, run, Path(pipeline), reuse=reuse, **how))


def _tell_outlook(
    prepared: EditedRun, pipeline: str, in_doubt: InDoubt, *, only: bool, as_json: bool, quiet: bool
) -> None:
    """Tell what the new run will do; `only`: it is not going to be run."""
    from flowmason_ray.cli.outlook_page import outlook_page
    from flowmason_ray.cli.terminal import note, write_json

    if only and as_json:
        write_json({"run_id": prepared.earlier_run_id, **prepared.outlook.to_json()})
    elif only or not quiet:
        note(outlook_page(prepared.outlook, prepared.earlier_run_id, pipeline, in_doubt))
