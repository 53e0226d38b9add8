"""A statement with its values, as SQLAlchemy takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import TextClause, bindparam, text

from flowmason_ray.components.builtin.sql_text import with_names
from flowmason_ray.components.frames import is_frame
from flowmason_ray.errors import PermanentError


def bound(statement: str, parameters: Mapping[str, Any]) -> tuple[TextClause, dict[str, Any]]:
    """Return the statement, and the values that it uses. A list is spread out, for `in :name`.

    Raises:
        PermanentError: `unknown_parameter`, or `invalid_parameter` for a value that no column takes.
    """
    # A colon that is none of ours is escaped, so that SQLAlchemy sees the names that we see.
    written, used = with_names(statement, parameters, name=lambda n: f":{n}", rest=lambda t: t.replace(":", "\\:"))
    value: object
    for name, value in used.items():
        kind = "a table" if is_frame(value) else "an object" if isinstance(value, dict) else None
        if kind is not None:
            raise PermanentError(
                f"The parameter {name!r} is {kind}; a value is a text, a number, "
                "true, false, null, or a list of these. An object is written as a text with `| tojson`.",
                code="invalid_parameter",
            )
    lists: list[Any] = [bindparam(name, expanding=True) for name, value in used.items() if isinstance(value, list)]
    return text(written).bindparams(*lists), used
