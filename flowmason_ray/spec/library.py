"""A project's pipelines, found and put together: the one way in for everything that runs, plans, tests or checks one.

`Library` finds a file (`finding`), holds it against the lock (`locking`), and puts it together with all that it extends
(`inheritance`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.finding import Catalogue, lock_problem
from flowmason_ray.spec.inheritance import Inheritance, Resolved
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_file
from flowmason_ray.spec.locking import LOCK_FILE, Lock, Pin, digest_of, read_lock
from flowmason_ray.spec.provenance import short_path
from flowmason_ray.spec.references import is_path


@dataclass(slots=True)
class Library:
    """A project's pipelines: finds them, and puts each together with those that it extends.

    Made for one task (a run, a check): every file is read once, and what it extends is put together once.
    """

    root: Path
    """The project's directory; the lock lies there."""
    folders: Sequence[Path]
    """The directories in which names are looked for."""
    locked: bool = True
    """Whether the project's lock holds, if there is one."""
    preferred: Mapping[str, Pin] = field(default_factory=dict[str, Pin])
    """Versions to take as long as they are there, whatever their content: what a lock that is being renewed pinned before."""
    used: dict[str, Pin] = field(default_factory=dict[str, Pin])
    """What each reference that was followed came to, by its key in the lock."""
    _catalogue: Catalogue | None = None
    _lock: Lock | None = None
    _files: dict[str, LoadedPipeline] = field(default_factory=dict[str, LoadedPipeline])
    _inheritance: Inheritance | None = None

    def resolve(self, loaded: LoadedPipeline) -> LoadedPipeline:
        """Return a pipeline put together with all that it extends; one that extends nothing as it is.

        Raises:
            InvalidPipeline: with every problem.
        """
        if loaded.provenance is not None or not (loaded.pipeline.extends or loaded.pipeline.overrides):
            return loaded
        return self.inheritance.resolve(loaded)

    def family(self, loaded: LoadedPipeline) -> Resolved:
        """Return the same with the files that it is made of (`inheritance.Inheritance.family`)."""
        return self.inheritance.family(loaded)

    @property
    def inheritance(self) -> Inheritance:
        """What puts pipelines together."""
        if self._inheritance is None:
            self._inheritance = Inheritance(self.raw)
        return self._inheritance

    def __call__(self, reference: str, from_file: str | None) -> LoadedPipeline:
        """Return the pipeline called `reference`, put together (`engine.calling.PipelineFinder`).

        Raises:
            InvalidPipeline: there is none, it is not the one that the lock pins, or it cannot be put together.
        """
        return self.resolve(self.raw(reference, from_file))

    def raw(self, reference: str, from_file: str | None) -> LoadedPipeline:
        """Return the pipeline called `reference` as it is written (`inheritance.ParentFinder`).

        Raises:
            InvalidPipeline: there is none, or it is not the one that the lock pins.
        """
        if self._catalogue is None:
            self._catalogue = Catalogue(self.folders)
        beside = Path(from_file).parent if from_file else self.root
        pins = self.lock.pins if self.locked else {}
        pin = None if is_path(reference) else pins.get(reference)
        file = self._preferred(reference, beside, self._catalogue) if pin is None else None
        file = file or self._catalogue.find(reference, beside, pin)
        loaded = self.read(file)
        key = self.label(file) if is_path(reference) else reference
        self._check(key, reference, loaded, pins)
        pipeline = loaded.pipeline
        self.used.setdefault(
            key,
            Pin(name=pipeline.name, version=pipeline.version, digest=digest_of(loaded.data), found=self.label(file)),
        )
        return loaded

    def _preferred(self, reference: str, beside: Path, catalogue: Catalogue) -> Path | None:
        pin = None if is_path(reference) else self.preferred.get(reference)
        if pin is None:
            return None
        try:
            return catalogue.find(reference, beside, pin)
        except InvalidPipeline:
            return None

    @property
    def lock(self) -> Lock:
        """The project's lock; without a file it pins nothing.

        Raises:
            InvalidPipeline: the file cannot be read.
        """
        if self._lock is None:
            self._lock = read_lock(self.root / LOCK_FILE)
        return self._lock

    def unlocked(self) -> list[Problem]:
        """Return a warning for each reference that was followed and that the project's lock does not know."""
        if not self.locked or not self.lock.exists:
            return []
        return [
            Problem(
                code="not_locked",
                message=f"{key!r} is not in the lock: any version that fits is taken.",
                file=str(self.root / LOCK_FILE),
                found=key,
                hint="Run 'fm lock'.",
                severity="warning",
            )
            for key in sorted(self.used)
            if key not in self.lock.pins
        ]

    def label(self, file: Path) -> str:
        """Return what a file is called in the lock, the same on every machine: relative to the project or its distribution."""
        real = os.path.realpath(file)
        root = os.path.realpath(self.root)
        if real.startswith(root + os.sep) and "site-packages" not in Path(real).relative_to(root).parts:
            return Path(real).relative_to(root).as_posix()
        for place in self._catalogue.places() if self._catalogue is not None else ():
            folder = os.path.realpath(place.folder)
            if real.startswith(folder + os.sep):
                return f"{place.distribution}:{Path(real).relative_to(folder).as_posix()}"
        return Path(os.path.relpath(real, root)).as_posix()

    def read(self, file: Path) -> LoadedPipeline:
        """Return a file as it is written; it is read once.

        Raises:
            InvalidPipeline: it cannot be loaded.
        """
        key = os.path.realpath(file)
        if key not in self._files:
            self._files[key] = load_pipeline_file(file)
        return self._files[key]

    def _check(self, key: str, reference: str, loaded: LoadedPipeline, pins: dict[str, Pin]) -> None:
        pin = pins.get(key)
        if pin is None:
            return
        version = loaded.pipeline.version
        if version != pin.version:
            message = f"{reference!r} is locked to version {pin.version}; version {version} is there."
            raise InvalidPipeline([lock_problem(message, reference)])
        if digest_of(loaded.data) != pin.digest:
            file = short_path(loaded.source.file or "")
            message = f"{reference!r} ({file}) is not what the lock pins: its content has changed, its version {version} has not."
            raise InvalidPipeline([lock_problem(message, reference)])
