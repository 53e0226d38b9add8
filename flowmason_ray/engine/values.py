"""What stage values are made of, and how they are told apart: JSON, frames, and the items of a loop.

A value travels as an executor's *handle*. A handle that is not of one of the executor's own types is the value itself, so
constants (a `fallback_output`, a recorded value) are handles for every executor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson

from flowmason_ray.engine.json_values import json_row
from flowmason_ray.spec.language.values import LazyList

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

    @property
    def pending(self) -> bool:
        """Whether it cannot be recorded yet."""
        return False

    def settled(self) -> bytes | None:
        """Return how it is recorded; may block while it is `pending`."""
        return self.packed


class ItemSource:
    """The base of what a loop can take its items from without having all of them in memory. It travels between processes."""

    def __len__(self) -> int:
        """Return how many there are."""
        raise NotImplementedError

    def item(self, index: int) -> Any:
        """Return one, as JSON. Asked for in about the order of the items."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return how it is recorded: where it is, not what is in it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a loop: a list, a frame or an `ItemSource`; which of them are to be processed, and how many at a time."""

    source: Any
    indices: Sequence[int] | None = field(default=None)
    """Positions in `source` that are processed; None for all."""
    batch: int | None = None
    """How many of them make up one item, which is a list then; the last one may be shorter. None: they are the items."""

    def __len__(self) -> int:
        count = len(self.source) if self.indices is None else len(self.indices)
        return count if self.batch is None else -(-count // self.batch)

    def index(self, position: int) -> int:
        """Return the index of the item at `position`: in the source, or for batches its number."""
        return position if self.indices is None or self.batch is not None else self.indices[position]

    def item(self, position: int) -> Any:
        """Return the item at `position`: an element, a frame's row as an object of JSON, or a list of those."""
        if self.batch is None:
            return self._element(position if self.indices is None else self.indices[position])
        return [self._element(index) for index in self._batch(position)]

    def only(self, position: int) -> Items:
        """Return the items with no other than the one at `position`; it has position 0 there."""
        if self.batch is None:
            return Items(self.source, [self.index(position)])
        return Items(self.source, list(self._batch(position)), self.batch)

    def _batch(self, position: int) -> Sequence[int]:
        assert self.batch is not None
        start = position * self.batch
        if self.indices is not None:
            return self.indices[start : start + self.batch]
        return range(start, min(start + self.batch, len(self.source)))

    def _element(self, index: int) -> Any:
        if isinstance(self.source, ItemSource):
            return self.source.item(index)
        return json_row(self.source.row(index, named=True)) if is_frame(self.source) else self.source[index]


def not_recordable(value: Any) -> str | None:
    """Tell why a value cannot be written down as JSON; None when it can. Frames and loop items are taken as they are.

    JSON as everything here reads it has whole numbers of 64 bits and no half surrogate pairs (`spec.parsing` refuses them
    in files). NaN and the infinities are let pass and recorded as null, as pydantic writes them: refusing them would take
    a walk through every value.
    """
    try:
        recorded_size(value)
    except TypeError as exc:
        return str(exc)
    return None


def recorded_size(value: Any) -> int:
    """Return about how many bytes a value takes when it is written down: its JSON, and its frames in memory.

    Raises:
        TypeError: it cannot be written down; says why.
    """
    frames = 0

    def opaque(part: Any) -> None:
        nonlocal frames
        if is_frame(part):
            frames += int(part.estimated_size())
        elif not isinstance(part, (Items, Packed, LazyList)):
            raise TypeError(f"a value of type {type(part).__name__!r}")

    text = orjson.dumps(value, default=opaque, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    return len(text) + frames


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
