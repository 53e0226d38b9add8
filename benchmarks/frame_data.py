"""The frames of `benchmarks.frames`, made once per process."""

from __future__ import annotations

from typing import Any

COLUMNS = 8
_made: dict[tuple[int, bool], Any] = {}


def frame_of(rows: int, strings: bool) -> Any:
    """Return a frame of 8 columns of 8 bytes a row, of which with `strings` half are texts; made once per process."""
    import polars

    if (rows, strings) not in _made:
        numbers = polars.int_range(rows, eager=True)
        columns: dict[str, Any] = {f"n{i}": numbers * (i + 1) for i in range(COLUMNS)}
        if strings:
            columns |= {f"n{i}": (numbers % 9_999_999).cast(polars.String) for i in range(0, COLUMNS, 2)}
        _made[rows, strings] = polars.DataFrame(columns)
    return _made[rows, strings]
