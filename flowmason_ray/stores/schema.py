"""The tables of a run store, once for all databases (SQLAlchemy Core): what the migrations lead to.

Nothing at run time reads this: journals write plain SQL, because that is the hot path, and SQLite files are made from
`sqlite_files.SCHEMA`. It says what these must come to, and tests hold all three together.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Identity, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeEngine

metadata = MetaData()

number: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
real: TypeEngine[float] = Double[float]().with_variant(sqlite.REAL(), "sqlite")
key: TypeEngine[str] = Text(collation="C").with_variant(Text(), "sqlite")
"""Compared byte by byte, so that the beginning of one can be looked up in an index."""

runs = Table(
    "runs",
    metadata,
    Column("id", number, Identity(always=True), primary_key=True),
    Column("run_id", key, nullable=False, unique=True),
    Column("pipeline", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", real, nullable=False),
    Column("ended_at", real),
    Column("file", Text),
    Column("failure", Text),
    Column("host", Text, nullable=False),
    Column("pid", number, nullable=False),
    Column("pid_started", Text, nullable=False),
    Column("boot", Text),
    Column("epoch", number, nullable=False, server_default=text("1")),
    Column("lease_until", real),
    Column("based_on", Text),
    sqlite_strict=True,
)
Index("runs_created", runs.c.created_at.desc())
Index("runs_status", runs.c.status, runs.c.created_at)
Index("runs_pipeline", runs.c.pipeline, runs.c.created_at)
Index(
    "runs_based_on",
    runs.c.based_on,
    sqlite_where=runs.c.based_on.is_not(None),
    postgresql_where=runs.c.based_on.is_not(None),
)

events = Table(
    "events",
    metadata,
    Column("run", number, ForeignKey("runs.id"), primary_key=True),
    Column("position", number, primary_key=True),
    Column("at", real, nullable=False),
    Column("kind", Text, nullable=False),
    Column("path", Text),
    Column("body", Text),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

requests = Table(
    "requests",
    metadata,
    Column("run", number, ForeignKey("runs.id"), primary_key=True),
    Column("number", number, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

blob_refs = Table(
    "blob_refs",
    metadata,
    Column("run", number, ForeignKey("runs.id"), primary_key=True),
    Column("digest", key, primary_key=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index("blob_refs_digest", blob_refs.c.digest)

results = Table(
    "results",
    metadata,
    Column("fingerprint", key, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("created_at", real, nullable=False),
    Column("expires_at", real),
    Column("body", Text, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index("results_expires", results.c.expires_at)

result_blobs = Table(
    "result_blobs",
    metadata,
    Column("fingerprint", key, ForeignKey("results.fingerprint"), primary_key=True),
    Column("digest", key, primary_key=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index("result_blobs_digest", result_blobs.c.digest)

stage_logs = Table(
    "stage_logs",
    metadata,
    Column("run", number, ForeignKey("runs.id"), primary_key=True),
    Column("number", number, primary_key=True),
    Column("at", real, nullable=False),
    Column("path", Text, nullable=False),
    Column("attempt", number, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("fields", Text),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

store = Table("store", metadata, Column("id", key, primary_key=True), sqlite_strict=True, sqlite_with_rowid=False)
