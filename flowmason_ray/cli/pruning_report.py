"""What `fm runs prune` has removed, for people and for programs."""

from __future__ import annotations

from typing import Any

from flowmason_ray.cli.words import counted
from flowmason_ray.engine.run_log import Pruned


def pruned_document(found: Pruned, *, dry_run: bool) -> dict[str, Any]:
    """Return what was removed as JSON."""
    return {
        "dry_run": dry_run,
        "runs": list(found.runs),
        "results": found.results,
        "blobs": found.blobs,
        "blob_bytes": found.blob_bytes,
    }


def pruned_text(found: Pruned, *, dry_run: bool) -> str:
    """Return what was removed in words."""
    parts = [
        counted(len(found.runs), "run"),
        counted(found.results, "cached result"),
        f"{counted(found.blobs, 'large value')} of {_size(found.blob_bytes)}",
    ]
    return f"{'Would remove' if dry_run else 'Removed'} {', '.join(parts)}.\n"


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
