"""A file with open conflicts is valid JSON, and no pipeline: the key that says so, and the words for it.

Kept apart from all that makes and resolves conflicts, because every reader of a pipeline asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flowmason_ray.errors import Problem

CONFLICTS_KEY = "$conflicts"
"""The first key of a document whose merge is not finished: {"version": 1, "open": [conflict, …]}."""

MOST_TOLD = 20
"""Conflicts that are told one by one."""


def unresolved(data: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for every open conflict of a document; none for one that is no result of a merge."""
    if CONFLICTS_KEY not in data:
        return []
    found = data[CONFLICTS_KEY]
    listed = cast("dict[str, Any]", found).get("open") if isinstance(found, dict) else None
    conflicts = cast("list[Any]", listed) if isinstance(listed, list) else []
    told = [_problem(n, cast("dict[str, Any]", c)) for n, c in enumerate(conflicts[:MOST_TOLD]) if isinstance(c, dict)]
    count = len(conflicts)
    many = f"{count:,} conflict{'s' if count != 1 else ''}" if conflicts else "marks"
    hint = "Run 'fm merge --continue FILE', or decide by hand and remove the key '$conflicts'."
    head = Problem(
        code="unresolved_conflicts",
        message=f"The merge of this file is not finished: it holds {many} of two versions that were merged.",
        path=f"/{CONFLICTS_KEY}",
        hint=hint,
    )
    return [head, *told]


def _problem(index: int, conflict: dict[str, Any]) -> Problem:
    return Problem(
        code="unresolved_conflicts",
        message=f"{conflict.get('path') or 'The pipeline'}: {conflict.get('why', 'is not decided.')}",
        path=f"/{CONFLICTS_KEY}/open/{index}",
    )
