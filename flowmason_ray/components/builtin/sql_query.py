"""`sql_query`: one query that only reads, on SQLite or PostgreSQL.

Declared idempotent, not pure: it may be repeated, but what it gives depends on the database and not only on the config. That it
changes nothing is the database's own promise (`sql_databases`), and on PostgreSQL ours, too (`sql_text.check_reads`).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.sql_databases import opened
from flowmason_ray.components.builtin.sql_rows import ResultForm, RowsOutput, rows_output
from flowmason_ray.components.builtin.sql_statements import bound
from flowmason_ray.components.builtin.sql_text import check_reads, first_word
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.engine.component import Context


@operator(name="sql_query", effect="idempotent", cost="io", category="data", tags=("sql",))
class SqlQuery:
    """Asks a SQL database (SQLite, PostgreSQL) a question. It can change nothing."""

    class Input(BaseModel):
        """The database and the query."""

        model_config = closed(
            {
                "database": "data/shop.db",
                "query": "select name, price from products where price >= :least order by price",
                "parameters": {"least": 10},
            }
        )

        connection: str | None = Field(
            default=None,
            description="The connection of type sql or postgres in flowmason.json.",
            json_schema_extra=names_connection("sql", "postgres"),
        )
        database: str | None = Field(default=None, description="Or a SQLite file of the project.")
        query: str = Field(min_length=1, description="One statement; `:name` stands for a value of 'parameters'.")
        parameters: dict[str, Any] = Field(
            default={},
            description="{name: value}; the database gets values beside the text. A list fits `in :name`.",
        )
        max_rows: int = Field(default=10_000, ge=1, le=10_000_000, description="The most rows; more are left behind.")
        result: ResultForm = Field(default="rows", description="As objects, or as a table for table_* stages.")
        timeout: float = Field(default=30.0, gt=0, le=3600, description="Seconds that the query may take.")

    class Output(RowsOutput):
        """What the query gave."""

    def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            PermanentError: `sql_error`, `sql_read_only`, `sql_denied`, `unknown_parameter`, `invalid_parameter`, ….
            TemporaryError: `sql_unavailable`, `sql_timeout`.
        """
        statement, values = bound(input.query, input.parameters)
        with opened(context, input.connection, input.database, read_only=True, timeout=input.timeout) as database:
            if database.dialect.name == "postgresql":
                check_reads(input.query)
            streaming = database.execution_options(stream_results=_streams(database, input.query))
            with streaming.execute(statement, values) as found:
                columns = list(found.keys()) if found.returns_rows else []
                rows: Any = found.fetchmany(input.max_rows + 1) if found.returns_rows else []
        output = rows_output(columns, rows, form=input.result, max_rows=input.max_rows)
        if output["truncated"]:
            context.log(
                "warning", f"The query gives more than max_rows = {input.max_rows} rows; the rest is left behind."
            )
        return self.Output(**output)


def _streams(database: Any, query: str) -> bool:
    """Tell whether rows can come one by one. PostgreSQL sends everything at once otherwise, also what is left behind."""
    return database.dialect.name == "postgresql" and first_word(query) in ("SELECT", "WITH", "VALUES", "TABLE")
