"""Puts the commands together into `fm`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from flowmason_ray.cli import (
    components_commands,
    control_commands,
    db_commands,
    diff_command,
    explain_command,
    fmt_command,
    git_command,
    info_command,
    init_command,
    lock_command,
    mcp_commands,
    merge_command,
    plan_command,
    prompts_commands,
    providers_commands,
    resolve_command,
    resume_command,
    run_command,
    runs_commands,
    submit_command,
    test_command,
    validate_command,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from flowmason_ray import __version__

        print(f"fm {__version__}")
        raise typer.Exit


def make_app() -> typer.Typer:
    """Return the whole command line."""
    app = typer.Typer(
        name="fm",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # plain help: half the start-up time, and readable everywhere
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )

    @app.callback()
    def root(  # pyright: ignore[reportUnusedFunction]  # the decorator keeps it
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        """FlowMason: pipelines as plain JSON files that run in-process and on Ray."""

    app.command("run")(run_command.run)
    app.command("submit")(submit_command.submit)
    app.command("resume")(resume_command.resume)
    app.command("pause")(control_commands.pause)
    app.command("cancel")(control_commands.cancel)
    app.command("validate")(validate_command.validate)
    app.command("test")(test_command.run_tests)
    app.command("plan")(plan_command.plan)
    app.command("resolve")(resolve_command.resolve)
    app.command("explain")(explain_command.explain)
    app.command("info")(info_command.info)
    app.command("lock")(lock_command.lock)
    app.command("fmt")(fmt_command.fmt)
    app.command("diff", cls=diff_command.CommandWithDashes)(diff_command.diff)
    app.command("merge")(merge_command.merge)
    app.command("init")(init_command.init)
    app.add_typer(components_commands.group, name="components")
    app.add_typer(prompts_commands.group, name="prompts")
    app.add_typer(runs_commands.group, name="runs")
    app.add_typer(providers_commands.group, name="providers")
    app.add_typer(db_commands.group, name="db")
    app.add_typer(git_command.group, name="git")
    app.add_typer(mcp_commands.group, name="mcp")
    return app


def start(arguments: Sequence[str]) -> NoReturn:
    """Run the command line and exit with its code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us (`2>&-`)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        # A file name or a message may hold what the terminal's encoding has not: show it escaped, never fail over it.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
    from flowmason_ray.cli.stdout_guard import end_stdout

    try:
        make_app()(args=list(arguments), prog_name="fm")
    finally:
        end_stdout()
    raise SystemExit(0)
