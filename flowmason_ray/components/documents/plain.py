"""Markdown and plain text: the text stays as it is written, so positions in it are positions in the file.

Markdown's headings are found with a real parser: a `#` in a block of code is none. A form feed ends a page of plain text, as
programs that print text files have always had it.
"""

from __future__ import annotations

import itertools
from typing import Any

from flowmason_ray.components.documents.model import PageSpan, Read, sections_of
from flowmason_ray.errors import PermanentError


def decode(data: bytes, encoding: str | None, name: str) -> str:
    """Return the text of a file, its line ends as `\\n`.

    Args:
        data: The file.
        encoding: Its encoding; None: UTF-8, or UTF-16 where a byte order mark says so.
        name: What it is called in messages.

    Raises:
        PermanentError: it does not fit the encoding (`encoding_error`), or is no text (`document_has_no_text`).
    """
    chosen = encoding or ("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    try:
        text = data.decode(chosen)
    except (UnicodeDecodeError, LookupError) as exc:
        raise PermanentError(
            f"File {name!r} cannot be read as {chosen!r}: {exc}. Say its 'encoding', for example 'latin-1'.",
            code="encoding_error",
        ) from exc
    if "\x00" in text:
        raise PermanentError(f"File {name!r} is no text: it holds NUL characters.", code="document_damaged")
    if not text.strip():
        raise PermanentError(f"File {name!r} holds no text.", code="document_has_no_text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(text: str) -> Read:
    """Return a plain text, with pages where it has form feeds."""
    if "\f" not in text:
        return Read(text=text)
    pages: list[PageSpan] = []
    at = 0
    for number, page in enumerate(text.split("\f"), start=1):
        pages.append(PageSpan(number=number, start=at, end=at + len(page)))
        at += len(page) + 1
    return Read(text=text, pages=pages, empty_pages=[p.number for p in pages if not text[p.start : p.end].strip()])


def read_markdown(text: str) -> Read:
    """Return a Markdown text with its sections; simple `key: value` lines of a front matter become metadata."""
    from markdown_it import MarkdownIt

    metadata, skipped = front_matter(text)
    starts = _line_starts(text)
    first_line = text.count("\n", 0, skipped)
    headings: list[tuple[str, int, int]] = []
    tokens = MarkdownIt("commonmark").parse(text[skipped:])
    for token, inner in itertools.pairwise(tokens):
        if token.type == "heading_open" and token.map is not None:
            words = (
                "".join(c.content for c in inner.children or () if c.type in ("text", "code_inline")) or inner.content
            )
            headings.append((" ".join(words.split()), int(token.tag[1]), starts[first_line + token.map[0]]))
    sections = sections_of(text, headings)
    if "title" not in metadata and sections:
        title = next((s.heading for s in sections if s.level == 1), None)
        metadata |= {"title": title} if title else {}
    return Read(text=text, sections=sections, metadata=metadata)


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts


def front_matter(text: str) -> tuple[dict[str, Any], int]:
    """Return what a front matter says, and how many characters it takes."""
    if not text.startswith("---\n"):
        return {}, 0
    end = text.find("\n---\n", 3)
    if end < 0:
        return {}, 0
    found: dict[str, Any] = {}
    for line in text[4:end].split("\n"):
        key, colon, value = line.partition(":")
        if colon and key.strip().isidentifier() and value.strip():
            found[key.strip()] = value.strip().strip("\"'")
    return found, end + 5
