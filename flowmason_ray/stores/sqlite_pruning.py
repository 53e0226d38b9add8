"""The SQLite file's tables, for `stores.pruning`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from flowmason_ray.stores.records import ENDED
from flowmason_ray.stores.sqlite_files import NOW, open_for_writing

_ENDED = ", ".join(f"'{status}'" for status in ENDED)


class SqliteShelves:
    """The tables; a context manager that closes the file."""

    def __init__(self, file: Path) -> None:
        self._connection = open_for_writing(file)
        self.store_id: str = self._connection.execute("SELECT id FROM store").fetchone()[0]

    def __enter__(self) -> SqliteShelves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def doomed(self, older_than_s: float | None, keep: int | None) -> list[str]:
        """Return the ids of the ended runs that are to go."""
        rows = self._connection.execute(
            f"SELECT run_id, ended_at < {NOW} - ? FROM runs WHERE status IN ({_ENDED})"
            " ORDER BY ended_at DESC, id DESC LIMIT -1 OFFSET ?",
            (older_than_s or 0.0, keep or 0),
        )
        return [run_id for run_id, old in rows if old or older_than_s is None]

    @contextmanager
    def alone(self) -> Generator[None]:
        """Hold the write lock."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def remove_run(self, run_id: str) -> None:
        """Remove an ended run."""
        with self.alone():
            row = self._connection.execute(
                f"SELECT id FROM runs WHERE run_id = ? AND status IN ({_ENDED})", (run_id,)
            ).fetchone()
            if row is not None:
                for table in ("events", "requests", "stage_logs", "blob_refs"):
                    self._connection.execute(f"DELETE FROM {table} WHERE run = ?", row)
                self._connection.execute("DELETE FROM runs WHERE id = ?", row)

    def expired(self) -> int:
        """Return how many results have expired."""
        return self._connection.execute(f"SELECT count(*) FROM results WHERE expires_at <= {NOW}").fetchone()[0]

    def remove_expired(self) -> int:
        """Remove the results that have expired."""
        with self.alone():
            self._connection.execute(
                "DELETE FROM result_blobs WHERE fingerprint IN"
                f" (SELECT fingerprint FROM results WHERE expires_at <= {NOW})"
            )
            # A result may expire between the two statements; it goes with the next pruning then.
            return self._connection.execute(
                f"DELETE FROM results WHERE expires_at <= {NOW}"
                " AND fingerprint NOT IN (SELECT fingerprint FROM result_blobs)"
            ).rowcount

    def references(self, digests: Sequence[str]) -> list[tuple[str, str | None]]:
        """Return who refers to these blobs."""
        marks = ", ".join("?" * len(digests))
        return self._connection.execute(
            f"SELECT digest, run_id FROM blob_refs JOIN runs ON runs.id = blob_refs.run WHERE digest IN ({marks})"
            " UNION ALL SELECT digest, NULL FROM result_blobs JOIN results USING (fingerprint)"
            f" WHERE digest IN ({marks}) AND (expires_at IS NULL OR expires_at > {NOW})",
            (*digests, *digests),
        ).fetchall()
