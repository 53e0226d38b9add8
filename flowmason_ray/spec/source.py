"""Where each part of a document stands in its text: JSON pointer to line and column.

Positions are needed only when something is wrong, so nothing is recorded while a file is read. `Source.locate` walks from
the top of the text along the pointer; of each object or list on the way it notes where the members stand, once. So the
first problem costs one pass over the text, the next ones almost nothing, and no map of the whole document is ever built.

The text is expected to have been parsed already. On a text that is not JSON, `locate` answers as far as it understands.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_OTHER = re.compile(r"[^\s,\]}:]*")
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)

_EXCERPT_WIDTH = 100
"""Columns of an excerpt; minified files have lines of megabytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A place in a file. `line` and `column` count from 1, columns in characters; None where it is not known."""

    file: str | None = None
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class _Members:
    """The members of one object or list: by name (or index) where the key (for lists: the value) and the value start."""

    starts: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    repeated: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Keys that are written more than once, with every place of the key."""


class Source:
    """A document's text and the file that it came from. `text` is empty for documents that never were text."""

    def __init__(self, *, file: str | None, text: str) -> None:
        self.file = file
        self.text = text
        self._members: dict[int, _Members] = {}

    def locate(self, pointer: str, *, key: bool = False) -> Location:
        """Return where the value at `pointer` starts.

        Args:
            pointer: A JSON pointer (RFC 6901). When it leads nowhere, its nearest ancestor that is there is meant.
            key: Return where the member's key starts instead, if the value is a member of an object.
        """
        if not self.text:
            return Location(file=self.file)
        return self.location_at(self._find(pointer, key=key))

    def repeated(self, pointer: str) -> dict[str, list[Location]]:
        """Return the keys that are written more than once in the object at `pointer`, with all their places."""
        if not self.text:
            return {}
        members = self._members_at(self._find(pointer, key=False))
        return {key: [self.location_at(at) for at in places] for key, places in members.repeated.items()}

    def location_at(self, offset: int) -> Location:
        """Return the place of the character at `offset` (0 … length of the text)."""
        line = bisect_right(self._line_starts, offset)
        return Location(file=self.file, line=line, column=offset - self._line_starts[line - 1] + 1)

    def excerpt(self, offset: int) -> str:
        """Return the line that `offset` is in, shortened around it, and under it a line with a caret."""
        start = self._line_starts[bisect_right(self._line_starts, offset) - 1]
        end = self.text.find("\n", start)
        line = self.text[start : len(self.text) if end < 0 else end].rstrip("\r")
        column = offset - start
        first = max(0, column - _EXCERPT_WIDTH // 2) if len(line) > _EXCERPT_WIDTH else 0
        shown = line[first : first + _EXCERPT_WIDTH]
        before, after = "…" if first else "", "…" if first + _EXCERPT_WIDTH < len(line) else ""
        # A tab or a control character would put the caret in the wrong column.
        shown = "".join(c if c.isprintable() else " " for c in shown)
        return f"    {before}{shown}{after}\n    {' ' * (len(before) + column - first)}^"

    @cached_property
    def _line_starts(self) -> Sequence[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def _find(self, pointer: str, *, key: bool) -> int:
        at = key_at = _skip_space(self.text, 0)
        for token in split_pointer(pointer):
            found = self._members_at(at).starts.get(token)
            if found is None:
                return at
            key_at, at = found
        return key_at if key else at

    def _members_at(self, start: int) -> _Members:
        members = self._members.get(start)
        if members is None:
            members = self._members[start] = _scan_members(self.text, start)
        return members


def split_pointer(pointer: str) -> list[str]:
    """Return the unescaped tokens of a JSON pointer."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def join_pointer(*tokens: str | int) -> str:
    """Return the JSON pointer that consists of `tokens`."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def too_deep_at(text: str, limit: int) -> int | None:
    """Return the offset of the first bracket that opens more than `limit` levels, or None when there is none."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        found = match.group()
        if found in ("{", "["):
            depth += 1
            if depth > limit:
                return match.start()
        elif found in ("}", "]"):
            depth -= 1
    return None


def _scan_members(text: str, start: int) -> _Members:
    members = _Members()
    opening = text[start : start + 1]
    if opening not in ("{", "["):
        return members
    at = _skip_space(text, start + 1)
    index = 0
    while at < len(text) and text[at] not in "}]":
        key_at = at
        if opening == "{":
            written = _STRING.match(text, at)
            if written is None:
                break
            name = _decoded(written.group())
            at = _skip_space(text, written.end())
            if text[at : at + 1] != ":":
                break
            at = _skip_space(text, at + 1)
            if name in members.starts:
                members.repeated.setdefault(name, [members.starts[name][0]]).append(key_at)
        else:
            name = str(index)
            index += 1
        members.starts[name] = (key_at, at)
        at = _skip_space(text, _end_of_value(text, at))
        if text[at : at + 1] != ",":
            break
        at = _skip_space(text, at + 1)
    return members


def _decoded(written: str) -> str:
    if "\\" not in written:
        return written[1:-1]
    try:
        return str(json.loads(written, strict=False))
    except ValueError:
        return written[1:-1]


def _end_of_value(text: str, start: int) -> int:
    first = text[start : start + 1]
    if first not in ("{", "["):
        match = _STRING.match(text, start) or _OTHER.match(text, start)
        return match.end() if match else start
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text, start):
        found = text[match.start()]
        if found in "{[":
            depth += 1
        elif found in "}]":
            depth -= 1
            if depth == 0:
                return match.end()
    return len(text)


def _skip_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start
