"""`fm validate`: everything that is wrong with pipelines, before anything runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flowmason_ray.cli.errors import INVALID, command

if TYPE_CHECKING:
    from pathlib import Path

    from flowmason_ray.errors import Problem


@command
def validate(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Pipeline files, or directories to look for them in.")
    ],
    check_inheritance: Annotated[
        bool,
        typer.Option(
            "--check-inheritance",
            help="Check whole families: what the pipelines extend, and what extends them in the project.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> int:
    """Check pipelines: every problem, with file, line and what to do.

    A directory stands for every *.pipeline.json below it. Exit code 2 when there are errors; warnings alone are no errors.
    """
    from flowmason_ray.cli.pipeline_files import find_pipelines

    files = find_pipelines(paths)
    if check_inheritance:
        from flowmason_ray.cli.inheritance_check import check_families

        found = check_families(files, _problems)
    else:
        found = [(file, _problems(file)) for file in files]
    bad = [file for file, problems in found if any(p.severity == "error" for p in problems)]
    if as_json:
        from flowmason_ray.cli.terminal import write_json

        files = [
            {"file": str(file), "ok": file not in bad, "problems": [p.to_json() for p in problems]}
            for file, problems in found
        ]
        write_json({"files": files})
    else:
        _print(found)
    return INVALID if bad else 0


def _problems(file: Path) -> list[Problem]:
    from flowmason_ray.api import validate as problems_of
    from flowmason_ray.errors import FlowMasonError, Problem

    try:
        return problems_of(file)
    except FlowMasonError as exc:  # a component's module that cannot be imported concerns every pipeline of its project
        return [Problem(code=exc.code, message=exc.message, file=str(file))]


def _print(found: list[tuple[Path, list[Problem]]]) -> None:
    from flowmason_ray.cli.problem_report import print_problems
    from flowmason_ray.cli.terminal import note, painter
    from flowmason_ray.cli.words import counted

    problems = [problem for _, each in found for problem in each]
    print_problems(problems)
    errors = sum(p.severity == "error" for p in problems)
    warnings = len(problems) - errors
    paint = painter(sys.stderr)
    counts = [paint(counted(errors, "error"), "red", "bold")] if errors else []
    counts += [paint(counted(warnings, "warning"), "yellow", "bold")] if warnings else []
    files = counted(len(found), "pipeline")
    if errors:
        bad = sum(any(p.severity == "error" for p in each) for _, each in found)
        note(f"{' and '.join(counts)}; {bad:,} of {files} cannot be run.")
    elif warnings:
        note(f"{counts[0]}; {files} can be run.")
    else:
        note(f"{paint('No problems', 'green', 'bold')} in {files}.")
