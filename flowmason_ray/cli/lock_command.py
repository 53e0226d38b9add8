"""`fm lock`: pins which version, and which content, every reference between pipelines of a project stands for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import FAILED, INVALID, command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowmason_ray.errors import Problem
    from flowmason_ray.spec.library import Library
    from flowmason_ray.spec.loader import LoadedPipeline
    from flowmason_ray.spec.locking import Pin


@command
def lock(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say what would change, and exit with 1 if anything would.")
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Take the highest versions that fit, not those that are pinned.")
    ] = False,
    project: Annotated[
        str, typer.Option("--project", metavar="DIR", help="The project. Default: the one around here.")
    ] = ".",
) -> int:
    """Pin every parent, composition and called pipeline of the project in flowmason.lock.

    A pinned version stays, as long as it is there and fits; its content is taken anew.
    """
    from pathlib import Path

    from flowmason_ray.cli.problem_report import print_problems
    from flowmason_ray.cli.terminal import note, painter
    from flowmason_ray.cli.words import counted
    from flowmason_ray.errors import InvalidPipeline
    from flowmason_ray.settings import find_project
    from flowmason_ray.spec.locking import LOCK_FILE, Lock, lock_bytes, read_lock
    from flowmason_ray.wiring import library_of

    found = find_project(Path(project))
    file = found.root / LOCK_FILE
    try:
        before = read_lock(file)
    except InvalidPipeline:  # it is made anew
        before = Lock()
    library = library_of(found, locked=False)
    if not upgrade:
        library.preferred = before.pins
    problems = list(follow_all(library, _pipelines(found.root)))
    if problems:
        print_problems(problems)
        note(f"{counted(len(problems), 'error')}; the lock is as it was.")
        return INVALID
    told = list(_changes(before.pins, library.used))
    paint = painter(sys.stderr)
    for line in told:
        note(line)
    content = lock_bytes(library.used)
    stale = bool(told) or not before.exists or file.read_bytes() != content
    if check:
        note(paint("The lock is stale: run 'fm lock'.", "red", "bold") if stale else "The lock is current.")
        return FAILED if stale else 0
    if stale:
        _write(file, content)
    note(f"{counted(len(library.used), 'pipeline')} pinned in {LOCK_FILE}{'' if stale else ', as before'}.")
    return 0


def _pipelines(root: Path) -> list[Path]:
    from flowmason_ray.cli.pipeline_files import find_pipelines
    from flowmason_ray.errors import InvalidCall

    try:
        return find_pipelines([str(root)])
    except InvalidCall:  # none
        return []


def follow_all(library: Library, files: list[Path]) -> Iterator[Problem]:
    """Follow every reference from these pipelines, and from those that they lead to; yield what is wrong."""
    from flowmason_ray.errors import InvalidPipeline
    from flowmason_ray.spec.inheritance import key_of
    from flowmason_ray.spec.loader import load_pipeline_file

    seen: set[str] = set()
    told: set[Problem] = set()
    pending: list[Any] = list(files)
    while pending:
        following = pending.pop()
        try:
            loaded = load_pipeline_file(following) if not hasattr(following, "pipeline") else following
            if key_of(loaded) in seen:
                continue
            seen.add(key_of(loaded))
            loaded = library.resolve(loaded)
            for pointer, reference in called_by(loaded):
                try:
                    pending.append(library.raw(reference, loaded.source.file))
                except InvalidPipeline as exc:
                    first = exc.problems[0]
                    yield loaded.problem(first.code, first.message, pointer, nearest=first.nearest, hint=first.hint)
        except InvalidPipeline as exc:
            new = [problem for problem in exc.problems if problem not in told]
            told.update(new)
            yield from new


def called_by(loaded: LoadedPipeline) -> Iterator[tuple[str, str]]:
    """Yield (pointer, reference) of every composition and call of a pipeline."""
    for position, composition in enumerate(loaded.pipeline.compositions):
        yield f"/compositions/{position}/pipeline", composition.pipeline
    for position, stage in enumerate(loaded.pipeline.stages):
        reference = stage.config.get("pipeline") if stage.component_type.partition("@")[0] == "subpipeline" else None
        if isinstance(reference, str) and "{{" not in reference:
            yield f"/stages/{position}/config/pipeline", reference


def _changes(before: dict[str, Pin], after: dict[str, Pin]) -> Iterator[str]:
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if new is None:
            yield f"- {key}"
        elif old is None:
            yield f"+ {key}: {new.version}"
        elif old.version != new.version:
            yield f"~ {key}: {old.version} → {new.version}"
        elif old.digest != new.digest:
            yield f"~ {key}: {new.version}, new content"


def _write(file: Path, content: bytes) -> None:
    from flowmason_ray.errors import InvalidCall

    try:
        file.write_bytes(content)
    except OSError as exc:
        raise InvalidCall(f"Cannot write {str(file)!r}: {exc.strerror or exc}.") from None
