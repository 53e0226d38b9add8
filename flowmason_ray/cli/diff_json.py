"""A diff for programs. docs/guide/diff-and-merge.md describes the form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flowmason_ray.spec.diff.documents import without_spelling

if TYPE_CHECKING:
    from flowmason_ray.spec.diff.report import Report

DIFF_VERSION = 1
"""Of the JSON form: raised when something in it changes its meaning or goes away."""


def as_json(report: Report) -> dict[str, Any]:
    """Return everything about a diff."""
    edges = [set(structure.edges) for structure in (report.before, report.after)]
    return {
        "diff_version": DIFF_VERSION,
        "name": report.title,
        "a": report.a,
        "b": report.b,
        "equal": not report,
        "summary": report.summary(),
        **({"resolved": True, "inherited": list(_inherited(report))} if report.resolved else {}),
        "renames": dict(report.diff.renames),
        "changes": [without_spelling(change.to_json()) for change in report.diff.changes],
        "stages": {
            status: [stage.id for stage in report.with_status(status)]
            for status in ("added", "removed", "renamed", "changed")
        },
        "edges": {
            "added": [{"from": above, "to": below} for above, below in sorted(edges[1] - edges[0])],
            "removed": [{"from": above, "to": below} for above, below in sorted(edges[0] - edges[1])],
        },
        "moved": [
            {"stage": stage.id, "from": stage.old_home, "to": stage.home} for stage in report.stages if stage.old_home
        ],
    }


def _inherited(report: Report) -> Iterator[dict[str, str]]:
    """Yield what changed in another file than the pipeline's own."""
    for section in report.sections:
        yield from ({"stage": "", "path": line.label, "source": line.source} for line in section.lines if line.source)
    for stage in report.stages:
        if stage.source:
            yield {"stage": stage.id, "path": "", "source": stage.source}
        yield from (
            {"stage": stage.id, "path": line.label, "source": line.source} for line in stage.lines if line.source
        )
