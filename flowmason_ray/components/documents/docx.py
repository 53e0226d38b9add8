"""Word files (DOCX), opened with python-docx: paragraphs and tables in their order, headings by their styles.

A DOCX file is a ZIP archive. How much it unpacks to is added up from its directory before anything is unpacked; the
archive's reader stops at those sizes, so a directory that lies ends in an error and not in a full memory.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from flowmason_ray.components.documents.model import MAX_CHARS, Read, TextBuilder
from flowmason_ray.components.documents.word_text import blocks_of, is_table, rows_of, style_of, text_of
from flowmason_ray.components.extras import needs
from flowmason_ray.errors import PermanentError

with needs("Reading Word files", extra="documents"):
    import docx
    from docx.document import Document
    from docx.opc.exceptions import OpcError

    _LxmlError = cast("type[Exception]", import_module("lxml.etree").LxmlError)  # lxml has no types

MAX_UNPACKED_BYTES = 200 * 1024 * 1024
"""What all parts together may unpack to. Texts are a few MB at most; pictures hardly shrink in an archive."""
MAX_PARTS = 10_000
MAX_TAGS = 4_000_000
"""A thousand pages have a million or so. Each takes a hundred bytes and more once it is parsed."""
_ENCRYPTED = 1
"""The bit of an archive's entry that says so."""
_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How files of Word's old format begin, and also new ones behind a password."""
_HEADING = re.compile(r"heading (\d)$", re.IGNORECASE)


def read_docx(file: Path, name: str) -> Read:
    """Read a DOCX file.

    Raises:
        PermanentError: `document_damaged`, `document_encrypted`, `document_too_large` (also: an archive bomb) or `document_has_no_text`.
    """
    with file.open("rb") as opened:
        if opened.read(len(_COMPOUND)) == _COMPOUND:
            message = (
                f"File {name!r} is behind a password, or of Word's old format; save it as DOCX without a password."
            )
            raise PermanentError(message, code="document_encrypted")
    try:
        _refuse_bombs(file, name)
        document = docx.Document(str(file))
        read = _read(document)
    except PermanentError:
        raise
    except (
        zipfile.BadZipFile,
        OpcError,
        _LxmlError,
        KeyError,
        ValueError,
        AttributeError,
        TypeError,
        EOFError,
        RecursionError,
        NotImplementedError,
        zlib.error,
    ) as exc:
        # A damaged file fails anywhere inside the parser, with whatever Python raises there.
        raise PermanentError(
            f"File {name!r} is damaged or no DOCX file: {type(exc).__name__}: {exc}.", code="document_damaged"
        ) from exc
    if len(read.text) > MAX_CHARS:
        raise PermanentError(f"File {name!r} holds more than {MAX_CHARS:,} characters.", code="document_too_large")
    if not read.text:
        raise PermanentError(f"File {name!r} holds no text, perhaps pictures only.", code="document_has_no_text")
    return read


def _refuse_bombs(file: Path, name: str) -> None:
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        unpacked = sum(part.file_size for part in parts)
        if len(parts) > MAX_PARTS or unpacked > MAX_UNPACKED_BYTES:
            raise PermanentError(
                f"File {name!r} would unpack to {unpacked:,} bytes in {len(parts):,} parts; "
                f"{MAX_UNPACKED_BYTES:,} bytes in {MAX_PARTS:,} parts are read.",
                code="document_too_large",
            )
        if any(part.flag_bits & _ENCRYPTED for part in parts):
            raise PermanentError(f"File {name!r} is encrypted.", code="document_encrypted")
        tags = 0
        for part in parts:
            if part.filename.lower().endswith((".xml", ".rels")):
                with archive.open(part) as opened:
                    while chunk := opened.read(1024 * 1024):
                        tags += chunk.count(b"<")
                        if tags > MAX_TAGS:
                            raise PermanentError(
                                f"File {name!r} holds more than {MAX_TAGS:,} tags.", code="document_too_large"
                            )


def _read(document: Document) -> Read:
    builder = TextBuilder()
    levels = {style.style_id: _level(style.name or "") for style in document.styles}
    body = cast("Any", document).element.body  # lxml has no types
    for block in blocks_of(body):
        if is_table(block):
            builder.add("\n".join(rows_of(block)))
        else:
            builder.add(text_of(block), level=levels.get(style_of(block) or "", 0))
    return builder.build(_metadata(document))


def _level(style: str) -> int:
    """Return the level of a heading, 0 for other paragraphs. A title counts as a first level."""
    if style.lower() == "title":
        return 1
    match = _HEADING.match(style)
    return int(match[1]) if match else 0


def _metadata(document: Document) -> dict[str, Any]:
    about = document.core_properties
    found: dict[str, Any] = {}
    for key, value in (
        ("title", about.title),
        ("author", about.author),
        ("subject", about.subject),
        ("keywords", about.keywords),
    ):
        if value:
            found[key] = value
    for key, when in (("created", about.created), ("modified", about.modified)):
        if when is not None:
            found[key] = when.isoformat()
    return found
