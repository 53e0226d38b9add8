"""The files that `fm test` writes for other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowmason_ray.pipeline_tests.results import TestReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Which files are asked for: JUnit XML, coverage as JSON, coverage as LCOV."""

    junit: str | None
    coverage: str | None
    lcov: str | None

    def write(self, report: TestReport) -> None:
        """Write them.

        Raises:
            InvalidCall: a file cannot be written.
        """
        from flowmason_ray.cli.terminal import json_bytes

        if self.junit is not None:
            from flowmason_ray.pipeline_tests.junit import junit

            _write(self.junit, junit(report))
        if self.coverage is not None:
            from flowmason_ray.pipeline_tests.coverage_files import coverage_document

            _write(self.coverage, json_bytes(coverage_document(report.coverage), indent=True) + b"\n")
        if self.lcov is not None:
            from flowmason_ray.pipeline_tests.coverage_files import lcov

            _write(self.lcov, lcov(report.coverage).encode())


def _write(file: str, content: bytes) -> None:
    from flowmason_ray.errors import InvalidCall

    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(content)
    except OSError as exc:
        raise InvalidCall(f"Cannot write {file!r}: {exc.strerror}.") from exc
