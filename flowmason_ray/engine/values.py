"""What stage values are made of, and how they are told apart: JSON, frames, and the items of a loop.

A value travels as an executor's *handle*. A handle that is not of one of the executor's own types is the value itself, so
constants (a `fallback_output`, a recorded value) are handles for every executor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson

INLINE_LIMIT_BYTES = 64 * 1024
"""Values whose JSON is larger than this are stored as blobs beside the log (architecture, "Values")."""


def is_frame(value: Any) -> bool:
    """Tell whether `value` is a polars DataFrame, without importing polars."""
    cls = cast("type[object]", type(value))
    return cls.__name__ == "DataFrame" and cls.__module__.startswith("polars")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a control-flow component returns besides, or instead of, an Output.

    `facts` is small JSON that the state machine acts on (`branch`, `count`, …) and the log records; `value` is the value
    that goes with it: the output of a branch decision, the `Items` of a loop.
    """

    facts: Mapping[str, Any]
    value: Any = None
    checked: Literal["input", "output"] | None = None
    """Whether the value must satisfy the stage's schema: as the input of a called pipeline (defaults are applied), or as
    the pipeline's output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The base of handles of values that are not in this process: how the log records them, and how large they are.

    `packed` is the recorded form (`stores.encoding`, "packed"); None when the run keeps no blobs, and then the log says only
    that there was a value of this size.
    """

    packed: bytes | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a loop: a list or a frame, and which of them are to be processed."""

    source: Any
    indices: Sequence[int] | None = field(default=None)
    """Positions in `source` that are processed; None for all."""

    def __len__(self) -> int:
        return len(self.source) if self.indices is None else len(self.indices)

    def index(self, position: int) -> int:
        """Return the index in the source of the item at `position`."""
        return position if self.indices is None else self.indices[position]

    def item(self, position: int) -> Any:
        """Return the item at `position`: an element, or a frame's row as an object."""
        index = self.index(position)
        return self.source.row(index, named=True) if is_frame(self.source) else self.source[index]


def not_recordable(value: Any) -> str | None:
    """Tell why a value cannot be written down as JSON; None when it can. Frames and loop items are taken as they are.

    JSON as everything here reads it has whole numbers of 64 bits and no half surrogate pairs (`spec.parsing` refuses them
    in files). NaN and the infinities are let pass and recorded as null, as pydantic writes them: refusing them would take
    a walk through every value.
    """
    try:
        orjson.dumps(value, default=_opaque, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as exc:
        return str(exc)
    return None


def _opaque(value: Any) -> None:
    if not (is_frame(value) or isinstance(value, (Items, Packed))):
        raise TypeError(f"a value of type {type(value).__name__!r}")


def printable(text: str) -> str:
    """Return text that can be encoded: half surrogate pairs (file names in a foreign encoding) become `?`."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


PRESENTED_ROWS = 1000
"""Frames of up to this many rows are shown as rows; longer ones as a summary with the first ten."""


def presentable(value: Any) -> Any:
    """Return a value as plain JSON for people and programs that read a result: frames become lists of row objects.

    A frame of more than `PRESENTED_ROWS` rows becomes {`rows`, `columns`, `head`}: a result is no way to carry data away,
    `table_write` is.
    """
    if is_frame(value):
        if value.height <= PRESENTED_ROWS:
            return _rows(value)
        return {"rows": value.height, "columns": list(value.columns), "head": _rows(value.head(10))}
    if isinstance(value, Mapping):
        return {key: presentable(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [presentable(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _rows(frame: Any) -> Any:
    """Return a frame's rows as plain JSON: dates and times as ISO 8601, what has no JSON form as text, NaN as null."""
    return orjson.loads(orjson.dumps(frame.to_dicts(), default=_text))


def _text(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
