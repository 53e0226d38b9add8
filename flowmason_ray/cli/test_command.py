"""`fm test`: runs the cases of test files, says how they went, and writes what other tools read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flowmason_ray.cli.errors import FAILED, INVALID, command

if TYPE_CHECKING:
    from flowmason_ray.cli.test_files import Written
    from flowmason_ray.pipeline_tests.results import TestReport
    from flowmason_ray.pipeline_tests.running import Selection


@command
def run_tests(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH…",
            help="Test files, pipelines with tests beside them, or directories. Default: the directory.",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tag", "-t", metavar="TAG", help="Only cases with this tag; 'not TAG': only without. Several: any."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("-k", metavar="TEXT", help="Only cases with this text in their name.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="local|ray", help="Where cases run that do not say it. Default: local."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, metavar="N", help="Cases that run at a time. Default: 1, or the project's."
        ),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", "-x", help="Start no case after the first failure.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")] = False,
    junit_file: Annotated[str | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    coverage_file: Annotated[
        str | None, typer.Option("--coverage", metavar="FILE", help="Write stage and branch coverage as JSON.")
    ] = None,
    lcov_file: Annotated[
        str | None, typer.Option("--lcov", metavar="FILE", help="Write stage and branch coverage as LCOV.")
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option(
            "--min-coverage", min=0, max=100, metavar="N", help="Fail when less than N percent of the stages were run."
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Run again whenever a test, pipeline or component changes; Ctrl-C ends."),
    ] = False,
) -> int:
    """Test pipelines: run the cases of *.test.json files.

    Exit codes: 0 all passed, 1 something failed, 2 a file or the call is invalid, or no case was run.
    """
    from flowmason_ray.cli.errors import error_document
    from flowmason_ray.cli.terminal import write_json
    from flowmason_ray.cli.test_files import Written
    from flowmason_ray.errors import FlowMasonError
    from flowmason_ray.pipeline_tests.running import Selection
    from flowmason_ray.wiring import choose_executor

    choose_executor(on or "local")
    selection = Selection(tags=tuple(tags or ()), name=name, on=on, jobs=jobs, fail_fast=fail_fast)
    written = Written(junit=junit_file, coverage=coverage_file, lcov=lcov_file)
    where = paths or ["."]

    def once() -> int:
        try:
            return _run(where, selection, written, as_json=as_json, min_coverage=min_coverage)
        except FlowMasonError as exc:
            if not as_json:
                raise
            write_json(error_document(exc))
            return exc.exit_code

    if not watch:
        return once()
    from flowmason_ray.cli.test_watching import watch_tests

    return watch_tests(where, once)


def _run(paths: list[str], selection: Selection, written: Written, *, as_json: bool, min_coverage: float | None) -> int:
    import asyncio

    from flowmason_ray.cli.stdout_guard import keep_stdout
    from flowmason_ray.cli.terminal import write_json
    from flowmason_ray.cli.test_view import ReportView, own_stdout
    from flowmason_ray.pipeline_tests.discovery import find_tests
    from flowmason_ray.pipeline_tests.running import Listener, run_files

    files = find_tests(paths)
    with own_stdout() as out:
        view = None if as_json else ReportView(out)
        listener = None if view is None else Listener(view.file_begins, view.case_ended, view.file_ended)
        with keep_stdout():
            report = asyncio.run(run_files(files, selection, listener))
        least = report.min_coverage if min_coverage is None else min_coverage
        if view is not None:
            view.end(report, least)
    if as_json:
        from flowmason_ray.pipeline_tests.coverage_files import coverage_document

        write_json({**report.to_json(), "min_coverage": least, "coverage": coverage_document(report.coverage)})
    written.write(report)
    return _exit_code(report, least)


def _exit_code(report: TestReport, least: float) -> int:
    from flowmason_ray.pipeline_tests.coverage import stage_percent

    if report.invalid or not any(report.cases()):
        return INVALID
    return FAILED if report.count("failed") or stage_percent(report.coverage) < least else 0
