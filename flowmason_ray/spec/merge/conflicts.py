"""What a merge cannot decide, as data; and how a decision is put into the document.

A conflict is about one path and holds what each side has there. In the document stands the value of ours (or theirs, when ours
has none). A *semantic* conflict is about two edits, one of each side, that do not go together although they touch different
places; deciding for one side takes the other side's edit back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.diff.comparing import Change
from flowmason_ray.spec.diff.naming import rename
from flowmason_ray.spec.diff.tree import ABSENT, Path, path_of, plain, plain_at, pointer_of, tree_of
from flowmason_ray.spec.merge.marks import CONFLICTS_KEY

Side = Literal["ours", "theirs", "base"]
SIDES: tuple[Side, ...] = ("ours", "theirs", "base")

Kind = Literal[
    "both_changed", "changed_and_removed", "both_added", "renamed_differently", "renamed_and_removed", "semantic"
]

VERSION = 1
"""Of the form in which conflicts are written into a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What one side did at one place, in values of a document; `ABSENT` for nothing."""

    path: Path
    old: Any
    new: Any
    after: str | None = None
    """For a stage that was removed: the stage that it followed."""

    @classmethod
    def of(cls, change: Change, order: list[str] | None = None) -> Edit:
        """Return a change as an edit.

        Args:
            change: The change.
            order: The stages of the base, in order.
        """
        after: str | None = None
        if change.new is ABSENT and len(change.path) == 2 and order and change.path[1] in order:
            place = order.index(change.path[1])
            after = order[place - 1] if place else None
        old, new = (v if v is ABSENT else plain_at(change.path, v) for v in (change.old, change.new))
        return cls(path=change.path, old=old, new=new, after=after)

    def to_json(self) -> dict[str, Any]:
        """Return the path and what is there of old, new and after."""
        facts = {"old": self.old, "new": self.new, "after": self.after if self.after is not None else ABSENT}
        return {"path": pointer_of(self.path), **{k: v for k, v in facts.items() if v is not ABSENT}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """One thing to decide. `base`, `ours` and `theirs` are values of a document, or ABSENT."""

    path: Path
    kind: Kind
    why: str
    base: Any = ABSENT
    ours: Any = ABSENT
    theirs: Any = ABSENT
    choices: tuple[Side, ...] = SIDES
    code: str = ""
    """Of a semantic conflict: the code of the problem that the result would have."""
    edits: tuple[Edit, Edit] | None = None
    """Of a semantic conflict: what ours and what theirs did."""

    @property
    def pointer(self) -> str:
        """The path as people write it."""
        return pointer_of(self.path)

    def to_json(self) -> dict[str, Any]:
        """Return the form that is written into a file; a side without a value has no key."""
        sides = {"base": self.base, "ours": self.ours, "theirs": self.theirs}
        data: dict[str, Any] = {"path": self.pointer, "kind": self.kind, "why": self.why}
        if self.code:
            data["code"] = self.code
        data |= {key: value for key, value in sides.items() if value is not ABSENT}
        if self.edits is not None:
            data["edits"] = {"ours": self.edits[0].to_json(), "theirs": self.edits[1].to_json()}
        return {**data, "choices": list(self.choices)}


Chooser = Callable[[Conflict], Side | None]
"""Decides a conflict; None leaves it open."""


def choose_always(side: Side) -> Chooser:
    """Return a chooser that takes one side wherever that is possible."""
    return lambda conflict: side if side in conflict.choices else None


# -- in a file ---------------------------------------------------------------------------------------------------------


def with_conflicts(document: Mapping[str, Any], conflicts: tuple[Conflict, ...]) -> dict[str, Any]:
    """Return the document with its open conflicts on top, as it is written; without any, the document itself."""
    if not conflicts:
        return dict(document)
    return {CONFLICTS_KEY: {"version": VERSION, "open": [c.to_json() for c in conflicts]}, **document}


def read_conflicts(document: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Conflict, ...]]:
    """Return a document without its conflicts, and the conflicts: undoes `with_conflicts`.

    Raises:
        InvalidPipeline: what is written under `$conflicts` is no list of conflicts of ours.
    """
    rest = {key: value for key, value in document.items() if key != CONFLICTS_KEY}
    found = document.get(CONFLICTS_KEY)
    if found is None:
        return rest, ()
    try:
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']!r}")
        return rest, tuple(_conflict(each) for each in found["open"])
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        message = f"What stands under '{CONFLICTS_KEY}' was not written by this version of fm merge ({exc})."
        hint = "Decide by hand, and remove the key."
        problem = Problem(code="unreadable_conflicts", message=message, path=f"/{CONFLICTS_KEY}", hint=hint)
        raise InvalidPipeline([problem]) from None


def _conflict(data: dict[str, Any]) -> Conflict:
    edits = data.get("edits")
    choices: tuple[Side, ...] = tuple(side for side in SIDES if side in data["choices"])
    return Conflict(
        path=path_of(data["path"]),
        kind=data["kind"],
        why=str(data["why"]),
        base=data.get("base", ABSENT),
        ours=data.get("ours", ABSENT),
        theirs=data.get("theirs", ABSENT),
        choices=choices,
        code=str(data.get("code", "")),
        edits=None if edits is None else (_edit(edits["ours"]), _edit(edits["theirs"])),
    )


def _edit(data: dict[str, Any]) -> Edit:
    old, new = data.get("old", ABSENT), data.get("new", ABSENT)
    return Edit(path=path_of(data["path"]), old=old, new=new, after=data.get("after"))


# -- deciding ----------------------------------------------------------------------------------------------------------


def decide(document: dict[str, Any], conflict: Conflict, side: Side) -> dict[str, Any]:
    """Return the document with one conflict decided. The document itself stays as it is.

    Raises:
        InvalidPipeline: the place of the conflict is not there any more (`lost_conflict`).
    """
    if conflict.kind == "renamed_differently":
        now, wanted = conflict.path[1], getattr(conflict, side)
        return document if now == wanted else cast("dict[str, Any]", plain(rename(tree_of(document), {now: wanted})))
    if conflict.edits is not None:
        ours, theirs = conflict.edits
        undone = {"ours": (theirs,), "theirs": (ours,), "base": (ours, theirs)}[side]
        for edit in undone:
            document = put(document, edit.path, edit.old, after=edit.after)
        return document
    return put(document, conflict.path, getattr(conflict, side))


def put(document: dict[str, Any], path: Path, value: Any, *, after: str | None = None) -> dict[str, Any]:
    """Return the document with a value put at a path, or taken away (ABSENT).

    Args:
        document: A document: stages are a list, found by id.
        path: Where; behind a list of texts, its last token is one of them.
        value: What.
        after: The stage behind which a stage is put that is not there yet; None: at the end.

    Raises:
        InvalidPipeline: what would hold it is not there (`lost_conflict`).
    """
    return cast("dict[str, Any]", _put(document, path, 0, value, after))


def _put(owner: Any, path: Path, depth: int, value: Any, after: str | None) -> Any:
    token, last = path[depth], depth == len(path) - 1
    if isinstance(owner, dict):
        members = cast("dict[str, Any]", owner)
        if last:
            rest = {key: inner for key, inner in members.items() if key != token}
            return rest if value is ABSENT else {**members, token: value}
        if token in members:
            return {**members, token: _put(members[token], path, depth + 1, value, after)}
        if value is ABSENT:
            return members
        if depth == len(path) - 2 and value is True:  # a member of a set that is not written because it is empty
            return {**members, token: [path[-1]]}
    elif isinstance(owner, list):
        return _put_in_list(cast("list[Any]", owner), path, depth, value, after)
    problem = Problem(
        code="lost_conflict",
        message=f"There is nothing at {pointer_of(path[:depth])!r} any more, so {pointer_of(path)!r} cannot be decided.",
        path=pointer_of(path),
        hint="Decide by hand, and remove the key '$conflicts'.",
    )
    raise InvalidPipeline([problem])


def _put_in_list(items: list[Any], path: Path, depth: int, value: Any, after: str | None) -> list[Any]:
    token, last = path[depth], depth == len(path) - 1
    if path[0] in ("stages", "compositions") and depth == 1:
        names = [cast("dict[str, Any]", item).get("id") if isinstance(item, dict) else None for item in items]
        place = names.index(token) if token in names else None
    elif last and (value is True or value is ABSENT):
        rest = [item for item in items if item != token]
        return rest if value is ABSENT else [*items, token] if token not in items else items
    else:
        place = int(token) if token.isdecimal() and int(token) < len(items) else None
        names = []
    if last and value is ABSENT:
        return items if place is None else [*items[:place], *items[place + 1 :]]
    if place is not None:
        new = value if last else _put(items[place], path, depth + 1, value, after)
        return [*items[:place], new, *items[place + 1 :]]
    if last and depth == 1:
        place = names.index(after) + 1 if after in names else len(items)
        return [*items[:place], value, *items[place:]]
    return _put(None, path, depth, value, after)  # reports that it is lost
