"""`fm diff`: what changed in pipelines, by stage, never by line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from flowmason_ray.cli.errors import FAILED, INVALID, command

if TYPE_CHECKING:
    from flowmason_ray.errors import Problem
    from flowmason_ray.spec.diff.report import Report

FORMATS = ("text", "markdown", "json", "html", "svg", "mermaid")

_BY_SUFFIX = {
    ".json": "json",
    ".md": "markdown",
    ".html": "html",
    ".htm": "html",
    ".svg": "svg",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".txt": "text",
}
_BEHIND_DASHES = "flowmason.behind_dashes"


class CommandWithDashes(TyperCommand):
    """A command that knows which of its arguments stand behind `--`: there are files only, as git has it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note how many arguments stand behind `--`."""
        ctx.meta[_BEHIND_DASHES] = len(args) - args.index("--") - 1 if "--" in args else 0
        return super().parse_args(ctx, args)


@command
def diff(
    ctx: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[A B | REV [REV]] [--] [FILE…]", help="Two files, or revisions and files of git."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="|".join(FORMATS), help="How to show it. Default: by the name of -o, else text."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of to stdout.")
    ] = None,
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="Compare what the pipelines amount to with all that they extend (fm resolve)."),
    ] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when there are differences.")] = False,
) -> int:
    """Show what changed in pipelines: stage by stage, long texts word by word.

    Two files are compared with each other; FILE alone with its version in HEAD; with REV, two revisions, or one and the work
    tree. Without FILE, every pipeline that changed is shown. Order, positions and formatting never show.
    With --resolved, parents are read at the revision too, and a pipeline that only its parents changed is shown as well.
    """
    from flowmason_ray.cli.diff_sides import find_sides, report_on
    from flowmason_ray.cli.plan_command import write_output
    from flowmason_ray.cli.problem_report import print_problems
    from flowmason_ray.cli.terminal import note, write_bytes

    chosen = choose_format(format, output)
    given = list(targets or ())
    behind = int(ctx.meta.get(_BEHIND_DASHES, 0))
    split = len(given) - behind
    problems: list[Problem] = []
    if resolved:
        from flowmason_ray.cli.diff_resolved import resolved_reports

        reports = resolved_reports(given[:split], given[split:], problems)
    else:
        reports = [report_on(sides) for sides in find_sides(given[:split], given[split:])]
    if problems and not reports:
        print_problems(problems)
        return INVALID
    content = rendered(reports, chosen, colour=output is None)
    if output is None:
        write_bytes(content)
    else:
        write_output(output, content)
        note(f"Wrote {output}.")
    if problems:
        print_problems(problems)
        return INVALID
    return FAILED if exit_code and any(reports) else 0


def choose_format(format: str | None, output: str | None) -> str:
    """Return the format that was asked for, or the one that a file's name says.

    Raises:
        InvalidCall: there is no such format.
    """
    from pathlib import Path

    from flowmason_ray.errors import InvalidCall, nearest

    if format is None:
        return _BY_SUFFIX.get(Path(output).suffix.lower(), "text") if output else "text"
    if format not in FORMATS:
        close = nearest(format, FORMATS)
        hint = f" Did you mean {close!r}?" if close else ""
        raise InvalidCall(f"There is no format {format!r}; there is: {', '.join(FORMATS)}.{hint}")
    return format


def rendered(reports: list[Report], format: str, *, colour: bool) -> bytes:
    """Return diffs in a format.

    Raises:
        InvalidCall: several diffs in a format that holds one.
    """
    from flowmason_ray.cli.terminal import json_bytes, painter, plain
    from flowmason_ray.errors import InvalidCall

    if format == "html":
        from flowmason_ray.cli.diff_html import as_html

        return as_html(reports).encode("utf-8", "backslashreplace")
    if format == "json":
        from flowmason_ray.cli.diff_json import as_json

        return json_bytes({"files": [as_json(report) for report in reports]}, indent=True) + b"\n"
    if format in ("svg", "mermaid"):
        if len(reports) > 1:
            raise InvalidCall(f"{len(reports)} pipelines changed, and {format} holds one drawing: name a file.")
        return "".join(_drawn(report, format) for report in reports).encode("utf-8", "backslashreplace")
    if format == "markdown":
        from flowmason_ray.cli.diff_markdown import as_markdown

        text = "\n".join(map(as_markdown, reports)) or "No pipeline changed.\n"
    else:
        from flowmason_ray.cli.diff_text import as_text

        paint = painter(sys.stdout) if colour else plain
        text = "\n".join(as_text(report, paint) for report in reports) or "No pipeline changed.\n"
    return text.encode("utf-8", "backslashreplace")


def _drawn(report: Report, format: str) -> str:
    from flowmason_ray.cli import diff_graph

    marked = diff_graph.both(report)
    return diff_graph.as_svg(marked, report.title) if format == "svg" else diff_graph.as_mermaid(marked)
