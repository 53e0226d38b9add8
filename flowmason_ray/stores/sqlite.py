"""Run logs in one SQLite file: the default, for a laptop, an edge box and one machine's worth of runs.

One writer thread per run takes what is queued and commits it as a group, so that the price of a commit is shared (measured
for `engine.md`: 209 µs a row alone, 7 µs in groups of a hundred, with `synchronous=FULL`). The file is in WAL mode: other
processes read and write it at the same time; SQLite lets one of them commit at a time, the others wait.

Several runs share the tables: `runs` has a row per run, `events` one per event, whose `body` is JSON (`stores.encoding`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from flowmason_ray.engine.run_log import CachedResult, Pruned, Recorded, RunLog, RunRecord, Said
from flowmason_ray.errors import RunNotFound
from flowmason_ray.stores.blobs import BlobStore
from flowmason_ray.stores.following import follow
from flowmason_ray.stores.group_commit import CommittingRunLog
from flowmason_ray.stores.owners import LEASE_S, clock
from flowmason_ray.stores.records import COLUMNS, only_one, record_of, recorded_of, result_of, said_of, sound
from flowmason_ray.stores.sqlite_files import NOW, clear_errors, open_for_reading, open_for_writing
from flowmason_ray.stores.sqlite_journal import KEPT, SqliteJournal

READ_PAGE = 1000
"""Events read at a time, so that following a long run takes bounded memory."""
POLL_S = 0.05
"""How often a follower asks the file whether anything was committed, which reads no table (`PRAGMA data_version`)."""
LOOK_S = 1.0
"""How often it looks even so: that a run's process has gone changes nothing in the file."""


class SqliteRunStore:
    """All run logs in one file."""

    def __init__(self, file: Path, blobs: BlobStore | None = None, *, lease_s: float = LEASE_S) -> None:
        """
        Args:
            file: The file; made with the first run.
            blobs: Where large values go; None: into the file.
            lease_s: How long a run belongs to a process that is not heard of.
        """
        self._file = file
        self.blobs = blobs
        self._lease_s = lease_s

    @property
    def address(self) -> str:
        """The file, for messages."""
        return str(self._file)

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> RunLog:
        """Begin the log of a new run, in which `secrets` are masked.

        Raises:
            StoreUnavailable: the file cannot be opened or written.
        """
        return self._log(record, secrets, reopen=False)

    def reopen(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> RunLog:
        """Go on with the log of a run that is paused or interrupted.

        Raises:
            Fenced: it is neither, or another process has taken it up.
            StoreUnavailable: the file cannot be opened or written.
        """
        return self._log(record, secrets, reopen=True)

    def _log(self, record: RunRecord, secrets: Iterable[str], *, reopen: bool) -> RunLog:
        since = clock()
        journal = SqliteJournal(self._file, self.blobs, record, lease_s=self._lease_s, reopen=reopen)
        return CommittingRunLog(journal, self.blobs, secrets, since=since, lease_s=self._lease_s)

    # -- reading ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Generator[tuple[sqlite3.Connection, int] | None]:
        """Open the file; None when nothing was ever recorded."""
        with clear_errors(self._file, "read"):
            if not self._file.exists():
                yield None
                return
            connection, revision = open_for_reading(self._file)
            try:
                with sound(f"The run log {self._file}"):
                    yield (connection, revision) if revision else None
            finally:
                connection.close()

    async def list_runs(
        self, *, limit: int = 50, pipeline: str | None = None, status: str | None = None, since: float | None = None
    ) -> list[RunRecord]:
        """Return the newest runs first."""
        return await asyncio.to_thread(self._list, limit, pipeline, status, since)

    def _list(self, limit: int, pipeline: str | None, status: str | None, since: float | None) -> list[RunRecord]:
        # 'interrupted' is nowhere in the file: it is a run that says 'running' whose lease has run out or whose process has
        # gone. The first SQL can tell; the second is only looked at where the lease still lasts, so for few.
        doubtful = status in ("running", "interrupted")
        wanted = {"pipeline = ?": pipeline, "status = ?": "running" if doubtful else status, "created_at >= ?": since}
        conditions = {text: value for text, value in wanted.items() if value is not None}
        with self._reading() as opened:
            if opened is None:
                return []
            connection, revision = opened
            where = " AND ".join(conditions) or "1"
            if status == "running" and revision > 1:
                where += f" AND (lease_until IS NULL OR lease_until >= {NOW})"
            rows = connection.execute(
                f"SELECT {_columns(revision)}, {NOW} FROM runs WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ?",
                (*conditions.values(), -1 if doubtful else limit),
            )
            found: list[RunRecord] = []
            for row in rows:
                record = record_of(row)
                if status in (None, record.status):
                    found.append(record)
                    if len(found) == limit:
                        break
            return found

    async def find(self, run_id: str) -> RunRecord:
        """Return a run by its id, by the only beginning of it, or the newest for `last`."""
        return await asyncio.to_thread(self._find, run_id)

    def _find(self, wanted: str) -> RunRecord:
        with self._reading() as opened:
            if opened is None:
                raise RunNotFound(
                    f"There is no run {wanted!r}: {self._file} does not exist, so nothing has run here yet."
                )
            connection, revision = opened
            columns = f"{_columns(revision)}, {NOW}"
            if wanted == "last":
                rows = connection.execute(f"SELECT {columns} FROM runs ORDER BY created_at DESC, id DESC LIMIT 1")
                found = [record_of(row) for row in rows]
                wanted = found[0].run_id if found else wanted
            else:
                rows = connection.execute(
                    f"SELECT {columns} FROM runs WHERE run_id >= ?1 AND run_id < ?1 || '~' ORDER BY run_id LIMIT 6",
                    (wanted,),
                )
                found = [record_of(row) for row in rows] if wanted else []
        return only_one(wanted, found)

    async def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run, from the one behind position `after`."""
        while page := await asyncio.to_thread(self._page, run_id, after):
            for recorded in page:
                yield recorded
            after = page[-1].position

    def _page(self, run_id: str, after: int) -> list[Recorded]:
        with self._reading() as opened:
            if opened is None:
                raise RunNotFound(f"There is no run {run_id!r}.")
            connection, _ = opened
            rows = connection.execute(
                "SELECT position, at, kind, path, body FROM events WHERE run = (SELECT id FROM runs WHERE run_id = ?)"
                " AND position > ? ORDER BY position LIMIT ?",
                (run_id, after, READ_PAGE),
            ).fetchall()
            if not rows and connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is None:
                raise RunNotFound(f"There is no run {run_id!r}.")
            return [recorded_of(*row) for row in rows]

    async def said(self, run_id: str, *, after: int = 0) -> AsyncIterator[Said]:
        """Yield what the stages of a run said, from what comes behind number `after`."""
        while page := await asyncio.to_thread(self._said_page, run_id, after):
            for said in page:
                yield said
            after = page[-1].number

    def _said_page(self, run_id: str, after: int) -> list[Said]:
        with self._reading() as opened:
            if opened is None or opened[1] < 3:  # written before anything that stages said was kept
                return []
            rows = opened[0].execute(
                "SELECT number, at, path, attempt, level, message, fields FROM stage_logs"
                " WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND number > ? ORDER BY number LIMIT ?",
                (run_id, after, READ_PAGE),
            )
            return [said_of(*row) for row in rows]

    async def kept_result(self, fingerprint: str) -> CachedResult | None:
        """Return a result that a run has kept."""
        return await asyncio.to_thread(self._kept, fingerprint)

    def _kept(self, fingerprint: str) -> CachedResult | None:
        with self._reading() as opened:
            if opened is None or opened[1] < 2:  # the first revision kept none
                return None
            row = opened[0].execute(KEPT, (fingerprint,)).fetchone()
            return None if row is None else result_of(self.blobs, *row)

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run as they are recorded, until one of them ends or pauses it, or it is interrupted."""
        await self.find(run_id)  # so that there is a file
        with clear_errors(self._file, "read"):
            connection, _ = open_for_reading(self._file)
        try:
            seen = _version(connection)

            async def news() -> None:
                nonlocal seen
                for _ in range(round(LOOK_S / POLL_S)):
                    await asyncio.sleep(POLL_S)
                    if (found := _version(connection)) != seen:
                        seen = found
                        return

            async for recorded in follow(self, run_id, after, news):
                yield recorded
        finally:
            connection.close()

    # -- writing beside the logs --------------------------------------------------------------------------------------------

    async def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> None:
        """Ask something of a run, from any process."""
        await asyncio.to_thread(self._request, run_id, kind, orjson.dumps(dict(body)).decode())

    def _request(self, run_id: str, kind: str, body: str) -> None:
        if not self._file.exists():
            raise RunNotFound(f"There is no run {run_id!r}.")
        with clear_errors(self._file, "write"):
            connection = open_for_writing(self._file)
            try:
                cursor = connection.execute(
                    "INSERT INTO requests (run, number, kind, body) SELECT runs.id, 1 + coalesce("
                    "(SELECT max(number) FROM requests WHERE run = runs.id), 0), ?, ? FROM runs WHERE run_id = ?",
                    (kind, body, run_id),
                )
            finally:
                connection.close()
        if cursor.rowcount != 1:
            raise RunNotFound(f"There is no run {run_id!r}.")

    async def prune(
        self, *, older_than_s: float | None = None, keep: int | None = None, dry_run: bool = False
    ) -> Pruned:
        """Remove ended runs, expired results, and the blobs that nothing refers to any more (`stores.pruning`)."""
        from flowmason_ray.stores.pruning import prune
        from flowmason_ray.stores.sqlite_pruning import SqliteShelves

        def work() -> Pruned:
            if not self._file.exists():
                return Pruned(runs=(), results=0, blobs=0, blob_bytes=0)
            with clear_errors(self._file, "prune"), SqliteShelves(self._file) as shelves:
                return prune(shelves, self.blobs, older_than_s=older_than_s, keep=keep, dry_run=dry_run)

        return await asyncio.to_thread(work)


def _columns(revision: int) -> str:
    return COLUMNS if revision > 1 else COLUMNS.replace("boot, based_on, lease_until", "NULL, NULL, NULL")


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA data_version").fetchone()[0]
