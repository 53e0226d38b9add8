"""Three trees into one, part by part.

For each part: what is the same on both sides is taken; what one side left alone is taken from the other; maps are merged key by
key; and what is left is a conflict. A map that both sides added is merged like any other, but for stages and bodies: two
stages that were added under one id are two stages, not one.

Lists that are not sets are one leaf. Merging them by position or by longest common parts (as diff3 does it) gives results
that neither side wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from flowmason_ray.spec.diff.comparing import comparable
from flowmason_ray.spec.diff.equality import identical, is_empty_names, same
from flowmason_ray.spec.diff.tree import ABSENT, LAYOUT, Body, Branches, Names, Path, plain_at
from flowmason_ray.spec.merge.conflicts import Conflict
from flowmason_ray.spec.merge.frame import Frame
from flowmason_ray.spec.merge.ordering import merged_order


def three_way(frame: Frame) -> tuple[dict[str, Any], tuple[Conflict, ...]]:
    """Return the merged tree, and what could not be decided; there the tree has the value of ours, or theirs."""
    walk = _Walk(renamed=frame.renamed)
    made = walk.merge(frame.base, frame.ours, frame.theirs, ())
    return cast("dict[str, Any]", made), (*frame.conflicts, *walk.conflicts)


@dataclass(slots=True)
class _Walk:
    renamed: frozenset[str]
    conflicts: list[Conflict] = field(default_factory=list[Conflict])

    def merge(self, base: Any, ours: Any, theirs: Any, path: Path) -> Any:
        """Return what stands at `path` of the merged tree."""
        if identical(ours, theirs):
            return ours
        if not self._may_be_renamed_and_removed(base, ours, theirs, path):
            if identical(base, ours):
                return theirs
            if identical(base, theirs):
                return ours
        if len(path) == 3 and path[0] == "stages" and path[2] == LAYOUT:
            return _position(base, ours, theirs)
        if any(isinstance(side, Names) for side in (base, ours, theirs)):
            return self._names(base, ours, theirs, path)
        if self._mergeable(base, ours, theirs, path):
            return self._maps(base if comparable(base, ours) else type(ours)(), ours, theirs, path)
        return self._value(base, ours, theirs, path)

    def _mergeable(self, base: Any, ours: Any, theirs: Any, path: Path) -> bool:
        if not comparable(ours, theirs):
            return False
        if comparable(base, ours):
            return True
        # Both sides have made it what it is: one thing if they agree, or if it is new and its keys are what people name.
        member = len(path) == 2 and path[0] in ("stages", "compositions")
        named = not (member or isinstance(ours, (Body, Branches)))
        return same(ours, theirs, stage=member) or (base is ABSENT and named)

    def _maps(self, base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any], path: Path) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for key in {**ours, **theirs}:
            old, one, other = (side.get(key, ABSENT) for side in (base, ours, theirs))
            value: Any = self.merge(old, one, other, (*path, key))
            if value is not ABSENT:
                merged[key] = value
        order = merged_order(tuple(base), tuple(ours), tuple(theirs), merged)
        return type(ours)((key, merged[key]) for key in order)

    def _names(self, base: Any, ours: Any, theirs: Any, path: Path) -> Any:
        """Merge sets of names; one that is absent is an empty one, and stays absent if it can."""
        if not all(side is ABSENT or isinstance(side, Names) for side in (base, ours, theirs)):
            return self._value(base, ours, theirs, path)
        sets = [cast("dict[str, Any]", Names() if side is ABSENT else side) for side in (base, ours, theirs)]
        made = self._maps(sets[0], sets[1], sets[2], path)
        return made if made or (ours is not ABSENT and theirs is not ABSENT) else ABSENT

    def _value(self, base: Any, ours: Any, theirs: Any, path: Path) -> Any:
        """Decide about what has no parts, or not the same kind of parts on both sides."""
        stage = len(path) == 2
        if stage and self._renamed_and_removed(base, ours, theirs, path):
            return self._conflict(base, ours, theirs, path)
        if _same(ours, theirs, stage=stage):
            return min(ours, theirs, key=repr) if ours is not ABSENT and theirs is not ABSENT else ABSENT
        if _same(base, ours, stage=stage):
            return theirs
        if _same(base, theirs, stage=stage):
            return ours
        return self._conflict(base, ours, theirs, path)

    def _may_be_renamed_and_removed(self, base: Any, ours: Any, theirs: Any, path: Path) -> bool:
        if len(path) < 2:
            return bool(self.renamed) and path in ((), ("stages",))
        return len(path) == 2 and self._renamed_and_removed(base, ours, theirs, path)

    def _renamed_and_removed(self, base: Any, ours: Any, theirs: Any, path: Path) -> bool:
        removed = (ours is ABSENT) != (theirs is ABSENT)
        return removed and base is not ABSENT and path[0] == "stages" and path[1] in self.renamed

    def _conflict(self, base: Any, ours: Any, theirs: Any, path: Path) -> Any:
        values = (side if side is ABSENT else plain_at(path, side) for side in (base, ours, theirs))
        old, one, other = values
        renamed = len(path) == 2 and self._renamed_and_removed(base, ours, theirs, path)
        kind, why = _explain(base, ours, theirs, path, renamed=renamed)
        self.conflicts.append(
            Conflict(
                path=path,
                kind=kind,
                why=why,
                base=old,
                ours=one,
                theirs=other,
                choices=("ours", "theirs") if renamed else ("ours", "theirs", "base"),
                code="duplicate_id" if kind == "both_added" and len(path) == 2 and path[0] == "stages" else "",
            )
        )
        return theirs if ours is ABSENT else ours


def _same(a: Any, b: Any, *, stage: bool) -> bool:
    return same(a, b, stage=stage) or (is_empty_names(a) and b is ABSENT) or (is_empty_names(b) and a is ABSENT)


def _position(base: Any, ours: Any, theirs: Any) -> Any:
    """Return where a stage is drawn when both sides moved it: it means nothing, so the choice need only be symmetric."""
    return min((side for side in (ours, theirs) if side is not ABSENT), key=repr)


def _explain(base: Any, ours: Any, theirs: Any, path: Path, *, renamed: bool) -> tuple[Any, str]:
    """Return the kind of a conflict, and why it is one."""
    what = f"the {path[0][:-1]} {path[1]!r}" if len(path) == 2 and path[0] in ("stages", "compositions") else "it"
    if ours is ABSENT or theirs is ABSENT:
        one, other = ("Theirs", "ours") if ours is ABSENT else ("Ours", "theirs")
        if renamed:
            return "renamed_and_removed", f"{one} renamed {what} (that is its new name), and {other} removed it."
        return "changed_and_removed", f"{one} changed {what}, and {other} removed it."
    if base is ABSENT:
        return "both_added", f"Both sides added {what}, and not the same."
    return "both_changed", f"Both sides changed {what}, to different values."
