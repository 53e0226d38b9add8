"""Finding a pipeline that another one refers to: by a path relative to it, or by name and version in the project.

A name is looked for in the files of the given directories, not below them. Of several versions that fit, the highest wins;
without a range, pre-releases only count where there is nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowmason_ray.errors import InvalidPipeline, Problem, nearest
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_file
from flowmason_ray.spec.versions import in_range, is_range, version_key

SUFFIX = ".pipeline.json"


def find_pipeline(reference: str, beside: Path, folders: Sequence[Path]) -> LoadedPipeline:
    """Return the pipeline that `reference` means.

    Args:
        reference: A path relative to `beside` (it has a `/` or ends in `.json`), a name, or `name@range`.
        beside: The directory of the pipeline that refers.
        folders: The directories in which names are looked for.

    Raises:
        InvalidPipeline: there is none (code `pipeline_not_found`), it is not clear which is meant (`invalid_range`,
            `ambiguous_pipeline`), or it cannot be loaded.
    """
    if "/" in reference or reference.endswith(".json"):
        file = beside / reference
        if not file.is_file():
            others = [f"{reference[: -len(file.name)]}{other.name}" for other in file.parent.glob(f"*{SUFFIX}")]
            raise _not_found(f"There is no file {reference!r} beside the pipeline ({file}).", reference, others)
        return load_pipeline_file(file)
    name, _, wanted = reference.partition("@")
    if not is_range(wanted):
        message = f"{wanted!r} is no version and no range of versions."
        hint = "Write it as in '1.2.3', '^1.2', '~1.2' or '>=1.2 <2'."
        raise InvalidPipeline([Problem(code="invalid_range", message=message, found=wanted, hint=hint)])
    known: list[tuple[str, str, Path]] = list(_named(folders))
    named = [(version, file) for found, version, file in known if found == name]
    fitting = [each for each in named if in_range(each[0], wanted)] or ([] if wanted else named)
    if not fitting:
        versions = sorted({version for version, _ in named}, key=version_key)
        if versions:
            raise _not_found(
                f"No version of pipeline {name!r} fits {wanted!r}; there is: {', '.join(versions)}.", name, []
            )
        places = ", ".join(str(folder) for folder in folders)
        raise _not_found(f"There is no pipeline called {name!r} in {places}.", name, [found for found, _, _ in known])
    highest = max(version_key(version) for version, _ in fitting)
    files = [file for version, file in fitting if version_key(version) == highest]
    if len(files) > 1:
        places = ", ".join(str(file) for file in files)
        message = f"Several files hold pipeline {name!r} in the same version: {places}."
        hint = "Give one of them another name or version, or write the path of the one that is meant."
        raise InvalidPipeline([Problem(code="ambiguous_pipeline", message=message, found=name, hint=hint)])
    return load_pipeline_file(files[0])


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
                name, version = str(data["name"]), str(data.get("version", "1.0.0"))
                version_key(version)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            yield name, version, file


def _not_found(message: str, name: str, known: list[str]) -> InvalidPipeline:
    return InvalidPipeline(
        [Problem(code="pipeline_not_found", message=message, found=name, nearest=nearest(name, known))]
    )
