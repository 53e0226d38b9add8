"""Pipelines that come with installed distributions: directories named by entry points of the group `flowmason.pipelines`.

    [project.entry-points."flowmason.pipelines"]
    acme = "acme_pipelines.bases"

The value names a package, whose directory holds `*.pipeline.json` files. Nothing is imported to find it: pipelines are data,
and looking for one must not run anybody's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

ENTRY_POINT_GROUP = "flowmason.pipelines"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFolder:
    """A directory of pipelines, and the distribution that it belongs to."""

    distribution: str
    version: str
    folder: Path


def installed_folders() -> list[InstalledFolder]:
    """Return the directories that installed distributions declare, sorted by distribution; what leads nowhere is left out."""
    found: dict[tuple[str, Path], InstalledFolder] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        name, version = (point.dist.name, point.dist.version) if point.dist else (point.name, "")
        for folder in _directories(point.module):
            found[name, folder] = InstalledFolder(distribution=name, version=version, folder=folder)
    return [found[key] for key in sorted(found)]


def _directories(module: str) -> list[Path]:
    """Return where a package lies, without importing it or a package around it."""
    first, *others = module.split(".")
    try:
        spec = find_spec(first)
    except (ImportError, ValueError):
        return []
    places = spec.submodule_search_locations if spec is not None else None
    return [folder for place in places or () if (folder := Path(place, *others)).is_dir()]
