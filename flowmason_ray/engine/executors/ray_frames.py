"""How values travel between processes: JSON as it is, frames as Arrow, which a receiver reads in shared memory without copying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any, cast

from flowmason_ray.engine.values import Items, is_frame


@dataclass(frozen=True, slots=True)
class ArrowFrame:
    """A frame on its way between processes: an Arrow IPC stream in one buffer, which Ray keeps in shared memory as it is.

    A receiver reads it there without copying. (Ray's own way with Arrow tables fails on slices with polars' strings: "Unhandled
    Arrow array type: string_view", Ray 2.60, `ray/_private/arrow_serialization.py`; a polars frame as such would be pickled.)
    """

    table: Any

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        import pyarrow  # pyright: ignore[reportMissingTypeStubs]  # it has none

        arrow: Any = pyarrow  # its types are partly unknown
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return (_arrow_frame, (PickleBuffer(sink.getvalue()),))


def _arrow_frame(buffer: Any) -> ArrowFrame:
    import pyarrow  # pyright: ignore[reportMissingTypeStubs]  # it has none

    arrow: Any = pyarrow  # its types are partly unknown
    return ArrowFrame(arrow.ipc.open_stream(arrow.py_buffer(buffer)).read_all())


def portable(value: Any) -> Any:
    """Return a value with its frames as `ArrowFrame`s; what holds none comes back as it is."""
    if is_frame(value):
        import polars

        return ArrowFrame(value.to_arrow(compat_level=polars.CompatLevel.newest()))
    if isinstance(value, Items):
        return Items(portable(value.source), value.indices, value.batch)
    return _rebuilt(value, portable)


def restore(value: Any) -> Any:
    """Undo `portable`, without copying the frames' data."""
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
