"""The embedded store: one SQLite file, with vectors searched by sqlite-vec and words by SQLite's own full-text index.

SQLite comes with APSW and not from the standard library, because many builds of Python cannot load extensions into theirs.
Search is exact: it looks at every vector that meets the conditions (10,000 vectors of 384 numbers in about 25 ms; docs/adr/0021).
Everything about an entry lies in one file and changes in one transaction.

The file is opened by this module alone: two SQLite libraries in one process must not share a file, since closing one of them would
drop the other's locks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

from flowmason_ray.components.extras import needs
from flowmason_ray.components.vectors.filters import Condition
from flowmason_ray.components.vectors.port import (
    MAX_DIMENSION,
    CollectionInfo,
    Entry,
    Hit,
    Vector,
    check_name,
    check_same,
    check_vector,
    missing,
    search_words,
)
from flowmason_ray.errors import PermanentError, TemporaryError
from flowmason_ray.sqlite_wal import use_wal

with needs("The embedded vector store", extra="retrieval"):
    import apsw
    import sqlite_vec  # pyright: ignore[reportMissingTypeStubs]  # it has none

Connection = Any
"""`apsw.Connection`, whose types need Python 3.12 (`collections.abc.Buffer`)."""
_BUSY_MS = 30_000
_VERSION = 1
_SCHEMA = """
CREATE TABLE collections (
  number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, model TEXT NOT NULL, dimension INTEGER NOT NULL);
CREATE TABLE entries (
  number INTEGER PRIMARY KEY, collection INTEGER NOT NULL REFERENCES collections (number) ON DELETE CASCADE,
  id TEXT NOT NULL, document TEXT NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL, UNIQUE (collection, id));
CREATE INDEX entries_by_document ON entries (collection, document);
CREATE TABLE vectors (
  number INTEGER PRIMARY KEY REFERENCES entries (number) ON DELETE CASCADE, vector BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (
  text, content='entries', content_rowid='number', tokenize="unicode61 remove_diacritics 2");
CREATE TRIGGER entries_inserted AFTER INSERT ON entries BEGIN
  INSERT INTO words (rowid, text) VALUES (new.number, new.text); END;
CREATE TRIGGER entries_deleted AFTER DELETE ON entries BEGIN
  INSERT INTO words (words, rowid, text) VALUES ('delete', old.number, old.text); END;
CREATE TRIGGER entries_updated AFTER UPDATE OF text ON entries BEGIN
  INSERT INTO words (words, rowid, text) VALUES ('delete', old.number, old.text);
  INSERT INTO words (rowid, text) VALUES (new.number, new.text); END;
"""


class SqliteVectorStore:
    """Collections in a SQLite file (`port.VectorStore`)."""

    def __init__(self, file: Path) -> None:
        """
        Args:
            file: Where; made, with its directory, when something is first stored.
        """
        self._file = file
        self._open: Connection | None = None

    def __enter__(self) -> Self:
        """Open the file; its tables are made if they are missing."""
        with _errors(self._file):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            connection: Connection = apsw.Connection(str(self._file))
            try:
                connection.set_busy_timeout(_BUSY_MS)
                connection.enable_load_extension(True)
                connection.load_extension(sqlite_vec.loadable_path())
                connection.enable_load_extension(False)
                # 16 KiB: a vector of 1,536 numbers takes 6 KiB and lies in one page. It only counts for a new file.
                connection.execute("PRAGMA page_size = 16384")
                use_wal(lambda sql: connection.execute(sql).fetchall(), apsw.BusyError, patience_s=_BUSY_MS / 1000)
                for pragma in ("synchronous = NORMAL", "foreign_keys = ON"):
                    connection.execute(f"PRAGMA {pragma}").fetchall()
                _prepare(connection, self._file)
            except BaseException:
                connection.close()
                raise
        self._open = connection
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def _connection(self) -> Connection:
        assert self._open is not None, "use it in a 'with' block"
        return self._open

    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with _errors(self._file):
            return cast("list[tuple[Any, ...]]", self._connection.execute(sql, tuple(bindings)).fetchall())

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        """One transaction, begun as a writer: it waits for others instead of failing half way."""
        with _errors(self._file):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def collections(self) -> Sequence[CollectionInfo]:
        """Return all collections."""
        return [
            CollectionInfo(name=name, model=model, dimension=dimension)
            for name, model, dimension in self._rows("SELECT name, model, dimension FROM collections ORDER BY name")
        ]

    def find(self, collection: str) -> CollectionInfo | None:
        """Return a collection, or None."""
        return next((each for each in self.collections() if each.name == collection), None)

    def create(self, collection: str, *, model: str, dimension: int) -> CollectionInfo:
        """Return the collection, made if it is not there."""
        check_name(collection)
        if not 1 <= dimension <= MAX_DIMENSION:
            raise PermanentError(f"Vectors have 1 to {MAX_DIMENSION} numbers, not {dimension}.", code="invalid_vector")
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO collections (name, model, dimension) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING",
                (collection, model, dimension),
            )
        found = self._info(collection)[1]
        check_same(found, model=model, dimension=dimension)
        return found

    def _info(self, collection: str) -> tuple[int, CollectionInfo]:
        rows = self._rows("SELECT number, name, model, dimension FROM collections WHERE name = ?", (collection,))
        if not rows:
            raise missing(collection, self.collections())
        number, name, model, dimension = rows[0]
        return number, CollectionInfo(name=name, model=model, dimension=dimension)

    def drop(self, collection: str) -> bool:
        """Remove a collection."""
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM entries WHERE collection = (SELECT number FROM collections WHERE name = ?)", (collection,)
            )
            connection.execute("DELETE FROM collections WHERE name = ?", (collection,))
            return connection.changes() > 0

    def upsert(self, collection: str, entries: Sequence[Entry]) -> None:
        """Store entries."""
        number, info = self._info(collection)
        for entry in entries:
            check_vector(info, entry.vector)
        with self._writing() as connection:
            for entry in entries:
                row = connection.execute(
                    "INSERT INTO entries (collection, id, document, text, metadata) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (collection, id) DO UPDATE SET document = excluded.document, text = excluded.text, "
                    "metadata = excluded.metadata RETURNING number",
                    (number, entry.id, entry.document, entry.text, _dumped(entry.metadata)),
                ).fetchall()
                connection.execute(
                    "INSERT INTO vectors (number, vector) VALUES (?, ?) "
                    "ON CONFLICT (number) DO UPDATE SET vector = excluded.vector",
                    (row[0][0], _packed(entry.vector)),
                )

    def update_metadata(self, collection: str, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the metadata of entries."""
        number, _ = self._info(collection)
        with self._writing() as connection:
            connection.executemany(
                "UPDATE entries SET metadata = ? WHERE collection = ? AND id = ?",
                [(_dumped(value), number, id) for id, value in metadata.items()],
            )

    def ids(self, collection: str, document: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the metadata of a document's entries by id."""
        number, _ = self._info(collection)
        rows = self._rows("SELECT id, metadata FROM entries WHERE collection = ? AND document = ?", (number, document))
        return {id: json.loads(metadata) for id, metadata in rows}

    def documents(self, collection: str) -> Mapping[str, int]:
        """Return how many entries each document has."""
        number, _ = self._info(collection)
        sql = "SELECT document, count(*) FROM entries WHERE collection = ? GROUP BY document ORDER BY document"
        return {document: count for document, count in self._rows(sql, (number,))}

    def delete(
        self,
        collection: str,
        *,
        ids: Collection[str] = (),
        document: str | None = None,
        where: Sequence[Condition] = (),
    ) -> int:
        """Remove entries."""
        number, _ = self._info(collection)
        if not ids and document is None and not where:
            return 0
        sql, bindings = _where(where)
        sql, bindings = f"e.collection = ? AND {sql}", [number, *bindings]
        if ids:
            sql, bindings = f"{sql} AND e.id IN (SELECT value FROM json_each(?))", [*bindings, json.dumps(list(ids))]
        if document is not None:
            sql, bindings = f"{sql} AND e.document = ?", [*bindings, document]
        with self._writing() as connection:
            connection.execute(f"DELETE FROM entries AS e WHERE {sql}", tuple(bindings))
            return connection.changes()

    def count(self, collection: str, where: Sequence[Condition] = ()) -> int:
        """Return how many entries meet the conditions."""
        number, _ = self._info(collection)
        sql, bindings = _where(where)
        return self._rows(f"SELECT count(*) FROM entries AS e WHERE e.collection = ? AND {sql}", [number, *bindings])[
            0
        ][0]

    def query(
        self, collection: str, vector: Vector, *, k: int, where: Sequence[Condition] = (), with_vectors: bool = False
    ) -> Sequence[Hit]:
        """Return the entries nearest to a vector."""
        number, info = self._info(collection)
        check_vector(info, vector)
        sql, bindings = _where(where)
        rows = self._rows(
            "SELECT e.id, e.document, e.text, e.metadata, 1 - near.distance, near.vector FROM ("
            "  SELECT e.number, v.vector, vec_distance_cosine(v.vector, ?) AS distance"
            f"  FROM entries AS e JOIN vectors AS v ON v.number = e.number WHERE e.collection = ? AND {sql}"
            "  ORDER BY distance NULLS LAST, e.id LIMIT ?"
            ") AS near JOIN entries AS e ON e.number = near.number ORDER BY near.distance NULLS LAST, e.id",
            [_packed(vector), number, *bindings, k],
        )
        return [_hit(row, with_vectors=with_vectors) for row in rows]

    def search(
        self, collection: str, words: str, *, k: int, where: Sequence[Condition] = (), with_vectors: bool = False
    ) -> Sequence[Hit]:
        """Return entries that hold the words, by BM25."""
        number, _ = self._info(collection)
        wanted = search_words(words)
        if not wanted:
            return []
        sql, bindings = _where(where)
        rows = self._rows(
            "SELECT e.id, e.document, e.text, e.metadata, -bm25(words) AS score, v.vector FROM words "
            "JOIN entries AS e ON e.number = words.rowid JOIN vectors AS v ON v.number = e.number "
            f"WHERE words MATCH ? AND e.collection = ? AND {sql} ORDER BY score DESC, e.id LIMIT ?",
            [" OR ".join(f'"{word}"' for word in wanted), number, *bindings, k],
        )
        return [_hit(row, with_vectors=with_vectors) for row in rows]


def _prepare(connection: Connection, file: Path) -> None:
    version = connection.pragma("user_version")
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if connection.pragma("user_version") == 0:  # nobody else was faster
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    elif version != _VERSION:
        raise PermanentError(
            f"The vector store {file.name!r} has format {version}; this version reads format {_VERSION}. "
            "Update flowmason-ray, or remove the file and index the documents again.",
            code="vector_store_error",
        )


@contextmanager
def _errors(file: Path) -> Generator[None]:
    try:
        yield
    except apsw.BusyError as exc:
        raise TemporaryError(
            f"The vector store {file.name!r} has been busy for {_BUSY_MS // 1000} s.", code="vector_store_busy"
        ) from exc
    except (apsw.Error, OSError) as exc:
        raise PermanentError(
            f"The vector store {file.name!r} cannot be used: {type(exc).__name__}: {exc}.", code="vector_store_error"
        ) from exc


def _dumped(metadata: Mapping[str, Any]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":"))


def _packed(vector: Vector) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)


def _hit(row: tuple[Any, ...], *, with_vectors: bool) -> Hit:
    id, document, text, metadata, score, vector = row
    numbers = struct.unpack(f"<{len(vector) // 4}f", vector) if with_vectors else ()
    # The distance from or to a vector of zeros is no number.
    return Hit(
        id=id, document=document, text=text, metadata=json.loads(metadata),
        score=0.0 if score is None else float(score), vector=numbers,
    )  # fmt: skip


def _where(where: Sequence[Condition]) -> tuple[str, list[Any]]:
    """Return conditions as SQL over `e.metadata`, with what is bound to it."""
    parts: list[str] = ["1"]
    bindings: list[Any] = []
    for condition in where:
        path = "$" + "".join(f'."{key}"' for key in condition.path)
        sql, more = _condition(condition, path)
        parts.append(sql)
        bindings += more
    return " AND ".join(parts), bindings


_FOUND, _TYPE = "json_extract(e.metadata, ?)", "json_type(e.metadata, ?)"
_SQL_ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _condition(condition: Condition, path: str) -> tuple[str, list[Any]]:
    operator, value = condition.operator, condition.value
    if operator == "exists":
        return f"{_TYPE} IS {'NOT ' if value else ''}NULL", [path]
    if operator in ("eq", "ne"):
        sql, bindings = _equals(_TYPE, _FOUND, [path], value)
        return (sql if operator == "eq" else f"NOT ({sql})"), bindings
    if operator in ("in", "not_in"):
        parts, bindings = ["0"], list[Any]()
        for each in value:
            sql, more = _equals(_TYPE, _FOUND, [path], each)
            parts.append(sql)
            bindings += more
        found = f"({' OR '.join(parts)})"
        return (found if operator == "in" else f"NOT {found}"), bindings
    if operator == "contains":
        sql, bindings = _equals("type", "value", [], value)
        each = f"SELECT 1 FROM json_each(CASE {_TYPE} WHEN 'array' THEN {_FOUND} ELSE '[]' END) WHERE {sql}"
        return f"EXISTS ({each})", [path, path, *bindings]
    types = "'text'" if isinstance(value, str) else "'integer', 'real'"
    return f"ifnull({_TYPE} IN ({types}) AND {_FOUND} {_SQL_ORDER[operator]} ?, 0)", [path, path, value]


def _equals(type: str, found: str, path: list[Any], value: Any) -> tuple[str, list[Any]]:
    """Return SQL that is 1 where a JSON value is `value` and of its type, else 0."""
    if value is None or isinstance(value, bool):
        word = "null" if value is None else "true" if value else "false"
        return f"ifnull({type} = '{word}', 0)", path
    types = "'text'" if isinstance(value, str) else "'integer', 'real'"
    return f"ifnull({type} IN ({types}) AND {found} = ?, 0)", [*path, *path, value]
