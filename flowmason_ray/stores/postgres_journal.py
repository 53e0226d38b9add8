"""One run in PostgreSQL, as its writer sees it: the statements behind `group_commit`.

A commit is one statement in the usual case, so one round trip: it locks the run's row, if the epoch is ours, and inserts. The lock
lets a commit and a takeover happen only one after the other. Followers are told by NOTIFY, outside of the commit (which would
make all commits of the server queue up) and not more often than they can read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, LiteralString

import orjson
import psycopg

from flowmason_ray.engine.run_log import CachedResult, Request, RunRecord
from flowmason_ray.errors import Fenced, StoreError
from flowmason_ray.stores.blobs import BlobStore
from flowmason_ray.stores.group_commit import BlobsGone, ConnectionLost, Group, KeptResult, SaidRow, Status
from flowmason_ray.stores.owners import clock, this_process
from flowmason_ray.stores.postgres_connections import NOW, Address, Connection, clear_errors, close, connect
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

CHANNEL = "flowmason_events"
"""What followers listen to; the message is the run's id."""
BLOB_LOCK = 0x666D_626C_6F62
"""The advisory lock between recording references to blobs (shared) and removing blobs (alone)."""
KEPT: LiteralString = (
    "SELECT run_id, created_at, body FROM results WHERE fingerprint = %s"
    f" AND (expires_at IS NULL OR expires_at > {NOW})"
)
NOTIFY_S = 0.05
"""How often followers are told of news at most."""
LOCK_TIMEOUT = "5s"
"""How long a lock is waited for that a lost connection may still hold on the server."""

_LOCKED = "SELECT id FROM runs WHERE id = %(run)s AND epoch = %(epoch)s FOR UPDATE"
_RENEWED = f"UPDATE runs SET lease_until = {NOW} + %(lease)s WHERE id = %(run)s AND epoch = %(epoch)s RETURNING id"
_INSERT = (
    " INSERT INTO events (run, position, at, kind, path, body) SELECT held.id, rows.* FROM held, unnest("
    "%(positions)s::bigint[], %(times)s::float8[], %(kinds)s::text[], %(paths)s::text[], %(bodies)s::text[]) AS rows"
)
_WRITE: dict[bool, LiteralString] = {
    False: f"WITH held AS ({_LOCKED}){_INSERT}",
    True: f"WITH held AS ({_RENEWED}){_INSERT}",
}
_HOLD: dict[bool, LiteralString] = {False: _LOCKED, True: _RENEWED}


class PostgresJournal:
    """The rows of one run.

    A new run gets its row in the transaction of its first events: a run that is there at all can be taken up again.
    """

    def __init__(
        self, address: Address, blobs: BlobStore | None, record: RunRecord, *, lease_s: float, reopen: bool = False
    ) -> None:
        """
        Raises:
            Fenced: with `reopen`, the run is neither paused nor interrupted.
            StoreUnavailable: the database cannot be reached or written.
            StoreError: its tables are not there, or not of our revision.
        """
        self.where = f"The run log {address}"
        self.epoch = 1
        self.recorded = 0
        self.asked_before = 0
        self.said = 0
        self._address = address
        self._blobs = blobs
        self._lease_s = lease_s
        self._record = record
        self._run_id = record.run_id
        self._told_at = 0.0
        self._untold = False
        self._reading = threading.Lock()
        self._reader: Connection | None = None
        self._connection = connect(address)
        try:
            with clear_errors(address, "write", self._connection):
                if not reopen:
                    self._refuse_known(record)
                self._run: int | None = self._take_over(record) if reopen else None
                self.store_id: str = self._one("SELECT id FROM store")[0]
        except BaseException:
            close(self._connection)
            raise

    def _one(self, statement: LiteralString, values: Sequence[Any] | dict[str, Any] = ()) -> tuple[Any, ...]:
        row = self._connection.execute(statement, values).fetchone()
        if row is None:
            raise StoreError(f"{self.where} is not whole: something has removed rows from it.")
        return row

    def _refuse_known(self, record: RunRecord) -> None:
        if self._connection.execute("SELECT 1 FROM runs WHERE run_id = %s", (record.run_id,)).fetchone():
            raise StoreError(f"There is a run {record.run_id!r} already.")

    def _insert(self, record: RunRecord) -> int:
        owner = this_process()
        if record.based_on is not None:  # two may have begun to go on with that run: its row is what they wait for
            self._connection.execute("SELECT id FROM runs WHERE run_id = %s FOR UPDATE", (record.based_on,))
            found = self._connection.execute(
                "SELECT run_id FROM runs WHERE based_on = %s AND run_id <> %s", (record.based_on, record.run_id)
            ).fetchone()
            if found is not None:
                raise gone_on_with(record.based_on, found[0])
        return self._one(
            "INSERT INTO runs (run_id, pipeline, version, status, created_at, file, host, pid, pid_started, boot,"
            " based_on, lease_until)"
            f" VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {NOW} + %s) RETURNING id",
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
        )[0]

    def _take_over(self, record: RunRecord) -> int:
        """Become the writer of a run that is paused or interrupted; return its number."""
        owner = this_process()
        with self._connection.transaction():
            row = self._connection.execute(
                f"SELECT id, epoch, {COLUMNS}, {NOW} FROM runs WHERE run_id = %s FOR UPDATE", (record.run_id,)
            ).fetchone()
            if row is None:
                raise gone(record.run_id)
            run, epoch, *rest = row
            with sound(self.where):
                may_take_over(record_of(rest))
            self.epoch = epoch + 1
            self._connection.execute(
                "UPDATE runs SET status = 'running', epoch = %s, host = %s, pid = %s, pid_started = %s, boot = %s,"
                f" lease_until = {NOW} + %s WHERE id = %s",
                (self.epoch, owner.host, owner.pid, owner.started, owner.boot, self._lease_s, run),
            )
            self.recorded = self._one("SELECT coalesce(max(position), 0) FROM events WHERE run = %s", (run,))[0]
            self.asked_before = self._one("SELECT coalesce(max(number), 0) FROM requests WHERE run = %s", (run,))[0]
            self.said = self._one("SELECT coalesce(max(number), 0) FROM stage_logs WHERE run = %s", (run,))[0]
        return run

    # -- for the writer's thread ----------------------------------------------------------------------------------------

    def write(self, group: Group, *, renew: bool) -> None:
        """Commit a group in one transaction."""
        if self._run is None and not (group.rows or group.results):
            return
        values = {"run": self._run, "epoch": self.epoch, "lease": self._lease_s}
        with clear_errors(self._address, "write", self._connection):
            try:
                if self._run is None:
                    self._begin_run(group, values)
                elif group.digests or group.results or group.said or group.status is not None:
                    with self._connection.transaction():
                        self._write_all(group, values, renew)
                elif group.rows:
                    self._write_rows(group, values, renew)
                else:
                    self._held(self._connection.execute(_HOLD[renew], values).rowcount)
            except psycopg.errors.UniqueViolation as exc:
                # A commit of ours whose connection was lost got through only now: what is recorded has to be looked up.
                raise ConnectionLost(f"{self.where} holds events already that were about to be recorded.") from exc
        self._untold = bool(group.rows or group.said) or self._untold
        self._tell()

    def _begin_run(self, group: Group, values: dict[str, Any]) -> None:
        try:
            with self._connection.transaction():
                self._run = values["run"] = self._insert(self._record)
                self._write_all(group, values, renew=False)
        except BaseException:
            self._run = None
            raise

    def _write_all(self, group: Group, values: dict[str, Any], renew: bool) -> None:
        connection = self._connection
        wanted = group.digests.union(*(kept.digests for kept in group.results))
        if wanted:  # before the run's row: whoever removes blobs never waits for that
            connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (BLOB_LOCK,))
        self._held(connection.execute(_HOLD[renew], values).rowcount)
        if self._blobs is not None and (missing := self._blobs.confirm(wanted)):
            raise BlobsGone(f"Blobs that were just written are gone: {', '.join(sorted(missing)[:3])}.")
        if group.rows:
            self._write_rows(group, values, renew=False)
        if group.digests:
            connection.execute(
                "INSERT INTO blob_refs (run, digest) SELECT %s, unnest(%s::text[]) ON CONFLICT DO NOTHING",
                (self._run, list(group.digests)),
            )
        for kept in group.results:
            self._keep(kept)
        if group.said:
            self._say(group.said)
        if group.status is not None:
            self._set_status(group.status)

    def _say(self, said: Sequence[SaidRow]) -> None:
        columns = [list(column) for column in zip(*said, strict=True)]
        self._connection.execute(  # a commit whose outcome was not known may have brought some of them before
            "INSERT INTO stage_logs (run, number, at, path, attempt, level, message, fields) SELECT %s, rows.* FROM unnest("
            "%s::bigint[], %s::float8[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[]) AS rows"
            " ON CONFLICT DO NOTHING",
            (self._run, *columns),
        )

    def _write_rows(self, group: Group, values: dict[str, Any], renew: bool) -> None:
        positions, times, kinds, paths, bodies = (list(column) for column in zip(*group.rows, strict=True))
        columns = {"positions": positions, "times": times, "kinds": kinds, "paths": paths, "bodies": bodies}
        self._held(self._connection.execute(_WRITE[renew], {**values, **columns}).rowcount)

    def _held(self, count: int) -> None:
        if count < 1:
            raise Fenced(
                f"Run {self._run_id!r} was taken over by another process, or removed; nothing more of this one is recorded."
            )

    def _keep(self, kept: KeptResult) -> None:
        connection = self._connection
        # The row first: two runs may keep the same result at the same time, and then wait for each other here.
        connection.execute(
            "INSERT INTO results (fingerprint, run_id, created_at, expires_at, body)"
            f" VALUES (%s, %s, {NOW}, {NOW} + %s, %s) ON CONFLICT (fingerprint) DO UPDATE SET run_id = excluded.run_id,"
            " created_at = excluded.created_at, expires_at = excluded.expires_at, body = excluded.body",
            (kept.fingerprint, self._run_id, kept.ttl_s, kept.body),
        )
        connection.execute("DELETE FROM result_blobs WHERE fingerprint = %s", (kept.fingerprint,))
        if kept.digests:
            connection.execute(
                "INSERT INTO result_blobs (fingerprint, digest) SELECT %s, unnest(%s::text[])",
                (kept.fingerprint, list(kept.digests)),
            )

    def _set_status(self, status: Status) -> None:
        failure = orjson.dumps(status.failure).decode() if status.failure else None
        lease = self._lease_s if status.name == "running" else None
        self._connection.execute(
            f"UPDATE runs SET status = %s, ended_at = %s, failure = %s, lease_until = {NOW} + %s WHERE id = %s",
            (status.name, status.ended_at, failure, lease, self._run),
        )

    def _tell(self) -> None:
        """Tell followers that there is something to read, if that was not just done."""
        if self._untold and clock() - self._told_at > NOTIFY_S:
            with suppress(psycopg.Error):  # they also look by themselves
                self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._run_id))
            self._told_at, self._untold = clock(), False

    def idle(self) -> None:
        """Tell followers what was not told yet."""
        self._tell()

    def recover(self) -> int:
        """Connect anew; return the last position. A commit that is still under way on the server is waited for."""
        close(self._connection)
        self._connection = connect(self._address)
        with clear_errors(self._address, "read", self._connection), self._connection.transaction():
            self._connection.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
            if self._run is None:  # its first commit was lost, or came through after all
                owner = this_process()
                row = self._connection.execute(
                    "SELECT id, host, pid, pid_started FROM runs WHERE run_id = %s", (self._run_id,)
                ).fetchone()
                if row is None:
                    return 0
                self._held(1 if tuple(row[1:]) == (owner.host, owner.pid, owner.started) else 0)
                self._run = row[0]
            held = self._connection.execute("SELECT epoch FROM runs WHERE id = %s FOR UPDATE", (self._run,)).fetchone()
            self._held(1 if held is not None and held[0] == self.epoch else 0)
            return self._one("SELECT coalesce(max(position), 0) FROM events WHERE run = %s", (self._run,))[0]

    def release(self) -> None:
        """Give the lease back, and tell followers."""
        with suppress(psycopg.Error):
            self._connection.execute(
                "UPDATE runs SET lease_until = 0 WHERE id = %s AND epoch = %s AND status = 'running'",
                (self._run, self.epoch),
            )
            self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._run_id))

    def close(self) -> None:
        """Close the connections."""
        close(self._connection)
        with self._reading:
            close(self._reader)

    # -- from any thread --------------------------------------------------------------------------------------------------

    def _rows(self, statement: LiteralString, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._reading:
            if self._reader is None or self._reader.closed:
                self._reader = connect(self._address)
            with clear_errors(self._address, "read", self._reader):
                return self._reader.execute(statement, values).fetchall()

    def requests(self, after: int) -> Sequence[Request]:
        """Return what was asked of the run."""
        rows = self._rows(
            "SELECT number, kind, body FROM requests WHERE run = %s AND number > %s ORDER BY number", (self._run, after)
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
