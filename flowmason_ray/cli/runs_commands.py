"""`fm runs`: what has run in a project, read from its run log."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flowmason_ray.cli.control_commands import cancel
from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.engine.run_log import RunRecord, RunStore

group = typer.Typer(help="Look at runs: what ran, what happened in it, and why.", no_args_is_help=True)

STATUSES = ("running", "paused", "succeeded", "failed", "cancelled", "interrupted")

RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or 'last' for the newest run.")
]
Project = Annotated[
    str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

T = TypeVar("T")


@group.command("list")
@command
def list_runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 20,
    status: Annotated[
        str | None, typer.Option("--status", metavar="|".join(STATUSES), help="Only those with this status.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", metavar="NAME", help="Only those of this one.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="AGE", help="Only those begun at most so long ago: 90s, 45m, 12h, 30d."),
    ] = None,
    as_json: AsJson = False,
    project: Project = ".",
) -> None:
    """List the newest runs."""
    from time import time

    from flowmason_ray.cli.ages import seconds_of
    from flowmason_ray.cli.terminal import columns, note, painter, width_of, write_json, write_text
    from flowmason_ray.errors import InvalidCall, nearest

    if status is not None and status not in STATUSES:
        close = nearest(status, STATUSES)
        hint = f" Did you mean {close!r}?" if close else ""
        raise InvalidCall(f"There is no status {status!r}; there is: {', '.join(STATUSES)}.{hint}")
    begun = None if since is None else time() - seconds_of("--since", since)
    records = _wait(store_of(project).list_runs(limit=limit, status=status, pipeline=pipeline, since=begun))
    if as_json:
        write_json({"runs": [record_json(record) for record in records]})
    elif not records:
        note("There are no such runs here." if status or pipeline or since else "Nothing has run here yet.")
    else:
        header = ("RUN", "STATUS", "PIPELINE", "STARTED", "TOOK", "WHY")
        width = width_of(sys.stdout) if sys.stdout.isatty() else None
        rows = [_row(record) for record in records]
        write_text("\n".join(columns(rows, header=header, paint=painter(sys.stdout), width=width)) + "\n")


@group.command("show")
@command
def show_run(run: RunId, as_json: AsJson = False, project: Project = ".") -> None:
    """Show how a run ended and how its stages did."""
    from flowmason_ray.cli.run_page import read_run, run_document, run_page
    from flowmason_ray.cli.terminal import painter, write_json, write_text

    store = store_of(project)
    found = _wait(read_run(store, run))
    if as_json:
        write_json(run_document(found))
    else:
        write_text(run_page(found, painter(sys.stdout)))


@group.command("cost")
@command
def cost(
    run: RunId,
    by: Annotated[
        str, typer.Option("--by", metavar="stage|model", help="What is told apart: stages, or providers and models.")
    ] = "stage",
    as_json: AsJson = False,
    project: Project = ".",
) -> None:
    """Show what a run used of models: calls, tokens, time and money, failed attempts included."""
    from flowmason_ray.cli.cost_page import cost_document, cost_page, read_costs
    from flowmason_ray.cli.terminal import write_json, write_text
    from flowmason_ray.errors import InvalidCall

    if by not in ("stage", "model"):
        raise InvalidCall(f"--by is stage or model; found {by!r}.")
    found = _wait(read_costs(store_of(project), run, by))
    if as_json:
        write_json(cost_document(found))
    else:
        write_text(cost_page(found))


@group.command("story")
@command
def story(
    run: RunId,
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH]", help="Only this stage instance and what is inside it, for example each[3]/load."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line on stdout.")] = False,
    project: Project = ".",
) -> None:
    """Tell what happened in a run, in order."""
    from flowmason_ray.cli.run_story import tell

    _wait(tell(store_of(project), run, path, as_json=as_json))


@group.command("events")
@command
def events(
    run: RunId,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines; there is no other form.")] = True,
    project: Project = ".",
) -> None:
    """Print a run's events as they are recorded, one JSON document a line."""
    from flowmason_ray.cli.run_story import print_events

    _wait(print_events(store_of(project), run, follow=follow))


@group.command("logs")
@command
def logs(
    run: RunId,
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH]", help="Only this stage instance and what is inside it, for example each[3]/load."
        ),
    ] = None,
    level: Annotated[
        str, typer.Option("--level", metavar="debug|info|warning|error", help="The least level that is shown.")
    ] = "debug",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run stops.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line on stdout.")] = False,
    project: Project = ".",
) -> None:
    """Print what the stages of a run said: with context.log, or by printing it."""
    from flowmason_ray.cli.run_logs import print_logs

    _wait(print_logs(store_of(project), run, path, level=level, follow=follow, as_json=as_json))


@group.command("watch")
@command
def watch(
    run: RunId,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document when the run has stopped, as 'fm run' does.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the result and errors.")] = False,
    project: Project = ".",
) -> int:
    """Watch a run from its log, whatever process drives it, and print its result. Ctrl-C leaves it alone."""
    from flowmason_ray.cli.run_watching import watch

    return watch(store_of(project), run, as_json=as_json, quiet=quiet)


@group.command("answer")
@command
def answer(
    run: RunId,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The stage that asks.")],
    data: Annotated[str, typer.Option("--data", metavar="JSON", help="The answer.")] = "null",
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who answers. Default: your user name.")
    ] = None,
    project: Project = ".",
) -> None:
    """Answer a stage that waits for a person (wait_for_approval)."""
    from flowmason_ray.cli.run_requests import answer_stage

    _wait(answer_stage(store_of(project), run, path.strip("/"), data, by))


group.command("cancel")(cancel)


@group.command("prune")
@command
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="AGE", help="Remove runs that ended longer ago than this: 90s, 45m, 12h, 30d."
        ),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=0, metavar="N", help="Keep the N runs that ended last, however old.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
    project: Project = ".",
) -> None:
    """Remove ended runs, and what nothing needs any more: cached results that have expired, and values of removed runs.

    Runs that have not ended are never removed. With neither --older-than nor --keep no runs are.
    """
    from flowmason_ray.cli.ages import seconds_of
    from flowmason_ray.cli.pruning_report import pruned_document, pruned_text
    from flowmason_ray.cli.terminal import write_json, write_text

    age = None if older_than is None else seconds_of("--older-than", older_than)
    found = _wait(store_of(project).prune(older_than_s=age, keep=keep, dry_run=dry_run))
    if as_json:
        write_json(pruned_document(found, dry_run=dry_run))
    else:
        write_text(pruned_text(found, dry_run=dry_run))


def store_of(project: str) -> RunStore:
    """Return the store of the project around a directory.

    Raises:
        InvalidCall: there is no such directory.
    """
    from pathlib import Path

    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.settings import find_project
    from flowmason_ray.stores.opening import project_store

    if not Path(project).is_dir():
        raise InvalidCall(f"--project: there is no directory {project!r}.")
    return project_store(find_project(Path(project)))


def _wait(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(work)


def record_json(record: RunRecord) -> dict[str, Any]:
    """Return what is known about a run without its events."""
    took = None if record.ended_at is None else round((record.ended_at - record.created_at) * 1000, 3)
    data: dict[str, Any] = {
        "run_id": record.run_id,
        "status": record.status,
        "pipeline": record.pipeline,
        "version": record.version,
        "file": record.file,
        "created_at": record.created_at,
        "ended_at": record.ended_at,
        "duration_ms": took,
    }
    if record.failure is not None:
        data["error"] = dict(record.failure)
    return data


def _row(record: RunRecord) -> tuple[str, ...]:
    from flowmason_ray.cli.words import duration, shortened, when
    from flowmason_ray.errors import place_of

    took = "" if record.ended_at is None else duration(record.ended_at - record.created_at)
    failure = record.failure or {}
    place = str(failure.get("stage") or "")
    if place.rpartition("/")[2].startswith("$"):  # made by a stage that nobody wrote
        place = place_of(place)
    why = shortened(f"{place}: {failure['message']}" if place else failure["message"], 160) if failure else ""
    name = f"{record.pipeline} {record.version}"
    return record.run_id, record.status, name, when(record.created_at), took, why
