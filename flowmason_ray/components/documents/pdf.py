"""PDF files, read with pypdf: the text of each page, in the order in which the file draws it.

A page that was scanned holds a picture and no text. A document of such pages is not empty, it is unreadable for us, and
the error says so: an empty success would let a search miss it for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowmason_ray.components.documents.model import MAX_CHARS, PageSpan, Read
from flowmason_ray.components.extras import needs
from flowmason_ray.errors import PermanentError

with needs("Reading PDF files", extra="documents"):
    import pypdf
    from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError, PyPdfError

PAGE_GAP = "\n\n"

logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every oddity that it has coped with


def read_pdf(
    file: Path, name: str, *, pages: Sequence[tuple[int, int | None]] = (), password: str | None = None
) -> Read:
    """Read a PDF file.

    Args:
        file: The file.
        name: What it is called in messages.
        pages: Ranges of page numbers, both ends included, None for the last one; empty: all.
        password: Opens an encrypted file.

    Raises:
        PermanentError: `document_encrypted`, `document_damaged`, `document_too_large`, `invalid_pages`, or
            `document_has_no_text`.
    """
    try:
        reader = pypdf.PdfReader(file, strict=False)
        if reader.is_encrypted and not reader.decrypt(password or ""):
            found = "needs a password" if password is None else "cannot be opened with the password given"
            raise PermanentError(f"File {name!r} is encrypted and {found}.", code="document_encrypted")
        return _read(reader, name, pages)
    except PermanentError:
        raise
    except FileNotDecryptedError as exc:
        raise PermanentError(f"File {name!r} is encrypted and needs a password.", code="document_encrypted") from exc
    except DependencyError as exc:
        raise PermanentError(
            f"File {name!r} is encrypted in a way that needs a library more: {exc}.", code="document_encrypted"
        ) from exc
    except LimitReachedError as exc:
        raise PermanentError(
            f"File {name!r} holds a stream that unpacks to more than is reasonable: {exc}.", code="document_too_large"
        ) from exc
    except (
        PyPdfError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
        AssertionError,
    ) as exc:
        # A damaged file fails anywhere inside the parser, with whatever Python raises there.
        raise PermanentError(
            f"File {name!r} is damaged or no PDF: {type(exc).__name__}: {exc}.", code="document_damaged"
        ) from exc


def _read(reader: pypdf.PdfReader, name: str, ranges: Sequence[tuple[int, int | None]]) -> Read:
    count = len(reader.pages)
    if not count:
        raise PermanentError(f"File {name!r} has no pages.", code="document_damaged")
    parts: list[str] = []
    spans: list[PageSpan] = []
    empty: list[int] = []
    at = 0
    for number in _wanted(ranges, count, name):
        text = (reader.pages[number - 1].extract_text() or "").replace("\x00", "").strip()
        if not text:
            empty.append(number)
        if parts:
            parts.append(PAGE_GAP)
            at += len(PAGE_GAP)
        parts.append(text)
        spans.append(PageSpan(number=number, start=at, end=at + len(text)))
        at += len(text)
        if at > MAX_CHARS:
            raise PermanentError(
                f"File {name!r} holds more than {MAX_CHARS:,} characters; read a range of its 'pages'.",
                code="document_too_large",
            )
    if len(empty) == len(spans):
        raise PermanentError(
            f"None of the {len(spans)} page(s) of {name!r} holds text: they are pictures, probably scans. "
            "Run text recognition (OCR) over the file first.",
            code="document_has_no_text",
        )
    return Read(text="".join(parts), pages=spans, metadata=_metadata(reader, count), empty_pages=empty)


def _wanted(ranges: Sequence[tuple[int, int | None]], count: int, name: str) -> list[int]:
    if not ranges:
        return list(range(1, count + 1))
    wanted: dict[int, None] = {}
    for first, last in ranges:
        if first > count or (last is not None and last > count):
            raise PermanentError(f"File {name!r} has {count} page(s); 'pages' asks for more.", code="invalid_pages")
        wanted.update(dict.fromkeys(range(first, (count if last is None else last) + 1)))
    return sorted(wanted)


def _metadata(reader: pypdf.PdfReader, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {"page_count": count}
    about = reader.metadata
    if about is None:
        return found
    for key, value in (
        ("title", about.title),
        ("author", about.author),
        ("subject", about.subject),
        ("creator", about.creator),
    ):
        if value:
            found[key] = str(value)
    for key, raw in (("created", "creation_date"), ("modified", "modification_date")):
        try:
            when = getattr(about, raw)
        except ValueError:  # a date that is none
            continue
        if when is not None:
            found[key] = when.isoformat()
    return found
