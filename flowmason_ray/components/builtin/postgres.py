"""`postgres`: what PostgreSQL has beyond other databases: arrays and JSON as values, and COPY in both directions.

Declared effectful, because statements may change anything; a stage that only asks, or whose statements may be repeated, says
`"effect": "idempotent"`. Operation `query` is refused by the server itself when it would change something.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.sql_errors import commit_problem, sql_problem
from flowmason_ray.components.builtin.sql_execute import Statement
from flowmason_ray.components.builtin.sql_rows import ResultForm, RowsOutput, rows_output
from flowmason_ray.components.builtin.sql_text import check_reads, with_names
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.extras import needs
from flowmason_ray.components.files import file_errors, relative, resolve_inside, write_atomic_async
from flowmason_ray.components.frames import is_frame
from flowmason_ray.connections import PostgresConnection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

with needs("The component 'postgres'", extra="postgres"):
    import psycopg
    from psycopg import sql
    from psycopg.types.json import Jsonb

CONNECT_TIMEOUT_S = 10


@operator(name="postgres", effect="effectful", cost="io", category="data", tags=("sql", "postgres"))
class Postgres:
    """Asks, changes, fills or exports tables of PostgreSQL."""

    class Input(BaseModel):
        """What to do."""

        model_config = closed(
            {
                "connection": "shop",
                "operation": "query",
                "query": "select name, tags from products where tags && :tags order by name",
                "parameters": {"tags": ["new"]},
            }
        )

        connection: str = Field(
            description="The connection of type postgres in flowmason.json.",
            json_schema_extra=names_connection("postgres"),
        )
        operation: Literal["query", "execute", "copy_in", "copy_out"] = Field(
            description="Ask; change, in one transaction; fill a table from rows; export a query to a CSV file."
        )
        query: str | None = Field(
            default=None, description="For query and copy_out: one statement; `:name` stands for a value."
        )
        parameters: dict[str, Any] = Field(
            default={}, description="For query: {name: value}. A list is an array (`= any(:name)`), an object is jsonb."
        )
        statements: list[Statement] = Field(
            default=[], description="For execute: the statements, in order; all take effect, or none."
        )
        table: str | None = Field(default=None, description="For copy_in: the table, `schema.table` or `table`.")
        data: Any = Field(default=None, description="For copy_in: a list of objects, or a table.")
        file: str | None = Field(default=None, description="For copy_out: the CSV file of the project that is written.")
        max_rows: int = Field(default=10_000, ge=1, le=10_000_000, description="The most rows that are returned.")
        result: ResultForm = Field(default="rows", description="As objects, or as a table for table_* stages.")
        timeout: float = Field(default=60.0, gt=0, le=3600, description="Seconds that each statement may take.")

    class Output(RowsOutput):
        """What was found or done."""

        changed: list[int] = Field(default=[], description="execute: for each statement how many rows it changed.")
        file: str | None = Field(default=None, description="copy_out: the file.")
        size_bytes: int | None = Field(default=None, description="copy_out: its size.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Do it.

        Raises:
            PermanentError: `sql_error`, `sql_read_only`, `sql_conflict`, `sql_in_doubt`, `unknown_parameter`, ….
            TemporaryError: `sql_unavailable`, `sql_timeout`.
        """
        async with _connected(input, context) as connection:
            return await getattr(self, f"_{input.operation}")(connection, input, context)

    async def _query(self, connection: Any, input: Input, context: Context) -> Output:
        query: str = _given(input, "query")
        check_reads(query)
        statement, values = _named(query, input.parameters)
        async with connection.cursor() as cursor:
            await cursor.execute(statement, values, prepare=True)
            return self.Output(**await _fetched(cursor, input))

    async def _execute(self, connection: Any, input: Input, context: Context) -> Output:
        changed: list[int] = []
        facts: dict[str, Any] = {}
        async with connection.cursor() as cursor:
            for each in cast("list[Statement]", _given(input, "statements")):
                several: list[dict[str, Any]] = (
                    each.parameters if isinstance(each.parameters, list) else [each.parameters]
                )
                done = 0
                for parameters in several:
                    statement, values = _named(each.sql, parameters)
                    await cursor.execute(statement, values, prepare=True)
                    done += max(0, cursor.rowcount) if cursor.description is None else 0
                    facts = await _fetched(cursor, input)
                changed.append(done)
        if not facts["columns"]:
            facts["row_count"] = changed[-1]
        return self.Output(**facts, changed=changed)

    async def _copy_in(self, connection: Any, input: Input, context: Context) -> Output:
        name: str = _given(input, "table")
        columns, rows = _rows(input.data)
        if not columns:
            return self.Output(row_count=0, columns=[])
        target = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(*name.split(".", 1)), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        count = 0
        async with connection.cursor() as cursor, cursor.copy(target) as copy:
            for row in rows:
                await copy.write_row([_adapted(value) for value in row])
                count += 1
        return self.Output(row_count=count, columns=columns)

    async def _copy_out(self, connection: Any, input: Input, context: Context) -> Output:
        if input.parameters:
            raise PermanentError(
                "COPY takes no parameters. Export a view, or ask with operation 'query' and write with table_write.",
                code="invalid_parameter",
            )
        text: str = _given(input, "query").strip().rstrip(";")
        check_reads(text)
        query_text = sql.SQL(cast("Any", text))  # no constant: it is the pipeline's
        query = sql.SQL("COPY ({}\n) TO STDOUT (FORMAT csv, HEADER)").format(query_text)
        target = resolve_inside(context.project_dir, _given(input, "file"))

        async def write(temporary: Path) -> int:
            with temporary.open("wb") as out:
                async with connection.cursor() as cursor:
                    # The server reads it once by itself: then it cannot end COPY's bracket, and go on with a clause of COPY's.
                    await cursor.execute(sql.SQL("EXPLAIN {}").format(query_text), prepare=True)
                    async with cursor.copy(query) as copy:
                        async for chunk in copy:
                            out.write(chunk)
                    return cursor.rowcount

        with file_errors(str(input.file)):
            size, rows = await write_atomic_async(target, write)
        name = relative(context.project_dir, target)
        return self.Output(row_count=rows, columns=[], file=name, size_bytes=size)


@asynccontextmanager
async def _connected(input: Postgres.Input, context: Context) -> AsyncGenerator[Any]:
    """Connect in a transaction: committed if nothing is raised, else rolled back."""
    connection = context.connection(input.connection, PostgresConnection)
    where = f"Database {input.connection!r}"
    options = f"-c statement_timeout={max(1, int(input.timeout * 1000))}"
    if input.operation in ("query", "copy_out"):
        options += " -c default_transaction_read_only=on"
    more: dict[str, Any] = {} if connection.password is None else {"password": str(connection.password)}
    problem = sql_problem
    try:
        async with await psycopg.AsyncConnection.connect(
            str(connection.url), connect_timeout=CONNECT_TIMEOUT_S, options=options, **more
        ) as made:
            yield made
            if input.operation in ("execute", "copy_in"):
                problem = commit_problem
    except psycopg.ProgrammingError as exc:
        if not exc.sqlstate and "connection" in str(exc):
            # libpq's words repeat the URL, which may hold a password.
            raise PermanentError(
                f"The URL of connection {input.connection!r} does not read like 'postgresql://user@host/database'.",
                code="sql_error",
            ) from None
        raise sql_problem(exc, where) from exc
    except psycopg.Error as exc:
        raise problem(exc, where) from exc


def _given(input: Postgres.Input, field: str) -> Any:
    value = getattr(input, field)
    if not value:
        raise PermanentError(f"Operation {input.operation!r} needs {field!r}.", code="invalid_input")
    return value


def _named(statement: str, parameters: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    written, used = with_names(
        statement, parameters, name=lambda n: f"%({n})s", rest=lambda text: text.replace("%", "%%")
    )
    return written.encode(), {name: _adapted(value) for name, value in used.items()}


def _adapted(value: Any) -> Any:
    """Return a value as psycopg takes it: objects are jsonb, and so is a list of objects; other lists are arrays."""
    plain: Any = value
    several = cast("list[Any]", value) if isinstance(value, list) else []
    is_json = isinstance(value, dict) or any(isinstance(each, dict) for each in several)
    return Jsonb(plain) if is_json else plain


async def _fetched(cursor: Any, input: Postgres.Input) -> dict[str, Any]:
    columns = [each.name for each in cursor.description or ()]
    rows: Any = await cursor.fetchmany(input.max_rows + 1) if columns else []
    return rows_output(columns, rows, form=input.result, max_rows=input.max_rows)


def _rows(data: Any) -> tuple[list[str], Any]:
    if is_frame(data):
        return data.columns, cast("Any", data).iter_rows()
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in cast("list[Any]", data)):
        raise PermanentError(
            "Operation 'copy_in' needs a list of objects, or a table, in 'data'.", code="invalid_input"
        )
    rows = cast("list[dict[str, Any]]", data)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, ([row.get(name) for name in columns] for row in rows)
