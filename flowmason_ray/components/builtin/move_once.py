"""Telling a move that was done already from a source that is not there.

After a move its source is missing and its destination exists, and so it is when a path is misspelt. What an attempt is about to
move is therefore written down first, in `.flowmason/moved.jsonl` of the project: its idempotency key, and which file (its inode,
which a move keeps). A repeated attempt finds its line, and that file at the destination.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from flowmason_ray.components.builtin.append_once import record, records_of
from flowmason_ray.engine.component import Context

JOURNAL = Path(".flowmason") / "moved.jsonl"


def move_once(context: Context, source: Path, target: Path) -> None:
    """Move a file, or a link as such, and remember for a repeated attempt that it was us."""
    journal = context.project_dir / JOURNAL
    journal.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a+b", buffering=0) as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        record(log, records_of(log), {"key": context.idempotency_key, "file": _which(source)})
    if _is_other_name(source, target):
        source.unlink()
    else:
        source.replace(target)


def was_moved(context: Context, target: Path) -> bool:
    """Tell whether an earlier attempt with the same key has moved what lies at `target`."""
    journal = context.project_dir / JOURNAL
    if not journal.is_file() or not os.path.lexists(target):
        return False
    with journal.open("rb", buffering=0) as log:
        fcntl.flock(log, fcntl.LOCK_SH)
        mine = [r for r in records_of(log) if r["key"] == context.idempotency_key]
    return any(r["file"] == _which(target) for r in mine)


def _is_other_name(source: Path, target: Path) -> bool:
    """Tell whether both are names (hard links) of one file: renaming one to the other is defined to do nothing.

    A file with one name that answers to two is on a file system that takes `A` for `a`, and renamed as any other.
    """
    if source == target or not os.path.lexists(target):
        return False
    return _which(source) == _which(target) and source.lstat().st_nlink > 1


def _which(file: Path) -> list[int]:
    facts = file.lstat()
    return [facts.st_dev, facts.st_ino]
