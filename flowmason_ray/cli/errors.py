"""How commands end: every error of ours as a clean message and the right exit code, never as a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from flowmason_ray.cli.terminal import StdoutClosed, abandon_stdout, note, painter
from flowmason_ray.errors import FlowMasonError

FAILED, INVALID, PAUSED, CANCELLED = 1, 2, 75, 130
"""Exit codes besides 0."""

P = ParamSpec("P")


def command(body: Callable[P, int | None]) -> Callable[P, None]:
    """Make a function a command: what it returns is the exit code, what it raises is reported."""

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = body(*args, **kwargs) or 0
        except FlowMasonError as exc:
            report_error(exc)
            code = exc.exit_code
        except (StdoutClosed, BrokenPipeError):
            abandon_stdout()
            code = 0
        except KeyboardInterrupt:
            note("Cancelled.")
            code = CANCELLED
        sys.exit(code)

    return run


def report_error(error: FlowMasonError) -> None:
    """Write an error to stderr; one that consists of problems as those."""
    problems: Any = getattr(error, "problems", None)
    if problems:
        from flowmason_ray.cli.problem_report import print_problems

        print_problems(problems)
        return
    paint = painter(sys.stderr)
    note(f"{paint(f'error[{error.code}]', 'red', 'bold')}{paint(':', 'bold')} {error.message}")


def error_document(error: FlowMasonError) -> dict[str, Any]:
    """Return what `--json` prints instead of a result: `status`, `error`, and `problems` for what is invalid."""
    document: dict[str, Any] = {"status": "invalid" if error.exit_code == INVALID else "failed"}
    facts = error.to_json()
    problems = facts.pop("problems", [])
    document["error"] = facts
    if error.exit_code == INVALID:
        document["problems"] = problems
    return document
