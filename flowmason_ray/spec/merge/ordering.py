"""Three orders into one. What is ordered here (keys, stages, members) has no meaning in its order, so nothing can conflict.

The rule is symmetric: exchanging ours and theirs gives the same order. What both sides have keeps the order of the side that
changed it; what one side has alone follows what it follows there; of two newcomers at the same place the lesser id is first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def merged_order(base: Sequence[str], ours: Sequence[str], theirs: Sequence[str], wanted: Collection[str]) -> list[str]:
    """Return the wanted keys, all of which ours or theirs has, in their common order."""
    if ours == theirs:
        return [key for key in ours if key in wanted]
    both = set(ours) & set(theirs) & set(wanted)
    backbone = _backbone(base, [key for key in ours if key in both], [key for key in theirs if key in both])
    one, other = (_followers(side, both, wanted) for side in (ours, theirs))
    order: list[str] = []
    for anchor in (None, *backbone):
        if anchor is not None:
            order.append(anchor)
        first, second = sorted((one.get(anchor, []), other.get(anchor, [])))
        order += [*first, *second]
    return order


def _backbone(base: Sequence[str], ours: list[str], theirs: list[str]) -> list[str]:
    """Return the order of what both sides have: that of the side that changed it, the lesser one if both did."""
    if ours == theirs:
        return ours
    kept = set(ours)
    before = [key for key in base if key in kept]
    known = set(before)
    changed = [[key for key in side if key in known] != before for side in (ours, theirs)]
    if changed[0] != changed[1]:
        return ours if changed[0] else theirs
    return min(ours, theirs)


def _followers(side: Iterable[str], both: set[str], wanted: Collection[str]) -> dict[str | None, list[str]]:
    """Return what this side has alone, by what it follows there (None: it is before everything)."""
    found: dict[str | None, list[str]] = {}
    anchor: str | None = None
    for key in side:
        if key in both:
            anchor = key
        elif key in wanted:
            found.setdefault(anchor, []).append(key)
    return found
