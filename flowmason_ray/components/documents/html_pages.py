"""HTML, read with lxml: what a reader of the page would read, block by block, headings by their tags.

Scripts, styles and templates are left out. Nothing is fetched, and no entity reaches outside of the document.
"""

from __future__ import annotations

import codecs
import re
from importlib import import_module
from typing import Any

from flowmason_ray.components.documents.model import Read, TextBuilder
from flowmason_ray.components.extras import needs
from flowmason_ray.errors import PermanentError

with needs("Reading HTML files", extra="documents"):
    _lxml: Any = import_module("lxml.etree")  # it has no types

_SILENT = frozenset({"script", "style", "template", "noscript", "svg", "math", "head", "iframe", "object", "select"})
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "tr",
        "ul",
    ]
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_SPACE = re.compile(r"[ \t\n\r\f]+")
_NOT_READ = re.compile(rb"<!--.*?(?:-->|\Z)|<(script|style|title|noscript)\b.*?(?:</\1|\Z)", re.DOTALL | re.IGNORECASE)
"""Where a `charset=` says nothing about the page."""
_META = re.compile(rb"<meta\s[^<>]*?charset\s*=\s*[\"']?([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\s[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_DECLARED_WITHIN = 16_384
"""Bytes from the beginning in which a page says its encoding."""
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_html(data: bytes, encoding: str | None, name: str) -> Read:
    """Read an HTML document.

    Args:
        data: The file.
        encoding: Its encoding; None: what it says itself, else UTF-8.
        name: What it is called in messages.

    Raises:
        PermanentError: `encoding_error`, `document_damaged`, or `document_has_no_text`.
    """
    root = _parsed(_decoded(data, encoding, name), name)
    read = None if root is None or not isinstance(root.tag, str) else _Walk().read(root)
    if read is None or not read.text:
        raise PermanentError(f"File {name!r} holds no text.", code="document_has_no_text")
    return read


def _parsed(text: str, name: str) -> Any:
    """Return the root of the page; None when there is nothing in it."""
    if not text.strip():
        return None
    # The parser would go by a declaration of another encoding, and take a NUL for the end.
    data = text.replace("\x00", "\ufffd").encode("utf-8")
    parser = _lxml.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
    try:
        root = _lxml.fromstring(data, parser)
    except _lxml.LxmlError as exc:
        raise PermanentError(f"File {name!r} cannot be read as HTML: {exc}.", code="document_damaged") from exc
    # What is deeper than the parser goes ends the page for it: without this, the rest would be lost silently.
    fatal = next(iter(parser.error_log.filter_from_fatals()), None)
    if fatal is not None:
        raise PermanentError(
            f"File {name!r} cannot be read as HTML beyond line {fatal.line}: {fatal.message.strip()}.",
            code="document_damaged",
        )
    return root


def _decoded(data: bytes, encoding: str | None, name: str) -> str:
    chosen = encoding or _declared(data)
    try:
        return data.decode(chosen)
    except (UnicodeError, LookupError) as exc:
        raise PermanentError(
            f"File {name!r} cannot be read as {chosen!r}: {exc}. Say its 'encoding', for example 'windows-1252'.",
            code="encoding_error",
        ) from exc


def _declared(data: bytes) -> str:
    """Return the encoding that a page says it has, as browsers understand it; else UTF-8."""
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            return encoding
    head = data[:_DECLARED_WITHIN]
    found = _XML.match(head) or _META.search(_NOT_READ.sub(b" ", head))
    if found is None:
        return "utf-8"
    try:
        known = codecs.lookup(found[1].decode("ascii")).name
    except LookupError:
        return "utf-8"
    if known in ("iso8859-1", "ascii"):
        return "windows-1252"
    # That it can be read at all shows that it is not in UTF-16; and some of Python's codecs are no encodings of texts.
    return known if _is_text(known) and not known.startswith(("utf-16", "utf-32")) else "utf-8"


def _is_text(codec: str) -> bool:
    try:
        b"a".decode(codec)
    except (LookupError, UnicodeError):
        return False
    return True


class _Walk:
    """Goes through the tree once, without recursion, and collects blocks."""

    def __init__(self) -> None:
        self._builder = TextBuilder()
        self._words: list[str] = []
        self._level = 0
        self._silent = 0
        self._exact = 0
        self._metadata: dict[str, Any] = {}

    def read(self, root: Any) -> Read:
        self._about(root)
        for event, element in _lxml.iterwalk(root, events=("start", "end", "comment", "pi")):
            if event in ("comment", "pi"):
                self._say(element.tail)
            elif event == "start":
                self._start(element)
            else:
                self._end(element)
        self._flush()
        return self._builder.build(self._metadata)

    def _about(self, root: Any) -> None:
        title = root.find(".//title")
        if title is not None and (words := " ".join(title.itertext()).split()):
            self._metadata["title"] = " ".join(words)
        if language := root.get("lang"):
            self._metadata["language"] = language
        for meta in root.iterfind(".//meta"):
            key = (meta.get("name") or "").lower()
            if key in ("author", "description", "keywords") and meta.get("content"):
                self._metadata[key] = meta.get("content")

    def _start(self, element: Any) -> None:
        tag = element.tag
        if tag in _SILENT:
            self._silent += 1
            return
        if tag in _BLOCKS:
            self._flush()
            self._level = _HEADINGS.get(tag, self._level)
        elif tag == "br":
            self._words.append("\n")
        elif tag in ("td", "th") and self._words:
            self._words.append(" | ")
        if tag == "pre":
            self._exact += 1
        if tag == "li":
            self._words.append("- ")
        if tag == "img" and element.get("alt"):
            self._say(element.get("alt"))
        self._say(element.text)

    def _end(self, element: Any) -> None:
        tag = element.tag
        if tag in _SILENT:
            self._silent -= 1
        elif tag in _BLOCKS:
            self._flush()
            if tag in _HEADINGS:
                self._level = 0
        if tag == "pre":
            self._exact -= 1
        self._say(element.tail)

    def _say(self, text: str | None) -> None:
        if text and not self._silent:
            self._words.append(text if self._exact else _SPACE.sub(" ", text))

    def _flush(self) -> None:
        text = "".join(self._words)
        self._words.clear()
        if not self._exact:
            text = "\n".join(_SPACE.sub(" ", line).strip() for line in text.split("\n"))
        if text.strip() not in ("", "-"):
            self._builder.add(text, level=self._level, gap="\n" if text.startswith("- ") else "\n\n")
