"""`sql_execute`: statements that change a SQL database, all of them or none.

Effectful: an attempt whose outcome is unknown is not repeated silently. Statements that may be repeated (an upsert, a delete by
key) deserve `"effect": "idempotent"` on their stage.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.sql_databases import opened
from flowmason_ray.components.builtin.sql_rows import ResultForm, RowsOutput, rows_output
from flowmason_ray.components.builtin.sql_statements import bound
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError


class Statement(BaseModel):
    """A statement with its values."""

    model_config = ConfigDict(extra="forbid")

    sql: str = Field(min_length=1, description="One statement; `:name` stands for a value of 'parameters'.")
    parameters: dict[str, Any] | list[dict[str, Any]] = Field(
        default={}, description="{name: value}; a list of these does the statement once for each."
    )


@operator(name="sql_execute", effect="effectful", cost="io", category="data", tags=("sql",))
class SqlExecute:
    """Changes a SQL database with one or several statements, in one transaction."""

    class Input(BaseModel):
        """The database and the statements."""

        model_config = closed(
            {
                "database": "data/shop.db",
                "statements": [
                    {
                        "sql": "insert into products (name, price) values (:name, :price)",
                        "parameters": [{"name": "lamp", "price": 39.0}, {"name": "bulb", "price": 4.5}],
                    },
                    {"sql": "select count(*) as products from products"},
                ],
            }
        )

        connection: str | None = Field(
            default=None,
            description="The connection of type sql or postgres in flowmason.json.",
            json_schema_extra=names_connection("sql", "postgres"),
        )
        database: str | None = Field(
            default=None, description="Or a SQLite file of the project; it is made if need be."
        )
        statements: list[Statement] = Field(
            min_length=1, description="The statements, in order; all take effect, or none."
        )
        max_rows: int = Field(default=10_000, ge=1, le=10_000_000, description="The most rows that are returned.")
        result: ResultForm = Field(default="rows", description="As objects, or as a table for table_* stages.")
        timeout: float = Field(default=30.0, gt=0, le=3600, description="Seconds that each statement may take.")

    class Output(RowsOutput):
        """What the last statement gave (with RETURNING, or a query)."""

        changed: list[int] = Field(description="For each statement how many rows it changed.")

    def execute(self, input: Input, context: Context) -> Output:
        """Do it.

        Raises:
            PermanentError: `sql_error`, `sql_conflict`, `sql_in_doubt`, `unknown_parameter`, ….
            TemporaryError: `sql_unavailable`, `sql_timeout`.
        """
        prepared = [_prepared(each) for each in input.statements]
        changed: list[int] = []
        columns: list[str] = []
        rows: Any = []
        with opened(context, input.connection, input.database, read_only=False, timeout=input.timeout) as database:
            for statement, values in prepared:
                done = database.execute(statement, values)
                changed.append(max(0, done.rowcount) if not done.returns_rows else 0)
                columns, rows = ([], [])
                if done.returns_rows:
                    columns, rows = list(done.keys()), done.fetchmany(input.max_rows + 1)
                    done.close()
        output = rows_output(columns, rows, form=input.result, max_rows=input.max_rows)
        if not columns:
            output["row_count"] = changed[-1]
        return self.Output(**output, changed=changed)


def _prepared(each: Statement) -> tuple[Any, Any]:
    if isinstance(each.parameters, dict):
        return bound(each.sql, each.parameters)
    if not each.parameters:
        raise PermanentError(
            "A statement's 'parameters' is an empty list: there is nothing to do it for. Skip the stage with 'when'.",
            code="invalid_parameter",
        )
    statements = [bound(each.sql, values) for values in each.parameters]
    if any(isinstance(value, list) for _, values in statements for value in values.values()):
        raise PermanentError(
            "A statement that is done once for each item cannot spread out a list.", code="invalid_parameter"
        )
    return statements[0][0], [values for _, values in statements]
