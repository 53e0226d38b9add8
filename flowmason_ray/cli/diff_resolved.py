"""`fm diff --resolved`: what pipelines amount to, before and after, with all that they extend.

A pipeline that nobody touched differs when one of its parents does. So, where no file is named, all pipelines of the
repository are put together, and those that differ are told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath

from flowmason_ray.cli.diff_sides import InGit, what_is_asked
from flowmason_ray.cli.revision_files import AtRevision, InPlace, Version
from flowmason_ray.cli.terminal import note
from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.diff.report import Report, report_of
from flowmason_ray.spec.diff.sources import Sources
from flowmason_ray.spec.loader import LoadedPipeline

Loaded = tuple[LoadedPipeline | None, list[Problem]]
"""A pipeline, None if there is none, and why it cannot be put together."""


def resolved_reports(targets: Sequence[str], files: Sequence[str], problems: list[Problem]) -> list[Report]:
    """Compare what pipelines amount to.

    Args:
        targets: As for `diff_sides.what_is_asked`.
        files: Likewise.
        problems: Takes why pipelines cannot be put together; they are not compared.

    Raises:
        InvalidCall: it is not clear, or not possible.
        InvalidPipeline: a file that was named cannot be read.
    """
    asked = what_is_asked(targets, files)
    if not isinstance(asked, InGit):
        versions = InPlace(), InPlace()
        return list(_compare(_load(asked, versions), asked, versions, problems))
    with ExitStack() as stack:
        since = AtRevision(asked.since, asked.root, stack)
        until = AtRevision(asked.until, asked.root, stack) if asked.until else InPlace(asked.root)
        return list(_in_git(asked, since, until, problems))


def _in_git(asked: InGit, since: AtRevision, until: Version, problems: list[Problem]) -> Iterator[Report]:
    versions = since, until
    named = [(path, path) for path in sorted(asked.named) if not (asked.root / path).is_dir()]
    listed = {path for pair in asked.changed for path in pair}
    wanted = [*asked.changed, *((old, new) for old, new in named if new not in listed)]
    for old, new in wanted:
        yield from _compare(_load((old, new), versions), asked.names(old, new), versions, problems)
    listed.update(path for path, _ in named)
    broken: list[str] = []
    for path in since.pipelines():
        if path in listed or not _is_below(path, asked.named):
            continue
        sides = _load((path, path), versions)
        if all(found for _, found in sides):
            broken.append(path)
        else:
            yield from filter(None, _compare(sides, asked.names(path, path), versions, problems))
    if broken:
        note(f"Left out, because neither version can be put together: {', '.join(broken)}.")


def _is_below(path: str, named: frozenset[str]) -> bool:
    """Tell whether a file is asked for: by itself, by a directory around it, or because nothing is named."""
    if not named or "." in named:
        return True
    return not named.isdisjoint((path, *map(str, PurePosixPath(path).parents)))


def _load(paths: tuple[str, str], versions: tuple[Version, Version]) -> tuple[Loaded, Loaded]:
    def load(path: str, version: Version) -> Loaded:
        try:
            return version.load(path), []
        except InvalidPipeline as exc:
            return None, list(exc.problems)

    return load(paths[0], versions[0]), load(paths[1], versions[1])


def _compare(
    sides: tuple[Loaded, Loaded], names: tuple[str, str], versions: tuple[Version, Version], problems: list[Problem]
) -> Iterator[Report]:
    """Yield what is to be told about two versions, if both could be put together."""
    (before, _), (after, _) = sides
    if found := [problem for _, side in sides for problem in side]:
        problems += found
        return
    sources = Sources(before, versions[0].shown), Sources(after, versions[1].shown)
    data = (before.data if before else {}, after.data if after else {})
    yield report_of(*data, a_name=names[0], b_name=names[1], sources=sources)
