"""What every reader returns: one text, and where in it pages and sections begin and end.

Positions count characters of `text`, from 0, the end exclusive. A citation is made of them, so they are exact:
`text[section.start:section.end]` is the section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_CHARS = 20_000_000
"""A text longer than this (about 5,000 pages) is no document but a data set, and is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageSpan:
    """One page. `number` counts from 1, as readers and PDF viewers do."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionSpan:
    """A heading and everything up to the next one, whatever its level. `level` 0: what comes before the first heading."""

    heading: str | None
    level: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A document that was read."""

    text: str
    pages: Sequence[PageSpan] = ()
    sections: Sequence[SectionSpan] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the file says about itself: `title`, `author`, …; only what is there."""
    empty_pages: Sequence[int] = ()
    """Pages that hold no text: pictures, scans, blank ones."""


class TextBuilder:
    """Puts a text together block by block and notes where headings begin."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[tuple[str, int, int]] = []

    @property
    def length(self) -> int:
        """How many characters there are so far."""
        return self._length

    def add(self, block: str, *, level: int = 0, gap: str = "\n\n") -> None:
        """Add a block of text after `gap`; `level` from 1 makes it a heading. Blocks without words are passed over."""
        block = block.strip("\n\r \t")
        if not block:
            return
        if self._parts:
            self._put(gap)
        if level:
            self._headings.append((" ".join(block.split()), level, self._length))
        self._put(block)

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def build(self, metadata: Mapping[str, Any]) -> Read:
        """Return the document."""
        text = "".join(self._parts)
        return Read(text=text, sections=sections_of(text, self._headings), metadata=metadata)


def sections_of(text: str, headings: Sequence[tuple[str, int, int]]) -> list[SectionSpan]:
    """Return the sections that headings (words, level, where they begin; in order) divide a text into.

    Without headings there are none: the text is not divided.
    """
    if not headings:
        return []
    found: list[SectionSpan] = []
    first = headings[0][2]
    if text[:first].strip():
        found.append(SectionSpan(heading=None, level=0, start=0, end=first))
    ends = [start for _, _, start in headings[1:]] + [len(text)]
    for (words, level, start), end in zip(headings, ends, strict=True):
        found.append(SectionSpan(heading=words, level=level, start=start, end=end))
    return found
