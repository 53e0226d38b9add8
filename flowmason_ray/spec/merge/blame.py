"""The two edits, one of each side, that make a merged pipeline wrong.

For what `meaning` finds, the places are known, and so the edits. For what a validator finds (a type that does not fit, a branch
that is read without default), the edits are searched for: with all edits of theirs and the first n of ours the problem is not
there for n = 0 and is there for all, so somewhere in between one more edit brings it in. Bisection finds such an edit with
few validations, whatever the other edits do (`Search`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.diff.comparing import Change, apply_changes
from flowmason_ray.spec.diff.naming import stage_mentions
from flowmason_ray.spec.diff.tree import ABSENT, Path, plain
from flowmason_ray.spec.merge.frame import Frame
from flowmason_ray.spec.merge.meaning import Finding, touching
from flowmason_ray.spec.merge.three_way import three_way

Validator = Callable[[dict[str, Any]], Sequence[Problem]]
"""Returns what is wrong with a document, as far as it can be told; warnings do not count."""

Key = tuple[str, str]

MOST_STAGES = 100_000
"""Stages that are validated in all while edits are searched for: half a minute of planning, whatever the size."""
LEAST_VALIDATIONS = 16
"""Validations that a search may make however large the pipeline is."""
MOST_PAIRED = 30
"""Edits of a side that are looked at for one finding, the nearest first."""


def errors_of(document: dict[str, Any], validate: Validator) -> dict[Key, Problem]:
    """Return the errors of a document, by what makes two of them the same: lines and positions do not."""
    return {(p.code, p.message): p for p in validate(document) if p.severity == "error"}


def pair_for_finding(frame: Frame, finding: Finding) -> tuple[Change, Change] | None:
    """Return an edit of ours and one of theirs that touch the finding's places, not the same place if possible."""
    told = ([*edits, *_kept(frame, side)] for side, edits in enumerate(frame.edits))
    ours, theirs = (list(enumerate(touching(edits, finding.places)[:MOST_PAIRED])) for edits in told)
    pairs = [(n + m, one, other) for n, one in ours for m, other in theirs if one.path != other.path]
    if not pairs:
        return None

    def rank(pair: tuple[int, Change, Change]) -> tuple[bool, int, list[Path]]:
        far, one, other = pair  # the same whichever side is called ours
        return (one.new is ABSENT) == (other.new is ABSENT), far, sorted((one.path, other.path))

    _, one, other = min(pairs, key=rank)  # a removal is half of the story, where there is one
    return one, other


def _kept(frame: Frame, side: int) -> Iterator[Change]:
    """Yield the stages that a side renamed and the other removed, as edits of the side that has them.

    Under its common name such a stage is unchanged; that it is in the result was decided, and can be taken back.
    """
    has, removed = ((frame.ours, frame.theirs), (frame.theirs, frame.ours))[side]
    stages, others = has.get("stages", {}), removed.get("stages", {})
    for name in sorted(frame.renamed):
        if name in stages and name not in others:
            yield Change(path=("stages", name), old=ABSENT, new=stages[name])


class Search:
    """Finds the edits behind the problems of one merge, with a bounded number of validations.

    An edit is searched for from the most likely ones on, in steps that double: with edits that touch the place of the problem
    a few validations are enough, however many edits there are. What a pair of edits explains is not searched for again.
    """

    def __init__(self, frame: Frame, validate: Validator) -> None:
        """
        Args:
            frame: The three sides; neither ours nor theirs has any of the problems.
            validate: Finds them.
        """
        self._frame = frame
        self._validate = validate
        stages = len(frame.base.get("stages", ())) + len(frame.edits[0]) + len(frame.edits[1])
        self._left = max(LEAST_VALIDATIONS, MOST_STAGES // max(1, stages))
        self._pairs: list[tuple[Change, Change]] = []
        self._lacking: dict[tuple[int, Path], dict[Key, Problem]] = {}
        """The errors without one edit of a pair: (side, its path) → errors."""

    def pair(self, key: Key, place: Path) -> tuple[Change, Change] | None:
        """Return an edit of ours and one of theirs without which the merged pipeline would not have the problem.

        Args:
            key: Which problem.
            place: Where it is told.

        Returns: None when there is no such pair, or no validation left to find it.
        """
        for pair in self._pairs:
            if all(key not in self._without(side, pair[side]) for side in (0, 1)):
                return pair
        near = self._near(place)
        one = self._boundary(0, key, near)
        other = self._boundary(1, key, near) if one is not None else None
        if one is None or other is None:
            return None
        self._pairs.append((one, other))
        return one, other

    def _near(self, place: Path) -> set[Path]:
        """Return the parts of the tree that a problem at `place` is likely to depend on."""
        if len(place) < 2 or place[0] != "stages":
            return {place[:1]}
        stages = (side.get("stages", {}).get(place[1]) for side in (self._frame.ours, self._frame.theirs))
        known = [cast("dict[str, Any]", stage) for stage in stages if isinstance(stage, dict)]
        said = {mention.stage for stage in known for mention in stage_mentions(place[1], stage)}
        return {place[:2], *(("stages", name) for name in said)}

    def _boundary(self, side: int, key: Key, near: set[Path]) -> Change | None:
        """Return the edit of a side with which, added to those before it, the problem comes."""
        edits = sorted(self._frame.edits[side], key=lambda e: (e.path[:2] in near, _constructive_first(e)))
        known_bad, known_good, step = len(edits), 0, 1
        while known_bad - known_good > 1:
            middle = max(known_good + 1, known_bad - step)
            found = self._errors(side, edits[:middle])
            if found is None:
                return None
            if key in found:
                known_bad, step = middle, step * 2
            else:
                known_good, step = middle, max(1, (known_bad - middle) // 2)
        return edits[known_bad - 1] if edits else None

    def _without(self, side: int, edit: Change) -> dict[Key, Problem]:
        """Return the errors without one edit; every possible one when that cannot be told."""
        known = self._lacking.get((side, edit.path))
        if known is None:
            known = self._errors(side, [each for each in self._frame.edits[side] if each is not edit])
            if known is None:
                return _Everything()
            self._lacking[side, edit.path] = known
        return known

    def _errors(self, side: int, edits: Sequence[Change]) -> dict[Key, Problem] | None:
        """Return the errors with some edits of one side and all of the other; None: there is no validation left."""
        if self._left <= 0:
            return None
        self._left -= 1
        try:
            part = apply_changes(self._frame.base, list(edits))
        except InvalidPipeline:  # half of what belongs together
            return {}
        ours, theirs = (part, self._frame.theirs) if side == 0 else (self._frame.ours, part)
        tree, _ = three_way(Frame(base=self._frame.base, ours=ours, theirs=theirs))
        return errors_of(cast("dict[str, Any]", plain(tree)), self._validate)


class _Everything(dict[Key, Problem]):
    """Holds every key."""

    def __contains__(self, key: object) -> bool:
        return True


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
