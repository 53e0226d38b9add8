"""What stages say while they run, kept beside the events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import sqlite

revision = "0003"
down_revision = "0002"

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
real = sa.Double[float]().with_variant(sqlite.REAL(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "stage_logs",
        sa.Column("run", number, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("number", number, primary_key=True),
        sa.Column("at", real, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("attempt", number, nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("fields", sa.Text),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
