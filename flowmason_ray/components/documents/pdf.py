"""PDF files, read with pypdf: the text of each page, in the order in which the file draws it.

A page that was scanned holds a picture and no text. A document of such pages is not empty, it is unreadable for us, and
the error says so: an empty success would let a search miss it for ever.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowmason_ray.components.documents.model import MAX_CHARS, PageSpan, Read
from flowmason_ray.components.extras import needs
from flowmason_ray.errors import PermanentError

with needs("Reading PDF files", extra="documents"):
    import pypdf
    from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError, PyPdfError
    from pypdf.generic import ArrayObject, DictionaryObject, EncodedStreamObject, IndirectObject

PAGE_GAP = "\n\n"
MAX_PAGES = 50_000

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
    except NotImplementedError as exc:
        if "encrypt" in str(exc).lower():
            message = f"File {name!r} is encrypted in a way that is not known, such as with a certificate: {exc}."
            raise PermanentError(message, code="document_encrypted") from exc
        raise PermanentError(f"File {name!r} holds what cannot be read: {exc}.", code="document_damaged") from exc
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
        zlib.error,
    ) as exc:
        # A damaged file fails anywhere inside the parser, with whatever Python raises there.
        raise PermanentError(
            f"File {name!r} is damaged or no PDF: {type(exc).__name__}: {exc}.", code="document_damaged"
        ) from exc


def _read(reader: pypdf.PdfReader, name: str, ranges: Sequence[tuple[int, int | None]]) -> Read:
    _refuse_unfolding(reader, name)
    count = len(reader.pages)
    if not count:
        raise PermanentError(f"File {name!r} has no pages.", code="document_damaged")
    parts: list[str] = []
    spans: list[PageSpan] = []
    empty: list[int] = []
    at = 0
    for number in _wanted(ranges, count, name):
        page = reader.pages[number - 1]
        text = (page.extract_text() or "").replace("\x00", "").strip()
        if not text:
            _refuse_unreadable(page, number, name)
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


def _refuse_unfolding(reader: pypdf.PdfReader, name: str) -> None:
    """Refuse a tree of pages whose branches are used more than once: it unfolds eightfold and more with each level."""
    root: Any = reader.root_object.get("/Pages")
    left: list[Any] = [] if root is None else [root.get_object()]
    seen: set[tuple[int, int]] = set()
    pages = 0
    while left:
        node = left.pop()
        kids: Any = node.get("/Kids") if isinstance(node, DictionaryObject) else None
        if kids is None:
            pages += 1
            if pages > MAX_PAGES:
                raise PermanentError(f"File {name!r} has more than {MAX_PAGES:,} pages.", code="document_too_large")
            continue
        for kid in kids.get_object():
            child: Any = kid.get_object()
            if isinstance(kid, IndirectObject) and isinstance(child, DictionaryObject) and "/Kids" in child:
                if (kid.idnum, kid.generation) in seen:
                    message = f"File {name!r} is damaged: a branch of its tree of pages is used more than once."
                    raise PermanentError(message, code="document_damaged")
                seen.add((kid.idnum, kid.generation))
            left.append(child)


def _refuse_unreadable(page: Any, number: int, name: str) -> None:
    """Refuse a page whose content is there, and of which nothing can be unpacked: it is not empty."""
    contents: Any = page.get("/Contents")
    contents = None if contents is None else contents.get_object()
    for each in contents if isinstance(contents, ArrayObject) else [contents]:
        stream: Any = None if each is None else each.get_object()
        if isinstance(stream, EncodedStreamObject) and _is_lost(stream):
            raise PermanentError(
                f"File {name!r} is damaged: the content of page {number} cannot be unpacked. Other 'pages' may be read.",
                code="document_damaged",
            )


def _is_lost(stream: EncodedStreamObject) -> bool:
    if stream.get_data().strip():  # fails for what is no filter
        return False
    filters: Any = stream.get("/Filter")
    if list(filters if isinstance(filters, ArrayObject) else [filters]) != ["/FlateDecode"]:
        return False
    try:
        return bool(zlib.decompress(stream._data).strip())  # pyright: ignore[reportPrivateUsage]  # what lies in the file
    except zlib.error:
        return bool(stream._data.strip())  # pyright: ignore[reportPrivateUsage]  # what lies in the file


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
