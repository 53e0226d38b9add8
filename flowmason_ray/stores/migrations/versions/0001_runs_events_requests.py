"""The first schema that was released: runs, their events, and what is asked of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import sqlite

revision = "0001"
down_revision = None

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
real = sa.Double[float]().with_variant(sqlite.REAL(), "sqlite")
key = sa.Text(collation="C").with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "runs",
        sa.Column("id", number, sa.Identity(always=True), primary_key=True),
        sa.Column("run_id", key, nullable=False, unique=True),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", real, nullable=False),
        sa.Column("ended_at", real),
        sa.Column("file", sa.Text),
        sa.Column("failure", sa.Text),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", number, nullable=False),
        sa.Column("pid_started", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("runs_created", "runs", [sa.text("created_at DESC")])
    op.create_table(
        "events",
        sa.Column("run", number, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("position", number, primary_key=True),
        sa.Column("at", real, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("body", sa.Text),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "requests",
        sa.Column("run", number, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("number", number, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
