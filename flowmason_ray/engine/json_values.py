"""What a table or a database holds, as JSON: one rule for the rows of queries, for rows as objects, and for items of loops.

Expressions and templates know JSON only, and so does the log; a value that is something else would compare with nothing, and
would change its type when a run is taken up again.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast

_PLAIN = frozenset((str, int, bool, type(None)))


def json_value(value: Any) -> Any:
    """Return a database's or a table's value as JSON.

    Dates and times are ISO 8601, durations seconds, exact decimals numbers, bytes base64; NaN and the infinities are null. Where
    every digit of a decimal counts, cast it to text in the query.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if value == value and abs(value) != float("inf") else None
        case Decimal():
            if not value.is_finite():
                return None
            whole = value == value.to_integral_value() and abs(value) < 2**63
            return int(value) if whole else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(bytes(cast("bytes", value))).decode("ascii")
        case list() | tuple():
            return [json_value(v) for v in value]  # pyright: ignore[reportUnknownVariableType]  # of a driver's making
        case dict():
            return {str(k): json_value(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            return str(value)


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as an object of JSON."""
    return {name: value if type(value) in _PLAIN else json_value(value) for name, value in row.items()}
