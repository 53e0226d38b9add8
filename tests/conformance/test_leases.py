"""Whose run it is when processes are stopped, killed or late: on both stores that several processes share."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flowmason_ray.engine.events import RunResumed, RunSucceeded, StageStarted
from flowmason_ray.engine.run_log import RunLog, RunStore
from flowmason_ray.errors import Fenced
from flowmason_ray.stores import owners
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.opening import open_store as open_at
from flowmason_ray.stores.postgres import PostgresRunStore
from flowmason_ray.stores.postgres_journal import PostgresJournal
from flowmason_ray.stores.sqlite import SqliteRunStore
from flowmason_ray.stores.sqlite_journal import SqliteJournal
from flowmason_ray.testing.conformance.run_stores import begun, new_record, recorded
from tests.cli_kit import environment
from tests.processes_kit import WAIT_S, stop_between_commits, wait_until

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 0.6

OpenStore = Callable[..., RunStore]


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the runs are."""
    return str(tmp_path / "runs.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def open_store(address: str, tmp_path: Path) -> OpenStore:
    blobs = LocalBlobs(tmp_path / "blobs")

    def opened(lease_s: float = LEASE_S) -> RunStore:
        if address.startswith("postgresql"):
            return PostgresRunStore(address, blobs, lease_s=lease_s)
        return SqliteRunStore(Path(address), blobs, lease_s=lease_s)

    return opened


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from flowmason_ray.engine.events import StageStarted
    from flowmason_ray.errors import FlowMasonError
    from flowmason_ray.stores import opening
    from flowmason_ray.testing.conformance.run_stores import new_record

    async def main(address, lease_s):
        store = opening.open_store(address, "blobs", Path.cwd())
        store._lease_s = float(lease_s)
        log = store.create(new_record())
        for number in range(100_000):
            try:
                log.check_lease()
                log.append(StageStarted(at=1.0, path=f"s{number}", attempt=1))
                await log.flush()
            except FlowMasonError as exc:
                if number > 3:  # before, a busy machine has held it up
                    print(exc.code, flush=True)
                try:
                    await log.flush()
                except FlowMasonError as again:
                    print("then", again.code, flush=True)
                    return
            if number == 3:
                print("ready", flush=True)
            await asyncio.sleep(0.02)

    asyncio.run(main(*sys.argv[1:]))
"""


class Writer:
    """A process that writes a run."""

    def __init__(self, address: str, folder: Path, lease_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), address, str(lease_s)],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ready = self.line()
        assert ready == "ready", f"{ready!r}, {self.process.communicate()[1]}"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)


@pytest.fixture
def start_writer(address: str, tmp_path: Path) -> Iterator[Callable[[float], Writer]]:
    writers: list[Writer] = []

    def start(lease_s: float) -> Writer:
        writers.append(Writer(address, tmp_path, lease_s))
        return writers[-1]

    yield start
    for each in writers:
        each.kill()


async def status_becomes(store: RunStore, status: str, within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while (found := (await store.find("r_1")).status) != status:
        assert time.monotonic() < deadline, f"it is {found}"
        await asyncio.sleep(0.02)


def test_a_killed_process_need_not_be_waited_for(
    open_store: OpenStore, start_writer: Callable[[float], Writer]
) -> None:
    async def work() -> None:
        writer = start_writer(600.0)
        store = open_store()
        record = await store.find("r_1")
        assert record.status == "running"
        with pytest.raises(Fenced, match="running"):
            store.reopen(record)
        writer.process.send_signal(signal.SIGKILL)
        writer.process.wait(WAIT_S)
        assert (await store.find("r_1")).status == "interrupted"
        assert [r.run_id for r in await store.list_runs(status="interrupted")] == ["r_1"]
        assert await store.list_runs(status="running") == []
        log = store.reopen(record)
        assert log.epoch == 2
        log.append(RunResumed(at=2.0))
        await log.close()
        found = await recorded(store, "r_1")
        assert [r.position for r in found] == list(range(1, len(found) + 1))
        assert len(found) >= 5

    asyncio.run(work())


def test_a_stopped_process_that_goes_on_is_refused(
    address: str, open_store: OpenStore, start_writer: Callable[[float], Writer]
) -> None:
    async def work() -> None:
        writer = start_writer(LEASE_S)
        store = open_store(600.0)
        await asyncio.to_thread(stop_between_commits, writer.process.pid, address)
        await status_becomes(store, "interrupted")
        log = store.reopen(await store.find("r_1"))
        log.append(RunResumed(at=2.0))
        await log.flush()
        before = await recorded(store, "r_1")
        writer.process.send_signal(signal.SIGCONT)
        said = [await asyncio.to_thread(writer.line)]
        while said[-1] not in ("then fenced", ""):  # what is held up is refused, too: only the last one counts
            said.append(await asyncio.to_thread(writer.line))
        assert said[-2:] == ["fenced", "then fenced"]
        await asyncio.to_thread(writer.process.wait, WAIT_S)
        log.append(RunSucceeded(at=3.0, value=1))
        await log.close()
        found = await recorded(store, "r_1")
        assert [r.event for r in found[:-1]] == [r.event for r in before], "the old process has written nothing more"
        assert found[-1].event["kind"] == "run_succeeded"

    asyncio.run(work())


def test_a_stopped_process_that_nobody_replaced_goes_on(
    open_store: OpenStore, start_writer: Callable[[float], Writer]
) -> None:
    async def work() -> None:
        writer = start_writer(LEASE_S)
        store = open_store()
        writer.process.send_signal(signal.SIGSTOP)
        await status_becomes(store, "interrupted")
        before = len(await recorded(store, "r_1"))
        writer.process.send_signal(signal.SIGCONT)
        await status_becomes(store, "running")
        deadline = time.monotonic() + WAIT_S
        while len(found := await recorded(store, "r_1")) < before + 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert [r.position for r in found] == list(range(1, len(found) + 1))

    asyncio.run(work())


def test_a_lease_is_renewed_while_nothing_is_recorded(address: str, open_store: OpenStore) -> None:
    def lease_until() -> float:
        connection: Any = psycopg.connect(address) if "://" in address else sqlite3.connect(address)
        with closing(connection):
            table = "flowmason.runs" if "://" in address else "runs"
            return connection.execute(f"SELECT lease_until FROM {table}").fetchone()[0]

    async def work() -> None:
        log = await begun(open_store())
        await asyncio.sleep(0.1)  # nothing is under way any more
        for _ in range(3):
            before = lease_until()
            await asyncio.to_thread(wait_until, lambda before=before: lease_until() > before, "it is not renewed")
        await log.close()

    asyncio.run(work())


def test_nothing_is_begun_on_a_lease_that_may_have_run_out(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock that counts while the machine sleeps jumps by a minute, as after a sleep; the store's did not."""
    skipped = 0.0
    real = owners.clock

    def clock() -> float:
        return real() + skipped

    monkeypatch.setattr("flowmason_ray.stores.group_commit.clock", clock)

    async def work() -> None:
        nonlocal skipped
        log = open_store(30.0).create(new_record())
        log.check_lease()
        skipped = 26.0  # less than the lease, but within the margin at its end
        with pytest.raises(Fenced, match="may have run out"):
            log.check_lease()
        await log.flush()  # renews
        log.check_lease()
        log.append(RunSucceeded(at=1.0, value=1))
        await log.flush()
        skipped = 500.0
        log.check_lease()  # a run that has ended has no lease to lose
        await log.close()

    asyncio.run(work())


@pytest.mark.parametrize("taken", [False, True], ids=["nobody wants it", "it is taken over"])
def test_a_commit_that_takes_as_long_as_the_lease_is_no_loss_of_it(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """The disk stands still while the first two groups are committed: each takes most of the lease that it renews."""
    skipped, slow, others = 0.0, 2, list[RunLog]()
    real_clock = owners.clock

    def clock() -> float:
        return real_clock() + skipped

    def gone(self: owners.Owner) -> bool:
        return True

    monkeypatch.setattr("flowmason_ray.stores.group_commit.clock", clock)
    for journal in (SqliteJournal, PostgresJournal):

        def write(self: Any, group: Any, *, renew: bool, really: Any = journal.write) -> None:
            nonlocal skipped, slow
            really(self, group, renew=renew)
            if slow:
                slow -= 1
                skipped += 26.0
                if taken and not slow:
                    others.append(open_store(600.0).reopen(new_record()))

        monkeypatch.setattr(journal, "write", write)

    async def work() -> None:
        log = open_store(30.0).create(new_record())
        log.append(StageStarted(at=1.0, path="a", attempt=1))
        if taken:
            monkeypatch.setattr(owners.Owner, "has_gone", gone)
            with pytest.raises(Fenced, match="taken over"):
                await log.flush()
            with pytest.raises(Fenced, match="taken over"):
                await log.close()
            await others[0].close()
        else:
            await log.flush()
            assert not slow
            log.check_lease()
            await log.close()

    asyncio.run(work())


def test_a_fenced_writer_tells_everybody_and_ends(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A takeover at a moment when the old writer still has something queued."""

    def gone(self: owners.Owner) -> bool:
        return True

    async def work() -> None:
        store = open_store(30.0)
        old = store.create(new_record())
        old.append(StageStarted(at=1.0, path="a", attempt=1))
        await old.flush()
        record = await store.find("r_1")
        monkeypatch.setattr(owners.Owner, "has_gone", gone)
        new = store.reopen(record)
        old.append(StageStarted(at=2.0, path="b", attempt=1))
        with pytest.raises(Fenced, match="taken over"):
            await old.flush()
        with pytest.raises(Fenced):
            old.check_lease()
        with pytest.raises(Fenced):
            old.append(StageStarted(at=3.0, path="c", attempt=1))
        with pytest.raises(Fenced):
            await old.close()
        new.append(RunResumed(at=4.0))
        await new.flush()
        new.check_lease()
        await new.close()
        kinds = [(r.event["kind"], r.event.get("path")) for r in await recorded(store, "r_1")]
        assert kinds == [("stage_started", "a"), ("run_resumed", None)]

    asyncio.run(work())


def test_a_process_of_the_same_number_is_not_mistaken() -> None:
    me = owners.this_process()
    assert not me.has_gone()

    def other(**facts: Any) -> owners.Owner:
        return replace(me, **facts)

    assert other(started="1").has_gone()
    assert other(pid=2**22 + 1).has_gone(), "above the largest process number that Linux gives"
    assert not other(host="elsewhere", pid=2**22 + 1).has_gone()
    assert not other(boot="another/pid:[1]", pid=2**22 + 1).has_gone(), "a container of the same name"
    assert other(boot=None, started="1").has_gone(), "written by the first format"


def test_a_process_that_is_dead_but_not_waited_for_has_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    deadline = time.monotonic() + 20
    while owners.process_start(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert owners.process_start(child.pid) is None
    child.wait()


def test_nothing_is_left_of_a_log(open_store: OpenStore) -> None:
    """Threads and open files are back where they were."""

    async def once(number: int) -> None:
        log: RunLog = open_store().create(new_record(f"r_{number}"))
        log.append(StageStarted(at=1.0, path="a", attempt=1))
        await log.requests(after=0)
        await log.kept_result("f")
        await log.close()
        async for _ in open_store().follow(f"r_{number}"):
            pass

    async def work() -> None:
        await once(0)
        files = len(os.listdir("/proc/self/fd"))
        for number in range(1, 5):
            await once(number)
        assert len(os.listdir("/proc/self/fd")) <= files

    asyncio.run(work())


def test_an_address_leads_to_a_store(tmp_path: Path) -> None:
    assert open_at("a/b.db", "blobs", tmp_path).address == str(tmp_path / "a/b.db")
    assert open_at("sqlite:///a.db", "blobs", tmp_path).address == str(tmp_path / "a.db")
    assert open_at(f"sqlite:///{tmp_path}/a.db", "blobs", tmp_path).address == f"{tmp_path}/a.db"
    assert open_at("postgresql://u:secret@h:1/d", "blobs", tmp_path).address == "postgresql://u@h:1/d"
    assert open_at("postgres://u@a:1,b:2/d?password=secret", "blobs", tmp_path).address == "postgresql://u@a,b:1,2/d"
    assert open_at("postgresql:///d", "blobs", tmp_path).address == "postgresql:///d"
