"""How tests are shown in a terminal: a line per case, what did not hold below it, the coverage and the sum at the end.

flights.test.json
  ✓ a report is written                        1.2 s, 3 mocked
  ✗ late flights are counted                    12 ms
      $.output.late must be 22.8; found 22.9.
      --> flights.test.json:31
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from flowmason_ray.cli.problem_report import ProblemReport, shown_path
from flowmason_ray.cli.terminal import painter, width_of
from flowmason_ray.cli.words import counted, duration, signs

if TYPE_CHECKING:
    from flowmason_ray.pipeline_tests.coverage import PipelineCoverage
    from flowmason_ray.pipeline_tests.results import CaseResult, FileResult, TestReport, Unmet

NAME_WIDTH = 60
"""Columns for names; longer ones push what follows to the right."""

_STATES = {"passed": "succeeded", "failed": "failed", "skipped": "skipped"}
_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
_MOST_NAMES = 10
_LONGEST_VALUE = 2000


@contextmanager
def own_stdout() -> Generator[TextIO]:
    """Give a stream that stays stdout while `keep_stdout` sends what components print elsewhere."""
    try:
        own = sys.stdout.fileno() == 1
    except (OSError, ValueError):  # replaced by something that is no file, as test runners do
        own = False
    if not own:
        yield sys.stdout
        return
    sys.stdout.flush()
    stream = open(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace")  # noqa: SIM115  # closed below
    try:
        yield stream
    finally:
        with suppress(BrokenPipeError):  # its reader has gone, and what is still buffered has nowhere to go
            stream.close()


class ReportView:
    """Shows tests as they end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._paint = painter(out)
        self._signs = signs(out)

    def _say(self, text: str = "") -> None:
        try:
            print(text, file=self._out, flush=True)
        except BrokenPipeError:  # `fm test | head`: the tests and their exit code still matter
            self._out = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives

    # -- files and cases ----------------------------------------------------------------------------------------------

    def file_begins(self, file: FileResult) -> None:
        """Show which file is next, and what is wrong with it."""
        self._say(self._paint(shown_path(file.file), "bold"))
        report = ProblemReport(self._paint)
        for problem in file.problems:
            self._say(_indented(report.text(problem), 2) + "\n")

    def case_ended(self, file: FileResult, case: CaseResult) -> None:
        """Show how a case went."""
        sign = self._paint(self._signs[_STATES[case.verdict]], _COLOURS[case.verdict], "bold")
        if case.verdict == "skipped":
            after = f"skipped: {case.reason}"
        else:
            after = duration(case.duration_s) + (f", {len(case.mocked):,} mocked" if case.mocked else "")
            after += f", on {case.on}" if case.on != "local" else ""
        self._say(f"  {sign} {case.name.ljust(NAME_WIDTH)} {self._paint(after, 'dim')}")
        for unmet in case.unmet:
            self._unmet(file, unmet)
        if case.unmet and case.failure is not None and case.failure.traceback:
            self._say(self._paint("      In the component:", "dim"))
            self._say(_indented(case.failure.traceback.rstrip(), 6))
        for warning in case.warnings:
            self._say(f"      {self._paint('warning:', 'yellow')} {warning}")

    def _unmet(self, file: FileResult, unmet: Unmet) -> None:
        if unmet.said:
            self._say(f"      {self._paint(unmet.said, 'red')}")
        message, _, more = unmet.message.partition("\n")
        self._say(f"      {message if unmet.said else self._paint(message, 'red')}")
        if more:
            self._say(_indented(more.rstrip(), 6))
        if unmet.has_values and not unmet.details:
            for word, value in (("expected", unmet.expected), ("found", unmet.found)):
                text = _long(value)
                if text is not None:
                    self._say(f"        {word}: {text}")
        for line in unmet.details:
            colour = {"-": "red", "+": "green", "~": "yellow"}.get(line[:1])
            self._say(f"        {self._paint(line, colour) if colour else line}")
        where = f"{shown_path(file.file)}:{unmet.line}" if unmet.line else shown_path(file.file)
        self._say(f"      {self._paint('-->', 'blue')} {where}")

    def file_ended(self, file: FileResult) -> None:
        """Say what was left out."""
        if file.left_out:
            self._say(self._paint(f"  {counted(file.left_out, 'case')} not asked for", "dim"))
        self._say()

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self, report: TestReport, min_coverage: float) -> None:
        """Show the coverage and the sum."""
        if not any(report.cases()):
            if not report.invalid:
                self._say("No case was run: none fits what was asked for.")
                return
        else:
            self._coverage(report.coverage, min_coverage)
        parts = [
            self._paint(
                f"{report.count(verdict):,} {verdict}", *((_COLOURS[verdict], "bold") if report.count(verdict) else ())
            )
            for verdict in ("passed", "failed", "skipped")
        ]
        if report.invalid:
            parts.append(self._paint(f"{counted(len(report.invalid), 'file')} invalid", "red", "bold"))
        self._say(f"{', '.join(parts)} in {duration(report.duration_s)}")

    def _coverage(self, coverage: Sequence[PipelineCoverage], min_coverage: float) -> None:
        from flowmason_ray.pipeline_tests.coverage import percent, stage_percent

        rows: list[tuple[str, str, str]] = []
        notes: list[list[str]] = []
        for each in coverage:
            branches = [taken > 0 for _, _, taken in each.branches()]
            rows.append(
                (shown_path(each.file), _share(each.covered, len(each.stages)), _share(sum(branches), len(branches)))
            )
            notes.append(self._not_covered(each))
        size = max((len(row[0]) for row in rows), default=0)
        self._say(self._paint(f"{'coverage'.ljust(size)}  {'stages':<16}branches", "bold"))
        for row, lines in zip(rows, notes, strict=True):
            self._say(f"{row[0].ljust(size)}  {row[1]:<16}{row[2]}")
            for line in lines:
                self._say(self._paint(_cut(f"    {line}", width_of(self._out, 160)), "dim"))
        found = stage_percent(coverage)
        if found < min_coverage:
            covered = sum(each.covered for each in coverage)
            total = sum(len(each.stages) for each in coverage)
            text = f"{percent(covered, total):g}% of the stages were run; {min_coverage:g}% is the least."
            self._say(self._paint(text, "red", "bold"))
        self._say()

    @staticmethod
    def _not_covered(coverage: PipelineCoverage) -> list[str]:
        missed = [stage.path for stage in coverage.stages.values() if not stage.runs]
        mocked = [stage.path for stage in coverage.stages.values() if stage.runs and stage.mocked == stage.runs]
        branches: dict[str, list[str]] = {}
        for stage, name, taken in coverage.branches():
            if not taken and stage.runs:
                branches.setdefault(stage.path, []).append(name)
        lines = [f"not run: {_listed(missed)}"] if missed else []
        lines += [f"only mocked: {_listed(mocked)}"] if mocked else []
        if branches:
            lines.append("not taken: " + _listed([f"{path} ({', '.join(names)})" for path, names in branches.items()]))
        return lines


def _share(covered: int, total: int) -> str:
    from flowmason_ray.pipeline_tests.coverage import percent

    return f"{covered:,}/{total:,} {percent(covered, total):g}%" if total else "-"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _indented(text: str, columns: int) -> str:
    return "\n".join(f"{' ' * columns}{line}" for line in text.split("\n"))


def _long(value: Any) -> str | None:
    """Return a value that the message cannot show whole; None when it can."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return None if len(text) <= NAME_WIDTH - 2 else _cut(text, _LONGEST_VALUE)
