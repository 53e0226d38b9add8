"""One name for every stage on all three sides, so that what one side renamed and the other edited meets.

Each side's renamings are found against the base. Where only one side renamed a stage, its new name is taken for all three;
where both did, differently, ours is taken and there is something to decide. A new name that means another stage on the other
side cannot be taken: then that stage counts as removed and added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flowmason_ray.spec.diff.comparing import Change, changes_between
from flowmason_ray.spec.diff.matching import find_renames
from flowmason_ray.spec.diff.naming import rename
from flowmason_ray.spec.diff.tree import ABSENT, Keyed
from flowmason_ray.spec.merge.conflicts import Conflict


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Three trees in common names."""

    base: dict[str, Any]
    ours: dict[str, Any]
    theirs: dict[str, Any]
    renamed: frozenset[str] = frozenset()
    """The stages that one side renamed, by their common name."""
    conflicts: tuple[Conflict, ...] = ()
    """Stages that both sides renamed, differently."""

    @cached_property
    def edits(self) -> tuple[list[Change], list[Change]]:
        """What ours changed, and what theirs did."""
        return list(changes_between(self.base, self.ours)), list(changes_between(self.base, self.theirs))

    @cached_property
    def order(self) -> list[str]:
        """The stages of the base, in order."""
        return list(self.base.get("stages", ()))

    def with_names(self, names: Mapping[str, str]) -> Frame:
        """Return the frame with stages renamed on all sides."""
        base, ours, theirs = (rename(side, names) for side in (self.base, self.ours, self.theirs))
        return replace(self, base=base, ours=ours, theirs=theirs)


def frame_of(base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> Frame:
    """Return three trees with every stage under one name."""
    by_ours, by_theirs = find_renames(base, ours), find_renames(base, theirs)
    if not by_ours and not by_theirs:
        return Frame(base=base, ours=ours, theirs=theirs)
    own, other = dict(by_ours), dict(by_theirs)
    for mine, yours, their_ids in ((own, by_theirs, _ids(theirs)), (other, by_ours, _ids(ours))):
        for was, now in tuple(mine.items()):
            if now in their_ids and yours.get(was) != now:
                del mine[was]
    # When one side's renaming was dropped, the other's may still name the same stage: it stays, and meets a removal.
    common = {was: own.get(was, other.get(was, was)) for was in (*own, *other)}
    conflicts = tuple(
        Conflict(
            path=("stages", own[was], "id"),
            kind="renamed_differently",
            why=f"Both sides renamed stage {was!r}, to different names.",
            base=was,
            ours=own[was],
            theirs=other[was],
        )
        for was in own
        if was in other and own[was] != other[was]
    )
    sides = [
        rename(tree, {names.get(was, was): now for was, now in common.items() if names.get(was, was) != now})
        for names, tree in (({}, base), (own, ours), (other, theirs))
    ]
    return Frame(base=sides[0], ours=sides[1], theirs=sides[2], renamed=frozenset(common.values()), conflicts=conflicts)


def _ids(tree: Mapping[str, Any]) -> set[str]:
    parts = (tree.get(part, ABSENT) for part in ("stages", "compositions"))
    return {name for part in parts if isinstance(part, Keyed) for name in part}
