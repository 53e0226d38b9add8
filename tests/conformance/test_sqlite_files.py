"""The SQLite file: brought up to date from every released schema, and clear words for files that are not what they should be."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import StaticPool

from flowmason_ray.engine.events import RunResumed, RunSucceeded, StageStarted, StageSucceeded
from flowmason_ray.engine.run_log import RunStore
from flowmason_ray.errors import Fenced, FlowMasonError, RunNotFound, StoreError, StoreUnavailable
from flowmason_ray.stores import sqlite_files
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.encoding import event_from_json
from flowmason_ray.stores.migrations import newest, upgrade_sqlite
from flowmason_ray.stores.schema import metadata
from flowmason_ray.stores.sqlite import SqliteRunStore
from flowmason_ray.stores.sqlite_files import SCHEMA, SCHEMA_REVISION, open_for_writing
from flowmason_ray.testing.conformance.run_stores import new_record, recorded, started
from tests.cli_kit import environment
from tests.postgres_kit import Server

HISTORIES = Path(__file__).resolve().parents[1] / "histories"
VALUE = "x" * 70_000


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of revision 1, with the one blob that it refers to."""
    file = tmp_path / "runs.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript((HISTORIES / "stores_revision_1.sql").read_text())
    LocalBlobs(tmp_path / "blobs").put(b'{"text":"%s"}' % VALUE.encode())
    return file


def store_at(file: Path, **more: Any) -> SqliteRunStore:
    return SqliteRunStore(file, LocalBlobs(file.parent / "blobs", **more))


async def whole_story(store: RunStore) -> dict[str, Any]:
    """Return everything that a store says."""
    records = await store.list_runs()
    return {
        record.run_id: (record, [each.event for each in await recorded(store, record.run_id)]) for record in records
    }


def revision_of(file: Path) -> int:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


# -- upgrading ----------------------------------------------------------------------------------------------------------------


def test_an_old_file_is_read_as_it_is(old: Path) -> None:
    story = asyncio.run(whole_story(store_at(old)))
    assert {run_id: record.status for run_id, (record, _) in story.items()} == {
        "r_0cc_killed": "running",  # on another machine, as far as anybody knows
        "r_0bb_failed": "failed",
        "r_0aa_succeeded": "succeeded",
    }
    assert story["r_0bb_failed"][0].failure["message"] == "it broke"
    assert [event["kind"] for event in story["r_0aa_succeeded"][1]] == [
        "run_created", "stage_started", "stage_succeeded", "stage_started", "stage_succeeded", "run_succeeded",
    ]  # fmt: skip
    for _, events in story.values():
        for event in events:
            event_from_json(event)
    assert revision_of(old) == 1, "reading changes nothing"


def test_an_old_file_is_brought_up_to_date_by_who_writes_first(old: Path) -> None:
    async def work() -> None:
        before = await whole_story(store_at(old))
        store = store_at(old, grace_s=0.0)
        log = store.create(new_record("r_new", created_at=2e9))
        log.append(RunSucceeded(at=1.0, value=1))
        await log.close()
        assert revision_of(old) == SCHEMA_REVISION
        after = await whole_story(store)
        assert after.pop("r_new")[0].status == "succeeded"
        assert after == before, "nothing is lost or changed"
        pruned = await store.prune()
        assert pruned.blobs == 0, "what an old run needs is known"
        found = [r async for r in store.read("r_0aa_succeeded")][2]
        from flowmason_ray.stores.encoding import Decoder

        assert Decoder(store.blobs).value(found.event) == {"text": VALUE}
        assert (await store.prune(keep=1)).blobs == 1, "and goes with it"

    asyncio.run(work())


def test_a_run_of_an_old_writer_is_judged_by_its_process(old: Path) -> None:
    """It promised no lease, so none runs out; on its own machine one sees that it has gone."""

    async def work() -> None:
        store = store_at(old)
        await store.request("r_0bb_failed", "pause", {})  # writes, so upgrades
        record = await store.find("r_0cc_killed")
        assert record.status == "running"
        with pytest.raises(Fenced):
            store.reopen(record)
        import socket

        with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as connection:
            connection.execute("UPDATE runs SET host = ? WHERE run_id = 'r_0cc_killed'", (socket.gethostname(),))
        assert (await store.find("r_0cc_killed")).status == "interrupted"
        log = store.reopen(record)
        assert log.epoch == 2
        log.append(RunResumed(at=1.0))
        log.append(RunSucceeded(at=2.0, value=1))
        await log.close()
        assert [r.position for r in await recorded(store, "r_0cc_killed")] == [1, 2, 3]

    asyncio.run(work())


def test_an_old_writer_goes_on_while_somebody_upgrades(old: Path) -> None:
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as writer:
        insert = (
            "INSERT INTO events (run, position, at, kind, path, body) VALUES (3, ?, 1.0, 'stage_started', 's', '{}')"
        )
        writer.execute(insert, (2,))
        with contextlib.closing(open_for_writing(old)):
            writer.execute(insert, (3,))
            writer.execute("UPDATE runs SET status = 'succeeded', ended_at = 2.0, failure = NULL WHERE id = 3")
    store = store_at(old)
    assert [r.position for r in asyncio.run(recorded(store, "r_0cc_killed"))] == [1, 2, 3]
    assert asyncio.run(store.find("r_0cc_killed")).status == "succeeded"


OPENER = """
    import sys, time
    from pathlib import Path
    from flowmason_ray.stores import migrations
    from flowmason_ray.stores.sqlite_files import open_for_writing
    print("ready", flush=True)
    sys.stdin.readline()
    open_for_writing(Path(sys.argv[1])).close()
    print("done", flush=True)
"""


def opener(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OPENER), str(file)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_upgrade_at_once(old: Path) -> None:
    before = asyncio.run(whole_story(store_at(old)))
    openers = [opener(old) for _ in range(3)]
    for each in openers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in openers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    assert [each.communicate(timeout=50) for each in openers] == [("done\n", "")] * 3
    assert asyncio.run(whole_story(store_at(old))) == before


def test_a_new_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    """SQLite itself refuses at once to change the journal's mode while somebody writes."""
    file = tmp_path / "runs.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        leaving = threading.Timer(0.2, other.execute, ("ROLLBACK",))
        leaving.start()
        with contextlib.closing(open_for_writing(file)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        leaving.join()


def test_a_new_file_that_stays_locked_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "BUSY_TIMEOUT_S", 0.1)
    file = tmp_path / "runs.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        held = pytest.raises(StoreUnavailable, match=r"database is locked\. Another process has held it for too long")
        with held, sqlite_files.clear_errors(file, "open"):
            open_for_writing(file)


def test_a_killed_upgrade_changes_nothing(old: Path) -> None:
    """Killed at every few milliseconds of it, then done."""
    before = asyncio.run(whole_story(store_at(old)))
    for delay in (0.0, 0.03, 0.1):
        copy = old.with_name(f"copy_{delay}.db")
        shutil.copy(old, copy)
        process = opener(copy)
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
        process.communicate()
        assert revision_of(copy) in (1, SCHEMA_REVISION)
        assert asyncio.run(whole_story(store_at(copy))) == before
        open_for_writing(copy).close()
        assert revision_of(copy) == SCHEMA_REVISION
        assert asyncio.run(whole_story(store_at(copy))) == before


# -- one schema ---------------------------------------------------------------------------------------------------------------


def shape(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return what a file's schema says, however it was written down."""
    found: dict[str, Any] = {}
    for name, kind in connection.execute(
        "SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    ).fetchall():
        if kind == "index":
            found[name] = connection.execute(f"PRAGMA index_xinfo({name})").fetchall()
            continue
        columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
        found[name] = {
            # That a primary key of whole numbers is not null goes without saying; alembic says it nevertheless.
            "columns": [(n, t, notnull or (t == "INTEGER" and key), d, key) for _, n, t, notnull, d, key in columns],
            "foreign": sorted(row[2:5] for row in connection.execute(f"PRAGMA foreign_key_list({name})")),
            "form": connection.execute("SELECT wr, strict FROM pragma_table_list WHERE name = ?", (name,)).fetchone(),
        }
    return found


def test_text_migrations_and_metadata_say_the_same(tmp_path: Path, old: Path) -> None:
    assert int(newest()) == SCHEMA_REVISION
    with contextlib.ExitStack() as stack:

        def opened() -> sqlite3.Connection:
            return stack.enter_context(contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)))

        text = opened()
        text.executescript(SCHEMA)
        migrated = opened()
        upgrade_sqlite(migrated)
        declared = opened()
        metadata.create_all(create_engine("sqlite://", creator=lambda: declared, poolclass=StaticPool))
        upgraded = stack.enter_context(contextlib.closing(open_for_writing(old)))
        assert shape(upgraded) == shape(text)
        shapes = [shape(each) for each in (text, migrated, declared)]
        for each in shapes:
            each.pop("alembic_version", None)
        assert shapes[0] == shapes[1] == shapes[2]
        assert set(shapes[0]) > {"runs", "events", "requests", "results", "blob_refs", "runs_status"}


def test_the_first_migration_is_the_first_schema(old: Path) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as migrated:
        upgrade_sqlite(migrated, "0001")
        found = shape(migrated)
        del found["alembic_version"]
        with contextlib.closing(sqlite3.connect(old)) as released:
            assert found == shape(released)


def test_postgres_has_the_tables_that_are_declared(postgres: Server) -> None:
    url = postgres.url("migrated")
    with psycopg.connect(url) as connection:
        engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
        looked = inspect(engine)
        assert set(looked.get_table_names("flowmason")) == {*metadata.tables, "alembic_version"}
        for table in metadata.tables.values():
            found = {c["name"]: c for c in looked.get_columns(table.name, "flowmason")}
            assert list(found) == [column.name for column in table.columns]
            for column in table.columns:
                assert str(found[column.name]["type"]) == str(column.type.compile(engine.dialect))
                assert found[column.name]["nullable"] == column.nullable
            indexes = {index["name"]: index["column_names"] for index in looked.get_indexes(table.name, "flowmason")}
            for index in table.indexes:
                assert index.name in indexes
            key = looked.get_pk_constraint(table.name, "flowmason")["constrained_columns"]
            assert key == [column.name for column in table.primary_key]
        engine.dispose()


def test_running_imports_neither_sqlalchemy_nor_psycopg(tmp_path: Path) -> None:
    code = """
        import asyncio, sys
        from pathlib import Path
        from flowmason_ray.stores.opening import open_store
        from flowmason_ray.engine.events import RunSucceeded
        from flowmason_ray.testing.conformance.run_stores import new_record, ran
        async def main():
            store = open_store("runs.db", "blobs", Path.cwd())
            await ran(store, RunSucceeded(at=1.0, value={"x": "y" * 100_000}))
            print((await store.find("last")).status)
        asyncio.run(main())
        print([name for name in ("sqlalchemy", "alembic", "psycopg", "fsspec", "polars") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.stdout == "succeeded\n[]\n", done.stderr


# -- files that are not what they should be -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with some runs in it, without a write-ahead log beside it."""
    file = tmp_path_factory.mktemp("sound") / "runs.db"

    async def work() -> None:
        store = store_at(file)
        for number in range(12):
            log = store.create(new_record(f"r_{number:02}", created_at=float(number)))
            for step in range(60):
                log.append(
                    StageSucceeded(at=1.0, path=f"s{step}", attempt=1, value={"text": "some text " * 5, "n": step})
                )
            log.append(RunSucceeded(at=9.0, value={"n": 1}))
            log.keep_result(f"f{number}", StageSucceeded(path="a", attempt=1, value={"x": number}), ttl_s=None)
            await log.close()

    asyncio.run(work())
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return file


async def use(store: SqliteRunStore) -> None:
    """Do everything that can be done with a store."""
    for record in await store.list_runs(limit=100):
        async for each in store.read(record.run_id):
            event_from_json(each.event)
    await store.find("last")
    await store.find("r_03")
    await store.list_runs(status="interrupted")
    await store.prune(keep=0, dry_run=True)
    log = store.create(new_record("r_new"))
    log.append(started(1))
    await log.kept_result("f1")
    await log.requests(after=0)
    await log.close()


def outcome(file: Path) -> FlowMasonError | None:
    """Use a file; return how that was refused. Anything but an error of ours is a bug."""
    try:
        asyncio.run(asyncio.wait_for(use(store_at(file)), 40))
    except FlowMasonError as exc:
        return exc
    return None


def test_a_flipped_bit_anywhere_is_never_a_traceback(sound: Path, tmp_path: Path) -> None:
    content = sound.read_bytes()
    chosen = random.Random(7)
    said: set[str] = set()
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(chosen.choice((1, 1, 40))):
            damaged[chosen.randrange(len(damaged))] ^= 1 << chosen.randrange(8)
        file = tmp_path / f"{number}.db"
        file.write_bytes(damaged)
        error = outcome(file)
        if error is not None:
            assert error.message
            said.add(type(error).__name__)
    assert said, "some of it was noticed"


def test_a_page_that_is_overwritten_says_how_to_look_and_what_to_save(sound: Path, tmp_path: Path) -> None:
    content = bytearray(sound.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 200] = b"\xa5" * 200
    file = tmp_path / "runs.db"
    file.write_bytes(content)
    error = outcome(file)
    assert isinstance(error, StoreUnavailable)
    for words in (str(file), "damaged", "PRAGMA quick_check", ".recover"):
        assert words in error.message


@pytest.mark.parametrize("left", [0, 1, 50, 100, 4096, 20_000, 60_000])
def test_a_truncated_file_is_said_so(sound: Path, tmp_path: Path, left: int) -> None:
    file = tmp_path / "runs.db"
    file.write_bytes(sound.read_bytes()[:left])
    error = outcome(file)
    if left == 0:
        assert isinstance(error, RunNotFound), "an empty file is a new one"
    else:
        assert isinstance(error, StoreUnavailable)
        assert "damaged" in error.message


def test_a_file_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    error = outcome(tmp_path / "runs.db")
    assert isinstance(error, StoreError)
    assert f"format version 99; this FlowMason reads up to {SCHEMA_REVISION}. Upgrade it." in error.message


def test_a_file_that_vanishes_ends_the_run_with_words(tmp_path: Path) -> None:
    async def work(end: str) -> None:
        folder = tmp_path / end
        folder.mkdir()
        log = SqliteRunStore(folder / "runs.db").create(new_record())
        log.append(started(1))
        await log.flush()
        shutil.rmtree(folder)
        if end == "replaced":
            folder.mkdir()
            await SqliteRunStore(folder / "runs.db").create(new_record("r_2")).close()
        log.append(started(2))
        with pytest.raises(StoreUnavailable, match=f"was {end} while the run was writing it"):
            await log.flush()
        with contextlib.suppress(StoreError):
            await log.close()

    for end in ("removed", "replaced"):
        asyncio.run(work(end))
    assert asyncio.run(SqliteRunStore(tmp_path / "removed" / "runs.db").list_runs()) == []


def test_a_log_that_may_only_be_read_is_read(sound: Path) -> None:
    """In a process that is not root's: root may write everywhere."""
    folder = Path(tempfile.mkdtemp())  # into which others may look
    code = """
        import asyncio, concurrent.futures.thread, os, sys
        from pathlib import Path
        from flowmason_ray.errors import StoreUnavailable
        from flowmason_ray.stores.sqlite import SqliteRunStore
        from flowmason_ray.stores import migrations
        from flowmason_ray.testing.conformance.run_stores import new_record
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        store = SqliteRunStore(Path(sys.argv[1]))
        print(len(asyncio.run(store.list_runs())))
        try:
            store.create(new_record())
        except StoreUnavailable as exc:
            print(exc.message)
    """
    try:
        shutil.copy(sound, folder / "runs.db")
        with contextlib.closing(sqlite3.connect(folder / "runs.db")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        (folder / "runs.db").chmod(0o444)
        folder.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(folder / "runs.db")],
            env=environment(), capture_output=True, text=True, timeout=40,
        )  # fmt: skip
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert done.stdout.startswith("12\n"), done.stderr
    assert "Cannot open the run log" in done.stdout
    assert "read-only" in done.stdout or "may not be written" in done.stdout


def test_a_damaged_row_is_told_apart_from_a_damaged_file(sound: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    shutil.copy(sound, file)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET body = '{\"n\": ' WHERE position = 3")
    with pytest.raises(StoreError, match="holds what no FlowMason has written"):
        asyncio.run(recorded(store_at(file), "r_03"))
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET failure = '[1]'")
    with pytest.raises(StoreError, match="holds what no FlowMason has written"):
        asyncio.run(store_at(file).list_runs())


def test_an_event_of_tomorrow_is_said_so() -> None:
    with pytest.raises(StoreError, match="'of_tomorrow', which this FlowMason does not know"):
        event_from_json({"kind": "of_tomorrow"})
    for damaged in ({"kind": "run_failed", "failure": {"x": 1}}, {"kind": "stage_skipped", "path": "a", "reason": "?"}):
        with pytest.raises(StoreError, match="not complete"):
            event_from_json(damaged)
    assert event_from_json({"kind": "stage_started", "path": "a", "attempt": 1, "lossy": True}) == StageStarted(
        path="a", attempt=1
    )
