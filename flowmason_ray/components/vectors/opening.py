"""Which vector store a stage uses: the connection that it names, else the project's, else the project's file."""

from __future__ import annotations

from flowmason_ray.components.files import resolve_inside
from flowmason_ray.components.vectors.port import VectorStore
from flowmason_ray.connections import PostgresConnection
from flowmason_ray.engine.component import Context


def store_of(context: Context, connection: str | None) -> VectorStore:
    """Return the store, not open yet.

    Args:
        context: Knows the project.
        connection: A connection of the project of type `postgres`; None: what the project says.

    Raises:
        PermanentError: there is no such connection, or the project's file lies outside of the project.
        MissingExtra: what the store needs is not installed.
    """
    settings = context.settings.retrieval
    chosen = connection or settings.connection
    if chosen is None:
        from flowmason_ray.components.vectors.sqlite import SqliteVectorStore

        # The settings name it, no config: it may lie where components write nothing else.
        return SqliteVectorStore(resolve_inside(context.project_dir, settings.file, reading=True))
    target = context.connection(chosen, PostgresConnection)
    from flowmason_ray.components.vectors.pgvector import PgVectorStore

    password = target.password
    return PgVectorStore(str(target.url), password=None if password is None else str(password))
