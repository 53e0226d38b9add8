"""Making and upgrading the tables in PostgreSQL: what `fm db upgrade` does. Imports SQLAlchemy and alembic."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from flowmason_ray.errors import StoreUnavailable
from flowmason_ray.stores.migrations import upgrade_postgres
from flowmason_ray.stores.postgres_connections import (
    SCHEMA_NAME,
    SCHEMA_REVISION,
    Address,
    check_revision,
    clear_errors,
    close,
    connect,
    revision,
)


def upgrade_database(address: Address) -> None:
    """Make the tables, or bring them up to date. Nothing is changed unless all of it is.

    Raises:
        StoreError: they are newer than we know.
        StoreUnavailable: the database cannot be reached, or its user may not make tables.
    """
    connection = connect(address, checked=False)
    try:
        with clear_errors(address, "upgrade", connection):
            if revision(connection) > SCHEMA_REVISION:
                check_revision(address, revision(connection))
        upgrade_postgres(connection, SCHEMA_NAME)
    except DBAPIError as exc:
        said = address.without_password(str(exc.orig)).strip().split("\n")[0]
        hint = "The user needs the right to make a schema in the database." if "permission" in said else ""
        raise StoreUnavailable(f"Cannot upgrade the run log {address}: {said.rstrip('.')}. {hint}".rstrip()) from None
    finally:
        close(connection)
