"""What stands for a value in a fingerprint: short values as they are, larger ones by the SHA-256 of their content.

The *content* of a value is bytes: its canonical JSON when that is short, else `#` and a digest of it. Canonical means: keys
sorted, frames by the content of their columns. A stage's output is taken field by field, so that whoever reads one field is
not concerned by a change in another; the whole is made from the fields. Items of a loop are taken one by one.

The same everywhere: computed from a value in this process or by the worker that has made it, the content is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from typing import Any, cast

import orjson

from flowmason_ray.engine.kept import read_value
from flowmason_ray.engine.values import Items, ItemSource, is_frame
from flowmason_ray.spec.language.values import LazyList

SHORT_BYTES = 48
"""Up to this length, the JSON text itself is the content: hashing would cost more and say no more."""
MISSING = b"?"
"""The content of what is not there. No JSON text begins so."""
ITEM_BYTES = 16
"""How much of an item's digest is kept: a loop may have 100,000 of them."""

Contents = Mapping[str, bytes] | bytes
"""What a worker reports about a value that stays with it: the content of each of its fields, or for a value that is no object
of the whole; for the items of a loop `ITEM_BYTES` for each."""

_OPTIONS = (
    orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
)


def content_of(value: Any) -> bytes:
    """Return the content of a value.

    Raises:
        TypeError: it is not made of JSON and frames.
    """
    if isinstance(value, LazyList):
        return _listed(value)
    return _shortened(orjson.dumps(value, default=_default, option=_OPTIONS))


def _listed(value: LazyList) -> bytes:
    """Return the content of a list that is not all in memory: that of the same list if it were."""
    made, text = sha256(b"["), b"["
    for position, each in enumerate(value):
        part = (b"," if position else b"") + orjson.dumps(each, default=_default, option=_OPTIONS)
        made.update(part)
        text = (text + part)[: SHORT_BYTES + 1]
    made.update(b"]")
    return text + b"]" if len(text) < SHORT_BYTES else b"#" + made.digest()


def part_of(value: Any, key: str | None) -> bytes:
    """Return the content of one field of an output, or with `key` None of all of it.

    Raises:
        TypeError: it is not made of JSON and frames.
    """
    value = read_value(value)
    if not isinstance(value, dict):
        return content_of(value)
    fields = cast("dict[Any, Any]", value)
    if key is None:
        return _whole({str(name): content_of(each) for name, each in fields.items()})
    return content_of(fields[key]) if key in fields else MISSING


def contents_of(value: Any) -> Contents:
    """Return all that a worker says about a value (`part_in`, `item_in` read it)."""
    if isinstance(value, Items):
        return b"".join(item_content(value, position) for position in range(len(value)))
    if isinstance(value, dict):
        return {str(name): content_of(each) for name, each in cast("dict[Any, Any]", value).items()}
    return content_of(value)


def part_in(contents: Contents, key: str | None) -> bytes:
    """Return what `part_of` gives for the value that `contents` were made of."""
    if isinstance(contents, bytes):
        return contents
    return _whole(contents) if key is None else contents.get(key, MISSING)


def item_in(contents: Contents, position: int) -> bytes:
    """Return what `item_content` gives for the items that `contents` were made of."""
    assert isinstance(contents, bytes)
    return contents[position * ITEM_BYTES : (position + 1) * ITEM_BYTES]


def item_content(items: Items, position: int) -> bytes:
    """Return the content of one item; of an item in a file: which file that is, and the item's place in it."""
    source = items.source
    if isinstance(source, ItemSource):
        if items.batch is None:
            places: Sequence[int] = (items.index(position),)
        else:
            only = items.only(position).indices
            assert only is not None
            places = only
        text = orjson.dumps([source.to_json(), list(places)], option=_OPTIONS)
    else:
        text = orjson.dumps(items.item(position), default=_default, option=_OPTIONS)
    return sha256(text).digest()[:ITEM_BYTES]


def _shortened(text: bytes) -> bytes:
    return text if len(text) <= SHORT_BYTES else b"#" + sha256(text).digest()


def _whole(fields: Mapping[str, bytes]) -> bytes:
    made = sha256()
    for name in sorted(fields):
        made.update(orjson.dumps(name))
        made.update(len(fields[name]).to_bytes(2))
        made.update(fields[name])
    return b"#" + made.digest()


def _default(value: Any) -> Any:
    if is_frame(value):
        return {"$frame": _frame_digest(value)}
    if isinstance(value, Items):
        return {"$items": sha256(cast("bytes", contents_of(value))).hexdigest()}
    if isinstance(value, ItemSource):
        return value.to_json()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, (Sequence, LazyList)):
        return list(cast("Sequence[Any]", value))
    return _text(value)


def _text(value: Any) -> str:
    """Return what a frame's row may hold beside JSON (decimals, durations) as text."""
    kind = cast("type[object]", type(value))
    if kind.__module__ in ("decimal", "datetime"):
        return str(value)
    raise TypeError(f"a value of type {kind.__name__!r}")


def _frame_digest(frame: Any) -> str:
    """Return the digest of a frame's content: the same however its memory is cut into chunks and buffers.

    In the oldest form of Arrow texts lie one behind the other; in the newest they are views of buffers that depend on how a
    frame came about.
    """
    import polars

    buffer = BytesIO()
    frame.rechunk().write_ipc(buffer, compat_level=polars.CompatLevel.oldest())
    return sha256(buffer.getbuffer()).hexdigest()
