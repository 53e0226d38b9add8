"""`merge`: base, ours and theirs into one document, and what is left to decide.

The story: stages get one name on all sides (`frame`), the three trees are merged part by part (`three_way`), what that leaves
open is decided by whoever may decide (`Chooser`), and when nothing is open, the result is checked: by what the document says
(`meaning`), and by a validator that knows components, which the caller brings, because this part knows none. What these find,
and neither side had, is a semantic conflict between two edits (`blame`), and is decided like any other.

The laws are told, and tested, in docs/guide/diff-and-merge.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from flowmason_ray.errors import Problem
from flowmason_ray.spec.diff.comparing import Change
from flowmason_ray.spec.diff.tree import plain, tree_of
from flowmason_ray.spec.merge.blame import (
    Search,
    Validator,
    errors_of,
    pair_for_finding,
    path_of_problem,
)
from flowmason_ray.spec.merge.conflicts import Chooser, Conflict, Edit, Side, decide
from flowmason_ray.spec.merge.frame import Frame, frame_of
from flowmason_ray.spec.merge.meaning import findings
from flowmason_ray.spec.merge.three_way import three_way

MOST_BLAMED = 200
"""Problems of a validator whose edits are searched for at once. Most have a pair in common, which costs nothing more."""
MOST_ROUNDS = 20
"""Rounds of deciding and checking again; each takes at least one edit back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a merge came to."""

    document: dict[str, Any]
    """Canonical; in the places of `conflicts` it has the value of ours, or of theirs where ours has none."""
    conflicts: tuple[Conflict, ...] = ()
    problems: tuple[Problem, ...] = ()
    """What is wrong with the result and could be put down to no pair of edits."""

    @property
    def clean(self) -> bool:
        """Whether nothing is left to decide and nothing is wrong."""
        return not self.conflicts and not self.problems


def merge(
    base: Mapping[str, Any],
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    validate: Validator | None = None,
    choose: Chooser | None = None,
) -> Merged:
    """Merge two versions of a pipeline that have a common ancestor.

    Args:
        base: The common ancestor, a canonical document (`LoadedPipeline.data`); an empty one if there is none.
        ours: One version.
        theirs: The other.
        validate: Tells what is wrong with a document; None: only what the document itself shows is checked.
        choose: Decides conflicts; None: all stay open.

    Raises:
        InvalidPipeline: a document in which stages cannot be told apart by their ids.
    """
    frame = frame_of(tree_of(base), tree_of(ours), tree_of(theirs))
    names: dict[str, str] = {}

    def note_names(conflict: Conflict) -> Side | None:
        side = choose(conflict) if choose is not None else None
        if side is not None and conflict.kind == "renamed_differently":
            names[conflict.path[1]] = getattr(conflict, side)
        return side

    tree, conflicts = three_way(frame)
    document, left = _decided(cast("dict[str, Any]", plain(tree)), conflicts, note_names)
    if left:
        return Merged(document=document, conflicts=left)
    frame = frame.with_names({was: now for was, now in names.items() if was != now})
    found: tuple[Conflict, ...] = ()
    problems: tuple[Problem, ...] = ()
    for _ in range(MOST_ROUNDS):
        found, problems = _broken(document, frame, validate)
        if not found:
            return Merged(document=document, problems=problems)
        after, left = _decided(document, found, choose)
        if left:
            return Merged(document=after, conflicts=left, problems=problems)
        if after == document:
            break
        document = after
    return Merged(document=document, conflicts=found, problems=problems)


def _decided(
    document: dict[str, Any], conflicts: Iterable[Conflict], choose: Chooser | None
) -> tuple[dict[str, Any], tuple[Conflict, ...]]:
    """Return the document with what was decided, and what was not."""
    left: list[Conflict] = []
    for conflict in conflicts:
        side: Side | None = choose(conflict) if choose is not None else None
        if side is None:
            left.append(conflict)
        else:
            document = decide(document, conflict, side)
    return document, tuple(left)


def _broken(
    document: dict[str, Any], frame: Frame, validate: Validator | None
) -> tuple[tuple[Conflict, ...], tuple[Problem, ...]]:
    """Return what the merge broke: as semantic conflicts, and what no pair of edits explains."""
    found: dict[tuple[str, str, str], Conflict] = {}
    lost: list[Problem] = []
    search = Search(frame, _by_meaning(frame))
    for finding in findings(tree_of(document), frame):
        pair = pair_for_finding(frame, finding) or search.pair(finding.key, finding.places[0])
        if pair is None:
            lost.append(Problem(code=finding.code, message=finding.message))
        else:
            conflict = _semantic(frame, finding.code, finding.message, pair, finding.places[0])
            found.setdefault(_identity(conflict), conflict)
    if found or validate is None:
        return tuple(found.values()), tuple(lost)
    errors = errors_of(document, validate)
    if not errors:
        return (), ()
    sides = (errors_of(cast("dict[str, Any]", plain(side)), validate) for side in (frame.ours, frame.theirs))
    known = {key for side in sides for key in side}
    new = {key: problem for key, problem in errors.items() if key not in known}
    search = Search(frame, validate)
    for key, problem in list(new.items())[:MOST_BLAMED]:
        place = path_of_problem(problem, document)
        pair = search.pair(key, place)
        if pair is None:
            lost.append(problem)
        else:
            conflict = _semantic(frame, problem.code, problem.message, pair, place)
            found.setdefault(_identity(conflict), conflict)
    return tuple(found.values()), tuple(lost)


def _by_meaning(frame: Frame) -> Validator:
    """Return a validator that knows what the document itself shows: for a finding whose places do not tell its edits."""
    return lambda document: [
        Problem(code=finding.code, message=finding.message) for finding in findings(tree_of(document), frame)
    ]


def _semantic(frame: Frame, code: str, message: str, pair: tuple[Change, Change], place: tuple[str, ...]) -> Conflict:
    edits = (Edit.of(pair[0], frame.order), Edit.of(pair[1], frame.order))
    return Conflict(path=place, kind="semantic", why=message, code=code, edits=edits)


def _identity(conflict: Conflict) -> tuple[str, str, str]:
    assert conflict.edits is not None
    ours, theirs = conflict.edits
    return conflict.code, repr(ours.path), repr(theirs.path)
