"""Which pipelines of a project may behave differently when others change: those that extend, compose or call them.

A check before a commit asks that: a stage that a base renames breaks a child that nobody touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flowmason_ray.cli.pipeline_files import find_pipelines
from flowmason_ray.errors import InvalidCall, InvalidPipeline

if TYPE_CHECKING:
    from flowmason_ray.spec.library import Library


def dependents_of(changed: Iterable[Path], root: Path, *, removed: bool) -> list[Path]:
    """Return the pipelines below a directory that use one of these files, directly or not; these themselves left out.

    Args:
        changed: The files.
        root: The directory.
        removed: Whether files went away: then a pipeline that names one that is not there is among the result.
    """
    from flowmason_ray.settings import find_project
    from flowmason_ray.wiring import library_of

    try:
        files = find_pipelines([str(root)])
    except InvalidCall:  # none
        return []
    libraries: dict[Path, Library] = {}
    users: dict[str, list[str]] = {}
    reached = {os.path.realpath(file) for file in changed}
    own = frozenset(reached)
    for file in files:
        try:
            project = find_project(file)
            library = libraries.setdefault(project.root, library_of(project, locked=False))
            used = list(_used_by(file, library))
        except InvalidPipeline:  # it cannot be read; that is not the doing of what changed
            continue
        user = os.path.realpath(file)
        for each in used:
            if each is not None:
                users.setdefault(each, []).append(user)
            elif removed:
                reached.add(user)
    pending = list(reached)
    while pending:
        for user in users.get(pending.pop(), ()):
            if user not in reached:
                reached.add(user)
                pending.append(user)
    return [file for file in files if os.path.realpath(file) in reached - own]


def _used_by(file: Path, library: Library) -> Iterator[str | None]:
    """Yield the real paths of what a pipeline extends, composes and calls; None for what is not there."""
    from flowmason_ray.cli.lock_command import called_by
    from flowmason_ray.spec.inheritance import references_of

    loaded = library.read(file)
    for reference in (*references_of(loaded), *(reference for _, reference in called_by(loaded))):
        try:
            found = library.raw(reference, str(file)).source.file
        except InvalidPipeline as exc:
            # One that is there and broken is named by its own problems.
            found = next((problem.file for problem in exc.problems if problem.file), None)
        yield os.path.realpath(found) if found is not None else None
