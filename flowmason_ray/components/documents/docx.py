"""Word files (DOCX), read with python-docx: paragraphs and tables in their order, headings by their styles.

A DOCX file is a ZIP archive. How much it unpacks to is added up from its directory before anything is unpacked; the
archive's reader stops at those sizes, so a directory that lies ends in an error and not in a full memory.
"""

from __future__ import annotations

import re
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from flowmason_ray.components.documents.model import MAX_CHARS, Read, TextBuilder
from flowmason_ray.components.extras import needs
from flowmason_ray.errors import PermanentError

with needs("Reading Word files", extra="documents"):
    import docx
    from docx.document import Document
    from docx.opc.exceptions import OpcError
    from docx.table import Table

    _LxmlError = cast("type[Exception]", import_module("lxml.etree").LxmlError)  # lxml has no types

MAX_UNPACKED_BYTES = 200 * 1024 * 1024
"""What all parts together may unpack to. Texts are a few MB at most; pictures hardly shrink in an archive."""
MAX_PARTS = 10_000
_HEADING = re.compile(r"heading (\d)$", re.IGNORECASE)


def read_docx(file: Path, name: str) -> Read:
    """Read a DOCX file.

    Raises:
        PermanentError: `document_damaged`, `document_too_large` (also: an archive bomb) or `document_has_no_text`.
    """
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


def _read(document: Document) -> Read:
    builder = TextBuilder()
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            builder.add("\n".join(_rows(block)))
        else:
            builder.add(block.text, level=_level(block))
    return builder.build(_metadata(document))


def _level(paragraph: Any) -> int:
    """Return the level of a heading, 0 for other paragraphs. A title counts as a first level."""
    style = paragraph.style
    style_name: str = (style.name or "") if style is not None else ""
    if style_name.lower() == "title":
        return 1
    match = _HEADING.match(style_name)
    return int(match[1]) if match else 0


def _rows(table: Table) -> list[str]:
    rows: list[str] = []
    for row in table.rows:
        # A merged cell appears once for each column that it spans.
        cells = dict.fromkeys((cell._tc, " ".join(cell.text.split())) for cell in row.cells)  # pyright: ignore[reportPrivateUsage]  # the only identity of a cell
        rows.append(" | ".join(text for _, text in cells))
    return rows


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
