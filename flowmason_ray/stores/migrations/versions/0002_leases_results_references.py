"""Leases with epochs, results that later runs may use, and who refers to which blob.

A run that is under way keeps `lease_until` NULL: whoever writes it promised no lease, and is judged by its process alone.
What events refer to is found out by reading all that could.
"""

from __future__ import annotations

import re
from uuid import uuid4

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import sqlite

revision = "0002"
down_revision = "0001"

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
real = sa.Double[float]().with_variant(sqlite.REAL(), "sqlite")
key = sa.Text(collation="C").with_variant(sa.Text(), "sqlite")

DIGEST = re.compile('"digest":"(sha256:[0-9a-f]{64})"')


def upgrade() -> None:
    """Add columns and tables, and fill in the references."""
    op.add_column("runs", sa.Column("boot", sa.Text))
    op.add_column("runs", sa.Column("epoch", number, nullable=False, server_default=sa.text("1")))
    op.add_column("runs", sa.Column("lease_until", real))
    op.add_column("runs", sa.Column("based_on", sa.Text))
    op.create_index("runs_status", "runs", ["status", "created_at"])
    op.create_index("runs_pipeline", "runs", ["pipeline", "created_at"])
    known = sa.text("based_on IS NOT NULL")
    op.create_index("runs_based_on", "runs", ["based_on"], sqlite_where=known, postgresql_where=known)
    references = op.create_table(
        "blob_refs",
        sa.Column("run", number, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("digest", key, primary_key=True),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("blob_refs_digest", "blob_refs", ["digest"])
    op.create_table(
        "results",
        sa.Column("fingerprint", key, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("created_at", real, nullable=False),
        sa.Column("expires_at", real),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("results_expires", "results", ["expires_at"])
    op.create_table(
        "result_blobs",
        sa.Column("fingerprint", key, sa.ForeignKey("results.fingerprint"), primary_key=True),
        sa.Column("digest", key, primary_key=True),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("result_blobs_digest", "result_blobs", ["digest"])
    store = op.create_table(
        "store", sa.Column("id", key, primary_key=True), sqlite_strict=True, sqlite_with_rowid=False
    )
    op.bulk_insert(store, [{"id": uuid4().hex}])
    _fill_in(references)


def _fill_in(references: sa.Table) -> None:
    events = sa.table("events", sa.column("run", sa.Integer), sa.column("body", sa.Text))
    connection = op.get_bind()
    found: set[tuple[int, str]] = set()
    for run, body in connection.execute(
        sa.select(events.c.run, events.c.body).where(events.c.body.contains('"digest":"sha256:'))
    ):
        found.update((run, digest) for digest in DIGEST.findall(body))
    if found:
        connection.execute(references.insert(), [{"run": run, "digest": digest} for run, digest in sorted(found)])
