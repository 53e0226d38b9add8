"""How values travel between processes: JSON as it is, frames as Arrow, which a receiver reads in shared memory without copying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pickle import PickleBuffer
from typing import Any, cast

from flowmason_ray.engine.values import Items, is_frame
from flowmason_ray.errors import StageError

MAX_PIECES = 1_000
"""Pieces of columns that are handed over one by one; a frame of more has many small ones, and is written as one stream."""
ONLY_POLARS = frozenset({"Int128", "UInt128"})
"""Types of columns that Arrow does not have."""
WASTE = 1.2
"""How much larger than its values a buffer may be to be handed over as it is: a slice still holds what it was cut from."""


@dataclass(frozen=True, slots=True)
class ArrowFrame:
    """A frame on its way between processes: its buffers as they are, which Ray copies into shared memory, once.

    A receiver reads them there without copying. Columns that are not just buffers (lists, structs, categories), and slices of much
    larger ones, are written as an Arrow IPC stream, which costs a copy more.
    (Ray's own way with Arrow tables fails on slices with polars' strings: "Unhandled Arrow array type: string_view", Ray 2.60,
    `ray/_private/arrow_serialization.py`; a polars frame as such would be pickled.)
    """

    table: Any

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        table, plain, others = self.table, dict[int, Any](), list[int]()
        many = sum(column.num_chunks for column in table.columns) > MAX_PIECES
        for position, column in enumerate(table.columns):
            pieces = None if many else _pieces(column)
            if pieces is None:
                others.append(position)
            else:
                plain[position] = pieces
        stream = _stream(table.select(others)) if others or not plain else None
        return (_arrow_frame, (table.schema, plain, others, stream))


@dataclass(frozen=True, slots=True)
class PolarsFrame:
    """A frame on its way that Arrow for Python cannot hold (whole numbers of 128 bits): as polars' own IPC stream, a copy each way."""

    frame: Any

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        import polars

        buffer = BytesIO()
        self.frame.write_ipc_stream(buffer, compat_level=polars.CompatLevel.newest())
        return (_polars_frame, (PickleBuffer(buffer.getbuffer()),))


def _polars_frame(stream: Any) -> PolarsFrame:
    import polars

    return PolarsFrame(polars.read_ipc_stream(BytesIO(stream)))


def _kinds(dtype: Any) -> Iterator[str]:
    """Yield the names of a column's type and of those within it."""
    yield str(dtype.base_type())
    inner = getattr(dtype, "inner", None)
    if inner is not None:
        yield from _kinds(inner)
    for field in getattr(dtype, "fields", ()):
        yield from _kinds(field.dtype)


def _portable_frame(frame: Any) -> ArrowFrame | PolarsFrame:
    import polars

    only_polars = False
    for name, dtype in frame.schema.items():
        kinds = set(_kinds(dtype))
        if "Object" in kinds:  # polars would hand over the addresses of the objects
            raise StageError(
                f"Column {name!r} of a table holds Python objects (polars type 'Object'), which cannot be sent to another process. Make "
                "it a column of numbers, texts, lists or structs.",
                code="invalid_output",
            )
        only_polars = only_polars or not kinds.isdisjoint(ONLY_POLARS)
    return PolarsFrame(frame) if only_polars else ArrowFrame(frame.to_arrow(compat_level=polars.CompatLevel.newest()))


def _pieces(column: Any) -> list[tuple[int, int, list[Any]]] | None:
    """Return a column's chunks as (length, nulls, buffers); None: they are not just buffers, or too large ones."""
    arrow = _pyarrow()
    types, kind = arrow.types, column.type
    if types.is_string_view(kind) or types.is_binary_view(kind):
        width = (
            128  # bits: every value has a view; behind the views lie any number of buffers, of which nothing can be cut
        )
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_boolean(kind):
        width = kind.bit_width
    else:
        return None
    found: list[tuple[int, int, list[Any]]] = []
    for chunk in column.chunks:
        buffers = chunk.buffers()
        if chunk.offset or buffers[1] is None or buffers[1].size > WASTE * (len(chunk) * width / 8) + 128:
            return None
        given = [None if buffer is None else PickleBuffer(buffer) for buffer in buffers]
        found.append((len(chunk), chunk.null_count, given))
    return found


def _stream(table: Any) -> PickleBuffer:
    """Return a table as an Arrow IPC stream."""
    arrow = _pyarrow()
    size = arrow.MockOutputStream()
    with arrow.ipc.new_stream(size, table.schema) as writer:
        writer.write_table(table)
    buffer = arrow.allocate_buffer(size.size())  # of the right size at once: one that grows is copied whenever it does
    with arrow.ipc.new_stream(arrow.FixedSizeBufferWriter(buffer), table.schema) as writer:
        writer.write_table(table)
    return PickleBuffer(buffer)


def _arrow_frame(schema: Any, plain: dict[int, Any], others: list[int], stream: Any) -> ArrowFrame:
    arrow = _pyarrow()
    columns: dict[int, Any] = {}
    if stream is not None:
        table = arrow.ipc.open_stream(arrow.py_buffer(stream)).read_all()
        if not plain:
            return ArrowFrame(table)  # which knows its height even without columns
        columns = dict(zip(others, table.columns, strict=True))
    for position, pieces in plain.items():
        kind = schema.field(position).type
        chunks: list[Any] = []
        for length, nulls, buffers in pieces:
            given = [None if buffer is None else arrow.py_buffer(buffer) for buffer in buffers]
            chunks.append(arrow.Array.from_buffers(kind, length, given, null_count=nulls))
        columns[position] = arrow.chunked_array(chunks, type=kind)
    return ArrowFrame(arrow.table([columns[position] for position in range(len(schema))], schema=schema))


def _pyarrow() -> Any:
    """Import pyarrow where a frame is there; its types are partly unknown."""
    import pyarrow  # pyright: ignore[reportMissingTypeStubs]  # it has none

    return pyarrow


def portable(value: Any) -> Any:
    """Return a value with its frames as `ArrowFrame`s or `PolarsFrame`s; what holds none comes back as it is.

    Raises:
        StageError: a column holds Python objects (code `invalid_output`).
    """
    if is_frame(value):
        return _portable_frame(value)
    if isinstance(value, Items):
        return Items(portable(value.source), value.indices, value.batch)
    return _rebuilt(value, portable)


def restore(value: Any) -> Any:
    """Undo `portable`, without copying the frames' data."""
    if isinstance(value, PolarsFrame):
        return value.frame
    if isinstance(value, ArrowFrame):
        import polars

        return cast("Any", polars).from_arrow(value.table, rechunk=False)
    if isinstance(value, Items):
        return Items(restore(value.source), value.indices, value.batch)
    return _rebuilt(value, restore)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container with `change` made to everything in it; lists of plain values, however long, as they are."""
    if isinstance(value, dict):
        return {key: change(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if any(not isinstance(each, str | int | float | None) for each in items):
            return [change(each) for each in items]
    return value  # pyright: ignore[reportUnknownVariableType]  # whatever it is, it is passed on
