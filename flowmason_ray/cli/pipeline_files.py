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


def _below(directory: str) -> Iterator[Path]:
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED_OVER)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(SUFFIX))
