"""From an address to a run store: a path is a SQLite file, `postgresql://…` a database; and what revision its tables have.

It is here and not in `wiring` because who looks at runs needs no planner, whose import takes longer than listing them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowmason_ray.errors import StoreError, nearest
from flowmason_ray.settings import Project
from flowmason_ray.stores.blobs import open_blobs
from flowmason_ray.stores.owners import LEASE_S
from flowmason_ray.stores.sqlite_files import SCHEMA_REVISION

if TYPE_CHECKING:
    from flowmason_ray.stores.postgres import PostgresRunStore
    from flowmason_ray.stores.sqlite import SqliteRunStore

STORE_VARIABLE = "FLOWMASON_STORE"
"""Says where runs are recorded, instead of the project's `stores.runs`: a URL with a password is better not in a file."""
BLOBS_VARIABLE = "FLOWMASON_BLOBS"
"""Says where large values are kept, instead of the project's `stores.blobs`."""
POSTGRES = ("postgresql://", "postgres://")
_SCHEMES = ("postgresql", "postgres", "sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesStatus:
    """What revision the tables of a run log have."""

    address: str
    """Without a password."""
    revision: int
    """0: there are no tables yet."""
    known: int = SCHEMA_REVISION
    """The newest revision that this version knows."""

    @property
    def words(self) -> str:
        """`up to date`, `not set up`, `to be upgraded` or `newer than this FlowMason`."""
        if self.revision == self.known:
            return "up to date"
        if self.revision == 0:
            return "not set up"
        return "to be upgraded" if self.revision < self.known else "newer than this FlowMason"


def store_addresses(project: Project) -> tuple[str, str]:
    """Return where a project's runs and their large values are: the environment's word comes before the project's."""
    stores = project.settings.stores
    return os.environ.get(STORE_VARIABLE) or stores.runs, os.environ.get(BLOBS_VARIABLE) or stores.blobs


def project_store(project: Project) -> SqliteRunStore | PostgresRunStore:
    """Return a project's run store.

    Raises:
        StoreError: its address is none that we know.
        MissingExtra: what it needs is not installed.
    """
    return open_store(*store_addresses(project), project.root, lease_s=project.settings.stores.lease_s)


def open_store(runs: str, blobs: str, root: Path, *, lease_s: float = LEASE_S) -> SqliteRunStore | PostgresRunStore:
    """Return the run store at an address. Nothing is opened yet.

    Args:
        runs: A file, relative to `root`, or a URL.
        blobs: A directory, relative to `root`, or a URL.
        root: The project's directory.
        lease_s: How long a run belongs to a process that is not heard of.

    Raises:
        StoreError: the address is none that we know.
        MissingExtra: what it needs is not installed.
    """
    if runs.startswith(POSTGRES):
        from flowmason_ray.stores.postgres import PostgresRunStore

        return PostgresRunStore(runs, open_blobs(blobs, root), lease_s=lease_s)
    from flowmason_ray.stores.sqlite import SqliteRunStore

    return SqliteRunStore(sqlite_file(runs, root), open_blobs(blobs, root), lease_s=lease_s)


def sqlite_file(runs: str, root: Path) -> Path:
    """Return the file that an address names.

    Raises:
        StoreError: it is a URL of something that we do not know.
    """
    scheme, separator, rest = runs.partition("://")
    if not separator:
        return root / runs
    if scheme == "sqlite":
        return root / rest.removeprefix("/")  # sqlite:///relative, sqlite:////absolute, as SQLAlchemy has them
    close = nearest(scheme, _SCHEMES)
    hint = f" Did you mean {close!r}?" if close else ""
    raise StoreError(
        f"A run log cannot be kept at {scheme}://…: write the path of a SQLite file, or a URL that begins with postgresql://.{hint}"
    )


def tables_status(runs: str, root: Path) -> TablesStatus:
    """Return what revision the tables at an address have.

    Raises:
        StoreError: they cannot be reached.
    """
    if runs.startswith(POSTGRES):
        from flowmason_ray.stores.postgres_connections import Address, clear_errors, close, connect, revision

        address = Address(runs)
        connection = connect(address, checked=False)
        try:
            with clear_errors(address, "read", connection):
                return TablesStatus(address=str(address), revision=revision(connection))
        finally:
            close(connection)
    from flowmason_ray.stores.sqlite_files import clear_errors as clear_file_errors

    file = sqlite_file(runs, root)
    if not file.exists():
        return TablesStatus(address=str(file), revision=0)
    with clear_file_errors(file, "read"), closing(sqlite3.connect(file)) as connection:
        return TablesStatus(address=str(file), revision=connection.execute("PRAGMA user_version").fetchone()[0])


def upgrade_tables(runs: str, root: Path) -> TablesStatus:
    """Make the tables at an address, or bring them up to date; return what they are now.

    Raises:
        StoreError: they cannot be reached or changed, or are newer than we know.
    """
    if runs.startswith(POSTGRES):
        from flowmason_ray.stores.postgres_connections import Address
        from flowmason_ray.stores.postgres_upgrading import upgrade_database

        upgrade_database(Address(runs))
    else:
        from flowmason_ray.stores.sqlite_files import clear_errors, open_for_writing

        file = sqlite_file(runs, root)
        with clear_errors(file, "open"):
            open_for_writing(file).close()
    return tables_status(runs, root)
