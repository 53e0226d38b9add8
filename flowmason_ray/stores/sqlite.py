"""Run logs in one SQLite file: the default, for a laptop, an edge box and one machine's worth of runs.

One writer thread per run takes what is queued and commits it as a group, so that the price of a commit is shared (measured
for `engine.md`: 209 µs a row alone, 7 µs in groups of a hundred, with `synchronous=FULL`). The file is in WAL mode: other
processes read and write it at the same time; SQLite lets one of them commit at a time, the others wait.

Several runs share the tables: `runs` has a row per run, `events` one per event, whose `body` is JSON (`stores.encoding`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from flowmason_ray.engine.events import FORMAT_VERSION, RUN_ENDED, Event
from flowmason_ray.engine.run_log import Recorded, Request, RunRecord
from flowmason_ray.errors import Fenced, RunNotFound, StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import BlobStore
from flowmason_ray.stores.encoding import Encoder
from flowmason_ray.stores.memory import ended_record

GROUP_DELAY_S = 0.01
"""How long the writer gathers events when nobody waits for them: a reader is at most this far behind."""
BUSY_TIMEOUT_S = 30.0
"""How long a commit waits for another process's commit; those take milliseconds, unless the disk is in trouble."""
READ_PAGE = 1000
"""Events read at a time, so that following a long run takes bounded memory."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    version TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    ended_at REAL,
    file TEXT,
    failure TEXT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS runs_created ON runs (created_at DESC);
CREATE TABLE IF NOT EXISTS events (
    run INTEGER NOT NULL REFERENCES runs (id),
    position INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    path TEXT,
    body TEXT,
    PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
    run INTEGER NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
"""

_INSERT_EVENT = "INSERT INTO events (run, position, at, kind, path, body) VALUES (?, ?, ?, ?, ?, ?)"
_IN_COLUMNS = frozenset({"path"})
_EMPTY = b"{}"


@contextmanager
def _clear_errors(file: Path, doing: str) -> Generator[None]:
    try:
        yield
    except sqlite3.DatabaseError as exc:
        text = str(exc)
        hint = {
            "database or disk is full": "The disk is full: make room, then run again; what was acknowledged is in the log.",
            "attempt to write a readonly database": "The file or its directory is read-only.",
            "file is not a database": "The file is not a FlowMason run log, or it is damaged.",
            "unable to open database file": "The directory is missing or may not be written.",
            "database is locked": "Another process has held it for too long.",
        }.get(text, "")
        raise StoreUnavailable(f"Cannot {doing} the run log {file}: {text}. {hint}".rstrip()) from exc
    except OSError as exc:
        raise StoreUnavailable(f"Cannot {doing} the run log {file}: {exc.strerror or exc}.") from exc


def _connect(file: Path, *, create: bool = False) -> sqlite3.Connection:
    if create:
        file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT_VERSION:
            raise StoreError(
                f"The run log {file} has format version {found}; this FlowMason reads up to {FORMAT_VERSION}. Upgrade it."
            )
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={FORMAT_VERSION}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


class SqliteRunLog:
    """The log of one run, for its writer: events are queued, a thread commits them in groups."""

    durable = True
    remembers = True

    def __init__(
        self,
        file: Path,
        blobs: BlobStore | None,
        record: RunRecord,
        secrets: Iterable[str] = (),
        *,
        reopen: bool = False,
    ) -> None:
        self._file = file
        self._record = record
        recorded = 0
        with _clear_errors(file, "open"):
            self._connection = _connect(file, create=not reopen)
            try:
                if reopen:
                    self._run, recorded = self._take_over(record)
                else:
                    self._run = self._insert_run(record)
            except BaseException:
                self._connection.close()
                raise
        self._encoder = Encoder(blobs, secrets=secrets)
        self._queue: deque[Event] = deque()
        self._position = recorded
        self._wanted = recorded
        """Everything up to this position should be committed without delay."""
        self._committed = recorded
        self._appended = recorded
        self._wake = threading.Condition()
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._error: StoreError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._write, name="flowmason-run-log", daemon=True)
        self._thread.start()

    def _insert_run(self, record: RunRecord) -> int:
        cursor = self._connection.execute(
            "INSERT INTO runs (run_id, pipeline, version, status, created_at, file, host, pid, pid_started)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.run_id,
                record.pipeline,
                record.version,
                record.status,
                record.created_at,
                record.file,
                socket.gethostname(),
                os.getpid(),
                _process_start(os.getpid()) or "",
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _take_over(self, record: RunRecord) -> tuple[int, int]:
        """Become the writer of a run whose process has gone; return its number and its last position.

        Raises:
            Fenced: somebody else has become it meanwhile.
        """
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            row = connection.execute(f"SELECT id, {_COLUMNS} FROM runs WHERE run_id = ?", (record.run_id,)).fetchone()
            if row is None or _record(row[1:]).status != "interrupted":
                status = "gone" if row is None else _record(row[1:]).status
                raise Fenced(f"Run {record.run_id!r} is {status}: only one that was interrupted can be taken up again.")
            connection.execute(
                "UPDATE runs SET host = ?, pid = ?, pid_started = ? WHERE id = ?",
                (socket.gethostname(), os.getpid(), _process_start(os.getpid()) or "", row[0]),
            )
            found = connection.execute("SELECT coalesce(max(position), 0) FROM events WHERE run = ?", (row[0],))
            position: int = found.fetchone()[0]
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return row[0], position

    def append(self, event: Event) -> None:
        """Queue an event."""
        if self._error is not None:
            raise self._error
        if self._closing:
            raise StoreError("The log of this run is closed.")
        self._queue.append(event)
        self._appended += 1

    async def flush(self) -> None:
        """Return when everything appended so far is on disk."""
        if self._error is not None:
            raise self._error
        if self._committed >= self._appended:
            return
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        with self._wake:
            if self._error is not None:  # the writer gave up just now; it answers nobody any more
                raise self._error
            self._wanted = self._appended
            self._waiting.append((self._appended, loop, done))
            self._wake.notify()
        await done

    async def requests(self, *, after: int) -> Sequence[Request]:
        """Return what was asked of the run behind request number `after`."""
        return await asyncio.to_thread(self._requests, after)

    def _requests(self, after: int) -> list[Request]:
        with _clear_errors(self._file, "read"):
            connection = _connect(self._file)
            try:
                rows = connection.execute(
                    "SELECT number, kind, body FROM requests WHERE run = ? AND number > ? ORDER BY number",
                    (self._run, after),
                ).fetchall()
            finally:
                connection.close()
        return [Request(number=number, kind=kind, body=orjson.loads(body)) for number, kind, body in rows]

    async def close(self) -> None:
        """Flush, and end the writer thread."""
        try:
            await self.flush()
        finally:
            with self._wake:
                self._closing = True
                self._wake.notify()
            await asyncio.to_thread(self._thread.join)

    # -- the writer thread ----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        try:
            while self._error is None:
                with self._wake:
                    if self._wanted <= self._committed and not self._closing:
                        self._wake.wait(GROUP_DELAY_S if self._queue else 0.1)
                    closing = self._closing
                if self._queue:
                    self._commit()
                elif closing:
                    return
        finally:
            self._connection.close()
            self._answer()

    def _commit(self) -> None:
        """Commit everything that is queued now."""
        rows: list[tuple[Any, ...]] = []
        ended: Event | None = None
        position = self._position
        try:
            for _ in range(len(self._queue)):
                event = self._queue.popleft()
                position += 1
                body = self._encoder.body(event, without=_IN_COLUMNS)
                path = getattr(event, "path", None)
                text = None if body == _EMPTY else body.decode()
                rows.append((self._run, position, event.at, event.kind, path, text))
                if isinstance(event, RUN_ENDED):
                    ended = event
            with _clear_errors(self._file, "write"):
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._connection.executemany(_INSERT_EVENT, rows)
                    if ended is not None:
                        self._end_run(ended)
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
        except StoreError as exc:
            self._error = exc
        except Exception as exc:  # a value that cannot be encoded: the thread must not die without saying so
            self._error = StoreError(f"An event cannot be recorded: {exc}.")
        else:
            self._position = self._committed = position
        self._answer()

    def _end_run(self, event: Event) -> None:
        record = ended_record(self._record, event)
        failure = orjson.dumps(record.failure).decode() if record.failure else None
        self._connection.execute(
            "UPDATE runs SET status = ?, ended_at = ?, failure = ? WHERE id = ?",
            (record.status, record.ended_at, failure, self._run),
        )

    def _answer(self) -> None:
        """Tell those who wait in `flush` what has become of it."""
        with self._wake:
            still: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
            for entry in self._waiting:
                wanted, loop, done = entry
                if self._error is None and wanted > self._committed:
                    still.append(entry)
                elif not loop.is_closed():
                    loop.call_soon_threadsafe(_settle, done, self._error)
            self._waiting = still


def _settle(done: asyncio.Future[None], error: StoreError | None) -> None:
    if not done.done():
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


class SqliteRunStore:
    """All run logs in one file."""

    def __init__(self, file: Path, blobs: BlobStore | None = None) -> None:
        self._file = file
        self.blobs = blobs

    def create(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> SqliteRunLog:
        """Begin the log of a new run, in which `secrets` are masked.

        Raises:
            StoreUnavailable: the file cannot be opened or written.
        """
        return SqliteRunLog(self._file, self.blobs, record, secrets)

    def reopen(self, record: RunRecord, *, secrets: Iterable[str] = ()) -> SqliteRunLog:
        """Go on with the log of a run that was interrupted.

        Raises:
            Fenced: it was not, or another process has taken it up.
            StoreUnavailable: the file cannot be opened or written.
        """
        return SqliteRunLog(self._file, self.blobs, record, secrets, reopen=True)

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection | None]:
        if not self._file.exists():
            yield None
            return
        with _clear_errors(self._file, "read"):
            connection = _connect(self._file)
            try:
                yield connection
            finally:
                connection.close()

    async def list_runs(
        self, *, limit: int = 50, pipeline: str | None = None, status: str | None = None
    ) -> list[RunRecord]:
        """Return the newest runs first."""
        return await asyncio.to_thread(self._list, limit, pipeline, status)

    def _list(self, limit: int, pipeline: str | None, status: str | None) -> list[RunRecord]:
        # A run whose process has gone says 'running' in the file, so those two are told apart after reading.
        stored = "running" if status == "interrupted" else status
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE (?1 IS NULL OR pipeline = ?1) AND (?2 IS NULL OR status = ?2)"
                " ORDER BY created_at DESC, id DESC LIMIT ?3",
                (pipeline, stored, -1 if status in ("running", "interrupted") else limit),
            )
            found = (_record(row) for row in rows)
            return [record for record in found if status in (None, record.status)][:limit]

    async def find(self, run_id: str) -> RunRecord:
        """Return a run by its id, by the only beginning of it, or the newest for `last`."""
        return await asyncio.to_thread(self._find, run_id)

    def _find(self, wanted: str) -> RunRecord:
        with self._reading() as connection:
            if connection is None:
                raise RunNotFound(
                    f"There is no run {wanted!r}: {self._file} does not exist, so nothing has run here yet."
                )
            if wanted == "last":
                rows = connection.execute(f"SELECT {_COLUMNS} FROM runs ORDER BY created_at DESC, id DESC LIMIT 1")
            else:
                rows = connection.execute(
                    f"SELECT {_COLUMNS} FROM runs WHERE run_id >= ?1 AND run_id < ?1 || '~' ORDER BY run_id LIMIT 6",
                    (wanted,),
                )
            found = [_record(row) for row in rows] if wanted else []
        exact = [record for record in found if record.run_id == wanted]
        if exact or len(found) == 1:
            return (exact or found)[0]
        if not found:
            raise RunNotFound(f"There is no run {wanted!r}. 'fm runs list' shows the runs of this project.")
        shown = ", ".join(record.run_id for record in found[:5])
        raise RunNotFound(f"Run id {wanted!r} is ambiguous: several runs begin so ({shown}). Write more of it.")

    async def request(self, run_id: str, kind: str, body: Mapping[str, Any]) -> None:
        """Ask something of a run, from any process."""
        await asyncio.to_thread(self._request, run_id, kind, orjson.dumps(dict(body)).decode())

    def _request(self, run_id: str, kind: str, body: str) -> None:
        with self._reading() as connection:
            found = connection and connection.execute("SELECT id FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if connection is None or not found:
                raise RunNotFound(f"There is no run {run_id!r}.")
            connection.execute(
                "INSERT INTO requests (run, number, kind, body)"
                " SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3 FROM requests WHERE run = ?1",
                (found[0], kind, body),
            )

    async def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events of a run, from the one behind position `after`."""
        while page := await asyncio.to_thread(self._page, run_id, after):
            for recorded in page:
                yield recorded
            after = page[-1].position

    def _page(self, run_id: str, after: int) -> list[Recorded]:
        with self._reading() as connection:
            if connection is None:
                raise RunNotFound(f"There is no run {run_id!r}.")
            rows = connection.execute(
                "SELECT position, at, kind, path, body FROM events WHERE run = (SELECT id FROM runs WHERE run_id = ?)"
                " AND position > ? ORDER BY position LIMIT ?",
                (run_id, after, READ_PAGE),
            ).fetchall()
            if not rows and connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is None:
                raise RunNotFound(f"There is no run {run_id!r}.")
        return [_recorded(*row) for row in rows]


_COLUMNS = "run_id, pipeline, version, status, created_at, ended_at, file, failure, host, pid, pid_started"


def _record(row: tuple[Any, ...]) -> RunRecord:
    run_id, pipeline, version, status, created_at, ended_at, file, failure, host, pid, pid_started = row
    record = RunRecord(
        run_id=run_id,
        pipeline=pipeline,
        version=version,
        status=status,
        created_at=created_at,
        ended_at=ended_at,
        file=file,
        failure=orjson.loads(failure) if failure else None,
    )
    gone = status == "running" and host == socket.gethostname() and _process_start(pid) != pid_started
    return replace(record, status="interrupted") if gone else record


def _recorded(position: int, at: float, kind: str, path: str | None, body: str | None) -> Recorded:
    event: dict[str, Any] = {"kind": kind, "at": at}
    if path is not None:
        event["path"] = path
    if body is not None:
        event.update(orjson.loads(body))
    return Recorded(position=position, event=event)


def _process_start(pid: int) -> str | None:
    """Return when a process was started, as the kernel counts it, so that a reused pid is not mistaken; None: no such process.

    Field 22 of /proc/PID/stat (proc(5)). Where there is no /proc, every process that exists is taken to be the one.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return ""
    return text.rpartition(")")[2].split()[19]
