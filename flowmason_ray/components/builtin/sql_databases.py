"""Opening a database for one attempt, for reading only or for writing, by SQLAlchemy.

Reading only is the database's own promise, not ours: a SQLite file is opened with `mode=ro` and may open no other file, and a
transaction of PostgreSQL is READ ONLY. In both, one call carries one statement, so that none can be hidden behind another.
Other databases have no such mode that we have tried; they are used with `sql_execute`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from flowmason_ray.components.builtin.sql_errors import commit_problem, sql_problem
from flowmason_ray.components.files import existing_file, resolve_inside
from flowmason_ray.connections import PostgresConnection, SqlConnection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import MissingExtra, PermanentError

CONNECT_TIMEOUT_S = 10
_STEPS = 1000
"""Instructions of SQLite's machine between two looks at the clock: well under a millisecond."""


@contextmanager
def opened(
    context: Context, connection: str | None, database: str | None, *, read_only: bool, timeout: float
) -> Generator[Connection]:
    """Open a database in a transaction: committed if nothing is raised and it is for writing, else rolled back.

    Args:
        context: The attempt's.
        connection: The name of a connection of type sql or postgres.
        database: A SQLite file of the project instead.
        read_only: Whether the database itself is to refuse changes.
        timeout: Seconds, where the database can be told: for each statement (PostgreSQL), for all (SQLite).

    Raises:
        PermanentError: `invalid_input`, `sql_error`, `sql_denied`, `sql_read_only`, `sql_conflict`, `sql_in_doubt`, ….
        TemporaryError: `sql_unavailable`, `sql_timeout`.
    """
    if (connection is None) == (database is None):
        raise PermanentError(
            "Give either 'connection', a connection of flowmason.json, or 'database', a SQLite file of the project.",
            code="invalid_input",
        )
    where = f"Database {connection or database!r}"
    if connection is None:
        url = URL.create("sqlite", database=str(_file(context, str(database), read_only)))
    else:
        url = _url(context, connection)
    engine = _engine(url, where, read_only=read_only, timeout=timeout)
    problem = sql_problem
    try:
        with engine.connect() as made:
            opened = made.execution_options(postgresql_readonly=True) if read_only else made
            yield opened
            if read_only:
                opened.rollback()
            else:
                problem = commit_problem
                opened.commit()
    except DBAPIError as exc:
        raise problem(exc.orig or exc, where) from exc
    except sqlite3.Error as exc:
        raise sql_problem(exc, where) from exc
    except (OverflowError, UnicodeEncodeError) as exc:  # from drivers, for values that no column takes
        raise PermanentError(
            f"{where} cannot be given a value of 'parameters': {exc}. Whole numbers have 64 bits there, and texts are Unicode; "
            "write a larger number as a text.",
            code="invalid_parameter",
        ) from exc
    except SQLAlchemyError as exc:
        raise PermanentError(f"{where}: {str(exc).partition(chr(10))[0]}", code="sql_error") from exc
    finally:
        engine.dispose()


def _file(context: Context, database: str, read_only: bool) -> Path:
    return existing_file(context.project_dir, database) if read_only else resolve_inside(context.project_dir, database)


def _url(context: Context, name: str) -> URL:
    found = context.connection(name, (SqlConnection, PostgresConnection))
    try:
        url = make_url(str(found.url))
    except ArgumentError:
        raise PermanentError(
            f"The URL of connection {name!r} does not read like 'dialect://user@host/database'.", code="sql_error"
        ) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if found.password is not None:
        url = url.set(password=str(found.password))
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        url = url.set(database=str(context.project_dir / str(url.database)))
    return url


def _engine(url: URL, where: str, *, read_only: bool, timeout: float) -> Any:
    options: dict[str, Any] = {}
    backend = url.get_backend_name()
    if backend == "sqlite":
        options["creator"] = lambda: _sqlite(url, read_only=read_only, timeout=timeout)
    elif backend == "postgresql":
        options["connect_args"] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": f"-c statement_timeout={max(1, int(timeout * 1000))}",
            "prepare_threshold": 0,  # prepared at once: the server takes one statement then, not several
        }
    elif read_only:
        raise PermanentError(
            f"{where} is {backend!r}, which cannot be opened for reading only here. Use sql_execute, which also returns rows.",
            code="sql_error",
        )
    try:
        engine = create_engine(url, poolclass=NullPool, **options)
    except NoSuchModuleError:
        raise PermanentError(f"{where}: there is no dialect {url.drivername!r}.", code="sql_error") from None
    except ModuleNotFoundError as exc:
        if backend == "postgresql":
            raise MissingExtra(feature=where, extra="postgres", module=exc.name or "psycopg") from exc
        raise PermanentError(
            f"{where} needs the driver {exc.name!r}, which is not installed; install it beside flowmason-ray.",
            code="sql_error",
        ) from exc
    if backend == "sqlite":
        # Python's driver begins transactions by itself, and not for every statement: we begin them (SQLAlchemy's own advice).
        event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _sqlite(url: URL, *, read_only: bool, timeout: float) -> sqlite3.Connection:
    file = url.database or ":memory:"
    mode = "ro" if read_only else "rwc"
    address = file if file == ":memory:" else f"file:{quote(file)}?mode={mode}"
    connection = sqlite3.connect(
        address, uri=file != ":memory:", timeout=timeout, isolation_level=None, check_same_thread=False
    )
    end = monotonic() + timeout
    connection.set_progress_handler(lambda: monotonic() > end, _STEPS)
    connection.set_authorizer(_no_other_file)
    return connection


def _no_other_file(action: int, *_: Any) -> int:
    """Refuse ATTACH: another file may lie outside the project. (VACUUM INTO attaches, too.)"""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK
