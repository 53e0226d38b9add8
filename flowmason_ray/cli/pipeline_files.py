"""From the paths of a command line to pipeline files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowmason_ray.errors import InvalidCall

SUFFIX = ".pipeline.json"

_PASSED_OVER = frozenset({"node_modules", "__pycache__", "venv"})
"""Directories that hold other people's files, besides the hidden ones (`.venv`, `.git`)."""


def find_pipelines(paths: Sequence[str]) -> list[Path]:
    """Return the files that `paths` mean, each once: files as they are, directories for all pipelines below them.

    Raises:
        InvalidCall: a directory holds none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not os.path.isdir(path):
            found[Path(path)] = None
            continue
        below = list(_below(path))
        if not below:
            raise InvalidCall(f"There is no '*{SUFFIX}' below the directory {path!r}.")
        found.update(dict.fromkeys(below))
    return list(found)


def is_found(root: Path, file: Path) -> bool:
    """Tell whether looking for pipelines below `root` finds `file`, by its name and its place; both with links followed."""
    if not file.is_relative_to(root):
        return False
    folders = file.relative_to(root).parts[:-1]
    return file.name.endswith(SUFFIX) and not any(_passed_over(folder) for folder in folders)


def _passed_over(folder: str) -> bool:
    return folder.startswith(".") or folder in _PASSED_OVER


def _below(directory: str) -> Iterator[Path]:
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not _passed_over(name))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(SUFFIX))
