"""`sql_query`, `sql_execute` and `postgres` against SQLite files and a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import psycopg
import pytest

from flowmason_ray.components.builtin import destinations
from flowmason_ray.components.builtin.destinations import DatabaseDestination, deliver
from flowmason_ray.components.builtin.postgres import Postgres
from flowmason_ray.components.builtin.sql_errors import commit_problem
from flowmason_ray.components.builtin.sql_execute import SqlExecute
from flowmason_ray.components.builtin.sql_query import SqlQuery
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.postgres_kit import PASSWORD, Server
from tests.servers_kit import free_port

TABLE = """
create table products (id integer primary key, name text not null unique, price numeric, tags text);
insert into products values (1, 'lamp', 39.5, 'new'), (2, 'bulb', 4, null), (3, 'it''s :odd', 10, 'x::y');
"""
TWICE = ["sqlite", "postgres"]


@pytest.fixture
def context(tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> RecordingContext:
    monkeypatch.setenv("PG_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG_PASSWORD", "wrong-password")
    project = tmp_path / "project"
    project.mkdir()
    with sqlite3.connect(project / "shop.db") as lite:
        lite.executescript(TABLE)
    lite.close()
    with sqlite3.connect(tmp_path / "outside.db") as outside:
        outside.execute("create table secret (x)")
    outside.close()
    name = postgres.new_database()
    postgres.execute(TABLE, name)
    url = f"postgresql://postgres@127.0.0.1:{postgres.port}/{name}"
    usual = {"type": "postgres", "url": url, "password": {"secret": "PG_PASSWORD"}}
    connections = {
        "postgres": usual,
        "sqlite": {"type": "sql", "url": "sqlite:///shop.db"},
        "sqlalchemy": {
            "type": "sql",
            "url": url.replace("postgresql", "postgresql+psycopg"),
            "password": usual["password"],
        },
        "wrong": {**usual, "password": {"secret": "WRONG_PASSWORD"}},
        "nowhere": {**usual, "url": f"postgresql://postgres@127.0.0.1:{free_port()}/x"},
        "odd": {"type": "postgres", "url": "no url at all"},
        "oracle": {"type": "sql", "url": "oracle+oracledb://u@h/x"},
        "dialect": {"type": "sql", "url": "nosuchdialect://u@h/x"},
    }
    return RecordingContext(settings=ProjectSettings.model_validate({"connections": connections}), project_dir=project)


def ask(context: RecordingContext, query: str, parameters: Any = None, **more: Any) -> SqlQuery.Output:
    where = {} if "database" in more or "connection" in more else {"connection": "sqlite"}
    config: dict[str, Any] = {**where, "query": query, "parameters": parameters or {}, **more}
    return SqlQuery().execute(SqlQuery.Input.model_validate(config), context)


def change(context: RecordingContext, *statements: Any, **more: Any) -> SqlExecute.Output:
    listed = [
        {"sql": each} if isinstance(each, str) else {"sql": each[0], "parameters": each[1]} for each in statements
    ]
    where = {} if "database" in more else {"connection": "sqlite"}
    return SqlExecute().execute(SqlExecute.Input.model_validate({**where, "statements": listed, **more}), context)


def pg(context: RecordingContext, operation: str, **more: Any) -> Postgres.Output:
    config = {"connection": "postgres", "operation": operation, **more}
    return asyncio.run(Postgres().execute(Postgres.Input.model_validate(config), context))


@pytest.mark.parametrize("connection", [*TWICE, "sqlalchemy"])
def test_values_are_handed_over_beside_the_text(connection: str, context: RecordingContext) -> None:
    query = "select name, price from products where price >= :least order by price -- :not a :parameter"
    found = ask(context, query, {"least": 10}, connection=connection)
    assert found.rows == [{"name": "it's :odd", "price": 10}, {"name": "lamp", "price": 39.5}]
    assert (found.row_count, found.columns, found.truncated, found.table) == (2, ["name", "price"], False, None)
    # A value that would be an attack if it became text is only a value.
    attack = "x' or '1'='1"
    assert (
        ask(context, "select 1 as n from products where name = :name", {"name": attack}, connection=connection).rows
        == []
    )
    names = {"names": ["lamp", "it's :odd"]}
    several = ask(context, "select id from products where name in :names order by id", names, connection=connection)
    assert several.rows == [{"id": 1}, {"id": 3}]
    odd = ask(context, "select id from products where name = 'it''s :odd' and tags = 'x::y'", connection=connection)
    assert odd.rows == [{"id": 3}]
    assert ask(context, "select cast(:a as text) as a", {"a": None}, connection=connection).rows == [{"a": None}]


@pytest.mark.parametrize("connection", TWICE)
def test_rows_are_cut_off_loudly_and_can_be_a_table(connection: str, context: RecordingContext) -> None:
    cut = ask(context, "select id from products order by id", max_rows=2, connection=connection)
    assert (cut.rows, cut.truncated) == ([{"id": 1}, {"id": 2}], True)
    assert "max_rows" in context.messages("warning")[0]
    found = ask(context, "select id, tags from products order by id", result="table", connection=connection)
    assert isinstance(found.table, pl.DataFrame)
    assert found.rows is None
    assert found.table.rows() == [(1, "new"), (2, None), (3, "x::y")]


@pytest.mark.parametrize("connection", [*TWICE, "sqlalchemy"])
@pytest.mark.parametrize(
    "statement",
    [
        "delete from products",
        "insert into products (id, name) values (9, 'x')",
        "create table t (x int)",
        "select 1; delete from products",
        "commit; delete from products",
        "pragma query_only = off",
        "set transaction read write",
        "with gone as (delete from products returning *) select * from gone",
    ],
)
def test_a_query_changes_nothing(statement: str, connection: str, context: RecordingContext) -> None:
    with suppress(PermanentError):  # some are refused, others (`set …` by itself) do nothing
        ask(context, statement, connection=connection)
    assert ask(context, "select count(*) as n from products", connection=connection).rows == [{"n": 3}]
    # The positive control: the same connection can change it when it is asked to.
    assert change(context, "delete from products where id = 1", connection=connection).changed == [1]


@pytest.mark.parametrize("component", ["sql_query", "sql_execute"])
@pytest.mark.parametrize("statement", ["attach '{}' as other", "vacuum into '{}.copy'"])
def test_no_other_file_is_opened(statement: str, component: str, context: RecordingContext) -> None:
    outside = context.project_dir.parent / "outside.db"
    with pytest.raises(PermanentError):
        (ask if component == "sql_query" else change)(context, statement.format(outside))
    assert not Path(f"{outside}.copy").exists()


@pytest.mark.parametrize("connection", TWICE)
def test_statements_take_effect_together_or_not_at_all(connection: str, context: RecordingContext) -> None:
    insert = "insert into products (id, name) values (:id, :name)"
    done = change(
        context,
        (insert, [{"id": 10, "name": "a"}, {"id": 11, "name": "b"}]),
        ("update products set price = :p where id > 2", {"p": 7}),
        "insert into products (id, name) values (12, 'c') returning id, name",
        connection=connection,
    )
    assert done.changed[:2] == [2, 3]
    assert (done.rows, done.row_count) == ([{"id": 12, "name": "c"}], 1)
    with pytest.raises(PermanentError, match="constraint") as caught:
        change(context, "delete from products", (insert, {"id": 1, "name": None}), connection=connection)
    assert caught.value.code == "sql_conflict"
    assert ask(context, "select count(*) as n from products", connection=connection).rows == [{"n": 6}]


def test_a_sqlite_file_of_the_project_is_made_by_writing_and_not_by_asking(context: RecordingContext) -> None:
    with pytest.raises(PermanentError, match=r"no file 'shops\.db'.*'shop\.db'"):
        ask(context, "select 1 as x", database="shops.db")
    change(context, "create table t (x)", ("insert into t values (:x)", {"x": 1}), database="new.db")
    assert ask(context, "select x from t", database="new.db").rows == [{"x": 1}]
    for path in ("../outside.db", "/etc/passwd"):
        with pytest.raises(PermanentError) as caught:
            ask(context, "select 1 as x", database=path)
        assert caught.value.code == "path_outside_project"


@pytest.mark.parametrize(
    ("more", "kind", "code", "words"),
    [
        ({"query": "select 1", "connection": None}, PermanentError, "invalid_input", "either 'connection'"),
        ({"query": "select 1", "database": "shop.db", "connection": "sqlite"}, PermanentError, "invalid_input", "either"),
        ({"query": "selct 1"}, PermanentError, "sql_error", "syntax error"),
        ({"query": "selct 1", "connection": "postgres"}, PermanentError, "sql_read_only", "found 'SELCT'"),
        ({"query": "select :nmae", "parameters": {"name": 1}}, PermanentError, "unknown_parameter", "Did you mean 'name'"),
        ({"query": "select :x", "parameters": {"x": {}}}, PermanentError, "invalid_parameter", "an object"),
        ({"query": "select 1 as a, 2 as a"}, PermanentError, "duplicate_column", "called 'a'"),
        ({"query": "select 1", "connection": "wrong"}, PermanentError, "sql_denied", "password"),
        ({"query": "select 1", "connection": "nowhere"}, TemporaryError, "sql_unavailable", "cannot be used now"),
        ({"query": "select 1", "connection": "odd"}, PermanentError, "sql_error", "does not read like"),
        ({"query": "select 1", "connection": "oracle"}, PermanentError, "sql_error", "Use sql_execute"),
        ({"query": "select 1", "connection": "dialect"}, PermanentError, "sql_error", "for reading only|no dialect"),
        (
            {"query": "with recursive c(n) as (select 1 union all select n + 1 from c) select max(n) from c", "timeout": 0.3},
            TemporaryError, "sql_timeout", "longer than 'timeout'",
        ),
        ({"query": "select pg_sleep(30)", "connection": "postgres", "timeout": 0.3}, TemporaryError, "sql_timeout", "longer"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(
    more: dict[str, Any], kind: type[StageError], code: str, words: str, context: RecordingContext
) -> None:
    with pytest.raises(kind, match=words) as caught:
        ask(context, **{"connection": "sqlite", **more} if "connection" not in more else more)
    assert caught.value.code == code
    for secret in (PASSWORD, "wrong-password"):
        assert secret not in caught.value.message


CUT_AT_COMMIT = """
create table orders (id int);
create function cut() returns trigger language plpgsql as
$$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$;
create constraint trigger cut_at_commit after insert on orders deferrable initially deferred for each row execute function cut();
"""


@pytest.mark.parametrize("component", ["sql_execute", "execute", "copy_in", "destination"])
def test_a_connection_that_breaks_at_commit_leaves_it_in_doubt(
    component: str, context: RecordingContext, postgres: Server
) -> None:
    """Nobody can tell whether the server had committed, so no retry may do it again."""
    url = str(getattr(context.settings.connections["postgres"], "url", ""))
    postgres.execute(CUT_AT_COMMIT, url.rpartition("/")[2])
    insert = "insert into orders values (:id)"
    if component == "destination":
        given = DatabaseDestination(type="database", connection="postgres", statement=insert)
        delivery = asyncio.run(deliver(given, "orders", {"id": 1}, context))
        assert (delivery.status, delivery.attempts) == ("failed", 1)
        assert delivery.error is not None
        assert (delivery.error["code"], delivery.error["temporary"]) == ("sql_in_doubt", False)
        return
    attempts: dict[str, Callable[[], object]] = {
        "sql_execute": lambda: change(context, (insert, {"id": 1}), connection="postgres"),
        "execute": lambda: pg(context, "execute", statements=[{"sql": insert, "parameters": {"id": 1}}]),
        "copy_in": lambda: pg(context, "copy_in", table="orders", data=[{"id": 1}]),
    }
    with pytest.raises(PermanentError, match=r"commit.*[Nn]obody knows") as caught:
        attempts[component]()
    assert caught.value.code == "sql_in_doubt"


def test_a_connection_that_breaks_before_commit_may_be_tried_again(context: RecordingContext) -> None:
    """What was not committed is rolled back: that it did not happen is known."""
    cut = "select pg_terminate_backend(pg_backend_pid())"
    for attempt in (
        lambda: change(context, cut, connection="postgres"),
        lambda: pg(context, "execute", statements=[{"sql": cut}]),
    ):
        with pytest.raises(TemporaryError) as caught:
            attempt()
        assert caught.value.code == "sql_unavailable"


def test_a_destination_that_cannot_be_reached_is_tried_again(
    context: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "FIRST_DELAY_S", 0.001)
    given = DatabaseDestination(type="database", connection="nowhere", statement="select 1", attempts=2)
    delivery = asyncio.run(deliver(given, "orders", {}, context))
    assert (delivery.status, delivery.attempts) == ("failed", 2)
    assert delivery.error is not None
    assert delivery.error["code"] == "sql_unavailable"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), "sql_in_doubt"),
        (psycopg.errors.ConnectionFailure("gone"), "sql_in_doubt"),
        (psycopg.errors.StatementCompletionUnknown("gone"), "sql_in_doubt"),
        (psycopg.errors.SerializationFailure("try again"), "sql_unavailable"),
        (psycopg.errors.UniqueViolation("twice"), "sql_conflict"),
        (sqlite3.OperationalError("database is locked"), "sql_unavailable"),
    ],
)
def test_what_a_failing_commit_means(said: Exception, code: str) -> None:
    assert commit_problem(said, "Database 'x'").code == code


def test_arrays_and_json_are_values_of_postgres(context: RecordingContext) -> None:
    pg(
        context,
        "execute",
        statements=[{"sql": "create table things (id int, tags text[], facts jsonb, at timestamptz)"}],
    )
    insert = "insert into things values (:id, :tags, :facts, :at)"
    rows = [
        {"id": 1, "tags": ["a", "b"], "facts": {"n": 1, "s": "50%"}, "at": "2024-05-06T07:08:09Z"},
        {"id": 2, "tags": [], "facts": [{"x": 1}], "at": None},
    ]
    done = pg(context, "execute", statements=[{"sql": insert, "parameters": rows}])
    assert (done.changed, done.row_count) == ([2], 2)
    found = pg(context, "query", query="select * from things where 'a' = any(tags) and id = any(:ids)", parameters={"ids": [1, 2]})  # fmt: skip
    assert found.rows == [
        {"id": 1, "tags": ["a", "b"], "facts": {"n": 1, "s": "50%"}, "at": "2024-05-06T07:08:09+00:00"}
    ]
    assert pg(context, "query", query="select '50%' as p, 5 % 3 as r").rows == [{"p": "50%", "r": 2}]


@pytest.mark.parametrize(
    "statement", ["delete from products", "set transaction read write", "commit; delete from products"]
)
def test_a_postgres_query_changes_nothing(statement: str, context: RecordingContext) -> None:
    with suppress(PermanentError):
        pg(context, "query", query=statement)
    assert ask(context, "select count(*) as n from products", connection="postgres").rows == [{"n": 3}]


@pytest.mark.parametrize("operation", ["sql_query", "query", "copy_out"])
@pytest.mark.parametrize(
    "statement",
    [
        "copy (select 1) to program 'touch {made}'",
        "/* a /* b */ select */ copy (select 1) to program 'touch {made}'",
        "-- select\rcopy (select 1) to program 'touch {made}'",
        "do $$ begin copy (select 1) to program 'touch {made}'; end $$",
        "select 1) to program 'touch {made}' --",
        "select 1\n) to program 'touch {made}' --",
        "explain select 1) to program 'touch {made}' --",
    ],
)
def test_a_postgres_query_runs_no_program_on_the_server(
    operation: str, statement: str, context: RecordingContext
) -> None:
    """Also for a superuser, whom a READ ONLY transaction lets do that."""
    made = f"made_{uuid4().hex}"  # in the server's own directory
    query = statement.format(made=made)

    def attack() -> object:
        if operation == "sql_query":
            return ask(context, query, connection="postgres")
        return pg(context, operation, query=query, file="out.csv")

    with pytest.raises(PermanentError) as caught:
        attack()
    assert caught.value.code in ("sql_read_only", "sql_error")
    there = f"select (pg_stat_file('{made}', true)).size is not null as there"
    assert ask(context, there, connection="postgres").rows == [{"there": False}]
    if query.startswith("copy"):
        pg(context, "execute", statements=[{"sql": query}])
        assert ask(context, there, connection="postgres").rows == [{"there": True}], "it can be done"


def test_postgres_statements_take_effect_together_or_not_at_all(context: RecordingContext) -> None:
    statements = [{"sql": "delete from products"}, {"sql": "insert into products (id) values (1)"}]
    with pytest.raises(PermanentError) as caught:
        pg(context, "execute", statements=statements)
    assert caught.value.code == "sql_conflict"
    assert pg(context, "query", query="select count(*) as n from products").rows == [{"n": 3}]


@pytest.mark.parametrize("form", ["rows", "table"])
def test_rows_and_tables_are_copied_in_and_out(form: str, context: RecordingContext) -> None:
    rows = [{"id": i, "name": f"n,{i}"} for i in range(100, 2100)]
    data: Any = rows if form == "rows" else pl.DataFrame(rows)
    assert pg(context, "copy_in", table="public.products", data=data).row_count == 2000
    done = pg(context, "copy_out", query="select id, name from products where id >= 100 order by id;", file="out/p.csv")
    assert (done.file, done.row_count) == ("out/p.csv", 2000)
    written = pl.read_csv(context.project_dir / "out/p.csv")
    assert cast_rows(written) == [(r["id"], r["name"]) for r in rows]
    assert pg(context, "copy_in", table="products", data=[]).row_count == 0


def cast_rows(table: pl.DataFrame) -> list[Any]:
    return table.rows()


@pytest.mark.parametrize(
    ("operation", "more", "kind", "code"),
    [
        ("query", {}, PermanentError, "invalid_input"),
        ("execute", {}, PermanentError, "invalid_input"),
        ("copy_in", {"table": "products", "data": 3}, PermanentError, "invalid_input"),
        ("copy_in", {"table": "products", "data": [{"no": 1}]}, PermanentError, "sql_error"),
        ("copy_in", {"table": "products", "data": [{"id": 1, "name": "x"}]}, PermanentError, "sql_conflict"),
        ("copy_out", {"query": "select 1", "file": "../up.csv"}, PermanentError, "path_outside_project"),
        ("copy_out", {"query": "select :x", "parameters": {"x": 1}, "file": "a"}, PermanentError, "invalid_parameter"),
        ("query", {"query": "select 1", "connection": "wrong"}, PermanentError, "sql_denied"),
        ("query", {"query": "select 1", "connection": "odd"}, PermanentError, "sql_error"),
        ("query", {"query": "select 1", "connection": "sqlite"}, PermanentError, "connection_type"),
        ("query", {"query": "select 1", "connection": "nowhere"}, TemporaryError, "sql_unavailable"),
        ("query", {"query": "select pg_sleep(30)", "timeout": 0.2}, TemporaryError, "sql_timeout"),
    ],
)
def test_what_postgres_cannot_do_is_said(
    operation: str, more: dict[str, Any], kind: type[StageError], code: str, context: RecordingContext
) -> None:
    with pytest.raises(kind) as caught:
        pg(context, operation, **more)
    assert caught.value.code == code
    for secret in (PASSWORD, "wrong-password"):
        assert secret not in caught.value.message
    assert not list(context.project_dir.glob("*.tmp"))


def test_a_cancelled_query_ends_on_the_server(context: RecordingContext, postgres: Server) -> None:
    config = Postgres.Input.model_validate({"connection": "postgres", "operation": "query", "query": "select pg_sleep(600)", "timeout": 900})  # fmt: skip
    url = context.settings.connections["postgres"]
    name = str(getattr(url, "url", "")).rpartition("/")[2]
    running = "select count(*) from pg_stat_activity where datname = %s and query like 'select pg_sleep(600)%%' and state = 'active'"

    async def story() -> None:
        task = asyncio.create_task(Postgres().execute(config, context))
        async with await psycopg.AsyncConnection.connect(postgres.url(), autocommit=True) as watcher:

            async def count() -> int:
                row = await (await watcher.execute(running.encode(), [name])).fetchone()
                assert row is not None
                return int(row[0])

            async with asyncio.timeout(50):
                while await count() == 0:  # noqa: ASYNC110  # it is the server that is waited for
                    await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                while await count() > 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    asyncio.run(story())
