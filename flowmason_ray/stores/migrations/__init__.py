"""Bringing the tables of a run store up to date, by alembic: `versions/` has a file per revision of the schema.

Every schema that was ever released can be brought up to date; old revisions are never edited. A SQLite file is upgraded by
whoever opens it for writing first, in one transaction under SQLite's write lock: others wait, then find it done; a process that
is killed in the middle leaves the file as it was. A shared PostgreSQL database is upgraded only by `fm db upgrade`.

Only this package and `stores.schema` import SQLAlchemy and alembic, half a second's worth, and only when there is something to do.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import StaticPool

_HERE = Path(__file__).parent


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """Return the newest revision."""
    head = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert head is not None
    return head


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring a database up to date within the transaction that `connection` is in."""
    command.upgrade(_config(connection), revision)


def upgrade_sqlite(raw: sqlite3.Connection, revision: str = "head") -> None:
    """Bring a SQLite file up to date, unless another process has done it meanwhile.

    Args:
        raw: The file, in autocommit mode (`isolation_level=None`).
        revision: How far; for tests.
    """
    target = newest() if revision == "head" else revision
    raw.execute("BEGIN IMMEDIATE")
    try:
        found: int = raw.execute("PRAGMA user_version").fetchone()[0]
        if found < int(target):
            _upgrade_in_transaction(raw, found, target)
        raw.execute("COMMIT")
    except BaseException:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        raise


def _upgrade_in_transaction(raw: sqlite3.Connection, found: int, target: str) -> None:
    class Borrowed:
        """The connection, with its transaction in our hands."""

        def __getattr__(self, name: str) -> Any:
            return getattr(raw, name)

        def commit(self) -> None: ...

        def rollback(self) -> None: ...

        def close(self) -> None: ...

    engine = create_engine("sqlite://", creator=Borrowed, poolclass=StaticPool)
    with engine.connect() as connection:
        marked = connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")).first()
        if found and marked is None:  # revision 1 was released before there were migrations
            connection.execute(text("CREATE TABLE alembic_version (version_num TEXT NOT NULL PRIMARY KEY) STRICT"))
            connection.execute(text(f"INSERT INTO alembic_version VALUES ('{found:04}')"))
        upgrade(connection, target)
        connection.execute(text(f"PRAGMA user_version={int(target)}"))
    engine.dispose()


def upgrade_postgres(raw: Any, schema: str, revision: str = "head") -> None:
    """Bring a PostgreSQL database up to date, in one transaction; several callers wait for each other.

    Args:
        raw: A psycopg connection, in autocommit mode.
        schema: Where the tables are; made if it is not there.
        revision: How far; for tests.
    """
    engine = create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=StaticPool)
    raw.autocommit = False
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
        upgrade(connection, revision)
    engine.dispose()


_UPGRADE_LOCK = 0x666D_7570_6772
"""The advisory lock that an upgrade holds."""
