"""What a test run came to, as data: what the terminal, JSON and JUnit show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flowmason_ray.errors import Failure, Problem
from flowmason_ray.pipeline_tests.coverage import PipelineCoverage

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """One thing that did not hold."""

    message: str
    """What was to hold and did not, in one sentence."""
    path: str | None = None
    operator: str | None = None
    expected: Any = None
    found: Any = None
    has_values: bool = False
    """Whether `expected` and `found` say something."""
    details: Sequence[str] = ()
    """Lines that say more: where two structures differ, what the schema complains about."""
    said: str | None = None
    """The assertion's own message."""
    line: int | None = None
    """Where it stands in the test file."""

    def to_json(self) -> dict[str, Any]:
        """Return every field that says something."""
        data: dict[str, Any] = {
            "message": self.message,
            "line": self.line,
            "path": self.path,
            "operator": self.operator,
        }
        data |= {"said": self.said, "details": list(self.details) or None}
        data = {key: value for key, value in data.items() if value is not None}
        return data | ({"expected": self.expected, "found": self.found} if self.has_values else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """How one case ended."""

    name: str
    verdict: Verdict
    line: int | None
    """Where the case begins in its file."""
    duration_s: float = 0.0
    reason: str | None = None
    """Why it was skipped."""
    unmet: Sequence[Unmet] = ()
    failure: Failure | None = None
    """How the run failed, if it did, expected or not."""
    mocked: Sequence[str] = ()
    """The stage instances that were mocked."""
    warnings: Sequence[str] = ()
    on: str = "local"

    def to_json(self) -> dict[str, Any]:
        """Return the form that `--json` prints."""
        data: dict[str, Any] = {
            "name": self.name,
            "status": self.verdict,
            "line": self.line,
            "on": self.on,
            "duration_ms": round(self.duration_s * 1000, 3),
            "mocked": list(self.mocked),
        }
        if self.reason is not None:
            data["reason"] = self.reason
        if self.unmet:
            data["failures"] = [each.to_json() for each in self.unmet]
        if self.failure is not None:
            data["error"] = self.failure.to_json()
        if self.warnings:
            data["warnings"] = list(self.warnings)
        return data


@dataclass(slots=True, kw_only=True)
class FileResult:
    """What became of one test file."""

    file: str
    pipeline: str | None = None
    """The pipeline's file; None when it was not found."""
    problems: Sequence[Problem] = ()
    """Why nothing of it was run."""
    cases: list[CaseResult] = field(default_factory=list[CaseResult])
    left_out: int = 0
    """Cases that were not asked for (`--tag`, `-k`)."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that `--json` prints."""
        return {
            "file": self.file,
            "pipeline": self.pipeline,
            "problems": [problem.to_json() for problem in self.problems],
            "left_out": self.left_out,
            "cases": [case.to_json() for case in self.cases],
        }


@dataclass(slots=True, kw_only=True)
class TestReport:
    """What became of all files."""

    __test__ = False  # pytest collects what begins with "Test"

    files: list[FileResult] = field(default_factory=list[FileResult])
    coverage: list[PipelineCoverage] = field(default_factory=list[PipelineCoverage])
    duration_s: float = 0.0
    min_coverage: float = 0.0
    """The percentage of stages that the projects ask for, at least."""

    def cases(self) -> Iterator[CaseResult]:
        """Yield every case, in order."""
        for file in self.files:
            yield from file.cases

    def count(self, verdict: Verdict) -> int:
        """Return how many cases ended so."""
        return sum(case.verdict == verdict for case in self.cases())

    @property
    def invalid(self) -> list[FileResult]:
        """The files that could not be run."""
        return [file for file in self.files if file.problems]

    def to_json(self) -> dict[str, Any]:
        """Return the document that `fm test --json` prints, without the coverage."""
        counts = {verdict: self.count(verdict) for verdict in ("passed", "failed", "skipped")}
        nothing = self.invalid or not any(self.cases())
        status = "invalid" if nothing else "failed" if counts["failed"] else "passed"
        return {
            "status": status,
            **counts,
            "duration_ms": round(self.duration_s * 1000, 3),
            "files": [file.to_json() for file in self.files],
        }
