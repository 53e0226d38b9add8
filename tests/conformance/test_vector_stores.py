"""One suite for both vector stores, and what is promised of each alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from flowmason_ray.components.vectors.filters import conditions
from flowmason_ray.components.vectors.pgvector import PgVectorStore
from flowmason_ray.components.vectors.port import Entry
from flowmason_ray.components.vectors.sqlite import SqliteVectorStore
from flowmason_ray.errors import PermanentError, TemporaryError
from flowmason_ray.testing.conformance.vector_stores import ANIMALS, VECTOR_STORE_CHECKS, filled, ids, refused
from tests.postgres_kit import Server


@pytest.mark.parametrize("name", VECTOR_STORE_CHECKS)
def test_the_embedded_store(name: str, tmp_path: Path) -> None:
    VECTOR_STORE_CHECKS[name](lambda: SqliteVectorStore(tmp_path / "deep" / "vectors.db"))


@pytest.fixture(scope="module")
def vector_url(postgres: Server) -> Callable[[], str]:
    """Make databases for this module's tests."""
    return lambda: postgres.url(postgres.new_database())


@pytest.mark.parametrize("name", VECTOR_STORE_CHECKS)
def test_the_store_in_postgres(name: str, vector_url: Callable[[], str]) -> None:
    url = vector_url()
    VECTOR_STORE_CHECKS[name](lambda: PgVectorStore(url))


def test_several_open_a_new_database_at_a_time(vector_url: Callable[[], str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    url = vector_url()

    def open_it(_: int) -> int:
        with PgVectorStore(url) as store:
            return len(store.collections())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_it, range(8))) == [0] * 8


def test_a_database_that_is_not_there_may_come(postgres: Server) -> None:
    with pytest.raises(TemporaryError) as caught, PgVectorStore("postgresql://x@127.0.0.1:1/x"):
        pass
    assert caught.value.code == "vector_store_busy"


def test_a_password_is_given_beside_the_url(postgres: Server, vector_url: Callable[[], str]) -> None:
    url = vector_url()
    before, password = url.split("@")[0].rsplit(":", 1)
    with PgVectorStore(f"{before}@{url.split('@')[1]}", password=password) as store:
        assert store.collections() == []


def test_a_process_that_is_killed_while_it_writes_leaves_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "vectors.db"
    with filled(lambda: SqliteVectorStore(file)):
        pass
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from flowmason_ray.components.vectors import sqlite\n"
        "from flowmason_ray.components.vectors.port import Entry\n"
        "def entries():\n"
        "    for n in range(5):\n"
        "        yield Entry(id=f'new{n}', document='d', text='w', vector=(1, 0, 0))\n"
        "packed, calls = sqlite._packed, []\n"
        "def dying(vector):\n"
        "    calls.append(vector)\n"
        "    if len(calls) == 4: os.kill(os.getpid(), 9)\n"
        "    return packed(vector)\n"
        "sqlite._packed = dying\n"
        f"with sqlite.SqliteVectorStore(Path({str(file)!r})) as store:\n"
        "    store.upsert('animals', list(entries()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == -9
    with SqliteVectorStore(file) as store:
        assert store.count("animals") == 4
        assert sorted(ids(store.query("animals", (1, 0, 0), k=10))) == sorted(e.id for e in ANIMALS)
        store.upsert("animals", [Entry(id="new", document="d", text="w", vector=(1, 0, 0))])


def test_a_new_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "vectors.db"
    other: Any = apsw.Connection(str(file))
    other.execute("BEGIN IMMEDIATE")
    leaving = threading.Timer(0.2, other.execute, ("ROLLBACK",))
    leaving.start()
    with filled(lambda: SqliteVectorStore(file)) as store:
        assert store.count("animals") == len(ANIMALS)
    leaving.join()
    other.close()


def test_files_that_are_no_stores_are_told(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    newer = tmp_path / "newer.db"
    connection: Any = apsw.Connection(str(newer))  # its types need Python 3.12
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for file, said in ((text, "cannot be used"), (newer, "format 99")):
        with pytest.raises(PermanentError, match=said) as caught, SqliteVectorStore(file):
            pass
        assert caught.value.code == "vector_store_error"


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"a": {"gtt": 1}}, "Did you mean 'gt'"),
        ({"a": {"gt": None}}, "a number or a text"),
        ({"a": {"gt": True}}, "a number or a text"),
        ({"a": {"in": 1}}, "a list of"),
        ({"a": {"in": [[1]]}}, "a list of"),
        ({"a": {"eq": {"b": 1}}}, "a text, a number"),
        ({"a": {"exists": 1}}, "true or false"),
        ({"a": {}}, "empty object"),
        ({"a": 10**30}, "64 bits"),
        ({"a": {"lt": -(2**63) - 1}}, "64 bits"),
        ({"a": [1, 2**63]}, "64 bits"),
        ({"a": {"contains": 2**64}}, "64 bits"),
        ({"a": {"gt": float("nan")}}, "finite"),
        ({"a..b": 1}, "no path"),
        ({'a"b': 1}, "no path"),
    ],
)
def test_filters_that_are_none(filters: dict[str, Any], said: str) -> None:
    with pytest.raises(PermanentError, match=said) as caught:
        conditions(filters)
    assert caught.value.code == "invalid_filter"
    assert refused(lambda: conditions(filters)) == "invalid_filter"
