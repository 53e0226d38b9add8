"""Where every value of a resolved pipeline was written: file, line, and whom it overrides on the way.

A pipeline that extends others is put together from parts of several files. Beside its values there is a tree of `Mark`s: a
mark says where a value comes from, and only where a part of that value comes from somewhere else does the tree go on. An
inherited stage that nobody touched costs one mark, however large it is, and is shared by all who inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flowmason_ray.spec.source import Location, join_pointer, split_pointer

if TYPE_CHECKING:
    from flowmason_ray.spec.loader import LoadedPipeline


class _Missing:
    """Stands for a value that is not there; null is one that is."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A place in a file that was read: `pointer` is canonical, as in the document's `data`."""

    document: LoadedPipeline
    pointer: str

    def below(self, *tokens: str | int) -> Origin:
        """Return the place that lies below this one."""
        return Origin(self.document, self.pointer + join_pointer(*tokens))

    def place(self, *, key: bool = False) -> Location:
        """Return file, line and column."""
        return self.document.locate(self.pointer, key=key)

    def value(self) -> Any:
        """Return what is written there; `MISSING` when nothing is."""
        return value_at(self.document.data, self.pointer)

    def __str__(self) -> str:
        place = self.place()
        file = short_path(place.file) if place.file else self.document.pipeline.name
        return f"{file}:{place.line}" if place.line else f"{file}{self.pointer}"


Chain = tuple[Origin, ...]
"""The places where a value was written, the one that it overrides before the one that overrides; the last one holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """Where a value comes from."""

    chain: Chain
    below: Mapping[str, Mark] = field(default_factory=dict[str, "Mark"])
    """Those of its members (keys, or positions as text) that come from somewhere else."""

    def member(self, token: str | int) -> Mark:
        """Return the mark of a member."""
        found = self.below.get(str(token))
        return found if found is not None else Mark(tuple(origin.below(token) for origin in self.chain))

    def with_members(self, changed: Mapping[str, Mark | None]) -> Mark:
        """Return this mark with other marks for some members; None: the member is gone."""
        below = {**self.below, **changed}
        return Mark(self.chain, {token: mark for token, mark in below.items() if mark is not None})


class Provenance:
    """Says where each part of a resolved document was written."""

    def __init__(self, root: Mark) -> None:
        self._root = root

    def chain(self, pointer: str) -> Chain:
        """Return where the value at a pointer of the resolved document was written, the effective place last."""
        mark = self._root
        for token in split_pointer(pointer):
            mark = mark.member(token)
        # A file that fills a slot says something about the stage, not about all that is in it.
        written = tuple(origin for origin in mark.chain if origin.value() is not MISSING)
        return written or mark.chain[-1:]

    def origin(self, pointer: str) -> Origin:
        """Return the place that holds for the value at a pointer."""
        return self.chain(pointer)[-1]


def chain_of(loaded: LoadedPipeline, pointer: str) -> Chain:
    """Return where a part of any pipeline was written, whether it extends others or not."""
    return (Origin(loaded, pointer),) if loaded.provenance is None else loaded.provenance.chain(pointer)


def short_path(file: str) -> str:
    """Return the name of a file as messages show it: relative to the working directory when it lies below."""
    try:
        relative = os.path.relpath(file)
    except (OSError, ValueError):  # the working directory is gone; another drive
        return file
    return file if relative.startswith("..") else relative


def value_at(data: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer; `MISSING` when there is none."""
    for token in split_pointer(pointer):
        if isinstance(data, dict):
            data = cast("dict[str, Any]", data).get(token, MISSING)
        elif isinstance(data, list) and token.isdecimal() and int(token) < len(cast("list[Any]", data)):
            data = cast("list[Any]", data)[int(token)]
        else:
            return MISSING
    return data


def leaves(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (pointer, value) of everything that holds nothing else: scalars, empty objects and lists; in written order."""
    if isinstance(value, dict) and value:
        for key, inner in cast("dict[str, Any]", value).items():
            yield from leaves(inner, pointer + join_pointer(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(cast("list[Any]", value)):
            yield from leaves(inner, f"{pointer}/{index}")
    else:
        yield pointer, value
