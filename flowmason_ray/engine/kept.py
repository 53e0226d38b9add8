"""Large values inside loops: in memory until they are recorded, then in the blob store and read back when somebody asks.

A loop over a thousand documents of 1 MB must not hold a gigabyte until its end. So the executor that runs in this process
hands out large values of iterations as `Kept` handles. The log, once it has written such a value as a blob, lets go of it
(`Kept.recorded`); whoever reads it later gets it from the `Shelf`, where the latest ones still are, or from the blob. A
value that its record does not give back exactly (a secret is masked, NaN is null) stays in memory.

A loop's `results` over such values is a `KeptList`, a list to expressions (`spec.language.values.LazyList`) that fetches
one element at a time. Components get plain lists: `plain` makes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any

from flowmason_ray.engine.commands import Each, Several
from flowmason_ray.engine.values import Items
from flowmason_ray.spec.language.values import LazyList, eager

RECENT_BYTES = 32 * 2**20
"""How much of recorded values stays in memory: what one stage of an iteration makes, the next one usually reads."""


class Shelf:
    """Where the values of `Kept` handles are found once they are recorded. May be used by several threads."""

    def __init__(self, read: Callable[[bytes], Any], *, recent_bytes: int = RECENT_BYTES) -> None:
        """`read` returns the value that a recorded form (`stores.encoding`, "packed") stands for."""
        self._read = read
        self._limit = recent_bytes
        self._lock = Lock()
        self._recent: OrderedDict[int, tuple[Kept, Any]] = OrderedDict()
        self._bytes = 0

    def put(self, kept: Kept, value: Any) -> None:
        """Remember a value for a while."""
        with self._lock:
            if kept.size_bytes > self._limit or id(kept) in self._recent:
                return
            self._recent[id(kept)] = (kept, value)  # the handle too: its id must not be given to another one
            self._bytes += kept.size_bytes
            while self._bytes > self._limit:
                _, (old, _) = self._recent.popitem(last=False)
                self._bytes -= old.size_bytes

    def get(self, kept: Kept) -> Any:
        """Return the value of a handle.

        Raises:
            StoreError: its blob cannot be read.
        """
        with self._lock:
            found = self._recent.get(id(kept))
            if found is not None:
                self._recent.move_to_end(id(kept))
                return found[1]
        assert kept.packed is not None
        value = self._read(kept.packed)
        self.put(kept, value)
        return value


class Kept:
    """The handle of a large value: the value itself until it is recorded, then a reference to the record."""

    __slots__ = ("_shelf", "_value", "packed", "size_bytes")

    def __init__(self, shelf: Shelf, *, size_bytes: int, value: Any = None, packed: bytes | None = None) -> None:
        """Either `value` or `packed` is given."""
        self._shelf = shelf
        self._value = value
        self.packed = packed
        """The recorded form, once there is one."""
        self.size_bytes = size_bytes

    def load(self) -> Any:
        """Return the value.

        Raises:
            StoreError: it lies in a blob that cannot be read.
        """
        value = self._value
        return self._shelf.get(self) if value is None else value

    def recorded(self, packed: bytes, *, exactly: bool) -> None:
        """Take the recorded form; when it says exactly what the value is, the value need not stay in memory."""
        self.packed = packed
        value = self._value
        if exactly and value is not None:
            self._shelf.put(self, value)
            self._value = None


class KeptList(LazyList):
    """A list of which some elements are handles of values that may not be in memory."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Any]) -> None:
        """`parts` are values, `Kept` handles, or `Several` of those."""
        super().__init__()
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Any]:
        return map(_loaded, self.parts)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return KeptList(self.parts[index])
        return _loaded(self.parts[index])


def _loaded(part: Any) -> Any:
    if type(part) is Kept:
        return part.load()
    if type(part) is Several:
        return {name: _loaded(each) for name, each in part.parts.items()}
    if type(part) is Each:
        return [_loaded(each) for each in part.parts]
    return part


def _is_kept(part: Any) -> bool:
    if type(part) is Several:
        return any(_is_kept(each) for each in part.parts.values())
    return type(part) is Kept or (type(part) is Each and any(_is_kept(each) for each in part.parts))


def gathered(part: Any) -> Any:
    """Return what a part of a construct's value gives: a lazy list where elements may not be in memory, else the value."""
    if type(part) is Each:
        if any(_is_kept(each) for each in part.parts):
            return KeptList(part.parts)
        return [_loaded(each) for each in part.parts]
    return _loaded(part)


def plain(value: Any) -> Any:
    """Return a value with everything in it loaded: `value` itself when there is nothing to load.

    Raises:
        StoreError: something lies in a blob that cannot be read.
    """
    if isinstance(value, Items):
        source = eager(value.source)
        return value if source is value.source else Items(source, value.indices, value.batch)
    return eager(read_value(value))


def read_value(handle: Any) -> Any:
    """Return the value that a handle of this process stands for; lists inside it may be lazy."""
    return handle.load() if type(handle) is Kept else handle


def member_of(handle: Any, name: str) -> Any:
    """Return a member of the object that a handle stands for."""
    value: Mapping[str, Any] = read_value(handle)
    return value[name]
