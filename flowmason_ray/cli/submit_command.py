"""`fm submit`: runs a pipeline on a cluster elsewhere, as a Ray job that takes the project along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import CANCELLED, FAILED, command
from flowmason_ray.cli.run_command import Quiet, WaitForResources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowmason_ray.ray_jobs.submitting import Job, JobEnded, JobServer
    from flowmason_ray.settings import Project

COMMAND_LIMIT_BYTES = 130_000
"""What the job's command may take, quoted: the cluster gives all of it to a shell as one argument (Linux: MAX_ARG_STRLEN is
128 KiB)."""


@command
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The pipeline file; its project is sent along.")],
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="URL",
            help="The cluster's dashboard, http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS.",
        ),
    ] = None,
    input_text: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON", help="The input, a JSON object.")
    ] = None,
    input_file: Annotated[
        str | None, typer.Option("--input-file", "-f", metavar="FILE", help="A file that holds the input; - for stdin.")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the pipeline's sample_input.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one value of the input. May be repeated."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            metavar="NAME[=VALUE]",
            help="Give the job this environment variable, with the value that it has here. May be repeated.",
        ),
    ] = None,
    wait_s: WaitForResources = None,
    python: Annotated[
        str, typer.Option("--python", metavar="PROGRAM", help="The cluster's Python that has FlowMason.")
    ] = "python",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job until it has ended.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, as 'fm run' does; with --no-wait: the job's id.")
    ] = False,
    quiet: Quiet = False,
) -> int:
    """Run a pipeline on a Ray cluster elsewhere, as a job; the project's directory is sent along.

    What the job says goes to stderr, the result to stdout; the exit code is the run's. Ctrl-C leaves the job alone.
    """
    import asyncio
    from pathlib import Path

    from flowmason_ray.cli.terminal import json_bytes, note, write_json, write_text
    from flowmason_ray.ray_jobs.submitting import Job, JobServer
    from flowmason_ray.settings import find_project

    where = _address(address)
    value = _checked_input(file, input_text, input_file, sample, sets or ())
    project = find_project(Path(file))
    name = Path(file).resolve().relative_to(project.root).as_posix()
    words = [python, "-m", "flowmason_ray", "run", name, "--on", "ray", "--input", json_bytes(value).decode()]
    words += ["--wait-for-resources", str(wait_s)] if wait_s is not None else []
    words += [flag for flag, wanted in (("--json", as_json), ("--quiet", quiet)) if wanted]
    _check_length(words)
    environment = dict(_variable(each) for each in env or ())
    job = Job(directory=project.root, command=words, environment=environment, about={"pipeline": name})
    server = JobServer(where)
    job_id = server.submit(job)
    if not quiet:
        note(f"{name} is sent to {server.address} as job {job_id}.")
        _tell_about_log(project, job)
    if not wait:
        if as_json:
            write_json({"job_id": job_id, "status": "submitted"})
        else:
            write_text(f"{job_id}\n")
        return 0
    try:
        return asyncio.run(_follow(server, job_id, as_json=as_json))
    except KeyboardInterrupt:
        note(f"Job {job_id} goes on. Stop it: ray job stop --address {server.address} {job_id}")
        return CANCELLED


def _address(given: str | None) -> str:
    """Return the cluster's address.

    Raises:
        InvalidCall: nothing says it.
    """
    import os

    from flowmason_ray.errors import InvalidCall

    found = given or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not found:
        raise InvalidCall(
            "Say which cluster: --address http://HEAD:8265, where its dashboard is, or set RAY_API_SERVER_ADDRESS."
        )
    return found


def _checked_input(file: str, text: str | None, input_file: str | None, sample: bool, sets: Any) -> dict[str, Any]:
    """Return the input of a run, checked with the pipeline as the job would: what is wrong is said before anything is sent.

    Raises:
        InvalidPipeline: the pipeline cannot be run.
        InvalidInput: the input does not fit.
    """
    from flowmason_ray.api import PreparedRun
    from flowmason_ray.cli.pipeline_input import read_input
    from flowmason_ray.cli.run_command import sample_of, told_how_to_give_an_input
    from flowmason_ray.wiring import load

    loaded = load(file)
    value = read_input(text=text, file=input_file, sample=sample_of(loaded, file) if sample else None, sets=sets)
    given = text is not None or input_file is not None or sample or bool(sets)
    with told_how_to_give_an_input(given=given):
        return PreparedRun(loaded, value, on="local").info.input


def _check_length(words: Sequence[str]) -> None:
    """Make sure that a command is short enough for a shell.

    Raises:
        InvalidCall: it is not, because of its input.
    """
    import shlex

    from flowmason_ray.errors import InvalidCall

    size = len(shlex.join(words).encode())
    if size > COMMAND_LIMIT_BYTES:
        raise InvalidCall(
            f"With its input, quoted for a shell, the job's command has {size:,} bytes; it takes up to {COMMAND_LIMIT_BYTES:,}. Let "
            "the pipeline read the input from a file of the project, which is sent along, or from storage that the cluster reaches."
        )


def _variable(text: str) -> tuple[str, str]:
    """Return name and value of an environment variable.

    Raises:
        InvalidCall: it has none here.
    """
    import os

    from flowmason_ray.errors import InvalidCall

    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise InvalidCall(
            f"--env {name}: there is no such environment variable here; give its value with {name}=VALUE."
        )
    return name, os.environ[name]


def _tell_about_log(project: Project, job: Job) -> None:
    """Say that the job's log goes with its directory, unless it is recorded somewhere else."""
    from flowmason_ray.cli.terminal import note
    from flowmason_ray.stores.opening import POSTGRES, STORE_VARIABLE

    kept = job.environment.get(STORE_VARIABLE) or project.settings.stores.runs
    if not kept.startswith((*POSTGRES, "/")):
        note(
            "Its run log and large values lie in the job's own directory on the cluster, which is temporary. To keep them and to "
            f"watch the run from here: --env {STORE_VARIABLE}=postgresql://… and --env FLOWMASON_BLOBS=s3://…"
        )


async def _follow(server: JobServer, job_id: str, *, as_json: bool) -> int:
    """Show what a job says; put the result on stdout; return the exit code.

    The result is the last line that is JSON: stdout and stderr are one text there, and Ray may have last words. What comes behind
    such a line is shown before it, as long as it may be the result.
    """
    import asyncio

    from flowmason_ray.cli.terminal import note, write_text

    held: str | None = None
    async for line in server.lines(job_id):
        if _is_json(line):
            line, held = held, line
        if line is not None:
            note(line)
    ended = await asyncio.to_thread(server.ended, job_id)
    if held is not None:
        if as_json or ended.status == "SUCCEEDED":
            write_text(f"{held}\n")
        else:  # 'fm run' prints none
            note(held)
    return _exit_code(ended, job_id)


def _is_json(line: str) -> bool:
    import json

    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _exit_code(ended: JobEnded, job_id: str) -> int:
    from flowmason_ray.cli.terminal import note

    if ended.status == "STOPPED":
        note(f"Job {job_id} was stopped.")
        return CANCELLED
    if ended.status == "SUCCEEDED":
        return 0
    if ended.exit_code is None or ended.exit_code < 0:
        note(f"error[submission_failed]: Job {job_id} failed: {ended.message}")
        return FAILED
    return ended.exit_code
