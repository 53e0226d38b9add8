"""`diff`, `patch` and `inverse`: what makes one document of another, applied, and turned round.

A `Diff` is first a renaming of stages, then changes of single leaves, told in the names of the second document. So a stage that
was renamed and edited shows what was edited, and stages that read it show nothing. The laws (docs/guide/diff-and-merge.md),
where `=` leaves out what never shows (order of keys and stages, positions, spelling of numbers):

    patch(a, diff(a, b)) = b        patch(b, inverse(diff(a, b))) = a        diff(a, b) is empty  ⇔  a = b
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.diff.equality import identical, same
from flowmason_ray.spec.diff.matching import find_renames
from flowmason_ray.spec.diff.naming import rename, rename_at, rename_path
from flowmason_ray.spec.diff.tree import (
    ABSENT,
    LAYOUT,
    Body,
    Branches,
    Keyed,
    Names,
    Path,
    plain,
    plain_at,
    pointer_of,
    tree_of,
)

Document = Mapping[str, Any]
"""A pipeline as plain JSON values in canonical spelling, as `LoadedPipeline.data` holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One leaf, or one part that is there on one side only.

    `path` is in the names of the second document. `old` and `new` are parts of trees, `ABSENT` where there is nothing; for a
    member of a set (`member_of_set`) they are True or ABSENT.
    """

    path: Path
    old: Any
    new: Any
    member: bool = False
    """Whether a member of a set came or went: the last token of the path."""
    names_stage: bool = False
    """Whether that member is the id of a stage, as in `depends_on` and bodies."""

    def to_json(self) -> dict[str, Any]:
        """Return `path`, and `old` and `new` where they are there."""
        sides = (("old", self.old), ("new", self.new))
        return {"path": pointer_of(self.path), **{k: plain_at(self.path, v) for k, v in sides if v is not ABSENT}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What makes one document of another: `renames` (old id → new id) first, then `changes`."""

    renames: Mapping[str, str] = field(default_factory=dict[str, str])
    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.renames or self.changes)


def diff(a: Document, b: Document, *, renames: bool = True) -> Diff:
    """Return what makes `b` of `a`.

    Args:
        a: A document.
        b: Another.
        renames: Whether to look for stages that were renamed; else they are removed and added.

    Raises:
        InvalidPipeline: a document in which stages cannot be told apart by their ids.
    """
    return diff_trees(tree_of(a), tree_of(b), renames=renames)


def diff_trees(a: dict[str, Any], b: dict[str, Any], *, renames: bool = True) -> Diff:
    """Return what makes the tree `b` of the tree `a`."""
    names = find_renames(a, b) if renames else {}
    return Diff(renames=names, changes=tuple(changes_between(rename(a, names), b)))


def patch(a: Document, change: Diff) -> dict[str, Any]:
    """Return the document that a diff makes of `a`. Stages and keys that stay keep their order; new ones follow.

    Raises:
        InvalidPipeline: `a` is not what the diff starts from: with every change that does not fit (`patch_does_not_fit`).
    """
    return cast("dict[str, Any]", plain(patch_tree(tree_of(a), change)))


def patch_tree(tree: dict[str, Any], change: Diff) -> dict[str, Any]:
    """Return the tree that a diff makes of a tree; as `patch`."""
    stages = tree.get("stages")
    known: Mapping[str, Any] = stages if isinstance(stages, Keyed) else Keyed()
    problems = [_lost_rename(old, new) for old, new in change.renames.items() if old not in known or new in known]
    if problems:
        raise InvalidPipeline(problems)
    return apply_changes(rename(tree, change.renames), change.changes)


def inverse(change: Diff) -> Diff:
    """Return the diff that undoes one."""
    back = {new: old for old, new in change.renames.items()}
    changes = (
        Change(
            path=rename_path(c.path, back, member=c.names_stage),
            old=rename_at(c.path, c.new, back),
            new=rename_at(c.path, c.old, back),
            member=c.member,
            names_stage=c.names_stage,
        )
        for c in change.changes
    )
    return Diff(renames=back, changes=tuple(changes))


# -- comparing ---------------------------------------------------------------------------------------------------------


def changes_between(a: Any, b: Any, path: Path = ()) -> Iterator[Change]:
    """Yield what differs between two parts of trees that stand at the same path, in the order of `b`, what is gone last."""
    if identical(a, b):
        return
    if isinstance(a, Names) or isinstance(b, Names):
        a, b = (cast("Any", Names() if side is ABSENT else side) for side in (a, b))
    if comparable(a, b):
        one, other = cast("dict[str, Any]", a), cast("dict[str, Any]", b)
        in_stage = len(path) == 2 and path[0] == "stages"
        members = isinstance(one, (Names, Body))
        stages = members and (isinstance(one, Body) or path[-1] == "depends_on")
        for key in (*other, *(key for key in one if key not in other)):
            if in_stage and key == LAYOUT:
                continue
            old, new = one.get(key, ABSENT), other.get(key, ABSENT)
            if members and old is not new:
                yield Change(path=(*path, key), old=old, new=new, member=True, names_stage=stages)
            elif not members:
                yield from changes_between(old, new, (*path, key))
    elif not same(a, b, stage=len(path) == 2):
        yield Change(path=path, old=cast("object", a), new=cast("object", b))


def comparable(a: object, b: Any) -> bool:
    """Tell whether two parts are maps of the same kind, so that they differ key by key."""
    if not isinstance(a, dict) or type(cast("object", a)) is not type(b):
        return False
    # Lists of bodies have no names: when one was added or taken out, nobody can say which is which.
    return not isinstance(a, Branches) or len(a) == len(b)


# -- applying ----------------------------------------------------------------------------------------------------------


def apply_changes(
    tree: dict[str, Any], changes: Iterator[Change] | tuple[Change, ...] | list[Change]
) -> dict[str, Any]:
    """Return the tree with changes made. The tree itself stays as it is; what does not change is shared.

    Raises:
        InvalidPipeline: with every change that finds something else than its `old`.
    """
    made = dict(tree)
    fresh: dict[int, dict[str, Any]] = {id(made): made}
    problems: list[Problem] = []
    for change in changes:
        owner = _owner(made, change.path, fresh)
        found = ABSENT if owner is None else owner.get(change.path[-1], ABSENT)
        if not same(found, change.old, stage=len(change.path) == 2) or owner is None:
            problems.append(_misfit(change, found))
        elif change.new is ABSENT:
            del owner[change.path[-1]]
        else:
            owner[change.path[-1]] = change.new
    if problems:
        raise InvalidPipeline(problems)
    return made


def _owner(tree: dict[str, Any], path: Path, fresh: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the map that holds the last token of the path, copied from the top on where it has not been yet."""
    owner = tree
    for depth, token in enumerate(path[:-1]):
        inner = owner.get(token, ABSENT)
        if inner is ABSENT and depth == len(path) - 2 and _set_at(path):
            inner = Names()  # a set that is absent is an empty one
        if not isinstance(inner, dict):
            return None
        if id(cast("object", inner)) not in fresh:
            inner = _copied(cast("dict[str, Any]", inner))
            fresh[id(inner)] = inner
            owner[token] = inner
        owner = cast("dict[str, Any]", inner)
    return owner


def _copied(value: dict[str, Any]) -> dict[str, Any]:
    return type(value)(value)


def _set_at(path: Path) -> bool:
    """Tell whether the map that holds the last token may be a set that is not written because it is empty."""
    return path[-2] in ("depends_on", "labels", "retry_on", "tags", "required") or path[0] == "residency"


def _misfit(change: Change, found: Any) -> Problem:
    return Problem(
        code="patch_does_not_fit",
        message=f"The change of {pointer_of(change.path)!r} starts from another value than the one that is here.",
        path=pointer_of(change.path),
        expected="nothing" if change.old is ABSENT else _short(change.old),
        found="nothing" if found is ABSENT else _short(found),
    )


def _lost_rename(old: str, new: str) -> Problem:
    message = f"Stage {old!r} cannot be renamed to {new!r}: the first is not here, or the second is already."
    return Problem(code="patch_does_not_fit", message=message, path=pointer_of(("stages", old)))


def _short(value: Any, limit: int = 80) -> str:
    text = repr(plain(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"
