"""One suite for every run store, and what is promised of the SQLite one alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flowmason_ray.engine.events import CancelRequested, Event, RunCreated, RunSucceeded, StageStarted, StageSucceeded
from flowmason_ray.engine.run_log import Pruned, Recorded, RunLog, RunStore
from flowmason_ray.engine.values import INLINE_LIMIT_BYTES, Items, Packed
from flowmason_ray.errors import FlowMasonError, StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.encoding import Decoder, Encoder, event_to_json
from flowmason_ray.stores.memory import MemoryRunStore
from flowmason_ray.stores.postgres import PostgresRunStore
from flowmason_ray.stores.sqlite import SqliteRunStore
from flowmason_ray.testing.conformance.run_stores import STORE_CHECKS, Check, new_record, ran, recorded

ROOT = Path(__file__).resolve().parents[2]


def sqlite(folder: Path) -> SqliteRunStore:
    return SqliteRunStore(folder / "runs.db", LocalBlobs(folder / "blobs"))


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RunStore]:
    if request.param == "memory":
        store = MemoryRunStore()
        return lambda: store
    if request.param == "sqlite":
        return lambda: sqlite(tmp_path)
    url: str = request.getfixturevalue("postgres_url")
    return lambda: PostgresRunStore(url, LocalBlobs(tmp_path / "blobs"))


def story(log: RunLog, *events: Event) -> None:
    for event in events:
        log.append(event)


def go(work: Callable[[], Awaitable[Any]]) -> Any:
    async def body() -> Any:
        return await work()

    return asyncio.run(body())


# -- every store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORE_CHECKS)
def test_every_store_keeps_its_promises(name: str, open_store: Callable[[], RunStore]) -> None:
    asyncio.run(asyncio.wait_for(_run(STORE_CHECKS[name], open_store), 50))


async def _run(check: Check, open_store: Callable[[], RunStore]) -> None:
    await check(open_store)


def _forgets_the_epoch(store: type[SqliteRunStore]) -> type[SqliteRunStore]:
    class Weak(store):
        def reopen(self, record: Any, *, secrets: Any = ()) -> RunLog:
            log = super().reopen(record, secrets=secrets)
            log.epoch = 1
            return log

    return Weak


def _loses_the_last_page(store: type[SqliteRunStore]) -> type[SqliteRunStore]:
    class Weak(store):
        async def read(self, run_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
            for each in await asyncio.to_thread(self._page, run_id, after):
                yield each

    return Weak


def _prunes_what_goes_on(store: type[SqliteRunStore]) -> type[SqliteRunStore]:
    class Weak(store):
        async def prune(self, **wanted: Any) -> Pruned:
            pruned = await super().prune(**wanted)
            with contextlib.closing(sqlite3.connect(self._file)) as connection:
                connection.execute("DELETE FROM runs WHERE status = 'running'")
                connection.commit()
            return pruned

    return Weak


@pytest.mark.parametrize(
    ("weaken", "name"),
    [
        (_forgets_the_epoch, "a_run_changes_hands_only_when_it_was_left"),
        (_loses_the_last_page, "pages_of_a_long_run_join"),
        (_prunes_what_goes_on, "pruning_removes_ended_runs_by_age_and_number"),
    ],
)
def test_the_checks_find_a_store_that_does_not_keep_them(
    weaken: Callable[[type[SqliteRunStore]], type[SqliteRunStore]], name: str, tmp_path: Path
) -> None:
    weak = weaken(SqliteRunStore)
    with pytest.raises((AssertionError, FlowMasonError)):
        asyncio.run(_run(STORE_CHECKS[name], lambda: weak(tmp_path / "runs.db", LocalBlobs(tmp_path / "blobs"))))


SECRET = "correct-horse-battery"


@pytest.mark.parametrize("form", ["small", "large", "frame beside it", "decision"])
def test_a_secret_is_neither_recorded_nor_kept(
    form: str, open_store: Callable[[], RunStore], request: pytest.FixtureRequest
) -> None:
    if "memory" in str(cast("Any", request).node.callspec.id):
        pytest.skip("nothing leaves the process, so nothing is masked")
    values: dict[str, Any] = {
        "small": {"x": SECRET},
        "large": {"x": SECRET, "y": "z" * INLINE_LIMIT_BYTES},
        "frame beside it": {"x": SECRET, "t": pl.DataFrame({"a": [1]})},
        "decision": {"x": 1},
    }
    event = StageSucceeded(
        at=1.0, path="a", attempt=1, value=values[form], decision={"branch": SECRET} if form == "decision" else None
    )

    async def work() -> None:
        store = open_store()
        log = store.create(new_record(), secrets=[SECRET])
        log.append(event)
        log.keep_result("f", event, ttl_s=None)
        log.append(StageSucceeded(at=1.0, path="b", attempt=1, value={"x": "nothing secret"}))
        await log.flush()
        assert await log.kept_result("f") is None
        await log.close()
        found, plain = [each.event for each in await recorded(store, "r_1")]
        assert (found.get("lossy"), plain.get("lossy")) == (True, None)
        value = Decoder(getattr(store, "blobs", None)).value(found)
        assert SECRET not in str(value) + str(found)
        if form != "decision":
            assert value["x"] == "***"

    go(work)


@pytest.mark.parametrize(
    ("value", "lossy"), [({"x": float("nan")}, True), ({"x": None}, False), ({"lossy": None}, False)]
)
def test_what_a_worker_has_packed_is_known_for_what_it_is(value: Any, lossy: bool, tmp_path: Path) -> None:
    """A frame makes it packed even when it is small; the coordinator sees only what the worker wrote."""
    blobs = LocalBlobs(tmp_path)
    key, text = Encoder(blobs).value({**value, "t": pl.DataFrame({"a": [1]})})
    assert key == "packed"
    coordinator = Encoder(blobs)
    handle = Packed(packed=text, size_bytes=len(text))
    event = StageSucceeded(path="a", attempt=1, value=handle)
    assert b'"lossy":true' in coordinator.body(event) if lossy else b'"lossy":true' not in coordinator.body(event)
    assert coordinator.digests, "what it refers to is known"
    assert (coordinator.result(event) is None) == lossy
    nested = Encoder(blobs)
    assert (nested.result(StageSucceeded(path="a", attempt=1, value={"in": [handle]})) is None) == lossy
    assert nested.digests == coordinator.digests


# -- values -----------------------------------------------------------------------------------------------------------

LOOKS_LIKE_A_BLOB = {"$blob": {"digest": "sha256:0", "media_type": "application/json", "size_bytes": 3}}

VALUES: dict[str, Any] = {
    "null inside": {"x": None},
    "text": {"x": "é 😀 \x00 \u2028"},
    "numbers": {"i": 2**63 - 1, "n": -(2**63), "f": 0.1, "b": True},
    "large": {"x": "y" * (INLINE_LIMIT_BYTES + 1)},
    "just inline": {"x": "y" * (INLINE_LIMIT_BYTES - 8)},
    "looks like a blob": LOOKS_LIKE_A_BLOB,
    "looks like a blob, large": {"a": LOOKS_LIKE_A_BLOB, "x": "y" * INLINE_LIMIT_BYTES},
    "looks like a literal": {"$literal": LOOKS_LIKE_A_BLOB},
    "list": [1, [2]],
    "frame": {"t": pl.DataFrame({"a": [1, 2]})},
    "frames beside look-alikes": {
        "t": [pl.DataFrame({"a": ["x"]})],
        "l": LOOKS_LIKE_A_BLOB,
        "m": [{"$literal": LOOKS_LIKE_A_BLOB}, {"$blob": 1}],
    },
    "a frame in much text": {"t": pl.DataFrame({"a": [1.5]}), "l": LOOKS_LIKE_A_BLOB, "x": "y" * INLINE_LIMIT_BYTES},
}


def assert_same(found: Any, given: Any) -> None:
    if isinstance(given, pl.DataFrame):
        assert_frame_equal(found, given)
    elif isinstance(given, dict):
        members = cast("dict[str, Any]", given)
        assert list(found) == list(members)
        for key, each in members.items():
            assert_same(found[key], each)
    elif isinstance(given, list):
        items = cast("list[Any]", given)
        assert len(found) == len(items)
        for one, other in zip(found, items, strict=True):
            assert_same(one, other)
    else:
        assert found == given


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("form", ["value", "input"])
def test_a_recorded_value_comes_back(name: str, form: str, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    given = VALUES[name]
    event: Event = (
        StageSucceeded(path="a", attempt=1, value=given)
        if form == "value"
        else RunCreated(run_id="r", pipeline="p", version="1", plan_digest="d", input=given, seed=1)
    )
    recorded = event_to_json(event, blobs)
    assert len(str(recorded)) < INLINE_LIMIT_BYTES + 500, "what is large lies beside the log"
    assert_same(Decoder(blobs).value(recorded, form), given)


def test_a_value_that_is_large_is_a_blob(tmp_path: Path) -> None:
    async def work() -> None:
        store = sqlite(tmp_path)
        await ran(store, StageSucceeded(at=1, path="a", attempt=1, value=VALUES["large"]))
        (found,) = await recorded(store, "r_1")
        assert "value" not in found.event
        assert found.event["packed"]["$blob"]["size_bytes"] > INLINE_LIMIT_BYTES
        assert Decoder(store.blobs).value(found.event) == VALUES["large"]
        with pytest.raises(StoreError, match="without its blob store"):
            Decoder(None).value(found.event)

    go(work)


def test_the_items_of_a_loop_are_recorded_with_their_source(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    frame = pl.DataFrame({"a": [1, 2, 3]})
    event = event_to_json(StageSucceeded(path="e", attempt=1, value=Items(frame, [0, 2]), decision={"count": 2}), blobs)
    found = Decoder(blobs).value(event)
    assert_frame_equal(found["source"], frame)
    assert (found["indices"], event["decision"]) == ([0, 2], {"count": 2})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_recorded_as_null(number: float) -> None:
    event = event_to_json(StageSucceeded(path="a", attempt=1, value={"x": number}))
    assert event["value"] == {"x": None}


def test_a_value_of_none_is_no_value() -> None:
    event = event_to_json(StageSucceeded(path="a", attempt=1, value=None))
    assert "value" not in event
    assert Decoder(None).value(event) is None


def test_without_a_blob_store_large_values_stay_inline_and_frames_are_described() -> None:
    assert Encoder(None).value(VALUES["large"])[0] == "value"
    key, text = Encoder(None).value(VALUES["frame"])
    assert key == "packed"
    assert b'"rows":2' in text


def test_a_damaged_or_missing_blob_is_said_so(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    digest = blobs.put(b"content")
    assert blobs.put(b"content") == digest
    assert blobs.get(digest) == b"content"
    file = next(f for f in tmp_path.rglob("*") if f.is_file())
    file.write_bytes(b"contenT")
    with pytest.raises(StoreError, match="damaged"):
        blobs.get(digest)
    file.unlink()
    with pytest.raises(StoreError, match="is not in"):
        blobs.get(digest)


# -- SQLite -----------------------------------------------------------------------------------------------------------


def test_what_is_flushed_is_seen_by_another_process(tmp_path: Path) -> None:
    async def work() -> str:
        log = sqlite(tmp_path).create(new_record())
        story(log, *(StageStarted(at=i, path=f"s{i}", attempt=1) for i in range(250)))
        await log.flush()
        code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM events').fetchone()[0])"
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, str(tmp_path / "runs.db")], capture_output=True, text=True
        )
        await log.close()
        return done.stdout.strip()

    assert go(work) == "250"


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from flowmason_ray.engine.events import RunSucceeded, StageStarted
    from flowmason_ray.engine.run_log import RunRecord
    from flowmason_ray.stores.sqlite import SqliteRunStore

    async def main(file, run_id, count, hang):
        log = SqliteRunStore(Path(file)).create(
            RunRecord(run_id=run_id, pipeline="p", version="1", status="running", created_at=1.0)
        )
        for i in range(int(count)):
            log.append(StageStarted(at=i, path=f"{run_id}-{i}", attempt=1))
            if i % 50 == 0:
                await log.flush()
        await log.flush()
        if hang == "hang":
            print("ready", flush=True)
            await asyncio.sleep(60)
        log.append(RunSucceeded(at=1.0, value={}))
        await log.close()

    asyncio.run(main(*sys.argv[1:]))
"""


def writer(file: Path, run_id: str, count: int, hang: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(file), run_id, str(count), hang],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_begin_at_once_on_a_new_file_just_work(tmp_path: Path) -> None:
    file = tmp_path / "new" / "runs.db"
    writers = [writer(file, f"r_{i}", 200) for i in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in writers]
    assert errors == [""] * 4

    async def work() -> None:
        store = SqliteRunStore(file)
        for i in range(4):
            assert (await store.find(f"r_{i}")).status == "succeeded"
            found = await recorded(store, f"r_{i}")
            assert [r.position for r in found] == list(range(1, 202))
            assert all(r.event["path"] == f"r_{i}-{n}" for n, r in enumerate(found[:-1]))

    go(work)


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path: Path) -> None:
    process = writer(tmp_path / "runs.db", "r_dead", 10, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    async def status() -> str:
        return (await SqliteRunStore(tmp_path / "runs.db").find("r_dead")).status

    assert go(status) == "running"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)

    async def work() -> None:
        store = sqlite(tmp_path)
        assert (await store.find("r_dead")).status == "interrupted"
        assert [r.run_id for r in await store.list_runs(status="interrupted")] == ["r_dead"]
        assert await store.list_runs(status="running") == []
        assert len(await recorded(store, "r_dead")) == 10, "what was acknowledged is there"

    go(work)


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_bytes(b"not a database" * 100)
    store = sqlite(tmp_path)
    with pytest.raises(StoreUnavailable, match="not a FlowMason run log"):
        store.create(new_record())
    with pytest.raises(StoreUnavailable, match="not a FlowMason run log"):
        asyncio.run(store.list_runs())


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match=r"version 99.*Upgrade"):
        sqlite(tmp_path).create(new_record())
    with pytest.raises(StoreError, match="Upgrade"):
        asyncio.run(sqlite(tmp_path).find("last"))


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="Cannot open the run log"):
        SqliteRunStore(tmp_path / "file" / "runs.db").create(new_record())
    (tmp_path / "dir").mkdir()
    with pytest.raises(StoreUnavailable, match="Cannot open the run log"):
        SqliteRunStore(tmp_path / "dir").create(new_record())


def test_a_read_only_directory_is_said_so() -> None:
    """In a process that is not root's: root may write everywhere."""
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, into which only its owner may look
    folder.chmod(0o555)
    code = """
        import os, sys
        from pathlib import Path
        from flowmason_ray.engine.run_log import RunRecord
        from flowmason_ray.errors import StoreUnavailable
        from flowmason_ray.stores.sqlite import SqliteRunStore
        record = RunRecord(run_id="r", pipeline="p", version="1", status="running", created_at=1.0)
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            SqliteRunStore(Path(sys.argv[1])).create(record)
        except StoreUnavailable as exc:
            print(exc.message)
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(folder / "runs.db")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        folder.rmdir()
    assert "Cannot open the run log" in done.stdout, done.stderr
    assert "may not be written" in done.stdout


def test_an_event_that_cannot_be_written_down_is_an_error_for_all_who_wait(tmp_path: Path) -> None:
    async def work() -> None:
        log = sqlite(tmp_path).create(new_record())
        log.append(StageSucceeded(path="a", attempt=1, value={"x": object()}))
        with pytest.raises(StoreError, match=r"cannot be recorded.*object"):
            await asyncio.wait_for(log.flush(), 45)
        for again in (log.flush, log.close):
            with pytest.raises(StoreError, match="cannot be recorded"):
                await asyncio.wait_for(again(), 45)
        with pytest.raises(StoreError, match="cannot be recorded"):
            log.append(CancelRequested())

    go(work)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as exc:
        pytest.skip(f"THE FULL DISK IS NOT TESTED: no mount command ({exc})")
    if done.returncode:
        pytest.skip(f"THE FULL DISK IS NOT TESTED: a small file system cannot be mounted ({done.stderr.strip()})")
    yield folder
    # Lazily: somebody may still look into it.
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def test_a_full_disk_is_said_so_and_what_was_acknowledged_stays(small_disk: Path) -> None:
    async def work() -> None:
        store = SqliteRunStore(small_disk / "runs.db")
        log = store.create(new_record())
        acknowledged = 0

        async def fill() -> None:
            nonlocal acknowledged
            for i in range(2_000):
                log.append(StageStarted(at=i, path=f"s{i}-{'x' * 1000}", attempt=1))
                await asyncio.wait_for(log.flush(), 45)
                acknowledged += 1

        with pytest.raises(StoreUnavailable, match="disk is full"):
            await fill()
        with pytest.raises(StoreUnavailable):
            await log.close()
        assert acknowledged > 10
        assert len(await recorded(store, "r_1")) == acknowledged

    go(work)


def test_a_run_that_met_a_full_disk_goes_on_when_there_is_room(small_disk: Path) -> None:
    async def work() -> None:
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * 200 * 1024)
        store = SqliteRunStore(small_disk / "runs.db", lease_s=0.5)
        log = store.create(new_record())
        acknowledged = 0

        async def fill() -> None:
            nonlocal acknowledged
            for i in range(2_000):
                log.append(StageStarted(at=1.0, path=f"s{i}-{'x' * 1000}", attempt=1))
                await asyncio.wait_for(log.flush(), 45)
                acknowledged += 1

        with pytest.raises(StoreUnavailable, match="disk is full"):
            await fill()
        with pytest.raises(StoreUnavailable):
            await log.close()
        filler.unlink()
        await asyncio.sleep(0.6)  # its lease could not be given back, for want of room: it runs out
        assert (await store.find("r_1")).status == "interrupted"
        again = store.reopen(await store.find("r_1"))
        again.append(RunSucceeded(at=2.0, value=1))
        await again.close()
        assert [r.position for r in await recorded(store, "r_1")] == list(range(1, acknowledged + 2))
        with contextlib.closing(sqlite3.connect(small_disk / "runs.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    go(work)


def test_a_blob_on_a_full_disk_leaves_nothing_behind(small_disk: Path) -> None:
    with pytest.raises(StoreUnavailable, match=os.strerror(errno.ENOSPC)):
        LocalBlobs(small_disk / "blobs").put(b"x" * 2**20)
    assert [f for f in small_disk.rglob("*") if f.is_file()] == []
