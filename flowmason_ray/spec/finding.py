"""Finding a pipeline that another one refers to: by a path relative to it, or by name and version in the project.

A name is looked for in the files of the given directories, not below them. Of several versions that fit, the highest wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowmason_ray.errors import InvalidPipeline, Problem, nearest
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_file
from flowmason_ray.spec.versions import in_range, version_key

SUFFIX = ".pipeline.json"


def find_pipeline(reference: str, beside: Path, folders: Sequence[Path]) -> LoadedPipeline:
    """Return the pipeline that `reference` means.

    Args:
        reference: A path relative to `beside` (it has a `/` or ends in `.json`), a name, or `name@range`.
        beside: The directory of the pipeline that refers.
        folders: The directories in which names are looked for.

    Raises:
        InvalidPipeline: there is none (code `pipeline_not_found`), or it cannot be loaded.
    """
    if "/" in reference or reference.endswith(".json"):
        file = beside / reference
        if not file.is_file():
            raise _not_found(f"There is no file {reference!r} beside the pipeline ({file}).", reference, [])
        return load_pipeline_file(file)
    name, _, wanted = reference.partition("@")
    known: list[tuple[str, str, Path]] = list(_named(folders))
    fitting = [(version, file) for found, version, file in known if found == name and _fits(version, wanted)]
    if not fitting:
        versions = sorted({version for found, version, _ in known if found == name})
        if versions:
            raise _not_found(
                f"No version of pipeline {name!r} fits {wanted!r}; there is: {', '.join(versions)}.", name, []
            )
        places = ", ".join(str(folder) for folder in folders)
        raise _not_found(f"There is no pipeline called {name!r} in {places}.", name, [found for found, _, _ in known])
    _, file = max(fitting, key=lambda each: version_key(each[0]))
    return load_pipeline_file(file)


def _named(folders: Sequence[Path]) -> Iterator[tuple[str, str, Path]]:
    """Yield (name, version, file) of what can be read; what cannot is reported when it is asked for by path."""
    seen: set[Path] = set()
    for folder in folders:
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                data = json.loads(file.read_bytes())
                yield str(data["name"]), str(data.get("version", "1.0.0")), file
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue


def _fits(version: str, wanted: str) -> bool:
    try:
        return not wanted or in_range(version, wanted)
    except ValueError:
        return False


def _not_found(message: str, name: str, known: list[str]) -> InvalidPipeline:
    return InvalidPipeline(
        [Problem(code="pipeline_not_found", message=message, found=name, nearest=nearest(name, known))]
    )
