"""Which test files a command line means, and which files they depend on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowmason_ray.errors import FlowMasonError, InvalidCall
from flowmason_ray.pipeline_tests.reading import SUFFIX
from flowmason_ray.settings import PROJECT_FILE, find_project

PIPELINE_SUFFIX = ".pipeline.json"

_PASSED_OVER = frozenset({"node_modules", "__pycache__", "venv"})
"""Directories that hold other people's files, besides the hidden ones."""


def find_tests(paths: Sequence[str]) -> list[Path]:
    """Return the test files that `paths` mean, each once.

    A test file means itself, a pipeline the test file beside it, a directory all test files below it.

    Raises:
        InvalidCall: a directory holds none, a pipeline has none beside it, or a file is neither.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_meant(path)))
    return list(found)


def _meant(path: str) -> list[Path]:
    if os.path.isdir(path):
        below = list(files_below(path, SUFFIX))
        if not below:
            raise InvalidCall(f"There is no '*{SUFFIX}' below the directory {path!r}.")
        return below
    if path.endswith(PIPELINE_SUFFIX):
        beside = Path(path.removesuffix(PIPELINE_SUFFIX) + SUFFIX)
        if not beside.is_file():
            raise InvalidCall(f"The pipeline {path!r} has no tests: there is no file {str(beside)!r}.")
        return [beside]
    if path.endswith(SUFFIX) or not os.path.exists(path):
        return [Path(path)]
    raise InvalidCall(f"{path!r} is neither a test file (*{SUFFIX}), nor a pipeline, nor a directory.")


def files_below(directory: str | Path, suffix: str) -> Iterator[Path]:
    """Yield the files below a directory whose names end so, sorted; hidden directories are passed over."""
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED_OVER)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(suffix))


def dependencies(tests: Sequence[Path]) -> set[Path]:
    """Return every file whose change may change what these tests come to: they, and their projects' pipelines, components
    and settings. What stages read besides is not known before they run.
    """
    found = set(tests)
    for root, components in {_project(test) for test in tests}:
        found.add(root / PROJECT_FILE)
        found.update(files_below(root, PIPELINE_SUFFIX))
        for folder in components:
            found.update((root / folder).glob("*.py"))
    return found


def _project(test: Path) -> tuple[Path, tuple[str, ...]]:
    try:
        project = find_project(test)
    except FlowMasonError:  # settings that cannot be read: the run says so
        return test.resolve().parent, ("components",)
    return project.root, tuple(project.settings.components)
