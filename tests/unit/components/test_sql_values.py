"""Values that no column of SQLite takes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components.builtin.sql_execute import SqlExecute
from flowmason_ray.components.builtin.sql_query import SqlQuery
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, [1, 2**63], "\ud800"])
def test_values_that_no_column_takes_are_told(value: Any, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "a.db").close()
    context = RecordingContext(project_dir=tmp_path)
    query = "select 1 where 1 in :x" if isinstance(value, list) else "select :x"
    asked = SqlQuery.Input(database="a.db", query=query, parameters={"x": value})
    changed = SqlExecute.Input.model_validate(
        {"database": "a.db", "statements": [{"sql": query, "parameters": {"x": value}}]}
    )
    for call in (lambda: SqlQuery().execute(asked, context), lambda: SqlExecute().execute(changed, context)):
        with pytest.raises(PermanentError, match="cannot be given a value of 'parameters'") as caught:
            call()
        assert caught.value.code == "invalid_parameter"
