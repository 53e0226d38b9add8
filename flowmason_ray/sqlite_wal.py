"""Turning on write-ahead logging of a SQLite file that other processes may open at the same moment.

Run logs and the vector store each open files of their own, with libraries of their own (`sqlite3`, APSW), and may not know each
other. What both have to get right stands here once.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

PAUSE_S = 0.01
"""How long we wait before we ask again where SQLite itself does not wait."""

E = TypeVar("E", bound=Exception)


def use_wal(
    execute: Callable[[str], object],
    error: type[E],
    *,
    patience_s: float,
    is_busy: Callable[[E], bool] = lambda error: True,
) -> None:
    """Turn on write-ahead logging, waiting for others as every other statement does.

    SQLite calls no busy handler here: of two processes that make one file, one is refused at once.

    Args:
        execute: Runs a statement on the connection, to its end.
        error: What the library raises when the file is busy.
        patience_s: How long others are waited for.
        is_busy: Tells whether an error says so; needed when its type has other reasons too.

    Raises:
        E: for another reason, or after all that time.
    """
    deadline = monotonic() + patience_s
    while True:
        try:
            execute("PRAGMA journal_mode=WAL")
            return
        except error as exc:
            if not is_busy(exc) or monotonic() > deadline:
                raise
        sleep(PAUSE_S)
