"""The command line: `fm`.

One file per group of commands, and files that several of them share: `terminal` (streams and colour), `problem_report`
(problems as a compiler shows them), `errors` (exit codes). A command's module is imported to build the help, so it imports
nothing but Typer at its top; what a command needs is imported when it runs. The result of a command goes to stdout,
everything else to stderr.

Exit codes: 0 it succeeded, 1 the run failed (or a check said no), 2 the pipeline or the call is invalid, 130 cancelled.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `fm` with these arguments (default: those of the process) and exit with its code."""
    from flowmason_ray.cli.app import start

    start(sys.argv[1:] if arguments is None else arguments)
