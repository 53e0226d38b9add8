"""Conflicts for people: as a list, and one by one with a question."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.diff_text import words_text
from flowmason_ray.cli.diff_values import is_there, value_text
from flowmason_ray.cli.terminal import Paint, note, painter
from flowmason_ray.cli.words import counted
from flowmason_ray.spec.diff.documents import without_spelling
from flowmason_ray.spec.diff.tree import pointer_of
from flowmason_ray.spec.diff.words import excerpt, is_long, word_diff

if TYPE_CHECKING:
    from flowmason_ray.spec.merge.conflicts import Conflict, Edit, Side

MOST_TOLD = 20
"""Conflicts that are listed; more are counted."""


def conflict_lines(conflict: Conflict, paint: Paint) -> Iterator[str]:
    """Yield a conflict: where, why, and what each side has."""
    yield f"{paint('conflict', 'yellow', 'bold')} {paint(conflict.pointer, 'bold')}: {conflict.why}"
    if conflict.edits is not None:
        for side, edit in zip(("ours", "theirs"), conflict.edits, strict=True):
            yield f"  {paint(side.ljust(6), 'cyan')} {_edit(edit, paint)}"
        return
    base = conflict.base
    for side in ("base", "ours", "theirs"):
        value = getattr(conflict, side)
        if side == "base" and not is_there(value):
            continue
        yield f"  {paint(side.ljust(6), 'cyan')} {_value(base, value, paint, changed=side != 'base')}"


def _value(base: Any, value: Any, paint: Paint, *, changed: bool) -> str:
    if not is_there(value):
        return "(nothing)"
    if changed and is_long(base, value):
        return words_text(excerpt(word_diff(base, value)), paint).replace("\n", "\n         ")
    return value_text(without_spelling(value))


def _edit(edit: Edit, paint: Paint) -> str:
    place = pointer_of(edit.path)
    old, new = without_spelling(edit.old), without_spelling(edit.new)
    if edit.new is True and not is_there(edit.old):
        return f"added {place}"
    if not is_there(edit.new):
        return f"removed {place}"
    if not is_there(edit.old):
        return f"added {place}: {value_text(new)}"
    if is_long(old, new):
        return f"changed {place}: {words_text(excerpt(word_diff(old, new)), paint)}"
    return f"changed {place}: {value_text(old)} → {value_text(new)}"


def print_conflicts(conflicts: Iterable[Conflict]) -> None:
    """Write conflicts to stderr."""
    paint = painter(sys.stderr)
    listed = list(conflicts)
    for conflict in listed[:MOST_TOLD]:
        for line in conflict_lines(conflict, paint):
            note(line)
    if len(listed) > MOST_TOLD:
        note(f"… and {counted(len(listed) - MOST_TOLD, 'more conflict')}.")


class Dialogue:
    """Asks on a terminal what to do about a conflict. Skipped ones stay open; `q` skips all that follow."""

    def __init__(self) -> None:
        self._over = False

    def __call__(self, conflict: Conflict) -> Side | None:
        """Ask; return the side that was chosen, or None."""
        if self._over:
            return None
        paint = painter(sys.stderr)
        note()
        for line in conflict_lines(conflict, paint):
            note(line)
        keys: dict[str, Side] = {side[0]: side for side in conflict.choices}
        words = [f"[{side[0]}]{side[1:]}" for side in conflict.choices]
        if conflict.edits is not None:
            note("  (ours: keep our edit and take theirs back; theirs: the other way round; base: take both back)")
        while True:
            sys.stderr.write(f"Take {', '.join(words)}, [s]kip or [q]uit? ")
            sys.stderr.flush()
            answer = sys.stdin.readline()
            if not answer or answer.strip().lower() in ("q", "quit"):
                self._over = True
                return None
            word = answer.strip().lower()
            if word in ("s", "skip"):
                return None
            if word[:1] in keys and keys[word[0]].startswith(word):
                return keys[word[0]]
