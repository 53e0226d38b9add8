"""The pipelines of a project as they are now, and as they were in a revision of git: files that can be put together.

A revision's pipelines, settings and locks are written into a temporary directory, so that what they extend is found there by
the very rules that hold in a project. Other files are taken out of git when a path names them. Installed packages are as they
are. What is told about such a file names it as git does: `main:pipelines/base.pipeline.json`.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from flowmason_ray.cli.git import Entry, files_at, write_blobs
from flowmason_ray.cli.pipeline_files import SUFFIX
from flowmason_ray.errors import InvalidCall, InvalidPipeline, Problem
from flowmason_ray.settings import PROJECT_FILE, Project, find_project
from flowmason_ray.spec.inheritance import Inheritance, ParentFinder
from flowmason_ray.spec.library import Library
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.locking import LOCK_FILE
from flowmason_ray.spec.provenance import short_path
from flowmason_ray.spec.reading import MAX_BYTES
from flowmason_ray.spec.references import is_path
from flowmason_ray.wiring import library_of

MOST_BYTES = 1024**3
"""How much of a revision is written into the temporary directory."""


class Version(Protocol):
    """One version of the pipelines of a directory."""

    def load(self, path: str) -> LoadedPipeline | None:
        """Return a pipeline, put together with all that it extends; None: there is no such file.

        Args:
            path: Relative to the directory.

        Raises:
            InvalidPipeline: with every problem.
        """
        ...

    def shown(self, file: str) -> str:
        """Return what a file is called: relative to the directory."""
        ...


class InPlace:
    """The files as they are."""

    def __init__(self, root: Path | None = None) -> None:
        """
        Args:
            root: What paths are relative to, and what files are called by; None: the working directory.
        """
        self._root = root
        self._libraries: dict[Path, Library] = {}

    def load(self, path: str) -> LoadedPipeline | None:
        """Return a pipeline, put together; as `Version.load`."""
        file = Path(path) if self._root is None else Path(os.path.relpath(self._root / path))
        if self._root is not None and not file.exists():
            return None
        project = find_project(file)
        library = self._libraries.get(project.root)
        if library is None:
            library = self._libraries[project.root] = library_of(project)
        return library.resolve(library.read(file))

    def shown(self, file: str) -> str:
        """Return what a file is called."""
        if self._root is None:
            return short_path(file)
        return _below(file, self._root) or short_path(file)


class AtRevision:
    """The files of a commit."""

    def __init__(self, revision: str, root: Path, stack: ExitStack) -> None:
        """
        Args:
            revision: The commit, as people call it.
            root: The directory of the work tree.
            stack: Takes the temporary directory along when it is closed.

        Raises:
            InvalidCall: there is no such commit, or its pipelines are too large.
        """
        self._revision = revision
        self._work_tree = root
        # Some way down, so that `..` leads out of the repository into directories that hold nothing.
        top = Path(os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory(prefix="fm-diff-"))))
        self._top = top / "1" / "2" / "3" / "4" / "5" / "6" / "7" / "8"
        self._top.mkdir(parents=True)
        self._entries = {entry.path: entry for entry in files_at(revision, root) if _is_safe(entry.path)}
        self._written: set[str] = set()
        self._libraries: dict[Path, tuple[Library, Inheritance]] = {}
        names = (PROJECT_FILE, LOCK_FILE)
        self._write(
            [e for e in self._entries.values() if e.path.endswith(SUFFIX) or PurePosixPath(e.path).name in names]
        )

    def pipelines(self) -> list[str]:
        """Return the paths of all pipelines."""
        return sorted(path for path in self._entries if path.endswith(SUFFIX))

    def load(self, path: str) -> LoadedPipeline | None:
        """Return a pipeline, put together; as `Version.load`. Problems name the revision."""
        if path not in self._entries:
            return None
        self._write([self._entries[path]])
        file = self._top / path
        try:
            project = self._project(file)
            if project.root not in self._libraries:
                library = library_of(project)
                library.folders = [self._folder(Path(os.path.normpath(folder))) for folder in library.folders]
                self._libraries[project.root] = library, Inheritance(self._finder(library))
            library, inheritance = self._libraries[project.root]
            return inheritance.resolve(library.read(file))
        except InvalidPipeline as exc:
            raise InvalidPipeline([self._told(problem) for problem in exc.problems]) from None

    def shown(self, file: str) -> str:
        """Return what a file is called."""
        return _below(file, self._top) or short_path(file)

    def _write(self, entries: list[Entry]) -> None:
        wanted = [entry for entry in entries if entry.path not in self._written]
        self._written.update(entry.path for entry in wanted)
        for entry in [entry for entry in wanted if entry.size_bytes > MAX_BYTES]:
            # A hole of that size: whoever reads it says that it is too large.
            file = self._top / entry.path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                stream.truncate(MAX_BYTES + 1)
        wanted = [entry for entry in wanted if entry.size_bytes <= MAX_BYTES]
        size = sum(entry.size_bytes for entry in wanted)
        if size > MOST_BYTES:
            raise InvalidCall(
                f"The pipelines of {self._revision!r} take {size / 1024**2:,.0f} MiB; at most {MOST_BYTES / 1024**2:,.0f} MiB "
                "can be put together."
            )
        if wanted:
            write_blobs(((entry.blob, self._top / entry.path) for entry in wanted), self._work_tree)

    def _project(self, file: Path) -> Project:
        """Return the project around a file, which cannot lie outside of the repository."""
        project = find_project(file)
        return project if project.root.is_relative_to(self._top) else Project(root=file.parent)

    def _finder(self, library: Library) -> ParentFinder:
        def find(reference: str, from_file: str | None) -> LoadedPipeline:
            if is_path(reference) and from_file is not None:
                path = _below(os.path.normpath(Path(from_file).parent / reference), self._top)
                if path in self._entries:
                    self._write([self._entries[path]])
            return library.raw(reference, from_file)

        return find

    def _folder(self, folder: Path) -> Path:
        """Return where a directory of pipelines is; one outside of the repository is as it is now."""
        if folder.is_relative_to(self._top):
            return folder
        return Path(os.path.normpath(self._work_tree / os.path.relpath(folder, self._top)))

    def _told(self, problem: Problem) -> Problem:
        return replace(
            problem,
            message=self._named(problem.message),
            file=problem.file and self._named(problem.file),
            found=problem.found and self._named(problem.found),
            nearest=problem.nearest and self._named(problem.nearest),
            hint=problem.hint and self._named(problem.hint),
            chain=problem.chain and tuple(map(self._named, problem.chain)),
        )

    def _named(self, text: str) -> str:
        """Return a text with the temporary directory called by the name of the revision."""
        for top in (str(self._top), os.path.relpath(self._top)):
            text = text.replace(f"{top}{os.sep}", f"{self._revision}:").replace(top, f"{self._revision}:")
        return text


def _below(file: str, root: Path) -> str | None:
    """Return the path of a file below a directory, with `/`; None if it is not there."""
    full = os.path.abspath(file)
    for one, other in ((full, str(root)), (os.path.realpath(full), os.path.realpath(root))):
        if Path(one).is_relative_to(other):
            return Path(one).relative_to(other).as_posix()
    return None


def _is_safe(path: str) -> bool:
    """Tell whether a path stays in the directory that it is written into; git would not make another one, but may be handed it."""
    parts = PurePosixPath(path).parts
    return not path.startswith("/") and ".." not in parts and ".git" not in parts
