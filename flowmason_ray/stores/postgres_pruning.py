"""The tables in PostgreSQL, for `stores.pruning`."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, LiteralString

from flowmason_ray.stores.postgres_connections import NOW, Address, clear_errors, close, connect
from flowmason_ray.stores.postgres_journal import BLOB_LOCK
from flowmason_ray.stores.records import ENDED


class PostgresShelves:
    """The tables; a context manager that closes the connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection = connect(address)
        self.store_id: str = self._rows("SELECT id FROM store")[0][0]

    def __enter__(self) -> PostgresShelves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close(self._connection)

    def _rows(self, statement: LiteralString, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        with clear_errors(self._address, "prune", self._connection):
            return self._connection.execute(statement, values).fetchall()

    def doomed(self, older_than_s: float | None, keep: int | None) -> list[str]:
        """Return the ids of the ended runs that are to go."""
        rows = self._rows(
            f"SELECT run_id, ended_at < {NOW} - %s FROM runs WHERE status = ANY(%s)"
            " ORDER BY ended_at DESC, id DESC OFFSET %s",
            (older_than_s or 0.0, list(ENDED), keep or 0),
        )
        return [run_id for run_id, old in rows if old or older_than_s is None]

    def remove_run(self, run_id: str) -> None:
        """Remove an ended run."""
        with clear_errors(self._address, "prune", self._connection), self._connection.transaction():
            row = self._connection.execute(
                "SELECT id FROM runs WHERE run_id = %s AND status = ANY(%s) FOR UPDATE", (run_id, list(ENDED))
            ).fetchone()
            if row is not None:
                statements: tuple[LiteralString, ...] = (
                    "DELETE FROM events WHERE run = %s",
                    "DELETE FROM requests WHERE run = %s",
                    "DELETE FROM stage_logs WHERE run = %s",
                    "DELETE FROM blob_refs WHERE run = %s",
                    "DELETE FROM runs WHERE id = %s",
                )
                for statement in statements:
                    self._connection.execute(statement, row)

    def expired(self) -> int:
        """Return how many results have expired."""
        return self._rows(f"SELECT count(*) FROM results WHERE expires_at <= {NOW}")[0][0]

    def remove_expired(self) -> int:
        """Remove the results that have expired."""
        with clear_errors(self._address, "prune", self._connection), self._connection.transaction():
            found = self._connection.execute(
                f"SELECT fingerprint FROM results WHERE expires_at <= {NOW} ORDER BY fingerprint FOR UPDATE"
            ).fetchall()
            names = [row[0] for row in found]
            self._connection.execute("DELETE FROM result_blobs WHERE fingerprint = ANY(%s)", (names,))
            self._connection.execute("DELETE FROM results WHERE fingerprint = ANY(%s)", (names,))
        return len(names)

    @contextmanager
    def alone(self) -> Generator[None]:
        """Hold the lock on references."""
        with clear_errors(self._address, "prune", self._connection), self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (BLOB_LOCK,))
            yield

    def references(self, digests: Sequence[str]) -> list[tuple[str, str | None]]:
        """Return who refers to these blobs."""
        rows: list[Any] = self._rows(
            "SELECT digest, run_id FROM blob_refs JOIN runs ON runs.id = blob_refs.run WHERE digest = ANY(%(digests)s)"
            " UNION ALL SELECT digest, NULL FROM result_blobs JOIN results USING (fingerprint)"
            f" WHERE digest = ANY(%(digests)s) AND (expires_at IS NULL OR expires_at > {NOW})",
            {"digests": list(digests)},
        )
        return rows
