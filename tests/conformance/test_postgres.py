"""PostgreSQL alone: a server that stops under load, who may make tables, and addresses that lead nowhere."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flowmason_ray.engine.events import RunSucceeded, StageStarted, StageSucceeded
from flowmason_ray.engine.run_log import RunLog
from flowmason_ray.errors import Fenced, FlowMasonError, MissingExtra, StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.group_commit import ConnectionLost
from flowmason_ray.stores.opening import open_store, tables_status, upgrade_tables
from flowmason_ray.stores.postgres import PostgresRunStore
from flowmason_ray.stores.postgres_journal import PostgresJournal
from flowmason_ray.testing.conformance.run_stores import begun, new_record, recorded, started
from tests.cli_kit import environment
from tests.postgres_kit import MIGRATED, PASSWORD, Server, serving


@pytest.fixture(scope="module")
def fragile() -> Iterator[Server]:
    """A server of our own: it is stopped, and others use the shared one."""
    from tests.postgres_kit import prepare_template

    for server in serving():
        prepare_template(server)
        yield server


# -- a server that goes away --------------------------------------------------------------------------------------------


def test_a_server_that_crashes_under_load_costs_nothing(fragile: Server) -> None:
    async def work() -> None:
        store = PostgresRunStore(fragile.url(fragile.new_database(MIGRATED)), lease_s=60.0, patience_s=120.0)
        log = await begun(store)  # who follows a run that is not recorded yet is told that there is none
        acknowledged = 1
        stopping = asyncio.Event()

        async def load() -> None:
            nonlocal acknowledged
            while not stopping.is_set():
                for _ in range(20):
                    log.append(started(acknowledged))
                await log.flush()
                acknowledged += 20
                await asyncio.sleep(0)

        async def more_is_acknowledged() -> None:
            goal, deadline = acknowledged + 60, asyncio.get_running_loop().time() + 90
            while acknowledged < goal:  # it is counted, not told
                assert asyncio.get_running_loop().time() < deadline, f"{acknowledged} are acknowledged, not {goal}"
                await asyncio.sleep(0.01)

        async def crash() -> None:
            try:
                for _ in range(3):
                    await more_is_acknowledged()
                    await asyncio.sleep(0.1)  # at any point of what comes next
                    await asyncio.to_thread(fragile.stop, "immediate")
                    await asyncio.to_thread(fragile.start)
                await more_is_acknowledged()
            finally:
                stopping.set()

        follower = asyncio.create_task(_follow(store))
        await asyncio.gather(load(), crash())
        log.check_lease()
        log.append(RunSucceeded(at=1.0, value=1))
        await log.close()
        found = await recorded(store, "r_1")
        assert [r.position for r in found] == list(range(1, acknowledged + 2)), "nothing lost, nothing doubled"
        assert await asyncio.wait_for(follower, 90) == acknowledged + 1, "a follower survives it, too"

    asyncio.run(work())


async def _follow(store: PostgresRunStore) -> int:
    return len([each async for each in store.follow("r_1")])


async def _recorded(log: RunLog, number: int) -> None:
    log.append(started(number))  # raises already, where the lease was to be renewed meanwhile
    await log.flush()


def test_a_server_that_stays_away_is_said_so_in_time(fragile: Server) -> None:
    async def work() -> None:
        store = PostgresRunStore(fragile.url(fragile.new_database(MIGRATED)), patience_s=0.5, lease_s=1.0)
        log = store.create(new_record())
        log.append(started(1))
        await log.flush()
        try:
            await asyncio.to_thread(fragile.stop, "immediate")
            with pytest.raises(
                StoreUnavailable, match=r"(?s)tried again for 0.5 s.*What was acknowledged is in the log"
            ):
                await asyncio.wait_for(_recorded(log, 2), 60)
            with pytest.raises(StoreUnavailable) as caught:
                await store.list_runs()
            assert PASSWORD not in caught.value.message
            with pytest.raises(StoreUnavailable):
                await log.close()
        finally:
            await asyncio.to_thread(fragile.start)
        assert len(await recorded(store, "r_1")) == 1
        deadline = asyncio.get_running_loop().time() + 60
        while (await store.find("r_1")).status != "interrupted":  # its lease runs out
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        again = store.reopen(await store.find("r_1"))
        again.append(RunSucceeded(at=1.0, value=1))
        await again.close()

    asyncio.run(work())


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_commit_whose_outcome_is_unknown_is_looked_up(
    postgres_url: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks before the server has the group, or after it has committed it, before anybody knows."""
    real = PostgresJournal.write
    broken: list[int] = []

    def write(self: PostgresJournal, group: Any, *, renew: bool) -> None:
        breaks = bool(group.rows) and not broken
        if breaks:
            broken.append(1)
        if not breaks or lost == "after":
            real(self, group, renew=renew)
        if breaks:
            self._connection.close()  # pyright: ignore[reportPrivateUsage]  # as the network does it
            raise ConnectionLost("cut")

    monkeypatch.setattr(PostgresJournal, "write", write)

    async def work() -> None:
        store = PostgresRunStore(postgres_url)
        log = store.create(new_record())
        event = StageSucceeded(at=1.0, path="a", attempt=1, value={"x": 1})
        for i in range(5):
            log.append(started(i))
        log.keep_result("f", event, ttl_s=None)
        await log.flush()
        assert broken
        assert await log.kept_result("f") is not None
        log.append(RunSucceeded(at=2.0, value=1))
        await log.close()
        assert [r.event["kind"] for r in await recorded(store, "r_1")] == ["stage_started"] * 5 + ["run_succeeded"]

    asyncio.run(work())


def test_a_connection_lost_to_a_takeover_is_no_way_around_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        store = PostgresRunStore(postgres_url)
        log = store.create(new_record())
        log.append(started(1))
        await log.flush()
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("UPDATE flowmason.runs SET epoch = 2")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flowmason'"
            )
        log.append(started(2))
        with pytest.raises(Fenced):
            await log.flush()
        with suppress(StoreError):
            await log.close()
        assert len(await recorded(store, "r_1")) == 1

    asyncio.run(work())


# -- tables -------------------------------------------------------------------------------------------------------------


def test_nobody_makes_tables_but_who_is_told_to(postgres: Server, tmp_path: Path) -> None:
    url = postgres.url(postgres.new_database())
    store = PostgresRunStore(url)
    for call in (lambda: store.create(new_record()), lambda: asyncio.run(store.list_runs())):
        with pytest.raises(StoreError, match=r"holds no run log yet\. 'fm db upgrade'") as caught:
            call()
        assert PASSWORD not in caught.value.message
    assert tables_status(url, tmp_path).words == "not set up"
    assert upgrade_tables(url, tmp_path).words == "up to date"
    assert upgrade_tables(url, tmp_path).words == "up to date"
    assert asyncio.run(store.list_runs()) == []


def test_tables_of_another_revision_are_refused(postgres: Server, tmp_path: Path) -> None:
    url = postgres.url(postgres.new_database())
    with psycopg.connect(url, autocommit=True) as connection:
        from flowmason_ray.stores.migrations import upgrade_postgres

        upgrade_postgres(connection, "flowmason", "0001")
    store = PostgresRunStore(url)
    with pytest.raises(StoreError, match=r"schema revision 1; this FlowMason needs 3.*'fm db upgrade'"):
        store.create(new_record())
    assert tables_status(url, tmp_path).words == "to be upgraded"
    assert upgrade_tables(url, tmp_path).revision == 3
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE flowmason.alembic_version SET version_num = '0099'")
    with pytest.raises(StoreError, match=r"schema revision 99.*knows up to 3\. Upgrade it"):
        store.create(new_record())
    with pytest.raises(StoreError, match="Upgrade it"):
        upgrade_tables(url, tmp_path)
    assert tables_status(url, tmp_path).words == "newer than this FlowMason"


def test_several_upgrades_at_once_wait_for_each_other(postgres: Server, tmp_path: Path) -> None:
    url = postgres.url(postgres.new_database())
    code = "import sys; from pathlib import Path; from flowmason_ray.stores.opening import *; print(upgrade_tables(sys.argv[1], Path.cwd()).words)"
    upgrades = [
        subprocess.Popen(
            [sys.executable, "-c", code, url], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [each.communicate(timeout=50)[0].strip() for each in upgrades] == ["up to date"] * 3


def test_an_upgrade_that_is_not_allowed_is_said_so(postgres: Server, tmp_path: Path) -> None:
    database = postgres.new_database()
    with suppress(psycopg.errors.DuplicateObject):
        postgres.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(StoreUnavailable, match=r"permission denied.*right to make a schema"):
        upgrade_tables(postgres.url(database, user="guest"), tmp_path)
    migrated = postgres.new_database(MIGRATED)
    with pytest.raises(StoreError, match=r"(?i)permission|no run log"):
        PostgresRunStore(postgres.url(migrated, user="guest")).create(new_record())


# -- wrong addresses ------------------------------------------------------------------------------------------------------


def _wrong(postgres: Server) -> dict[str, tuple[str, str]]:
    """Return wrong addresses, each with what is to be said."""
    return {
        "password": (
            postgres.url(password="not-the-secret"),
            r"password authentication failed.*Check user and password",
        ),
        "user": (postgres.url(user="nobody-knows-me"), r"password authentication failed"),
        "database": (postgres.url("not_there"), r"does not exist.*createdb"),
        "port": (f"postgresql://postgres:not-the-secret@127.0.0.1:{_free()}/x", r"No server listens there"),
        "host": ("postgresql://postgres:not-the-secret@no-such-host.invalid/x", r"There is no such host"),
        "no URL": ("postgresql://postgres:not-the-secret@[::1/x", r"no valid URL"),
        "unknown option": (f"{postgres.url()}?not-the-secret=1", r"no valid URL"),
        "number of a port": ("postgresql://postgres:not-the-secret@localhost:port/x", r"no valid URL"),
    }


def _free() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    "name", ["password", "user", "database", "port", "host", "no URL", "unknown option", "number of a port"]
)
def test_a_wrong_address_is_said_so_without_its_password(postgres: Server, name: str, tmp_path: Path) -> None:
    url, words = _wrong(postgres)[name]
    calls: list[Callable[[], Any]] = [
        lambda: open_store(url, "blobs", tmp_path).create(new_record()),
        lambda: asyncio.run(open_store(url, "blobs", tmp_path).list_runs()),
        lambda: tables_status(url, tmp_path),
        lambda: upgrade_tables(url, tmp_path),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=f"(?s){words}") as caught:
            call()
        text = f"{caught.value.message} {caught.value.to_json()} {caught.value!r}"
        assert "not-the-secret" not in text
        assert PASSWORD not in text


@pytest.mark.parametrize("url", ["mysql://u:not-the-secret@h/d", "postgressql://u:not-the-secret@h/d", "http://x"])
def test_an_address_of_something_else_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"SQLite file, or a URL that begins with postgresql://") as caught:
        open_store(url, "blobs", tmp_path)
    assert "not-the-secret" not in caught.value.message
    assert ("Did you mean 'postgresql'" in caught.value.message) == url.startswith("postgres")


def test_a_missing_driver_names_the_extra(absent: Callable[..., None], tmp_path: Path) -> None:
    absent(
        "psycopg", forget=["flowmason_ray.stores.postgres", "flowmason_ray.stores.postgres_connections", "flowmason_ray.stores.postgres_journal"]
    )  # fmt: skip
    with pytest.raises(MissingExtra, match=r"flowmason-ray\[postgres\]"):
        open_store("postgresql://h/d", "blobs", tmp_path)


# -- rows that nobody wrote -----------------------------------------------------------------------------------------------


def test_rows_that_make_no_sense_are_said_so(postgres_url: str) -> None:
    store = PostgresRunStore(postgres_url)

    async def work() -> None:
        log = store.create(new_record())
        log.append(StageStarted(at=1.0, path="a", attempt=1))
        log.append(RunSucceeded(at=1.0, value=1))
        await log.close()

    asyncio.run(work())
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE flowmason.events SET body = '[' WHERE position = 1")
        connection.execute("UPDATE flowmason.runs SET failure = '3'")
    with pytest.raises(StoreError, match="damaged"):
        asyncio.run(recorded(store, "r_1"))
    with pytest.raises(StoreError, match="damaged"):
        asyncio.run(store.list_runs())


def test_values_that_text_cannot_hold_are_an_error_of_the_run(postgres_url: str, tmp_path: Path) -> None:
    """PostgreSQL's texts have no NUL; the recorded JSON escapes it, but a path would have to be one itself."""
    store = PostgresRunStore(postgres_url, LocalBlobs(tmp_path))

    async def work() -> None:
        log = store.create(new_record())
        log.append(StageSucceeded(at=1.0, path="a", attempt=1, value={"x": "a\x00b"}))
        await log.flush()
        assert [r.event["value"] async for r in store.read("r_1")] == [{"x": "a\x00b"}]
        log.append(StageStarted(at=1.0, path="a\x00", attempt=1))
        with pytest.raises(FlowMasonError):
            await log.flush()
        with suppress(FlowMasonError):
            await log.close()

    asyncio.run(work())
