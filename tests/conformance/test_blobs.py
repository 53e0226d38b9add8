"""Blob stores: what both promise, a real S3 server on the loopback, and collecting while others write."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.events import RunSucceeded, StageSucceeded
from flowmason_ray.engine.run_log import RunStore
from flowmason_ray.errors import StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import BlobStore, LocalBlobs, StoredBlob, open_blobs
from flowmason_ray.stores.encoding import Decoder, event_from_json
from flowmason_ray.stores.postgres import PostgresRunStore
from flowmason_ray.stores.remote_blobs import RemoteBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore
from flowmason_ray.testing.conformance.run_stores import new_record, recorded
from tests.cli_kit import environment
from tests.processes_kit import WAIT_S, wait_until

BUCKET = "values"


@pytest.fixture(scope="module")  # not longer: what it says in the environment is not for others
def s3_url() -> Iterator[str]:
    """A bucket of a server of moto's, in a process of its own; the environment says where, as for any S3 client."""
    code = """
        import sys, time
        from moto.server import ThreadedMotoServer
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        print(server.get_host_and_port()[1], flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    wanted = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    import s3fs  # pyright: ignore[reportMissingTypeStubs]  # it has no types

    files: Any = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir(BUCKET)
    yield f"s3://{BUCKET}"
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    process.kill()
    process.communicate()


@pytest.fixture(params=["local", "s3"])
def make_blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., BlobStore]:
    """Opens one fresh store, every time as another process would."""
    url = "" if request.param == "local" else f"{request.getfixturevalue('s3_url')}/{tmp_path.name}-{os.getpid()}"

    def make(grace_s: float = 3600.0, place: str = "blobs") -> BlobStore:
        if url:
            return RemoteBlobs(f"{url}/{place}", grace_s=grace_s)
        return LocalBlobs(tmp_path / place, grace_s=grace_s)

    return make


def digest_of(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


def gone_old(blobs: BlobStore) -> dict[str, int]:
    return {blob.digest: blob.size_bytes for blob in blobs.old()}


# -- every blob store -----------------------------------------------------------------------------------------------------


def test_content_comes_back_by_its_digest(make_blobs: Callable[..., BlobStore]) -> None:
    blobs = make_blobs()
    for content in (b"", b"content", b"\x00" * 200_000):
        digest = blobs.put(content)
        assert digest == digest_of(content)
        assert make_blobs().put(content) == digest, "twice is once"
        assert make_blobs().get(digest) == content
    with pytest.raises(StoreError, match="is not in"):
        blobs.get(digest_of(b"other"))
    assert blobs.confirm([digest_of(b"content"), digest_of(b"other")]) == {digest_of(b"other")}


def test_only_what_is_old_and_stays_old_is_removed(make_blobs: Callable[..., BlobStore]) -> None:
    for place in map(str, range(20)):
        blobs, began = make_blobs(place=place), time.monotonic()
        local = isinstance(blobs, LocalBlobs)  # there an hour passes at once; in S3 it has to be a short while
        grace_s = 3600.0 if local else 1.5
        blobs = make_blobs(grace_s, place)
        both = [StoredBlob(digest=blobs.put(content), size_bytes=3) for content in (b"one", b"two")]
        digest, kept = (blob.digest for blob in both)
        young = gone_old(blobs)
        if not local and time.monotonic() - began > 0.5:
            continue  # it is so slow today that they may have become old meanwhile
        assert young == {}
        if isinstance(blobs, LocalBlobs):
            for each in (digest, kept):
                os.utime(blob_file(blobs.root, each), (1, 1))
        else:
            time.sleep(2.6)  # S3 counts in whole seconds
        assert gone_old(blobs) == {digest: 3, kept: 3}
        began = time.monotonic()
        make_blobs(grace_s, place).put(b"two")
        old, removed = gone_old(blobs), blobs.remove(both)
        if not local and time.monotonic() - began > 0.5:
            continue
        assert old == {digest: 3}
        assert removed == both[:1]
        assert blobs.get(kept) == b"two"
        assert blobs.confirm([digest, kept]) == {digest}
        assert blobs.put(b"one") == digest
        assert make_blobs(place=place).get(digest) == b"one"
        return
    pytest.fail("it is too slow every time")


def test_who_refers_to_it_is_known(make_blobs: Callable[..., BlobStore]) -> None:
    blobs = make_blobs()
    assert blobs.claims() == set()
    blobs.claim("a")
    make_blobs().claim("a")
    make_blobs().claim("b")
    assert blobs.claims() == {"a", "b"}
    assert gone_old(blobs) == {}


def test_another_process_opens_the_same_store_by_its_address(make_blobs: Callable[..., BlobStore]) -> None:
    digest = make_blobs().put(b"content")
    assert open_blobs(make_blobs().address).get(digest) == b"content"


# -- local ------------------------------------------------------------------------------------------------------------------


def blob_file(folder: Path, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return folder / name[:2] / name[2:]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "unreadable"])
def test_a_blob_that_cannot_be_read_names_run_stage_and_digest(damage: str, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    store = SqliteRunStore(tmp_path / "runs.db", blobs)

    async def work() -> None:
        log = store.create(new_record())
        log.append(StageSucceeded(at=1.0, path="each[3]/load", attempt=1, value={"x": "y" * 100_000}))
        log.append(RunSucceeded(at=1.0, value=1))
        await log.close()
        (found, _) = await recorded(store, "r_1")
        digest = found.event["packed"]["$blob"]["digest"]
        file = blob_file(blobs.root, digest)
        content = file.read_bytes()
        if damage == "flipped":
            file.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
        elif damage == "truncated":
            file.write_bytes(content[:-1])
        else:
            file.unlink()
            if damage == "unreadable":
                file.mkdir()
        with pytest.raises(StoreError) as caught:
            event_from_json(found.event, Decoder(blobs, run_id="r_1"))
        for words in ("'r_1'", "'each[3]/load'", digest):
            assert words in caught.value.message
        assert event_from_json(found.event) is not None, "how the run went can be read without its values"
        if damage == "truncated":
            blobs.put(content)
            assert blobs.get(digest) == content, "what is there but too short is written again"

    asyncio.run(work())


def test_what_interrupted_processes_left_is_cleared_away(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, grace_s=0.0)
    digest = blobs.put(b"content")
    file = blob_file(tmp_path, digest)
    os.rename(file, file.with_name(file.name + ".aside"))  # a pruning process was killed here
    left = file.with_name(".new-abc")  # and a writing one here
    left.write_bytes(b"half")
    for each in (left, file.with_name(file.name + ".aside")):
        os.utime(each, (1.0, 1.0))
    assert blobs.get(digest) == b"content", "it can be read all the while"
    assert gone_old(blobs) == {digest: 7}
    assert not left.exists()
    assert blobs.get(digest) == b"content"
    (tmp_path / "unrelated").mkdir()
    (tmp_path / "ab").mkdir(exist_ok=True)
    (tmp_path / "ab" / "README").write_text("mine")
    os.utime(tmp_path / "ab" / "README", (1.0, 1.0))
    assert gone_old(blobs) == {digest: 7}, "what is no blob is none of its business"


def test_a_blob_that_is_touched_while_it_is_taken_away_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = LocalBlobs(tmp_path, grace_s=60.0)
    digest = blobs.put(b"content")
    file = blob_file(tmp_path, digest)
    os.utime(file, (1.0, 1.0))
    (old,) = blobs.old()
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        LocalBlobs(tmp_path).put(b"content")  # just before it is moved
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert blobs.remove([old]) == []
    assert blobs.get(digest) == b"content"
    assert not file.with_name(file.name + ".aside").exists()


def test_a_directory_that_may_not_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for doing in (lambda: LocalBlobs(tmp_path / "file").put(b"x"), lambda: LocalBlobs(tmp_path / "file").claim("x")):
        with pytest.raises(StoreUnavailable, match="Cannot write"):
            doing()


# -- addresses --------------------------------------------------------------------------------------------------------------


def test_addresses(tmp_path: Path) -> None:
    assert open_blobs("blobs", tmp_path).address == str(tmp_path / "blobs")
    assert open_blobs(f"file://{tmp_path}/blobs", Path("/else")).address == str(tmp_path / "blobs")
    assert open_blobs("s3://bucket/prefix/").address == "s3://bucket/prefix"
    with pytest.raises(StoreError, match=r"(?s)Cannot keep blobs at 'nothing-known://x'.*s3://bucket/prefix"):
        open_blobs("nothing-known://x").put(b"x")


@pytest.mark.parametrize("library", ["s3fs", "fsspec"])
def test_a_missing_library_names_the_extra(library: str) -> None:
    """In a process of its own: fsspec remembers the file systems that it has found."""
    code = """
        import sys
        from flowmason_ray.errors import MissingExtra
        from flowmason_ray.stores.blobs import open_blobs
        sys.modules[sys.argv[1]] = None
        try:
            open_blobs("s3://bucket/x").put(b"x")
        except MissingExtra as exc:
            print(exc.message)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), library], env=environment(), capture_output=True, text=True
    )
    assert "flowmason-ray[s3]" in done.stdout, done.stderr


def test_a_bucket_that_is_not_there_is_said_so(s3_url: str) -> None:
    blobs = RemoteBlobs("s3://no-such-bucket/x")
    with pytest.raises(StoreUnavailable, match=r"Cannot write a value of 1 bytes to s3://no-such-bucket/x"):
        blobs.put(b"x")


# -- collecting ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def run_log(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def store_at(address: str, blobs: BlobStore) -> RunStore:
    return (
        PostgresRunStore(address, blobs) if address.startswith("postgresql") else SqliteRunStore(Path(address), blobs)
    )


def large(number: int) -> dict[str, Any]:
    return {"x": f"{number:06}" * 12_000}


async def run_with(store: RunStore, run_id: str, number: int, *, keep: str | None = None) -> str:
    log = store.create(new_record(run_id))
    event = StageSucceeded(at=1.0, path="a", attempt=1, value=large(number))
    log.append(event)
    if keep is not None:
        log.keep_result(keep, event, ttl_s=None)
    log.append(RunSucceeded(at=time.time(), value=1))
    await log.close()
    (found, _) = await recorded(store, run_id)
    return found.event["packed"]["$blob"]["digest"]


def test_blobs_go_with_the_last_run_that_needs_them(run_log: str, make_blobs: Callable[..., BlobStore]) -> None:
    async def work() -> None:
        blobs = make_blobs(grace_s=0.0)
        store = store_at(run_log, blobs)
        shared = await run_with(store, "r_1", 1)
        assert await run_with(store, "r_2", 1) == shared
        alone = await run_with(store, "r_3", 3)
        cached = await run_with(store, "r_4", 4, keep="f")
        orphan = blobs.put(b"nobody's")
        await asyncio.sleep(1.1)  # S3 counts in whole seconds
        would = await store.prune(keep=3, dry_run=True)
        assert (list(would.runs), would.blobs, would.blob_bytes) == (["r_1"], 1, 8), "the orphan"
        done = await store.prune(keep=3)
        assert (list(done.runs), done.blobs) == (["r_1"], 1)
        assert blobs.confirm([shared, alone, cached, orphan]) == {orphan}
        would = await store.prune(keep=0, dry_run=True)
        done = await store.prune(keep=0)
        assert would == done
        assert (done.blobs, done.blob_bytes) == (2, 2 * (12_000 * 6 + len('{"x":""}')))
        assert blobs.confirm([shared, alone, cached, orphan]) == {orphan, shared, alone}, "a kept result needs its own"
        log = store.create(new_record("r_5"))
        found = await log.kept_result("f")
        assert found is not None
        assert found.value == large(4)
        await log.close()

    asyncio.run(work())


def test_blobs_that_another_store_refers_to_are_left_alone(tmp_path: Path) -> None:
    async def work() -> None:
        blobs = LocalBlobs(tmp_path / "blobs", grace_s=0.0)
        mine = SqliteRunStore(tmp_path / "a.db", blobs)
        theirs = SqliteRunStore(tmp_path / "b.db", blobs)
        digests = [await run_with(mine, "r_1", 1), await run_with(theirs, "r_2", 2)]
        assert (await mine.prune(keep=0)).blobs == 0
        assert blobs.confirm(digests) == set()

    asyncio.run(work())


def test_a_blob_that_was_removed_before_it_was_recorded_is_written_again(
    run_log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process is stopped for a day between writing a value and recording it."""
    blobs = LocalBlobs(tmp_path / "blobs")
    real = LocalBlobs.confirm
    asked: list[set[str]] = []

    def confirm(self: LocalBlobs, digests: Any) -> set[str]:
        wanted = set(digests)
        if wanted and not asked:
            for digest in wanted:
                blob_file(self.root, digest).unlink()
        asked.append(wanted)
        return real(self, wanted)

    monkeypatch.setattr(LocalBlobs, "confirm", confirm)

    async def work() -> None:
        store = store_at(run_log, blobs)
        digest = await run_with(store, "r_1", 1, keep="f")
        assert len(asked) > 1
        assert blobs.get(digest)
        assert [r.position for r in await recorded(store, "r_1")] == [1, 2]

    asyncio.run(work())


RACER = """
    import asyncio, sys, time
    from pathlib import Path
    from flowmason_ray.engine.events import RunSucceeded, StageSucceeded
    from flowmason_ray.stores.blobs import LocalBlobs
    from flowmason_ray.stores.opening import open_store
    from flowmason_ray.testing.conformance.run_stores import new_record

    async def write(store, me):
        number = 0
        while number < 8 or not Path("enough").exists():
            log = store.create(new_record(f"r_{me}_{number}"))
            for stage in range(3):
                value = {"x": f"{(number + stage) % 7:06}" * 12_000}  # few values: others write and need the same
                log.append(StageSucceeded(at=1.0, path=f"s{stage}", attempt=1, value=value))
                await log.flush()
            log.append(RunSucceeded(at=time.time(), value=1))
            await log.close()
            number += 1
        print(number, flush=True)

    async def prune(store, me):
        blobs = 0
        while not Path("stop").exists():
            blobs += (await store.prune(keep=2)).blobs
            if blobs:
                Path(f"collected_{me}").write_text(str(blobs))
        print(blobs, flush=True)

    address, folder, role, me = sys.argv[1:]
    store = open_store(address, folder, Path.cwd())
    store.blobs = LocalBlobs(Path(folder), grace_s=0.0)  # nothing is ever young: the worst case
    asyncio.run((write if role == "write" else prune)(store, me))
"""


@pytest.mark.timeout(900)  # longer than all that it waits for together
def test_collecting_never_takes_what_a_run_needs(run_log: str, tmp_path: Path) -> None:
    """Processes write the same few values and need them, while others collect without any grace, and one of those is killed."""
    folder = tmp_path / "blobs"
    roles = ["write", "write", "prune", "prune", "prune"]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RACER), run_log, str(folder), role, str(me)],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me, role in enumerate(roles)
    ]

    def collected() -> int:
        return sum(int(file.read_text() or 0) for file in tmp_path.glob("collected_[23]"))

    try:
        time.sleep(2)  # or later: the one that is killed is at work until then
        wait_until(lambda: (tmp_path / "collected_4").exists(), "it has collected nothing yet")
        racers[-1].send_signal(signal.SIGKILL)
        wait_until(lambda: collected() > 3, "enough is collected")
        (tmp_path / "enough").touch()
        said = [racer.communicate(timeout=WAIT_S) for racer in racers[:2]]
        (tmp_path / "stop").touch()
        said += [racer.communicate(timeout=WAIT_S) for racer in racers[2:]]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert [err for _, err in said[:-1]] == [""] * 4
    assert all(int(out) >= 8 for out, _ in said[:2]), "enough was written"
    assert sum(int(out) for out, _ in said[2:-1]) > 3, "enough was collected"

    async def work() -> None:
        blobs = LocalBlobs(folder, grace_s=0.0)
        store = store_at(run_log, blobs)
        with suppress(StoreError):
            await store.prune(keep=1_000)
        for record in await store.list_runs(limit=1_000):
            values = 0
            async for each in store.read(record.run_id):
                if each.event["kind"] == "stage_succeeded":
                    assert Decoder(blobs, run_id=record.run_id).value(each.event)
                    values += 1
            assert values == 3

    asyncio.run(work())
