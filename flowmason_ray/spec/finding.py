"""Finding a pipeline that another one refers to: by a path relative to it, or by name and version.

A name is looked for in the files of the project's directories, not below them; a name that the project does not have, in
installed distributions (`installed`). So what a project has is never taken from elsewhere. Of several versions that fit, the
highest wins; without a range, pre-releases only count where there is nothing else. Where the project has a lock
(`locking`), the version that it pins is the only one taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowmason_ray.errors import InvalidPipeline, Problem, nearest
from flowmason_ray.spec.installed import InstalledFolder, installed_folders
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_file
from flowmason_ray.spec.locking import Pin
from flowmason_ray.spec.references import is_path, split_reference
from flowmason_ray.spec.versions import in_range, is_range, version_key

SUFFIX = ".pipeline.json"


def find_pipeline(reference: str, beside: Path, folders: Sequence[Path]) -> LoadedPipeline:
    """Return the pipeline that `reference` means, as it is written.

    Args:
        reference: A path relative to `beside` (it has a `/` or ends in `.json`), a name, or `name@range`.
        beside: The directory of the pipeline that refers.
        folders: The directories in which names are looked for.

    Raises:
        InvalidPipeline: there is none (code `pipeline_not_found`), it is not clear which is meant (`invalid_range`,
            `ambiguous_pipeline`), or it cannot be loaded.
    """
    return load_pipeline_file(Catalogue(folders, installed=False).find(reference, beside, None))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: str
    version: str
    file: Path


class Catalogue:
    """The pipelines that can be found by name. Each directory is read once, when it is first needed."""

    def __init__(self, folders: Sequence[Path], *, installed: bool = True) -> None:
        """
        Args:
            folders: The project's directories.
            installed: Whether installed distributions are searched too.
        """
        self._folders = tuple(folders)
        self._installed = installed
        self._own: list[_Named] | None = None
        self._others: list[_Named] | None = None
        self._places: list[InstalledFolder] | None = None

    def find(self, reference: str, beside: Path, pin: Pin | None) -> Path:
        """Return the file that a reference means.

        Args:
            reference: As for `find_pipeline`.
            beside: What a path is relative to.
            pin: The version that has to be taken; None: the highest that fits.

        Raises:
            InvalidPipeline: as for `find_pipeline`; `lock_mismatch`: the pinned version is not there.
        """
        if is_path(reference):
            return _file_at(reference, beside)
        name, wanted = split_reference(reference)
        if not is_range(wanted):
            message = f"{wanted!r} is no version and no range of versions."
            hint = "Write it as in '1.2.3', '^1.2', '~1.2' or '>=1.2 <2'."
            raise InvalidPipeline([Problem(code="invalid_range", message=message, found=wanted, hint=hint)])
        named = self._called(name)
        if pin is not None:
            return self._pinned(named, pin, reference)
        fitting = [each for each in named if in_range(each.version, wanted)] or ([] if wanted else named)
        if not fitting:
            raise self._nothing_fits(name, wanted, named)
        highest = max(version_key(each.version) for each in fitting)
        return _only([each for each in fitting if version_key(each.version) == highest], name)

    def _called(self, name: str) -> list[_Named]:
        own = [each for each in self.own() if each.name == name]
        return own or [each for each in self.others() if each.name == name]

    def own(self) -> list[_Named]:
        """Return what the project's directories hold."""
        if self._own is None:
            self._own = list(_named(self._folders))
        return self._own

    def others(self) -> list[_Named]:
        """Return what installed distributions hold."""
        if self._others is None:
            self._others = list(_named([each.folder for each in self.places()]))
        return self._others

    def places(self) -> list[InstalledFolder]:
        """Return the directories of installed distributions."""
        if self._places is None:
            self._places = installed_folders() if self._installed else []
        return self._places

    def _pinned(self, named: list[_Named], pin: Pin, reference: str) -> Path:
        fitting = [each for each in named if each.version == pin.version]
        if not fitting:
            there = ", ".join(sorted({each.version for each in named}, key=version_key)) or "none"
            message = (
                f"{reference!r} is locked to version {pin.version}, which is not there any more (there is: {there})."
            )
            raise InvalidPipeline([lock_problem(message, reference)])
        return _only(fitting, reference)

    def _nothing_fits(self, name: str, wanted: str, named: list[_Named]) -> InvalidPipeline:
        versions = sorted({each.version for each in named}, key=version_key)
        if versions:
            message = f"No version of pipeline {name!r} fits {wanted!r}; there is: {', '.join(versions)}."
            return _not_found(message, name, [])
        places = [*map(str, self._folders), *(f"the installed {place.distribution}" for place in self.places())]
        known = [each.name for each in (*self.own(), *self.others())]
        return _not_found(f"There is no pipeline called {name!r} in {', '.join(places)}.", name, known)


def lock_problem(message: str, reference: str) -> Problem:
    """Return the problem of a pipeline that is not the one that the lock pins."""
    hint = "If that is meant, run 'fm lock' and commit the new lock; else bring back the one that it pins."
    return Problem(code="lock_mismatch", message=message, found=reference, hint=hint)


def _file_at(reference: str, beside: Path) -> Path:
    file = beside / reference
    if file.is_dir():
        message = f"{reference!r} is a directory; expected a pipeline: its name, or a path to its file."
        raise _not_found(message, reference, [])
    if not file.is_file():
        others = [f"{reference[: -len(file.name)]}{other.name}" for other in file.parent.glob(f"*{SUFFIX}")]
        raise _not_found(f"There is no file {reference!r} beside the pipeline ({str(file)!r}).", reference, others)
    return file


def _only(found: Sequence[_Named], name: str) -> Path:
    if len(found) > 1:
        places = ", ".join(str(each.file) for each in found)
        message = f"Several files hold pipeline {name!r} in the same version: {places}."
        hint = "Give one of them another name or version, or write the path of the one that is meant."
        raise InvalidPipeline([Problem(code="ambiguous_pipeline", message=message, found=name, hint=hint)])
    return found[0].file


def _named(folders: Sequence[Path]) -> Iterator[_Named]:
    """Yield what can be read; what cannot is reported when it is asked for by path."""
    seen: set[Path] = set()
    for folder in folders:
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                data = json.loads(file.read_bytes())
                name, version = str(data["name"]), str(data.get("version", "1.0.0"))
                version_key(version)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            yield _Named(name=name, version=version, file=file)


def _not_found(message: str, name: str, known: list[str]) -> InvalidPipeline:
    return InvalidPipeline(
        [Problem(code="pipeline_not_found", message=message, found=name, nearest=nearest(name, known))]
    )
