"""Tables as files of items (`components.datasets`): a row is an object, as it is of a frame.

CSV is cut into records here, because a field in quotes may hold line ends, and parsed by polars chunk by chunk with the types
that the beginning of the file suggests. Parquet and Arrow files are cut by polars itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from flowmason_ray.components.builtin.table_errors import table_errors
from flowmason_ray.components.datasets import CHUNK_ROWS, ChunkIndex, Reader
from flowmason_ray.components.extras import needs
from flowmason_ray.components.table_texts import check_lines, require_unpacked
from flowmason_ray.engine.json_values import json_row

with needs("A dataset that is a table", extra="tables"):
    import polars as pl

INFERRED_ROWS = 10_000
"""How many rows of a CSV file are looked at to guess its types: as many as `table_read` looks at by default."""


def reader(file: Path, name: str, format: str) -> Reader:
    """Return the reader for a table.

    Raises:
        PermanentError: `table_error`: it is no such table.
    """
    with table_errors(f"Reading {name!r}"):
        if format in ("csv", "tsv"):
            require_unpacked(file, name)
            check_lines(file, name)
            return _CsvReader(file, name, "," if format == "csv" else "\t")
        return _ScanReader(file, name, format)


class _CsvReader:
    """CSV with a header."""

    def __init__(self, file: Path, name: str, separator: str) -> None:
        self._file, self._name, self._separator = file, name, separator
        scan = pl.scan_csv(
            file, separator=separator, try_parse_dates=True, infer_schema_length=INFERRED_ROWS, glob=False
        )
        self._schema = scan.collect_schema()
        with file.open("rb") as lines:
            records = _records(lines)
            header = next(records, b"")
            self._index = ChunkIndex(records, len(header))
        self.starts: Sequence[int] = self._index.starts

    def chunk(self, number: int) -> Sequence[Any]:
        """Return rows as objects.

        Raises:
            PermanentError: `table_error`: a value does not have its column's type.
        """
        rows = (record for record in _records(BytesIO(self._index.read(self._file, number))) if record.strip())
        with table_errors(f"Reading {self._name!r} from row {self.starts[number]} on"):
            frame = pl.read_csv(
                BytesIO(b"".join(rows)), separator=self._separator, has_header=False, schema=self._schema
            )
        return [json_row(row) for row in frame.iter_rows(named=True)]


class _ScanReader:
    """Parquet and Arrow: polars knows where the rows are."""

    def __init__(self, file: Path, name: str, format: str) -> None:
        self._name = name
        self._scan = pl.scan_parquet(file, glob=False) if format == "parquet" else pl.scan_ipc(file, glob=False)
        count = int(cast("Any", self._scan).select(pl.len()).collect().item())
        self.starts: Sequence[int] = [*range(0, count, CHUNK_ROWS), count]

    def chunk(self, number: int) -> Sequence[Any]:
        """Return rows as objects."""
        with table_errors(f"Reading {self._name!r}"):
            frame = self._scan.slice(self.starts[number], CHUNK_ROWS).collect()
        return [json_row(row) for row in frame.iter_rows(named=True)]


def _records(lines: Any) -> Iterator[bytes]:
    """Yield records with their line ends: lines, but those inside of quotes belong together."""
    parts: list[bytes] = []
    quotes = 0
    for line in lines:
        quotes += line.count(b'"')
        if quotes % 2:
            parts.append(line)
        else:
            yield b"".join((*parts, line)) if parts else line
            parts.clear()
            quotes = 0
    if parts:
        yield b"".join(parts)
