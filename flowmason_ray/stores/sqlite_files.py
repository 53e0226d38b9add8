"""The SQLite file behind a run store: opening it, its schema, and what goes wrong with files, in clear words.

`PRAGMA user_version` is the revision of the schema. A new file gets today's schema at once, from the text below; an older one
is brought up to date by the migrations (`stores.migrations`) when it is opened for writing, under SQLite's own lock, so that
several processes may do it at once. Reading changes nothing. That text and migrations agree is a test; SQLAlchemy, which
the migrations need, is not imported for a file that is up to date: starting would take half a second longer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from flowmason_ray.errors import StoreError, StoreUnavailable
from flowmason_ray.sqlite_wal import use_wal

SCHEMA_REVISION = 3
"""The revision of the schema that this version reads and writes; the number of the newest migration."""
BUSY_TIMEOUT_S = 30.0
"""How long a commit waits for another process's commit; those take milliseconds, unless the disk is in trouble."""

NOW = "(julianday('now') - 2440587.5) * 86400.0"
"""Seconds since the epoch, by the clock of the machine that the file is on: the store's time, exact to a millisecond.
(`unixepoch('subsec')` says the same, from SQLite 3.42 on; Debian 12 has 3.40.)"""

SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    version TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    ended_at REAL,
    file TEXT,
    failure TEXT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started TEXT NOT NULL,
    boot TEXT,
    epoch INTEGER NOT NULL DEFAULT 1,
    lease_until REAL,
    based_on TEXT
) STRICT;
CREATE INDEX runs_created ON runs (created_at DESC);
CREATE INDEX runs_status ON runs (status, created_at);
CREATE INDEX runs_pipeline ON runs (pipeline, created_at);
CREATE INDEX runs_based_on ON runs (based_on) WHERE based_on IS NOT NULL;
CREATE TABLE events (
    run INTEGER NOT NULL REFERENCES runs (id),
    position INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    path TEXT,
    body TEXT,
    PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE requests (
    run INTEGER NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE blob_refs (
    run INTEGER NOT NULL REFERENCES runs (id),
    digest TEXT NOT NULL,
    PRIMARY KEY (run, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_refs_digest ON blob_refs (digest);
CREATE TABLE results (
    fingerprint TEXT NOT NULL PRIMARY KEY,
    run_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX results_expires ON results (expires_at);
CREATE TABLE result_blobs (
    fingerprint TEXT NOT NULL REFERENCES results (fingerprint),
    digest TEXT NOT NULL,
    PRIMARY KEY (fingerprint, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX result_blobs_digest ON result_blobs (digest);
CREATE TABLE stage_logs (
    run INTEGER NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    at REAL NOT NULL,
    path TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    fields TEXT,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE store (
    id TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TABLE alembic_version (
    version_num TEXT NOT NULL PRIMARY KEY
) STRICT;
"""

_NO_DATABASE = "file is not a database"
_SMALLEST = 512
"""Bytes of the smallest page that a database can have (sqlite.org/fileformat2.html, 1.3)."""
_HINTS = {
    "database or disk is full": "The disk is full: make room, then run again; what was acknowledged is in the log.",
    "attempt to write a readonly database": "The file or its directory is read-only.",
    _NO_DATABASE: "The file is not a FlowMason run log, or it is damaged (cut off, for example).",
    "unable to open database file": "The directory is missing or may not be written.",
    "database is locked": "Another process has held it for too long.",
    "disk I/O error": "The disk does not do what it is told; look into the system's log.",
}
_DAMAGED = (
    "The file is damaged. 'sqlite3 FILE \"PRAGMA quick_check\"' says where, 'sqlite3 FILE .recover' saves what can be read; "
    "move it away to begin a new one."
)


@contextmanager
def clear_errors(file: Path, doing: str) -> Generator[None]:
    """Turn what SQLite and the system say about a file into errors of ours."""
    try:
        yield
    except sqlite3.Error as exc:
        text = str(exc)
        hint = _HINTS.get(text, _DAMAGED if "malformed" in text or "decode to UTF-8" in text else "")
        raise StoreUnavailable(f"Cannot {doing} the run log {file}: {text}. {hint}".rstrip()) from exc
    except OSError as exc:
        raise StoreUnavailable(f"Cannot {doing} the run log {file}: {exc.strerror or exc}.") from exc


def open_for_writing(file: Path) -> sqlite3.Connection:
    """Open the file, made and brought up to date if need be.

    Raises:
        StoreError: it is from a newer version.
        sqlite3.Error, OSError: it cannot be opened; for `clear_errors`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        use_wal(connection.execute, sqlite3.OperationalError, patience_s=BUSY_TIMEOUT_S, is_busy=_is_busy)
        connection.execute("PRAGMA synchronous=FULL")
        found = revision(connection, file)
        if found == 0:
            found = _create(connection)
        if found < SCHEMA_REVISION:
            from flowmason_ray.stores.migrations import upgrade_sqlite

            upgrade_sqlite(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # An extended code has the primary one in its lowest byte (sqlite.org/rescode.html).
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _create(connection: sqlite3.Connection) -> int:
    """Make the tables, unless another process has done it meanwhile; return the file's revision."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute("INSERT INTO store (id) VALUES (?)", (uuid4().hex,))
            connection.execute("INSERT INTO alembic_version (version_num) VALUES (?)", (f"{SCHEMA_REVISION:04}",))
            connection.execute(f"PRAGMA user_version={SCHEMA_REVISION}")
            found = SCHEMA_REVISION
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return found


def open_for_reading(file: Path) -> tuple[sqlite3.Connection, int]:
    """Open a file that is there; return it with its revision (0: nothing was ever recorded in it).

    A directory that may not be written is no hindrance, if no writer has left anything unfinished there.

    Raises:
        StoreError: it is from a newer version.
        sqlite3.Error, OSError: it cannot be opened; for `clear_errors`.
    """
    connection = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        found = revision(connection, file)
    except sqlite3.OperationalError as exc:
        connection.close()
        if str(exc) not in ("attempt to write a readonly database", "unable to open database file"):
            raise
        left = file.with_name(f"{file.name}-wal")
        if left.exists() and left.stat().st_size:
            raise
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)
        found = revision(connection, file)
    except BaseException:
        connection.close()
        raise
    return connection, found


def revision(connection: sqlite3.Connection, file: Path) -> int:
    """Return the revision of a file's schema; 0: it is new.

    Raises:
        StoreError: it is newer than we know.
    """
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == 0 and 0 < file.stat().st_size < _SMALLEST:
        raise sqlite3.DatabaseError(_NO_DATABASE)  # SQLite takes such a stump for a new file, and would write over it
    if found > SCHEMA_REVISION:
        raise StoreError(
            f"The run log {file} has format version {found}; this FlowMason reads up to {SCHEMA_REVISION}. Upgrade it."
        )
    return found
