"""Write-ahead logging is turned on however others hold the file, with either SQLite library."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.sqlite_wal import use_wal


def with_sqlite3(file: Path) -> tuple[Any, type[Exception]]:
    return sqlite3.connect(file, isolation_level=None, timeout=30), sqlite3.OperationalError


def with_apsw(file: Path) -> tuple[Any, type[Exception]]:
    apsw: Any = pytest.importorskip("apsw")
    connection = apsw.Connection(str(file))
    connection.set_busy_timeout(30_000)
    return connection, apsw.BusyError


Library = Callable[[Path], tuple[Any, type[Exception]]]


@pytest.mark.parametrize("library", [with_sqlite3, with_apsw])
def test_it_waits_for_who_holds_the_file(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    connection, busy = library(file)
    holder, _ = library(file)  # of the same library: in one process another one's locks are not seen
    holder.execute("BEGIN IMMEDIATE")
    refused = 0

    def execute(sql: str) -> object:
        nonlocal refused
        try:
            return connection.execute(sql).fetchall()
        except busy:
            refused += 1
            holder.close()  # now, and not after some time
            raise

    use_wal(execute, busy, patience_s=60)
    assert refused == 1
    assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    connection.close()


@pytest.mark.parametrize("library", [with_sqlite3, with_apsw])
def test_it_gives_up_in_the_end(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    connection, busy = library(file)
    holder, _ = library(file)  # of the same library: in one process another one's locks are not seen
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(busy):
        use_wal(lambda sql: connection.execute(sql).fetchall(), busy, patience_s=0)
    holder.close()
    connection.close()


def test_other_errors_are_not_waited_for() -> None:
    def execute(sql: str) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    with pytest.raises(sqlite3.OperationalError):
        use_wal(execute, sqlite3.OperationalError, patience_s=3600, is_busy=lambda error: False)
