"""Measures vector stores: filling, searching, with filters and by words, deleting; import and size on disk.

    python -m benchmarks.vector_stores [--count 10000] [--dimension 384] [--url postgresql://…] [--lancedb] [--json]

Always the embedded store; with `--url` the one in PostgreSQL with pgvector, too; with `--lancedb` LanceDB beside them, if it is
installed: the numbers of docs/adr/0021. Medians of 20 searches, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from flowmason_ray.components.vectors.filters import conditions
from flowmason_ray.components.vectors.port import Entry, VectorStore
from flowmason_ray.components.vectors.sqlite import SqliteVectorStore

SEARCHES = 20
WORDS = "leave travel bonus kitchen data policy contract salary office holiday".split()  # noqa: SIM905  # reads better


def entries(count: int, dimension: int) -> list[Entry]:
    """Return random entries, always the same; every second one is of kind `a`."""
    random = Random(1)
    return [
        Entry(
            id=f"e{n:07}",
            document=f"d{n % 100}",
            text=" ".join(random.choices(WORDS, k=40)),
            vector=[random.gauss(0, 1) for _ in range(dimension)],
            metadata={"kind": "ab"[n % 2]},
        )
        for n in range(count)
    ]


def timed(action: Callable[[], Any]) -> float:
    """Return how long an action takes, in milliseconds."""
    began = perf_counter()
    action()
    return round((perf_counter() - began) * 1000, 2)


def median(action: Callable[[], Any]) -> float:
    """Return the median of several."""
    return round(statistics.median(timed(action) for _ in range(SEARCHES)), 2)


def import_ms(module: str) -> float:
    """Return what importing a module takes in a fresh process, beyond starting it."""
    code = f"import time; a = time.perf_counter(); import {module}; print((time.perf_counter() - a) * 1000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)


def measure(store: VectorStore, rows: list[Entry]) -> dict[str, float]:
    """Fill a store and search it."""
    some = conditions({"kind": "a"})
    wanted = rows[7].vector
    with store:
        store.create("c", model="m", dimension=len(wanted))
        return {
            "insert": timed(lambda: store.upsert("c", rows)),
            "query": median(lambda: store.query("c", wanted, k=10)),
            "query_filtered": median(lambda: store.query("c", wanted, k=10, where=some)),
            "search_words": median(lambda: store.search("c", "holiday salary", k=10)),
            "delete_half": timed(lambda: store.delete("c", where=some)),
            "query_after": median(lambda: store.query("c", wanted, k=10)),
        }


def measure_lancedb(folder: str, rows: list[Entry]) -> dict[str, float]:
    """Do the same with LanceDB, without an index: exact, too."""
    lancedb: Any = import_module("lancedb")
    database = lancedb.connect(folder)
    data = [{"id": e.id, "kind": e.metadata["kind"], "vector": list(e.vector)} for e in rows]
    table: list[Any] = []

    def query(where: str | None = None) -> Any:
        search = table[0].search(list(rows[7].vector)).distance_type("cosine").limit(10)
        return (search.where(where, prefilter=True) if where else search).to_list()

    return {
        "insert": timed(lambda: table.append(database.create_table("c", data))),
        "query": median(query),
        "query_filtered": median(lambda: query("kind = 'a'")),
        "delete_half": timed(lambda: table[0].delete("kind = 'a'")),
        "query_after": median(query),
    }


def size_mib(folder: str) -> float:
    """Return what a directory takes on disk."""
    return round(sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 2**20, 1)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--url", help="a database with pgvector; a collection 'c' in it is replaced")
    parser.add_argument("--lancedb", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = entries(asked.count, asked.dimension)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        found["embedded"] = measure(SqliteVectorStore(Path(folder) / "vectors.db"), rows)
        found["embedded"] |= {"import": import_ms("apsw, sqlite_vec"), "size_mib": size_mib(folder)}
    if asked.url:
        from flowmason_ray.components.vectors.pgvector import PgVectorStore

        with PgVectorStore(asked.url) as store:
            store.drop("c")
        found["pgvector"] = measure(PgVectorStore(asked.url), rows)
    if asked.lancedb and find_spec("lancedb") is not None:
        with tempfile.TemporaryDirectory() as folder:
            found["lancedb"] = measure_lancedb(folder, rows)
            found["lancedb"] |= {"import": import_ms("lancedb"), "size_mib": size_mib(folder)}
    if asked.json:
        print(
            json.dumps({"count": asked.count, "dimension": asked.dimension, "cores": os.cpu_count(), "stores": found})
        )
        return
    for name, numbers in found.items():
        print(f"{name:10}", "  ".join(f"{key} {value}" for key, value in numbers.items()))


if __name__ == "__main__":
    main()
