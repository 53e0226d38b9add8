"""The two edits, one of each side, that make a merged pipeline wrong.

For what `meaning` finds, the places are known, and so the edits. For what a validator finds (a type that does not fit, a branch
that is read without default), the edits are searched for: with all edits of theirs and the first n of ours the problem is not
there for n = 0 and is there for all, so somewhere in between one more edit brings it in. Bisection finds such an edit with
log2(n) validations, whatever the other edits do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from flowmason_ray.errors import Problem
from flowmason_ray.spec.diff.comparing import Change, apply_changes
from flowmason_ray.spec.diff.tree import ABSENT, Path, plain
from flowmason_ray.spec.merge.frame import Frame
from flowmason_ray.spec.merge.meaning import Finding, touching
from flowmason_ray.spec.merge.three_way import three_way

Validator = Callable[[dict[str, Any]], Sequence[Problem]]
"""Returns what is wrong with a document, as far as it can be told; warnings do not count."""

Key = tuple[str, str]

MOST_PAIRED = 30
"""Edits of a side that are looked at for one finding, the nearest first."""


def errors_of(document: dict[str, Any], validate: Validator) -> dict[Key, Problem]:
    """Return the errors of a document, by what makes two of them the same: lines and positions do not."""
    return {(p.code, p.message): p for p in validate(document) if p.severity == "error"}


def pair_for_finding(frame: Frame, finding: Finding) -> tuple[Change, Change] | None:
    """Return an edit of ours and one of theirs that touch the finding's places, not the same place if possible."""
    ours, theirs = (list(enumerate(touching(side, finding.places)[:MOST_PAIRED])) for side in frame.edits)
    pairs = [(n + m, one, other) for n, one in ours for m, other in theirs if one.path != other.path]
    if not pairs:
        return None

    def rank(pair: tuple[int, Change, Change]) -> tuple[bool, int, list[Path]]:
        far, one, other = pair  # the same whichever side is called ours
        return (one.new is ABSENT) == (other.new is ABSENT), far, sorted((one.path, other.path))

    _, one, other = min(pairs, key=rank)  # a removal is half of the story, where there is one
    return one, other


def pair_for_problem(frame: Frame, key: Key, validate: Validator) -> tuple[Change, Change] | None:
    """Return an edit of ours and one of theirs without which the merged pipeline would not have the problem.

    Args:
        frame: The three sides; neither ours nor theirs has the problem.
        key: Which problem.
        validate: Finds it.
    """
    one = _boundary(frame, key, validate, side=0)
    other = _boundary(frame, key, validate, side=1)
    return (one, other) if one is not None and other is not None else None


def _boundary(frame: Frame, key: Key, validate: Validator, *, side: int) -> Change | None:
    edits = sorted(frame.edits[side], key=_constructive_first)
    known_good, known_bad = 0, len(edits)
    if not edits or not _has(frame, edits, side, key, validate):
        return None
    while known_bad - known_good > 1:
        middle = (known_good + known_bad) // 2
        if _has(frame, edits[:middle], side, key, validate):
            known_bad = middle
        else:
            known_good = middle
    return edits[known_bad - 1]


def _has(frame: Frame, edits: Sequence[Change], side: int, key: Key, validate: Validator) -> bool:
    part = apply_changes(frame.base, list(edits))
    sides: Mapping[str, dict[str, Any]] = {"ours": part} if side == 0 else {"theirs": part}
    tried = Frame(base=frame.base, ours=sides.get("ours", frame.ours), theirs=sides.get("theirs", frame.theirs))
    tree, _ = three_way(tried)
    return key in errors_of(cast("dict[str, Any]", plain(tree)), validate)


def _constructive_first(change: Change) -> int:
    """Order edits so that few of their beginnings are broken for other reasons: what is added first, removals last."""
    return 0 if change.old is ABSENT else 2 if change.new is ABSENT else 1


def path_of_problem(problem: Problem, document: Mapping[str, Any]) -> Path:
    """Return a problem's place with stages by id instead of by position."""
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in problem.path.split("/")[1:]]
    if len(tokens) > 1 and tokens[0] in ("stages", "compositions") and tokens[1].isdecimal():
        listed = cast("list[Any]", document.get(tokens[0]) or [])
        if int(tokens[1]) < len(listed) and isinstance(listed[int(tokens[1])], dict):
            tokens[1] = str(listed[int(tokens[1])].get("id", tokens[1]))
    return tuple(tokens)
