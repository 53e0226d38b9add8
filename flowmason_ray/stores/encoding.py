"""The recorded form of events: JSON, with large values and frames beside it as blobs.

A value is recorded under `value` when it is plain JSON of at most `INLINE_LIMIT_BYTES`. Otherwise it is recorded under
`packed`, where an object with the single key `$blob` stands for what lies in the blob store: JSON text, or a frame as an
Arrow IPC file. Keeping the two apart means that data that happens to look like such an object is never mistaken for one;
where both meet under `packed`, what only looks so is wrapped: `{"$literal": {"$blob": …}}`.

Numbers that JSON does not have, NaN and the infinities, are recorded as null, and secrets as `***`. Whoever wants the value
and not its record has to know: where the recorded form is not faithful, the event also says `"lossy": true` (in a blob's
marker too, so that what a worker packed is known for what it is).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from io import BytesIO
from math import isfinite
from typing import Any, cast

import orjson

from flowmason_ray.engine.commands import Each, Several
from flowmason_ray.engine.events import EVENT_TYPES, ApprovalAnswered, Event, SkipReason, StageSucceeded
from flowmason_ray.engine.kept import Kept, KeptList, Shelf
from flowmason_ray.engine.secrecy import Masking
from flowmason_ray.engine.values import INLINE_LIMIT_BYTES, Items, ItemSource, Packed, is_frame
from flowmason_ray.errors import Failure, RunNotFound, StoreError
from flowmason_ray.stores.blobs import BlobStore

BLOB = "$blob"
LITERAL = "$literal"
LOSSY = "lossy"
_LOSSY_MARK = b'"lossy":true'
"""As it stands in a marker. A value with a member of that name is taken for lossy too, which only costs its reuse."""
_NO_MARKS: Mapping[str, Any] = {}
_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")
JSON_TYPE = "application/json"
SHARED_LIMIT_BYTES = 1024
"""Up to this size, what runs could share is written into each of their logs: a blob would cost more."""
FRAME_TYPE = "application/vnd.apache.arrow.file"
"""The registered media type of an Arrow IPC file (IANA, 2021)."""

# Dataclasses are passed through, so that the items of a loop are recorded as `_default` says and not as orjson would.
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS


def is_lossy(packed: bytes) -> bool:
    """Tell whether a packed value may say less than the value did."""
    return _LOSSY_MARK in packed


class Encoder:
    """Turns events into their recorded form, putting what is too large into a blob store. For one thread at a time."""

    def __init__(
        self, blobs: BlobStore | None, *, secrets: Iterable[str] = (), without: frozenset[str] = frozenset()
    ) -> None:
        """
        Args:
            blobs: Where large values go; None: nowhere, they are recorded inline.
            secrets: What is recorded as `***` wherever it stands in a text; frames are kept as they are.
            without: Fields that are left out of an event's body, because they are recorded beside it.
        """
        self._blobs = blobs
        self._without = without
        self._names: dict[type[Event], tuple[str, ...]] = {}
        self._masking = Masking(secrets)
        self._packed = False
        self._nested_lossy = False
        self.anew = False
        """Whether blobs that were written before are to be written again: they have been removed since."""
        self._marks = _NO_MARKS
        """What is added to the markers of frames."""
        self.lossy = False
        """Whether what was encoded last is not faithful: reading it back gives something else."""
        self.digests: set[str] = set()
        """The blobs that the recorded forms made so far refer to; whoever records them empties it."""

    def body(self, event: Event) -> bytes:
        """Return the JSON of an event's fields."""
        cls = type(event)
        names = self._names.get(cls)
        if names is None:
            names = self._names[cls] = tuple(name for name in _field_names(cls) if name not in self._without)
        data: dict[str, Any] = {}
        valued = False
        for name in names:
            value = getattr(event, name)
            if value is None:
                continue
            if name == "definitions":
                key, text = self._shared(value)
                data[f"{name}{key}"] = orjson.Fragment(text)
                continue
            if name in _VALUES:
                key, text = self.value(value)
                data[key if name == "value" else name if key == "value" else f"{name}_packed"] = orjson.Fragment(text)
                valued = True
                if self.lossy:
                    data[LOSSY] = True
            else:
                data[name] = value.to_json() if type(value) is Failure else value
        written = orjson.dumps(data, default=self._default, option=_OPTIONS)
        if not self._masking.needed:
            return written
        masked = self._masking.encoded(written)
        if masked is not written and (valued or cls is ApprovalAnswered) and LOSSY not in data:
            data[LOSSY] = True  # the value itself is masked by now: something beside it was, such as a decision
            masked = self._masking.encoded(orjson.dumps(data, default=self._default, option=_OPTIONS))
        return masked

    def result(self, event: StageSucceeded) -> bytes | None:
        """Return what is kept of a result for other runs: its value and decision; None when that is not faithful."""
        key, text = self.value(event.value)
        data: dict[str, Any] = {key: orjson.Fragment(text)}
        if event.decision is not None:
            data["decision"] = event.decision
        written = orjson.dumps(data, default=self._default, option=_OPTIONS)
        return None if self.lossy or self._masking.encoded(written) is not written else written

    def _shared(self, value: Any) -> tuple[str, bytes]:
        """Return how something is recorded that is the same for many runs, unless it is tiny: once, as a blob."""
        text = self._masking.encoded(orjson.dumps(value, default=self._default, option=_OPTIONS))
        if len(text) <= SHARED_LIMIT_BYTES or self._blobs is None:
            return "", text
        marker = {"digest": self._put(text), "size_bytes": len(text), "media_type": JSON_TYPE, "form": "value_json"}
        return "_packed", orjson.dumps({BLOB: marker})

    def plain(self, value: Any) -> bytes:
        """Return something small as JSON text, with secrets masked; what JSON has no form for is written as text."""
        return self._masking.encoded(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))

    def value(self, value: Any) -> tuple[str, bytes]:
        """Return how a value is recorded: (`value` or `packed`, JSON text)."""
        if isinstance(value, Packed):
            return "packed", self._handle(value)
        if isinstance(value, Kept):
            return self._kept(value)
        self._packed = self._nested_lossy = False
        self._marks = _NO_MARKS
        text = orjson.dumps(value, default=self._default, option=_OPTIONS)
        # The usual value: nothing in it was replaced, and only a text with `null` in it can hide a number that JSON has not.
        if self._packed or self._masking.needed or b"null" in text:
            text, self.lossy = self._checked(value, text)
            if self.lossy and self._packed:
                self._marks = {LOSSY: True}
                text, _ = self._checked(value, orjson.dumps(value, default=self._default, option=_OPTIONS))
        else:
            self.lossy = False
        if len(text) > INLINE_LIMIT_BYTES and self._blobs is not None:
            key = "packed_json" if self._packed else "value_json"
            marker = {"digest": self._put(text), "size_bytes": len(text), "media_type": JSON_TYPE, "form": key}
            return "packed", orjson.dumps({BLOB: {**marker, LOSSY: True} if self.lossy else marker})
        return ("packed" if self._packed else "value"), text

    def _checked(self, value: Any, text: bytes) -> tuple[bytes, bool]:
        """Return a value's JSON text escaped and masked, and whether it says less than the value."""
        if self._packed and (escaped := _escaped(value)) is not value:
            text = orjson.dumps(escaped, default=self._default, option=_OPTIONS)
        masked = self._masking.encoded(text)
        lossy = masked is not text or self._nested_lossy or (self._packed and self._blobs is None)
        return masked, lossy or (b"null" in text and not _finite(value))

    def _handle(self, value: Packed | Kept) -> bytes:
        """Return how the value is recorded that lies somewhere else, as whoever holds it has packed it."""
        packed = value.settled() if isinstance(value, Packed) else value.packed
        if packed is None:
            self.lossy = True
            return orjson.dumps({BLOB: {"size_bytes": value.size_bytes, "media_type": JSON_TYPE}})
        self.digests.update(digests_in(packed))
        self.lossy = is_lossy(packed)
        return packed

    def _put(self, content: bytes) -> str:
        assert self._blobs is not None
        digest = self._blobs.put(content)
        self.digests.add(digest)
        return digest

    def _kept(self, kept: Kept) -> tuple[str, bytes]:
        """Record a value that may leave memory afterwards, if its record says exactly what it is."""
        if kept.packed is not None and not self.anew:
            return "packed", self._handle(kept)
        key, text = self.value(kept.load())
        if key == "packed":
            kept.recorded(text, exactly=not self.lossy)
        return key, text

    def _default(self, value: Any) -> Any:
        if is_frame(value):
            self._packed = True
            return {BLOB: {**self._frame(value), **self._marks}}
        if isinstance(value, Packed):
            self._packed = True
            handle = self._handle(value)
            self._nested_lossy |= self.lossy
            return orjson.Fragment(handle)
        if isinstance(value, Kept):
            if value.packed is None:
                return value.load()
            self._packed = True
            handle = self._handle(value)
            self._nested_lossy |= self.lossy
            return orjson.Fragment(handle)
        if isinstance(value, KeptList):
            return list(value.parts)
        if isinstance(value, Several):
            return dict(value.parts)
        if isinstance(value, Each):
            return list(value.parts)
        if isinstance(value, Items):
            return _items(value, value.source)
        if isinstance(value, ItemSource):
            return value.to_json()
        raise TypeError(f"a value of type {type(value).__name__!r} cannot be recorded")

    def _frame(self, frame: Any) -> dict[str, Any]:
        facts = {"media_type": FRAME_TYPE, "rows": frame.height, "columns": list(frame.columns)}
        if self._blobs is None:
            return facts
        buffer = BytesIO()
        frame.write_ipc(buffer)
        content = buffer.getvalue()
        return {"digest": self._put(content), "size_bytes": len(content), **facts}


def digests_in(text: bytes) -> set[str]:
    """Return the digests of blobs that a recorded form names. What only looks like one is among them; it does no harm."""
    return {found.decode() for found in _DIGEST.findall(text)} if b"sha256:" in text else set()


def _finite(value: Any) -> bool:
    """Tell whether every number in a value is one that JSON has."""
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, (KeptList, Several, Each)):
        return _finite(value.parts)
    if isinstance(value, Items):
        return _finite(value.source)
    within: Iterable[Any] = ()
    if isinstance(value, dict):
        within = cast("dict[Any, Any]", value).values()
    elif isinstance(value, (list, tuple)):
        within = cast("Sequence[Any]", value)
    return all(type(each) in _PLAIN or _finite(each) for each in within)


_PLAIN = frozenset({str, int, bool, type(None)})
"""What most values are made of, and cannot hide a number that JSON has not."""
_VALUES = frozenset({"value", "input"})
"""The fields that hold a stage's or a run's value."""


class Decoder:
    """Brings recorded values back."""

    def __init__(self, blobs: BlobStore | None, *, run_id: str | None = None, lazy: bool = False) -> None:
        """
        Args:
            blobs: Where large values are; None: nowhere.
            run_id: Whose values they are, for what is said when one cannot be read.
            lazy: Whether large values come back as handles (`engine.kept`), which read them when somebody asks.
        """
        self._blobs = blobs
        self._run_id = run_id
        self._shelf = Shelf(Decoder(blobs, run_id=run_id).packed) if lazy else None

    def packed(self, text: bytes) -> Any:
        """Return what a recorded form stands for.

        Raises:
            StoreError: it lies in a blob that cannot be read.
        """
        return self._unpack(orjson.loads(text))

    def value(self, event: Mapping[str, Any], name: str = "value") -> Any:
        """Return the value of a recorded event (None when it has none).

        Raises:
            StoreError: it lies in a blob that cannot be read.
        """
        packed = "packed" if name == "value" else f"{name}_packed"
        if packed not in event:
            return event.get(name)
        try:
            data = event[packed]
            return self._handle(data) if name == "value" and self._shelf and _is_blob(data) else self._unpack(data)
        except StoreError as exc:
            whose = f" of stage {event['path']!r}" if event.get("path") else ""
            whose += f" of run {self._run_id!r}" if self._run_id else ""
            what = "value" if name == "value" else name
            raise type(exc)(f"The {what}{whose} cannot be read. {exc.message}") from exc

    def _handle(self, marker: Mapping[str, Any]) -> Kept:
        assert self._shelf is not None
        return Kept(self._shelf, size_bytes=marker[BLOB].get("size_bytes", 0), packed=orjson.dumps(marker))

    def _unpack(self, data: Any) -> Any:
        if isinstance(data, dict):
            found = cast("dict[str, Any]", data)
            if len(found) == 1:
                marker = found.get(BLOB)
                if isinstance(marker, dict) and "media_type" in marker:
                    return self._blob(cast("dict[str, Any]", marker))
                if isinstance(literal := found.get(LITERAL), dict):
                    found = cast("dict[str, Any]", literal)
            return {key: self._unpack(value) for key, value in found.items()}
        if isinstance(data, list):
            listed = cast("list[Any]", data)
            if self._shelf and any(_is_blob(each) for each in listed):
                return KeptList([self._handle(each) if _is_blob(each) else self._unpack(each) for each in listed])
            return [self._unpack(value) for value in listed]
        return data

    def _blob(self, marker: Mapping[str, Any]) -> Any:
        if self._blobs is None or "digest" not in marker:
            raise StoreError("The value lies in a blob, and this log was opened without its blob store.")
        content = self._blobs.get(str(marker["digest"]))
        if marker["media_type"] == FRAME_TYPE:
            import polars

            return polars.read_ipc(BytesIO(content))
        data = orjson.loads(content)
        return self._unpack(data) if marker.get("form") == "packed_json" else data


def _is_blob(data: Any) -> bool:
    """Tell whether a recorded form is the place of a JSON value in the blob store; frames are not, they come as they are."""
    if not isinstance(data, dict):
        return False
    marker = cast("dict[str, Any]", data).get(BLOB)
    return isinstance(marker, dict) and cast("dict[str, Any]", marker).get("media_type") == JSON_TYPE


def _escaped(value: Any) -> Any:
    """Return `value` with every object that looks like one of our markers wrapped; the same object when there is none."""
    if isinstance(value, dict):
        written = cast("dict[Any, Any]", value)
        made = {key: _escaped(each) for key, each in written.items()}
        if len(made) == 1 and (BLOB in made or LITERAL in made):
            return {LITERAL: made}
        return made if any(made[key] is not written[key] for key in made) else written
    if isinstance(value, list):
        items = cast("list[Any]", value)
        listed = [_escaped(each) for each in items]
        return listed if any(new is not old for new, old in zip(listed, items, strict=True)) else items
    if isinstance(value, KeptList):
        parts = [_escaped(each) for each in value.parts]
        return KeptList(parts) if any(new is not old for new, old in zip(parts, value.parts, strict=True)) else value
    if isinstance(value, Several):
        members = {name: _escaped(each) for name, each in value.parts.items()}
        return Several(members) if any(members[name] is not value.parts[name] for name in members) else value
    if isinstance(value, Items):
        source = _escaped(value.source)
        return value if source is value.source else _items(value, source)
    return value


def _items(items: Items, source: Any) -> dict[str, Any]:
    written = {"source": source, "indices": items.indices}
    return written if items.batch is None else {**written, "batch": items.batch}


_NOT_RECORDED = frozenset({"at", "size_bytes"})
"""`at` has a place of its own; `size_bytes` only matters until the value is recorded."""
_FIELDS: dict[type[Event], tuple[str, ...]] = {}


def _field_names(cls: type[Event]) -> tuple[str, ...]:
    names = _FIELDS.get(cls)
    if names is None:
        names = _FIELDS[cls] = tuple(field.name for field in fields(cls) if field.name not in _NOT_RECORDED)
    return names


def event_to_json(event: Event, blobs: BlobStore | None = None) -> dict[str, Any]:
    """Return an event as a JSON object: `kind`, `at` and its fields."""
    return {"kind": event.kind, "at": event.at, **orjson.loads(Encoder(blobs).body(event))}


def event_from_json(data: Mapping[str, Any], decoder: Decoder | None = None) -> Event:
    """Return the event that a recorded form stands for; the inverse of `event_to_json`.

    Args:
        data: `kind`, `at` and the fields, as a log returns them.
        decoder: Brings back values that lie in blobs. Without it `value` and `input` are left as None: reading how a run
            went needs none of its data.

    Raises:
        StoreError: the kind is not known, a field is missing, or a value cannot be read.
    """
    cls = EVENT_TYPES.get(str(data.get("kind")))
    if cls is None:
        raise StoreError(
            f"The log holds an event of the kind {data.get('kind')!r}, which this FlowMason does not know."
        )
    facts: dict[str, Any] = {"at": data.get("at", 0.0)}
    try:
        for name in _field_names(cls):
            if name in ("value", "input", "definitions"):
                facts[name] = None if decoder is None else decoder.value(data, name)
            elif (value := data.get(name)) is not None:
                facts[name] = _FROM_JSON[name](value) if name in _FROM_JSON else value
            elif name in _REQUIRED_BUT_NONE:
                facts[name] = None
        return cls(**facts)
    except (TypeError, ValueError) as exc:
        raise StoreError(f"The log holds a {cls.kind!r} event that is not complete: {exc}.") from exc


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "failure": lambda data: Failure(**data),
    "reason": SkipReason,
    "names": tuple,
    "repeated": tuple,
    "stopped": tuple,
}
"""Fields whose recorded form is not the value itself."""

_REQUIRED_BUT_NONE = frozenset({"branch"})
"""Fields without a default that may be None, which is not recorded."""


def find_run(wanted: str, ids: Sequence[str]) -> str:
    """Return the id that `wanted` means: itself, the only one that begins so, or for `last` the last of `ids`.

    Raises:
        RunNotFound: there is none, or there are several.
    """
    if wanted in ids:
        return wanted
    if wanted == "last" and ids:
        return ids[-1]
    found = [each for each in ids if each.startswith(wanted)] if wanted else []
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:5])
        raise RunNotFound(f"Run id {wanted!r} is ambiguous: {len(found)} runs begin so ({shown}). Write more of it.")
    raise RunNotFound(f"There is no run {wanted!r}. 'fm runs list' shows the runs of this project.")
