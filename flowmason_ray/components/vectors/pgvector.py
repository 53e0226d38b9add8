"""The shared store: PostgreSQL with the extension pgvector.

Search is exact like that of the embedded store: no index on vectors is made, because it would find almost what is nearest. A
database with millions of chunks wants one; docs/guide/documents-and-retrieval.md says how it is made by hand.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
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
    words_of,
)
from flowmason_ray.errors import PermanentError, TemporaryError

with needs("The vector store in PostgreSQL", extra="postgres"):
    import psycopg

_CONNECT_S = 10
_LOCK = 7_241_960_115
"""Number of the advisory lock under which the tables are made."""
_SCHEMA = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    "CREATE TABLE IF NOT EXISTS flowmason_collections ("
    " number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,"
    " model text NOT NULL, dimension integer NOT NULL)",
    "CREATE TABLE IF NOT EXISTS flowmason_entries ("
    " collection integer NOT NULL REFERENCES flowmason_collections (number) ON DELETE CASCADE,"
    " id text NOT NULL, document text NOT NULL, text text NOT NULL, metadata jsonb NOT NULL, vector vector NOT NULL,"
    " words tsvector NOT NULL, PRIMARY KEY (collection, id))",
    "CREATE INDEX IF NOT EXISTS flowmason_entries_by_document ON flowmason_entries (collection, document)",
    "CREATE INDEX IF NOT EXISTS flowmason_entries_by_word ON flowmason_entries USING gin (words)",
)
_HIT = "e.id, e.document, e.text, e.metadata::text"


class PgVectorStore:
    """Collections in PostgreSQL (`port.VectorStore`)."""

    def __init__(self, url: str, *, password: str | None = None) -> None:
        """
        Args:
            url: `postgresql://user@host/database`; the tables are made in the first schema of its search path.
            password: The password, if the URL does not hold it.
        """
        self._url = url
        self._password = password
        self._open: psycopg.Connection[tuple[Any, ...]] | None = None

    def __enter__(self) -> Self:
        """Connect; the extension and the tables are made if they are missing."""
        with _errors():
            more: dict[str, Any] = {} if self._password is None else {"password": self._password}
            connection = psycopg.connect(
                self._url, autocommit=True, connect_timeout=_CONNECT_S, application_name="flowmason", **more
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
        self._open = connection
        return self

    def __exit__(self, *exc: object) -> None:
        """Disconnect."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        assert self._open is not None, "use it in a 'with' block"
        with _errors():
            return self._open.execute(sql.encode(), bindings).fetchall()

    @contextmanager
    def _writing(self) -> Generator[psycopg.Cursor[tuple[Any, ...]]]:
        assert self._open is not None, "use it in a 'with' block"
        with _errors(), self._open.transaction(), self._open.cursor() as cursor:
            yield cursor

    def collections(self) -> Sequence[CollectionInfo]:
        """Return all collections."""
        sql = 'SELECT name, model, dimension FROM flowmason_collections ORDER BY name COLLATE "C"'
        return [CollectionInfo(name=name, model=model, dimension=size) for name, model, size in self._rows(sql)]

    def find(self, collection: str) -> CollectionInfo | None:
        """Return a collection, or None."""
        return next((each for each in self.collections() if each.name == collection), None)

    def create(self, collection: str, *, model: str, dimension: int) -> CollectionInfo:
        """Return the collection, made if it is not there."""
        check_name(collection)
        if not 1 <= dimension <= MAX_DIMENSION:
            raise PermanentError(f"Vectors have 1 to {MAX_DIMENSION} numbers, not {dimension}.", code="invalid_vector")
        with self._writing() as cursor:
            cursor.execute(
                "INSERT INTO flowmason_collections (name, model, dimension) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (collection, model, dimension),
            )
        found = self._info(collection)[1]
        check_same(found, model=model, dimension=dimension)
        return found

    def _info(self, collection: str) -> tuple[int, CollectionInfo]:
        rows = self._rows("SELECT number, model, dimension FROM flowmason_collections WHERE name = %s", (collection,))
        if not rows:
            raise missing(collection, self.collections())
        number, model, dimension = rows[0]
        return number, CollectionInfo(name=collection, model=model, dimension=dimension)

    def drop(self, collection: str) -> bool:
        """Remove a collection."""
        with self._writing() as cursor:
            return cursor.execute("DELETE FROM flowmason_collections WHERE name = %s", (collection,)).rowcount > 0

    def upsert(self, collection: str, entries: Sequence[Entry]) -> None:
        """Store entries."""
        number, info = self._info(collection)
        for entry in entries:
            check_vector(info, entry.vector)
        # In one order for everybody, so that two writers of the same entries wait for each other and do not deadlock.
        rows = [
            (
                number,
                e.id,
                e.document,
                _storable(e.text),
                _dumped(e.metadata),
                _written(e.vector),
                " ".join(_lexemes(e.text)),
            )
            for e in sorted({entry.id: entry for entry in entries}.values(), key=lambda entry: entry.id)
        ]
        with self._writing() as cursor:
            cursor.executemany(
                "INSERT INTO flowmason_entries AS e (collection, id, document, text, metadata, vector, words) "
                "VALUES (%s, %s, %s, %s, %s::jsonb, %s::vector, to_tsvector('simple', %s)) "
                "ON CONFLICT (collection, id) DO UPDATE SET document = excluded.document, text = excluded.text, "
                "metadata = excluded.metadata, vector = excluded.vector, words = excluded.words",
                rows,
            )

    def update_metadata(self, collection: str, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the metadata of entries."""
        number, _ = self._info(collection)
        with self._writing() as cursor:
            cursor.executemany(
                "UPDATE flowmason_entries SET metadata = %s::jsonb WHERE collection = %s AND id = %s",
                [(_dumped(value), number, id) for id, value in sorted(metadata.items())],
            )

    def ids(self, collection: str, document: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the metadata of a document's entries by id."""
        number, _ = self._info(collection)
        sql = "SELECT id, metadata::text FROM flowmason_entries WHERE collection = %s AND document = %s"
        return {id: json.loads(metadata) for id, metadata in self._rows(sql, (number, document))}

    def documents(self, collection: str) -> Mapping[str, int]:
        """Return how many entries each document has."""
        number, _ = self._info(collection)
        sql = (
            "SELECT document, count(*) FROM flowmason_entries WHERE collection = %s "
            'GROUP BY document ORDER BY document COLLATE "C"'
        )
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
        sql, bindings = f"e.collection = %s AND {sql}", [number, *bindings]
        if ids:
            sql, bindings = f"{sql} AND e.id = ANY (%s)", [*bindings, list(ids)]
        if document is not None:
            sql, bindings = f"{sql} AND e.document = %s", [*bindings, document]
        with self._writing() as cursor:
            return cursor.execute(f"DELETE FROM flowmason_entries AS e WHERE {sql}".encode(), bindings).rowcount

    def count(self, collection: str, where: Sequence[Condition] = ()) -> int:
        """Return how many entries meet the conditions."""
        number, _ = self._info(collection)
        sql, bindings = _where(where)
        sql = f"SELECT count(*) FROM flowmason_entries AS e WHERE e.collection = %s AND {sql}"
        return self._rows(sql, [number, *bindings])[0][0]

    def query(
        self, collection: str, vector: Vector, *, k: int, where: Sequence[Condition] = (), with_vectors: bool = False
    ) -> Sequence[Hit]:
        """Return the entries nearest to a vector."""
        number, info = self._info(collection)
        check_vector(info, vector)
        sql, bindings = _where(where)
        rows = self._rows(
            f"SELECT {_HIT}, 1 - near.distance, near.vector::text FROM ("
            "  SELECT e.collection, e.id, e.vector, nullif(e.vector <=> %s::vector, 'NaN') AS distance"
            f"  FROM flowmason_entries AS e WHERE e.collection = %s AND {sql}"
            '  ORDER BY distance NULLS LAST, e.id COLLATE "C" LIMIT %s'
            ") AS near JOIN flowmason_entries AS e USING (collection, id)"
            ' ORDER BY near.distance NULLS LAST, e.id COLLATE "C"',
            [_written(vector), number, *bindings, k],
        )
        return [_hit(row, with_vectors=with_vectors) for row in rows]

    def search(
        self, collection: str, words: str, *, k: int, where: Sequence[Condition] = (), with_vectors: bool = False
    ) -> Sequence[Hit]:
        """Return entries that hold the words, by `ts_rank_cd`."""
        number, _ = self._info(collection)
        wanted = _lexemes(" ".join(search_words(words)))
        if not wanted:
            return []
        sql, bindings = _where(where)
        query = " | ".join(wanted)
        rows = self._rows(
            f"SELECT {_HIT}, ts_rank_cd(e.words, to_tsquery('simple', %s), 1) AS score, e.vector::text "
            "FROM flowmason_entries AS e WHERE e.words @@ to_tsquery('simple', %s) "
            f'AND e.collection = %s AND {sql} ORDER BY score DESC, e.id COLLATE "C" LIMIT %s',
            [query, query, number, *bindings, k],
        )
        return [_hit(row, with_vectors=with_vectors) for row in rows]


def _prepare(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    if connection.execute("SELECT to_regclass('flowmason_entries_by_word')").fetchall()[0][0] is not None:
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        for statement in _SCHEMA:
            connection.execute(statement)


@contextmanager
def _errors() -> Generator[None]:
    try:
        yield
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as exc:
        raise PermanentError(
            f"The database has not got the extension pgvector: {_said(exc)} Install it on the server, or use the embedded "
            "store by leaving 'connection' out.",
            code="vector_store_error",
        ) from exc
    except psycopg.errors.InsufficientPrivilege as exc:
        raise PermanentError(
            f"The database's user may not do that: {_said(exc)} Its administrator can run CREATE EXTENSION vector.",
            code="vector_store_error",
        ) from exc
    except psycopg.OperationalError as exc:
        raise TemporaryError(f"The vector store cannot be reached: {_said(exc)}", code="vector_store_busy") from exc
    except psycopg.Error as exc:
        raise PermanentError(
            f"The vector store refuses: {type(exc).__name__}: {_said(exc)}", code="vector_store_error"
        ) from exc


def _said(exc: psycopg.Error) -> str:
    return (exc.diag.message_primary or str(exc).strip().partition("\n")[0]) + "."


def _storable(text: str) -> str:
    return text.replace("\0", "")  # the one character that PostgreSQL's texts cannot hold


def _dumped(metadata: Mapping[str, Any]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=False).replace("\\u0000", "")


def _lexemes(text: str) -> list[str]:
    """Return the words of a text without accents, as the embedded store's index sees them."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    # A lexeme has at most 2,046 bytes; a run of letters longer than that is no word.
    return [word for word in words_of(plain) if len(word) <= 500]


def _written(vector: Vector) -> str:
    return "[" + ",".join(map(repr, map(float, vector))) + "]"


def _hit(row: tuple[Any, ...], *, with_vectors: bool) -> Hit:
    id, document, text, metadata, score, vector = row
    numbers = tuple(cast("list[float]", json.loads(vector))) if with_vectors else ()
    # The distance from or to a vector of zeros is no number.
    return Hit(
        id=id, document=document, text=text, metadata=json.loads(metadata),
        score=0.0 if score is None else float(score), vector=numbers,
    )  # fmt: skip


def _where(where: Sequence[Condition]) -> tuple[str, list[Any]]:
    """Return conditions as SQL over `e.metadata`, with what is bound to it."""
    parts: list[str] = ["true"]
    bindings: list[Any] = []
    for condition in where:
        sql, more = _condition(condition)
        parts.append(sql)
        bindings += more
    return " AND ".join(parts), bindings


_FOUND = "(e.metadata #> %s::text[])"
_SQL_ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _condition(condition: Condition) -> tuple[str, list[Any]]:
    operator, value, path = condition.operator, condition.value, list(condition.path)
    if operator == "exists":
        return f"{_FOUND} IS {'NOT ' if value else ''}NULL", [path]
    if operator in ("eq", "ne"):
        sql = f"coalesce({_FOUND} = %s::jsonb, false)"
        return (sql if operator == "eq" else f"NOT {sql}"), [path, json.dumps(value)]
    if operator in ("in", "not_in"):
        sql = f"coalesce({_FOUND} = ANY (%s::jsonb[]), false)"
        return (sql if operator == "in" else f"NOT {sql}"), [path, [json.dumps(each) for each in value]]
    if operator == "contains":
        # Written out, because @> also finds a text in a text.
        found = f"CASE jsonb_typeof({_FOUND}) WHEN 'array' THEN {_FOUND} ELSE '[]' END"
        return f"EXISTS (SELECT 1 FROM jsonb_array_elements({found}) AS a (x) WHERE a.x = %s::jsonb)", [
            path,
            path,
            json.dumps(value),
        ]
    text = "(e.metadata #>> %s::text[])"
    if isinstance(value, str):
        compared, kind = f'{text} COLLATE "C" {_SQL_ORDER[operator]} %s', "string"
    else:
        compared, kind = f"{text}::numeric {_SQL_ORDER[operator]} %s::numeric", "number"
    return f"CASE jsonb_typeof({_FOUND}) WHEN '{kind}' THEN {compared} ELSE false END", [path, path, value]
