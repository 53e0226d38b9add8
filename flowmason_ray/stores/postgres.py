"""Run logs in PostgreSQL: for runs of several machines, and as many at a time as a server takes.

The tables, the writer and what is promised are those of the SQLite store; here machines share them, so leases are judged by
the server's clock, and followers are told of news (LISTEN) instead of asking for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, LiteralString, TypeVar

import orjson

from flowmason_ray.engine.run_log import CachedResult, Pruned, Recorded, RunLog, RunRecord, Said
from flowmason_ray.errors import RunNotFound
from flowmason_ray.stores.blobs import BlobStore
from flowmason_ray.stores.following import follow
from flowmason_ray.stores.group_commit import PATIENCE_S, CommittingRunLog, ConnectionLost
from flowmason_ray.stores.owners import LEASE_S, clock
from flowmason_ray.stores.postgres_connections import NOW, Address, Connection, clear_errors, close, connect
from flowmason_ray.stores.postgres_journal import CHANNEL, KEPT, PostgresJournal
from flowmason_ray.stores.records import COLUMNS, only_one, record_of, recorded_of, result_of, said_of, sound

READ_PAGE = 1000
"""Events read at a time, so that following a long run takes bounded memory."""
LOOK_S = 1.0
"""How often a follower looks without being told: news may get lost with a connection, and that a run's process has gone is no
news at all."""
_SELECT: LiteralString = f"SELECT {COLUMNS}, {NOW} FROM runs"
_NEWEST: LiteralString = " ORDER BY created_at DESC, id DESC"


T = TypeVar("T")


class _Session:
    """One connection for reading."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._where = f"The run log {address}"
        self.connection: Connection = connect(address)

    def rows(self, statement: LiteralString, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        with clear_errors(self._address, "read", self.connection):
            return self.connection.execute(statement, list(values)).fetchall()

    def list(self, limit: int, pipeline: str | None, status: str | None, since: float | None) -> list[RunRecord]:
        # 'interrupted' is nowhere in the table: see the SQLite store.
        doubtful = status in ("running", "interrupted")
        where: list[LiteralString] = []
        values: list[Any] = []
        wanted: list[tuple[LiteralString, Any]] = [
            ("pipeline = %s", pipeline),
            ("status = %s", "running" if doubtful else status),
            ("created_at >= %s", since),
        ]
        for condition, value in wanted:
            if value is not None:
                where.append(condition)
                values.append(value)
        if status == "running":
            where.append(f"(lease_until IS NULL OR lease_until >= {NOW})")
        conditions: LiteralString = f" WHERE {' AND '.join(where)}" if where else ""
        found: list[RunRecord] = []
        with (
            clear_errors(self._address, "read", self.connection),
            sound(self._where),
            self.connection.transaction(),
            # On the server: of many runs that are not what they say, only as many are fetched as are needed.
            self.connection.cursor("flowmason_runs") as cursor,
        ):
            cursor.itersize = max(100, min(limit, READ_PAGE))
            cursor.execute(f"{_SELECT}{conditions}{_NEWEST} LIMIT %s", [*values, None if doubtful else limit])
            for row in cursor:
                record = record_of(row)
                if status in (None, record.status):
                    found.append(record)
                    if len(found) == limit:
                        break
        return found

    def find(self, wanted: str) -> RunRecord:
        if wanted == "last":
            rows = self.rows(f"{_SELECT}{_NEWEST} LIMIT 1")
        else:
            rows = self.rows(
                f"{_SELECT} WHERE run_id >= %s AND run_id < %s ORDER BY run_id LIMIT 6", (wanted, f"{wanted}~")
            )
        with sound(self._where):
            found = [record_of(row) for row in rows] if wanted else []
        return only_one(found[0].run_id if found and wanted == "last" else wanted, found)

    def page(self, run_id: str, after: int) -> list[Recorded]:
        rows = self.rows(
            "SELECT position, at, kind, path, body FROM events WHERE run = (SELECT id FROM runs WHERE run_id = %s)"
            " AND position > %s ORDER BY position LIMIT %s",
            (run_id, after, READ_PAGE),
        )
        if not rows and not self.rows("SELECT 1 FROM runs WHERE run_id = %s", (run_id,)):
            raise RunNotFound(f"There is no run {run_id!r}.")
        with sound(self._where):
            return [recorded_of(*row) for row in rows]

    def said_page(self, run_id: str, after: int) -> list[Said]:
        rows = self.rows(
            "SELECT number, at, path, attempt, level, message, fields FROM stage_logs"
            " WHERE run = (SELECT id FROM runs WHERE run_id = %s) AND number > %s ORDER BY number LIMIT %s",
            (run_id, after, READ_PAGE),
        )
        with sound(self._where):
            return [said_of(*row) for row in rows]

    def listen(self) -> None:
        with clear_errors(self._address, "read", self.connection):
            self.connection.execute(f"LISTEN {CHANNEL}")

    def news(self, run_id: str, timeout_s: float) -> None:
        """Wait until something was recorded in a run, or some time has passed."""
        with clear_errors(self._address, "read", self.connection):
            until = clock() + timeout_s
            while (left := until - clock()) > 0:
                told = list(self.connection.notifies(timeout=left, stop_after=1))
                if any(each.payload == run_id for each in told):
                    return

    def close(self) -> None:
        close(self.connection)


class _Follower:
    """A session that is opened again when its connection was lost, for somebody who follows a run for hours."""

    def __init__(self, address: Address, patience_s: float) -> None:
        self._address = address
        self._patience_s = patience_s
        self._session: _Session | None = None
        self._lost_at: float | None = None

    async def _try(self, work: Callable[[_Session], T]) -> T:
        """Do something with the session, again while the database is not there."""
        while True:
            try:
                found = await asyncio.to_thread(self._once, work)
            except ConnectionLost:
                self._lost_at = clock() if self._lost_at is None else self._lost_at
                if clock() - self._lost_at > self._patience_s:
                    raise
                await asyncio.sleep(0.2)
            else:
                self._lost_at = None
                return found

    def _once(self, work: Callable[[_Session], T]) -> T:
        try:
            if self._session is None:
                self._session = _Session(self._address)
                self._session.listen()
            return work(self._session)
        except ConnectionLost:
            self.close()
            raise

    async def find(self, run_id: str) -> RunRecord:
        return await self._try(lambda session: session.find(run_id))

    async def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        while True:
            page = await self._try(partial(_Session.page, run_id=run_id, after=after))
            if not page:
                return
            for recorded in page:
                yield recorded
            after = page[-1].position

    async def news(self, run_id: str) -> None:
        await self._try(lambda session: session.news(run_id, LOOK_S))

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


class PostgresRunStore:
    """All run logs in one database."""

    def __init__(
        self,
        url: str,
        blobs: BlobStore | None = None,
        *,
        lease_s: float = LEASE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """
        Args:
            url: `postgresql://user:password@host:port/database`; what is left out is taken from PGHOST, PGPASSWORD, ….
            blobs: Where large values go; None: into the database.
            lease_s: How long a run belongs to a process that is not heard of.
            patience_s: How long a database that was lost is tried again.

        Raises:
            StoreError: the URL is none.
        """
        self._address = Address(url)
        self.blobs = blobs
        self._lease_s = lease_s
        self._patience_s = patience_s

    @property
    def address(self) -> str:
        """The URL without its password, for messages."""
        return str(self._address)

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> RunLog:
        """Begin the log of a new run, in which `secrets` are masked.

        Raises:
            StoreUnavailable: the database cannot be reached or written.
            StoreError: its tables are not there, or not of our revision.
        """
        return self._log(record, secrets, reopen=False)

    def reopen(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> RunLog:
        """Go on with the log of a run that is paused or interrupted.

        Raises:
            Fenced: it is neither, or another process has taken it up.
            StoreError: as for `create`.
        """
        return self._log(record, secrets, reopen=True)

    def _log(self, record: RunRecord, secrets: Iterable[str], *, reopen: bool) -> RunLog:
        since = clock()
        journal = PostgresJournal(self._address, self.blobs, record, lease_s=self._lease_s, reopen=reopen)
        return CommittingRunLog(
            journal, self.blobs, secrets, since=since, lease_s=self._lease_s, patience_s=self._patience_s
        )

    # -- reading ----------------------------------------------------------------------------------------------------------

    async def list_runs(
        self, *, limit: int = 50, pipeline: str | None = None, status: str | None = None, since: float | None = None
    ) -> list[RunRecord]:
        """Return the newest runs first."""

        def work() -> list[RunRecord]:
            session = _Session(self._address)
            try:
                return session.list(limit, pipeline, status, since)
            finally:
                session.close()

        return await asyncio.to_thread(work)

    async def find(self, run_id: str) -> RunRecord:
        """Return a run by its id, by the only beginning of it, or the newest for `last`."""

        def work() -> RunRecord:
            session = _Session(self._address)
            try:
                return session.find(run_id)
            finally:
                session.close()

        return await asyncio.to_thread(work)

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return a result that a run has kept."""

        def work() -> CachedResult | None:
            session = _Session(self._address)
            try:
                rows = session.rows(KEPT, (fingerprint,))
            finally:
                session.close()
            return result_of(self.blobs, *rows[0]) if rows else None

        return await asyncio.to_thread(work)

    async def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run, from the one behind position `after`."""
        session = await asyncio.to_thread(_Session, self._address)
        try:
            while page := await asyncio.to_thread(session.page, run_id, after):
                for recorded in page:
                    yield recorded
                after = page[-1].position
        finally:
            session.close()

    async def said(self, run_id: str, *, after: int = 0) -> AsyncIterator[Said]:
        """Yield what the stages of a run said, from what comes behind number `after`."""
        session = await asyncio.to_thread(_Session, self._address)
        try:
            while page := await asyncio.to_thread(session.said_page, run_id, after):
                for said in page:
                    yield said
                after = page[-1].number
        finally:
            session.close()

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run as they are recorded, until one of them ends or pauses it, or it is interrupted."""
        follower = _Follower(self._address, self._patience_s)

        async def news() -> None:
            await follower.news(run_id)

        try:
            async for recorded in follow(follower, run_id, after, news):
                yield recorded
        finally:
            follower.close()

    # -- writing beside the logs --------------------------------------------------------------------------------------------

    async def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> None:
        """Ask something of a run, from any process."""
        await asyncio.to_thread(self._request, run_id, kind, orjson.dumps(dict(body)).decode())

    def _request(self, run_id: str, kind: str, body: str) -> None:
        connection = connect(self._address)
        try:
            with clear_errors(self._address, "write", connection), connection.transaction():
                row = connection.execute("SELECT id FROM runs WHERE run_id = %s FOR UPDATE", (run_id,)).fetchone()
                if row is None:
                    raise RunNotFound(f"There is no run {run_id!r}.")
                connection.execute(
                    "INSERT INTO requests (run, number, kind, body)"
                    " SELECT %s, coalesce(max(number), 0) + 1, %s, %s FROM requests WHERE run = %s",
                    (row[0], kind, body, row[0]),
                )
        finally:
            close(connection)

    async def prune(
        self, *, older_than_s: float | None = None, keep: int | None = None, dry_run: bool = False
    ) -> Pruned:
        """Remove ended runs, expired results, and the blobs that nothing refers to any more (`stores.pruning`)."""
        from flowmason_ray.stores.postgres_pruning import PostgresShelves
        from flowmason_ray.stores.pruning import prune

        def work() -> Pruned:
            with PostgresShelves(self._address) as shelves:
                return prune(shelves, self.blobs, older_than_s=older_than_s, keep=keep, dry_run=dry_run)

        return await asyncio.to_thread(work)
