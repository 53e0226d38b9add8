"""Appending to a file so that a repeated attempt does not append again.

Beside `log.txt` lies a hidden journal, `.log.txt.appended`: one line per append with the idempotency key, where the text
starts and how long it is, written before the text itself. A repeated attempt finds its line. Either the text is there in
full, then nothing is left to do; or a crash came between, then the torn end is cut off and the text is written again.
The journal keeps the latest records only: attempts that are repeated are recent ones.
"""

from __future__ import annotations

import fcntl
import json
import os
from io import FileIO
from pathlib import Path
from typing import Any

KEPT_RECORDS = 1000
"""How many appends are remembered; more than any run has in flight at a time."""

_JOURNAL = ".appended"


def append_once(file: Path, data: bytes, key: str) -> bool:
    """Append `data` to `file`, once per `key`. Concurrent appends, also from other processes, wait for each other.

    Returns: whether anything was written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    journal = file.with_name(f".{file.name}{_JOURNAL}")
    with journal.open("a+b", buffering=0) as log, file.open("a+b", buffering=0) as out:
        fcntl.flock(log, fcntl.LOCK_EX)
        records = records_of(log)
        size = os.fstat(out.fileno()).st_size
        mine = next((r for r in reversed(records) if r["key"] == key), None)
        if mine is not None:
            out.seek(mine["start"])
            there = out.read(mine["length"])
            if there == data:
                return False
            if mine is records[-1] and size < mine["start"] + mine["length"]:
                out.truncate(mine["start"])
                size = min(size, mine["start"])
        record(log, records, {"key": key, "start": size, "length": len(data)})
        out.write(data)
        os.fsync(out.fileno())
    return True


def is_journal(file: Path) -> bool:
    """Tell by its name whether a file is a journal; the file that it is of may have been moved or deleted."""
    return file.name.startswith(".") and file.name.endswith(_JOURNAL)


def record(log: FileIO, records: list[dict[str, Any]], new: dict[str, Any]) -> None:
    """Add a record to a journal that holds `records` and is locked by the caller; the oldest ones go when there are many."""
    if len(records) >= 2 * KEPT_RECORDS:
        log.truncate(0)
        log.write(b"".join(_line(r) for r in records[-KEPT_RECORDS:]))
    log.write(_line(new))
    os.fsync(log.fileno())


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def records_of(log: FileIO) -> list[dict[str, Any]]:
    """Return a journal's records, the oldest first."""
    log.seek(0)
    found: list[dict[str, Any]] = []
    for line in (log.read() or b"").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # torn by a crash while it was written: what it announces was not begun
    return found
