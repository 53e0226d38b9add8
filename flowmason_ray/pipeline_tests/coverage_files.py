"""Coverage in the forms in which other tools read it: JSON, and LCOV for editors and coverage services.

LCOV (`man geninfo`, "FILES") knows lines and branches: a stage is the line in which it begins, its branches are numbered in
the order in which `coverage` lists them, in a block of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowmason_ray.pipeline_tests.coverage import PipelineCoverage, percent


def coverage_document(coverage: Sequence[PipelineCoverage]) -> dict[str, Any]:
    """Return the coverage of several pipelines, and of all together, as JSON."""
    pipelines = [_pipeline(each) for each in coverage]
    return {"pipelines": pipelines, "total": {kind: _total(pipelines, kind) for kind in ("stages", "branches")}}


def _pipeline(coverage: PipelineCoverage) -> dict[str, Any]:
    branches = [taken for _, _, taken in coverage.branches()]
    return {
        "file": coverage.file,
        "name": coverage.name,
        "stages": _counts(coverage.covered, len(coverage.stages)),
        "branches": _counts(sum(taken > 0 for taken in branches), len(branches)),
        "details": [
            {
                "stage": stage.path,
                "component": stage.component,
                "line": stage.line,
                "runs": stage.runs,
                "mocked": stage.mocked,
                "branches": dict(stage.branches),
            }
            for stage in coverage.stages.values()
        ],
    }


def _counts(covered: int, total: int) -> dict[str, Any]:
    return {"covered": covered, "total": total, "percent": percent(covered, total)}


def _total(pipelines: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    return _counts(sum(each[kind]["covered"] for each in pipelines), sum(each[kind]["total"] for each in pipelines))


def lcov(coverage: Sequence[PipelineCoverage]) -> str:
    """Return the coverage as an LCOV trace file."""
    lines: list[str] = []
    for each in coverage:
        lines += [
            "TN:",
            f"SF:{Path(each.file).resolve()}",
            *_branch_records(each),
            *_line_records(each),
            "end_of_record",
        ]
    return "".join(f"{line}\n" for line in lines)


def _branch_records(coverage: PipelineCoverage) -> list[str]:
    records: list[str] = []
    for block, stage in enumerate(coverage.stages.values()):
        for number, taken in enumerate(stage.branches.values()):
            # "-": the stage was never run, so nothing was decided; 0: it was, and never so.
            records.append(f"BRDA:{stage.line or 1},{block},{number},{taken if stage.runs or taken else '-'}")
    taken = [count for _, _, count in coverage.branches()]
    return [*records, f"BRF:{len(taken)}", f"BRH:{sum(count > 0 for count in taken)}"]


def _line_records(coverage: PipelineCoverage) -> list[str]:
    runs: dict[int, int] = {}
    for stage in coverage.stages.values():  # several stages in one line count together
        runs[stage.line or 1] = runs.get(stage.line or 1, 0) + stage.runs
    records = [f"DA:{line},{count}" for line, count in sorted(runs.items())]
    return [*records, f"LF:{len(runs)}", f"LH:{sum(count > 0 for count in runs.values())}"]
