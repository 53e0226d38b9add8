"""`fm validate --check-inheritance`: not only a pipeline, but its whole family.

A change in a base pipeline is felt in its children, so those of the project are checked too, and the parents of each. What is
no error but worth knowing is told as a warning: an override that changes nothing, two parents that disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowmason_ray.errors import InvalidPipeline, Problem

if TYPE_CHECKING:
    from flowmason_ray.spec.inheritance import Member, Resolved
    from flowmason_ray.spec.library import Library

Check = Callable[[Path], list[Problem]]
"""Returns what is wrong with one pipeline."""


def check_families(files: Sequence[Path], check: Check) -> list[tuple[Path, list[Problem]]]:
    """Return the problems of these pipelines, of what they extend, and of what extends them in their projects.

    Args:
        files: The pipelines.
        check: What is wrong with one by itself.
    """
    from flowmason_ray.settings import find_project
    from flowmason_ray.wiring import library_of

    found: dict[str, tuple[Path, list[Problem]]] = {}
    libraries: dict[Path, Library] = {}
    families: dict[Path, dict[str, Resolved]] = {}

    def look_at(file: Path, resolved: Resolved | None) -> None:
        key = str(file.resolve())
        if key not in found:
            found[key] = (file, [*check(file), *(_worth_knowing(resolved) if resolved is not None else ())])

    for file in files:
        project = find_project(file)
        library = libraries.setdefault(project.root, library_of(project))
        own = _family(library, file)
        look_at(file, own)
        if own is None:
            continue
        for member in own.member.order[1:]:
            if (name := member.document.source.file) is not None:
                look_at(Path(name), library.family(member.document))
        if project.root not in families:
            families[project.root] = dict(_families(library, project.root))
        for other, resolved in families[project.root].items():
            if any(member.document is own.member.document for member in resolved.member.order[1:]):
                look_at(Path(other), resolved)
    _add_broken_children(libraries, files, found)
    return list(found.values())


def _family(library: Library, file: Path) -> Resolved | None:
    try:
        return library.family(library.read(file))
    except InvalidPipeline:
        return None  # `check` says why


def _families(library: Library, root: Path) -> Iterator[tuple[str, Resolved]]:
    for file in _all_below(root):
        resolved = _family(library, file)
        if resolved is not None and resolved.member.parents:
            yield str(file), resolved


def _all_below(root: Path) -> list[Path]:
    from flowmason_ray.cli.pipeline_files import find_pipelines
    from flowmason_ray.errors import InvalidCall

    try:
        return find_pipelines([str(root)])
    except InvalidCall:
        return []


def _add_broken_children(
    libraries: dict[Path, Library], files: Sequence[Path], found: dict[str, tuple[Path, list[Problem]]]
) -> None:
    """Add the children that can no longer be put together: they extend one of the files, and say why they cannot."""
    wanted = {str(file.resolve()) for file in files}
    for root, library in libraries.items():
        for file in _all_below(root):
            key = str(file.resolve())
            if key in found:
                continue
            try:
                loaded = library.read(file)
                if not wanted.isdisjoint(_ancestors(library, loaded.source.file, set())):
                    library.family(loaded)
            except InvalidPipeline as exc:
                if not wanted.isdisjoint(_ancestors(library, str(file), set())):
                    found[key] = (file, list(exc.problems))


def _ancestors(library: Library, file: str | None, seen: set[str]) -> set[str]:
    """Return the files that a pipeline extends, as far as they can be read, whether or not that makes sense."""
    from flowmason_ray.spec.inheritance import references_of

    if file is None:
        return seen
    try:
        loaded = library.read(Path(file))
        for reference in references_of(loaded):
            parent = library.raw(reference, file).source.file
            key = str(Path(parent).resolve()) if parent is not None else ""
            if key and key not in seen:
                seen.add(key)
                _ancestors(library, parent, seen)
    except InvalidPipeline:
        pass
    return seen


# -- warnings ----------------------------------------------------------------------------------------------------------


def _worth_knowing(resolved: Resolved) -> Iterator[Problem]:
    """Yield the warnings about how a pipeline is put together."""
    from flowmason_ray.spec.explaining import explain
    from flowmason_ray.spec.overriding import same_json

    member = resolved.member
    if not member.parents:
        return
    own = member.document
    related = _related(member)
    for each in explain(resolved.loaded):
        if len(each.chain) < 2:
            continue
        before, last = each.chain[-2:]
        if last.document is own:
            if last.pointer.startswith("/overrides/") and same_json(before.value(), last.value()):
                yield own.problem(
                    "redundant_override",
                    f"The override of {each.name!r} changes nothing: the same is inherited from {before}.",
                    last.pointer,
                    hint="Take it out; it would hide a change of the parent.",
                    severity="warning",
                )
        elif (id(before.document), id(last.document)) not in related and not same_json(before.value(), last.value()):
            yield own.problem(
                "parents_disagree",
                f"Two parents say different things about {each.name!r}: {last}, which holds because it comes first, and {before}.",
                "/extends",
                hint="If that is meant, say so by an override.",
                severity="warning",
            )


def _related(member: Member) -> set[tuple[int, int]]:
    """Return the pairs of documents of which one extends the other."""
    pairs: set[tuple[int, int]] = set()
    for heir in member.order:
        for ancestor in heir.order:
            pairs |= {(id(heir.document), id(ancestor.document)), (id(ancestor.document), id(heir.document))}
    return pairs
