"""What is wrong with a merged tree although nothing in it collided: the checks that need no component.

Each finding names the two places that do not go together. A finding that ours or theirs has already is not the merge's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from flowmason_ray.spec.diff.structure import Structure, find_cycle, structure_of
from flowmason_ray.spec.diff.tree import Keyed, Path
from flowmason_ray.spec.merge.frame import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. `places` are paths that an edit of ours, or of theirs, must have touched."""

    code: str
    message: str
    places: tuple[Path, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What makes two findings the same."""
        return self.code, self.message


def findings(tree: Mapping[str, Any], frame: Frame) -> list[Finding]:
    """Return what is wrong with the merged tree, and neither with ours nor with theirs."""
    found = list(_findings(tree, frame))
    if not found:
        return []
    known = {finding.key for side in (frame.ours, frame.theirs) for finding in _findings(side, frame)}
    return [finding for finding in found if finding.key not in known]


def _findings(tree: Mapping[str, Any], frame: Frame) -> Iterator[Finding]:
    structure = structure_of(tree)
    yield from _shared_ids(tree)
    yield from _dangling(structure, frame)
    yield from _two_owners(structure)
    yield from _cycle(structure)
    yield from _slots(tree)


def _shared_ids(tree: Mapping[str, Any]) -> Iterator[Finding]:
    stages, compositions = tree.get("stages"), tree.get("compositions")
    if isinstance(stages, Keyed) and isinstance(compositions, Keyed):
        for name in stages.keys() & compositions.keys():
            message = f"A stage and a composition have the same id {name!r}."
            yield Finding(code="duplicate_id", message=message, places=(("stages", name), ("compositions", name)))


def _dangling(structure: Structure, frame: Frame) -> Iterator[Finding]:
    """Yield what names a stage that one side took away; what was never there is not the merge's concern."""
    once = [side.get(part) for side in (frame.base, frame.ours, frame.theirs) for part in ("stages", "compositions")]
    gone = {name for part in once if isinstance(part, Keyed) for name in part} - structure.ids.keys()
    if not gone:
        return
    words = {
        "reads": "reads",
        "after": "depends on",
        "member": "has in its body",
        "result": "takes its result from",
        "near": "is placed near",
    }
    for mention in structure.mentions:
        if mention.stage in gone:
            who = f"Stage {mention.by!r}" if mention.by else "The pipeline"
            message = f"{who} {words[mention.role]} stage {mention.stage!r}, which is removed."
            code = "removed_member" if mention.role == "member" else "unknown_stage"
            yield Finding(code=code, message=message, places=(mention.path, ("stages", mention.stage)))


def _two_owners(structure: Structure) -> Iterator[Finding]:
    first = {m.stage: m.path for m in reversed(structure.mentions) if m.role == "member"}
    for mention, home in structure.second_homes:
        message = (
            f"Stage {mention.stage!r} is in a body of {home.owner!r} and in one of {mention.by!r}; it belongs to one."
        )
        yield Finding(code="two_owners", message=message, places=(mention.path, first[mention.stage]))


def _cycle(structure: Structure) -> Iterator[Finding]:
    edges = structure.lifted()
    waits: dict[str, list[str]] = {}
    for above, below in sorted(edges):  # so that always the same ring is found
        waits.setdefault(below, []).append(above)
    ring = find_cycle(waits)
    if ring is not None:
        # `ring` goes upstream; told the way data flows.
        least = ring.index(min(ring[:-1]))
        flow = [*ring[least:-1], *ring[: least + 1]][::-1]
        places = tuple(path for above, below in pairwise(flow) for path in edges[above, below])
        message = f"Stages wait for each other in a circle: {' → '.join(flow)}."
        yield Finding(code="cycle", message=message, places=places)


def _slots(tree: Mapping[str, Any]) -> Iterator[Finding]:
    stages = tree.get("stages")
    if tree.get("abstract") is True or not isinstance(stages, Keyed):
        return
    for name, stage in stages.items():
        if cast("dict[str, Any]", stage).get("component_type") == "abstract":
            message = f"Stage {name!r} is a slot that nothing fills, and the pipeline is not abstract."
            yield Finding(
                code="unfilled_slot", message=message, places=(("stages", name, "component_type"), ("abstract",))
            )


def covers(edit: Path, place: Path) -> bool:
    """Tell whether an edit at one path has made or changed what stands at another."""
    return place[: len(edit)] == edit or edit[: len(place)] == place


def touching(edits: Iterable[Any], places: tuple[Path, ...]) -> list[Any]:
    """Return the edits that touch one of the places, in the order of the places, exact ones first."""
    listed = list(edits)
    return [
        edit
        for place in places
        for edit in sorted((e for e in listed if covers(e.path, place)), key=lambda e: abs(len(e.path) - len(place)))
    ]
