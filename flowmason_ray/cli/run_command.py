"""`fm run`: runs a pipeline, shows how it goes on stderr, and puts the result on stdout."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import CANCELLED, FAILED, PAUSED, command

if TYPE_CHECKING:
    from flowmason_ray.api import PreparedRun, RunResult
    from flowmason_ray.cli.watching import Watcher
    from flowmason_ray.engine.run_log import RunStore
    from flowmason_ray.errors import FlowMasonError
    from flowmason_ray.spec.loader import LoadedPipeline

EXIT_CODES = {"succeeded": 0, "failed": FAILED, "cancelled": CANCELLED, "paused": PAUSED}

WaitForResources = Annotated[
    float | None,
    typer.Option(
        "--wait-for-resources",
        metavar="SECONDS",
        min=0,
        help="Let stages wait so long for a node that the cluster does not have yet, instead of failing at once.",
    ),
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the result and errors.")]
Stream = Annotated[bool, typer.Option("--stream", help="Show what models say while they say it, on stderr.")]


@command
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The pipeline file.")],
    input_text: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON", help="The input, a JSON object.")
    ] = None,
    input_file: Annotated[
        str | None, typer.Option("--input-file", "-f", metavar="FILE", help="A file that holds the input; - for stdin.")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the pipeline's sample_input.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one value of the input: a.b=3, names.0=x. JSON, else text. May be repeated.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="local|ray", help="Where to run. Default: ray when RAY_ADDRESS is set, else local."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="The Ray cluster to run on. Default: RAY_ADDRESS."),
    ] = None,
    wait_s: WaitForResources = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Hand the run to a coordinator in the Ray cluster, print its id and leave."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document: how the run went, its output, its stages.")
    ] = False,
    quiet: Quiet = False,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Record the run in the project's run log, for 'fm runs'.")
    ] = True,
    reuse: Annotated[
        str | None,
        typer.Option(
            "--reuse",
            metavar="RUN",
            help="Take over what this run has done already; without an input, its input too. 'last' is the newest.",
        ),
    ] = None,
    from_stage: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="With --reuse: run this stage again and all that follows."),
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="STAGE", help="Run this stage again, whatever is known. May be repeated."),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Use cached results and leave some, where stages say so.")
    ] = True,
    stream: Stream = False,
    max_cost_usd: Annotated[
        float | None,
        typer.Option("--max-cost-usd", metavar="USD", help="Stop the run when it has spent more than this on models."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", help="Stop the run when it has used more tokens than this."),
    ] = None,
) -> int:
    """Run a pipeline.

    The result goes to stdout, everything else to stderr. Ctrl-C cancels the run properly; a second one leaves at once.
    """
    from flowmason_ray.errors import FlowMasonError

    on = "ray" if on is None and (address or detach) else on
    try:
        if detach:
            from flowmason_ray.cli.detaching import check_detach

            check_detach(on=on, address=address, store=store)
        wait_for_resources(wait_s)
        from flowmason_ray.api import PreparedRun, Reuse
        from flowmason_ray.cli.pipeline_input import read_input
        from flowmason_ray.cli.watching import make_watcher
        from flowmason_ray.wiring import ExecutorOptions, load, open_workspace

        loaded = load(file)
        value = read_input(
            text=input_text, file=input_file, sample=sample_of(loaded, file) if sample else None, sets=sets or ()
        )
        workspace = open_workspace(_path(file))
        watcher = make_watcher(quiet=quiet, stream=stream)
        given = input_text is not None or input_file is not None or sample or bool(sets)
        runs = workspace.store() if store else None
        if reuse is not None and not given:
            value = _input_of(runs, reuse)
        with told_how_to_give_an_input(given=given):
            prepared = PreparedRun(
                loaded,
                value,
                on=on,
                store=runs,
                reuse=Reuse(run=reuse, from_stage=from_stage, force=tuple(force or ()), cache=cache),
                observers=[watcher] if watcher is not None else (),
                workspace=workspace,
                max_cost_usd=max_cost_usd,
                max_tokens=max_tokens,
                stream=stream and watcher is not None,
                options=ExecutorOptions(ray_address=address),
            )
        if detach:
            from flowmason_ray.cli.detaching import hand_over

            hand_over(prepared, workspace.project, address=address, as_json=as_json, quiet=quiet)
            return 0
        if watcher is not None:
            if prepared.warnings:
                from flowmason_ray.cli.problem_report import print_problems

                print_problems(prepared.warnings)
            watcher.begin(prepared)
        result = drive(prepared, watcher)
    except FlowMasonError as exc:
        return tell_error(exc, as_json=as_json)
    tell(result, prepared, loaded, as_json=as_json, stored=store)
    return EXIT_CODES[result.status]


def wait_for_resources(seconds: float | None) -> None:
    """Let the stages of this process's runs, and of coordinators that it hands runs to, wait for nodes."""
    import os

    from flowmason_ray.settings import WAIT_VARIABLE

    if seconds is not None:
        os.environ[WAIT_VARIABLE] = str(seconds)


def _path(file: str) -> Any:
    from pathlib import Path

    return Path(file)


def _input_of(store: RunStore | None, run: str) -> Any:
    """Return the input that an earlier run had.

    Raises:
        RunNotFound: there is no such run.
        InvalidCall: runs are not looked up.
    """
    import asyncio

    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.reusing.loading import load_past

    if store is None:
        raise InvalidCall("--reuse takes results from the run log, which --no-store leaves out.")
    return asyncio.run(load_past(store, run)).exact_input()


@contextmanager
def told_how_to_give_an_input(*, given: bool) -> Generator[None]:
    """Let an input that misses its schema, because none was given, say how one is given."""
    from flowmason_ray.errors import InvalidInput

    try:
        yield
    except InvalidInput as exc:
        if given:
            raise
        hint = "Give the input with -i JSON, -f FILE or --set KEY=VALUE, or take the pipeline's own with --sample."
        *others, last = exc.problems
        raise InvalidInput([*others, replace(last, hint=last.hint or hint)]) from None


def sample_of(loaded: LoadedPipeline, file: str) -> Any:
    """Return a pipeline's `sample_input`.

    Raises:
        InvalidCall: it has none.
    """
    from flowmason_ray.errors import InvalidCall

    if loaded.pipeline.sample_input is None:
        raise InvalidCall(f"--sample: {file} has no 'sample_input'; give the input with -i or -f.")
    return loaded.pipeline.sample_input


def drive(prepared: PreparedRun, watcher: Watcher | None) -> RunResult:
    """Run what is prepared: with what components print kept off stdout, and with signals that cancel it."""
    import asyncio

    from flowmason_ray.cli.cancelling import cancel_on_signals
    from flowmason_ray.cli.stdout_guard import keep_stdout
    from flowmason_ray.cli.terminal import note

    with keep_stdout():
        if watcher is None:
            with cancel_on_signals(prepared, say=note):
                return asyncio.run(prepared.run())
        with cancel_on_signals(prepared, say=watcher.say, before_exit=watcher.abandon), watcher.shown():
            result = asyncio.run(prepared.run())
        watcher.end(result)
    return result


def tell(result: RunResult, prepared: PreparedRun, loaded: LoadedPipeline, *, as_json: bool, stored: bool) -> None:
    """Put the result on stdout, and what went wrong on stderr."""
    if result.failure is not None:
        from flowmason_ray.cli.failure_report import print_failure

        print_failure(result, prepared.plan, loaded, stored=stored)
    from flowmason_ray.cli.terminal import note, write_json

    if result.status == "paused":
        note(f"Go on with it: fm resume {result.run_id}")
    if as_json:
        write_json(result.to_json())
    elif result.status == "succeeded":
        from flowmason_ray.engine.values import presentable

        write_json(presentable(result.output))


def tell_error(error: FlowMasonError, *, as_json: bool) -> int:
    """Put on stdout why nothing was run, as the document that `--json` prints; return the exit code.

    Raises:
        FlowMasonError: the error itself, unless `as_json`: it is for stderr.
    """
    from flowmason_ray.cli.errors import error_document
    from flowmason_ray.cli.terminal import write_json

    if not as_json:
        raise error
    write_json(error_document(error))
    return error.exit_code
