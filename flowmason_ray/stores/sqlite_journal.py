"""One run in the SQLite file, as its writer sees it: the statements behind `group_commit`."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from flowmason_ray.engine.run_log import CachedResult, Request, RunRecord
from flowmason_ray.errors import Fenced, StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import BlobStore
from flowmason_ray.stores.group_commit import BlobsGone, Group, KeptResult, Status
from flowmason_ray.stores.owners import this_process
from flowmason_ray.stores.records import (
    COLUMNS,
    gone,
    gone_on_with,
    may_take_over,
    record_of,
    request_of,
    result_of,
    sound,
)
from flowmason_ray.stores.sqlite_files import NOW, clear_errors, open_for_reading, open_for_writing

KEPT = (
    f"SELECT run_id, created_at, body FROM results WHERE fingerprint = ? AND (expires_at IS NULL OR expires_at > {NOW})"
)
_INSERT_EVENT = "INSERT INTO events (run, position, at, kind, path, body)"
_INSERT_SAID = "INSERT INTO stage_logs (run, number, at, path, attempt, level, message, fields)"


class SqliteJournal:
    """The rows of one run.

    A new run gets its row in the transaction of its first events: a run that is there at all can be taken up again.
    """

    def __init__(
        self, file: Path, blobs: BlobStore | None, record: RunRecord, *, lease_s: float, reopen: bool = False
    ) -> None:
        """
        Raises:
            Fenced: with `reopen`, the run is neither paused nor interrupted.
            StoreUnavailable: the file cannot be opened or written.
        """
        self.where = f"The run log {file}"
        self.epoch = 1
        self.recorded = 0
        self.asked_before = 0
        self.said = 0
        self._file = file
        self._blobs = blobs
        self._lease_s = lease_s
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._record = record
        self._run_id = record.run_id
        with clear_errors(file, "open"):
            self._connection = open_for_writing(file)
            try:
                self._inode = os.stat(file).st_ino
                if not reopen:
                    self._refuse_known(record)
                self._run: int | None = self._take_over(record) if reopen else None
                self.store_id: str = self._connection.execute("SELECT id FROM store").fetchone()[0]
            except BaseException:
                self._connection.close()
                raise

    def _refuse_known(self, record: RunRecord) -> None:
        if self._connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (record.run_id,)).fetchone():
            raise StoreError(f"There is a run {record.run_id!r} already.")

    def _insert(self, record: RunRecord) -> int:
        owner = this_process()
        if record.based_on is not None:  # here, where one writes at a time: two may have begun to go on with that run
            found = self._connection.execute(
                "SELECT run_id FROM runs WHERE based_on = ?", (record.based_on,)
            ).fetchone()
            if found is not None:
                raise gone_on_with(record.based_on, found[0])
        cursor = self._connection.execute(
            "INSERT INTO runs (run_id, pipeline, version, status, created_at, file, host, pid, pid_started, boot,"
            " based_on, lease_until)"
            f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {NOW} + ?)",
            (
                record.run_id,
                record.pipeline,
                record.version,
                record.status,
                record.created_at,
                record.file,
                owner.host,
                owner.pid,
                owner.started,
                owner.boot,
                record.based_on,
                self._lease_s,
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _take_over(self, record: RunRecord) -> int:
        """Become the writer of a run that is paused or interrupted; return its number."""
        connection, owner = self._connection, this_process()
        connection.execute("BEGIN IMMEDIATE")
        try:
            row: tuple[Any, ...] | None = connection.execute(
                f"SELECT id, epoch, {COLUMNS}, {NOW} FROM runs WHERE run_id = ?", (record.run_id,)
            ).fetchone()
            if row is None:
                raise gone(record.run_id)
            run, epoch, *rest = row
            with sound(self.where):
                may_take_over(record_of(rest))
                self.epoch = int(epoch) + 1
            connection.execute(
                "UPDATE runs SET status = 'running', epoch = ?, host = ?, pid = ?, pid_started = ?, boot = ?,"
                f" lease_until = {NOW} + ? WHERE id = ?",
                (self.epoch, owner.host, owner.pid, owner.started, owner.boot, self._lease_s, run),
            )
            last = connection.execute("SELECT coalesce(max(position), 0) FROM events WHERE run = ?", (run,))
            self.recorded = last.fetchone()[0]
            asked = connection.execute("SELECT coalesce(max(number), 0) FROM requests WHERE run = ?", (run,))
            self.asked_before = asked.fetchone()[0]
            said = connection.execute("SELECT coalesce(max(number), 0) FROM stage_logs WHERE run = ?", (run,))
            self.said = said.fetchone()[0]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return run

    # -- for the writer's thread ----------------------------------------------------------------------------------------

    def write(self, group: Group, *, renew: bool) -> None:
        """Commit a group in one transaction."""
        if self._run is None and not (group.rows or group.results):
            return
        new = self._run is None
        with clear_errors(self._file, "write"):
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                if new:
                    self._run = self._insert(self._record)
                else:
                    self._hold(renew)
                if group.digests or group.results:
                    self._refer(group)
                if group.rows:
                    # The run's number stands in the statement: rows go in as they are.
                    connection.executemany(f"{_INSERT_EVENT} VALUES ({self._run:d}, ?, ?, ?, ?, ?)", group.rows)
                if group.said:
                    connection.executemany(f"{_INSERT_SAID} VALUES ({self._run:d}, ?, ?, ?, ?, ?, ?, ?)", group.said)
                if group.status is not None:
                    self._set_status(group.status)
                self._check_file()
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if new:
                    self._run = None
                raise

    def _hold(self, renew: bool) -> None:
        """Make sure that the epoch is ours; with `renew`, for longer."""
        if renew:
            cursor = self._connection.execute(
                f"UPDATE runs SET lease_until = {NOW} + ? WHERE id = ? AND epoch = ?",
                (self._lease_s, self._run, self.epoch),
            )
            held = cursor.rowcount == 1
        else:
            row = self._connection.execute("SELECT epoch FROM runs WHERE id = ?", (self._run,)).fetchone()
            held = row is not None and row[0] == self.epoch
        if not held:
            raise Fenced(
                f"Run {self._run_id!r} was taken over by another process, or removed; nothing more of this one is recorded."
            )

    def _refer(self, group: Group) -> None:
        """Record results, and which blobs are referred to: those that are there."""
        wanted = group.digests.union(*(kept.digests for kept in group.results))
        if self._blobs is not None and (gone := self._blobs.confirm(wanted)):
            raise BlobsGone(f"Blobs that were just written are gone: {', '.join(sorted(gone)[:3])}.")
        self._connection.executemany(
            "INSERT OR IGNORE INTO blob_refs (run, digest) VALUES (?, ?)",
            [(self._run, digest) for digest in group.digests],
        )
        for kept in group.results:
            self._keep(kept)

    def _keep(self, kept: KeptResult) -> None:
        connection = self._connection
        connection.execute("DELETE FROM result_blobs WHERE fingerprint = ?", (kept.fingerprint,))
        connection.execute(
            "INSERT OR REPLACE INTO results (fingerprint, run_id, created_at, expires_at, body)"
            f" VALUES (?, ?, {NOW}, {NOW} + ?, ?)",  # NULL: for ever
            (kept.fingerprint, self._run_id, kept.ttl_s, kept.body),
        )
        connection.executemany(
            "INSERT INTO result_blobs (fingerprint, digest) VALUES (?, ?)",
            [(kept.fingerprint, digest) for digest in kept.digests],
        )

    def _set_status(self, status: Status) -> None:
        failure = orjson.dumps(status.failure).decode() if status.failure else None
        lease = f"{NOW} + {self._lease_s!r}" if status.name == "running" else "NULL"
        self._connection.execute(
            f"UPDATE runs SET status = ?, ended_at = ?, failure = ?, lease_until = {lease} WHERE id = ?",
            (status.name, status.ended_at, failure, self._run),
        )

    def _check_file(self) -> None:
        """See that the file is still where it was: SQLite goes on writing to one that was removed, and nobody reads that."""
        try:
            found = os.stat(self._file).st_ino
        except FileNotFoundError:
            found = None
        if found != self._inode:
            raise StoreUnavailable(
                f"The run log {self._file} was {'removed' if found is None else 'replaced'} while the run was writing it. "
                "Nothing more can be recorded; start the run anew."
            )

    def recover(self) -> int:
        """Return the last position: a file is never lost and found again."""
        row = self._connection.execute("SELECT max(position) FROM events WHERE run = ?", (self._run,)).fetchone()
        return row[0] or 0

    def idle(self) -> None:
        """Nothing can wait: followers look for themselves."""

    def release(self) -> None:
        """Give the lease back."""
        with suppress(sqlite3.Error):
            self._connection.execute(
                "UPDATE runs SET lease_until = 0 WHERE id = ? AND epoch = ? AND status = 'running'",
                (self._run, self.epoch),
            )

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._connection.close()
        with self._reading:
            if self._reader is not None:
                self._reader.close()

    # -- from any thread --------------------------------------------------------------------------------------------------

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with clear_errors(self._file, "read"), self._reading:
            if self._reader is None:
                self._reader, _ = open_for_reading(self._file)
            return self._reader.execute(statement, values).fetchall()

    def requests(self, after: int) -> Sequence[Request]:
        """Return what was asked of the run."""
        rows = self._rows(
            "SELECT number, kind, body FROM requests WHERE run = ? AND number > ? ORDER BY number", (self._run, after)
        )
        with sound(self.where):
            return [request_of(*row) for row in rows]

    def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return a result that is kept."""
        try:
            rows = self._rows(KEPT, (fingerprint,))
        except StoreError:
            return None
        return result_of(self._blobs, *rows[0]) if rows else None
