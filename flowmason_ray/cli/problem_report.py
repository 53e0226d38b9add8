"""Problems the way a good compiler shows them: what, where (clickable), the line itself, and what to do.

error[unknown_key]: Unknown key 'confg'. Did you mean 'config'?
  --> sales.pipeline.json:7:9
   |
 7 |         "confg": {},
   |         ^^^^^^^
   = help: …
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from flowmason_ray.cli.terminal import Paint, note, painter, width_of
from flowmason_ray.errors import Problem, inherited

EXCERPT_WIDTH = 110
"""Columns of an excerpt; minified files have lines of megabytes."""

MOST_PROBLEMS = 30
"""Problems that are shown; nobody reads further before mending the first."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[-+.\w]+')


def print_problems(problems: Iterable[Problem]) -> None:
    """Write problems to stderr."""
    report = ProblemReport(painter(sys.stderr))
    told = list(problems)
    for problem in told[:MOST_PROBLEMS]:
        note(report.text(problem) + "\n")
    if len(told) > MOST_PROBLEMS:
        note(f"… and {len(told) - MOST_PROBLEMS:,} more; --json lists all.\n")


def shown_path(file: str) -> str:
    """Return a file's name as it is shown: relative to the working directory when it lies below it."""
    if os.path.isabs(file):
        relative = os.path.relpath(file)
        return file if relative.startswith("..") else relative
    return file


def shown_place(place: str) -> str:
    """Return `file:line` with the file as it is shown."""
    file, colon, line = place.rpartition(":")
    return f"{shown_path(file)}:{line}" if colon and line.isdecimal() else shown_path(place)


class ProblemReport:
    """Turns problems into text; reads each file once."""

    def __init__(self, paint: Paint, width: int | None = None) -> None:
        """
        Args:
            paint: How to paint.
            width: Columns that there are; None: those of stderr.
        """
        self._paint = paint
        self._width = min(EXCERPT_WIDTH, (width or width_of(sys.stderr, EXCERPT_WIDTH + 12)) - 12)
        self._lines: dict[str, list[str]] = {}

    def text(self, problem: Problem) -> str:
        """Return one problem, in several lines."""
        paint = self._paint
        colour = "red" if problem.severity == "error" else "yellow"
        message = problem.message
        if problem.nearest:
            message += f" Did you mean {problem.nearest!r}?"
        lines = [paint(f"{problem.severity}[{problem.code}]", colour, "bold") + paint(f": {message}", "bold")]
        margin = " " * (len(str(problem.line or "")) + 1)
        where = self._where(problem)
        if where:
            lines.append(f"{margin}{paint('-->', 'blue')} {where}")
        excerpt = self._excerpt(problem)
        if excerpt is not None:
            line, caret = excerpt
            bar = paint("|", "blue")
            lines.append(f"{margin} {bar}")
            lines.append(f"{paint(str(problem.line).rjust(len(margin)), 'blue')} {bar} {line}")
            lines.append(f"{margin} {bar} {paint(caret, colour, 'bold')}")
        elif problem.excerpt:
            lines += [
                f"{margin} {paint('|', 'blue')} {line.removeprefix('    ')}" for line in problem.excerpt.split("\n")
            ]
        if problem.expected and problem.expected not in problem.message:
            lines.append(f"{margin} {paint('=', 'blue')} expected: {problem.expected}")
        if problem.chain:
            told = inherited([shown_place(place) for place in problem.chain])
            lines.append(f"{margin} {paint('=', 'blue')} {told}")
        if problem.hint:
            lines.append(f"{margin} {paint('=', 'blue')} help: {problem.hint}")
        return "\n".join(lines)

    def _where(self, problem: Problem) -> str:
        if problem.file is None:
            return f"at {problem.path}" if problem.path else ""
        parts = [shown_path(problem.file)]
        if problem.line is not None:
            parts.append(str(problem.line))
            if problem.column is not None:
                parts.append(str(problem.column))
        where = ":".join(parts)
        return f"{where} {self._paint(f'at {problem.path}', 'dim')}" if problem.path else where

    def _excerpt(self, problem: Problem) -> tuple[str, str] | None:
        """Return the line that is meant, shortened around the place, and a line with carets under it."""
        if problem.file is None or problem.line is None or problem.column is None:
            return None
        lines = self._read(problem.file)
        if problem.line > len(lines):
            return None
        line = lines[problem.line - 1].rstrip("\r")
        at = min(problem.column - 1, len(line))
        token = _TOKEN.match(line, at)
        length = max(1, token.end() - at) if token else 1
        width = max(20, self._width)
        first = max(0, at - width // 2) if len(line) > width else 0
        shown = line[first : first + width]
        before = "…" if first else ""
        after = "…" if first + width < len(line) else ""
        # A tab or a control character would put the carets into the wrong column.
        shown = "".join(c if c.isprintable() else " " for c in shown)
        length = min(length, max(1, len(shown) - (at - first)))
        return f"{before}{shown}{after}", " " * (len(before) + at - first) + "^" * length

    def _read(self, file: str) -> list[str]:
        lines = self._lines.get(file)
        if lines is None:
            try:
                # Lines end with \n only, as they are counted for problems; no newline translation.
                text = Path(file).read_bytes().decode("utf-8", "replace")
            except OSError:
                text = ""
            lines = self._lines[file] = text.split("\n") if text else []
        return lines
