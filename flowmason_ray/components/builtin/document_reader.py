"""`document_reader`: one file of the project as text, with the positions that citations are made of.

What cannot be read is an error that says why (scanned, encrypted, damaged, too large), never an empty success.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.documents.model import MAX_CHARS, Read
from flowmason_ray.components.files import existing_file, file_errors, relative
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, nearest

Format = Literal["pdf", "docx", "html", "markdown", "text"]

SUFFIXES: dict[str, Format] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    ".rst": "text",
}
_RANGE = re.compile(r"\s*(\d+)\s*(-\s*(\d*)\s*)?")


class Page(BaseModel):
    """Where a page lies in the text."""

    number: int = Field(description="The page's number, from 1.")
    start: int = Field(description="Where it begins in 'text', counted in characters from 0.")
    end: int = Field(description="Where it ends, exclusive.")


class Section(BaseModel):
    """Where a section lies in the text."""

    heading: str | None = Field(description="Its heading; null for what comes before the first one.")
    level: int = Field(description="The heading's level, from 1; 0 without one.")
    start: int = Field(description="Where it begins in 'text' (with its heading), counted in characters from 0.")
    end: int = Field(description="Where it ends, exclusive: at the next heading of any level.")


@operator(effect="idempotent", cost="cpu", category="documents")
class DocumentReader:
    """Reads a PDF, Word (DOCX), HTML, Markdown or text file of the project: its text, pages, sections and metadata."""

    class Input(BaseModel):
        """Which file, and how it is read."""

        model_config = closed({"path": "docs/handbook.md"})

        path: str = Field(
            description="The file, relative to the project; it must not lead outside.", examples=["docs/handbook.md"]
        )
        format: Literal["auto", "pdf", "docx", "html", "markdown", "text"] = Field(
            default="auto", description="What the file is; 'auto' goes by its ending and its first bytes."
        )
        encoding: str | None = Field(
            default=None, description="The encoding of HTML, Markdown and text; null: what the file says, else UTF-8."
        )
        pages: str | None = Field(default=None, description="For PDF: the pages to read, such as '1-3,7' or '10-'.")
        password: str | None = Field(default=None, description="For PDF: opens an encrypted file.")
        max_size_mib: float = Field(
            default=50, gt=0, le=1024, description="A larger file is refused before anything of it is read, in MiB."
        )

    class Output(BaseModel):
        """The document."""

        path: str = Field(description="The file, relative to the project.")
        format: Format = Field(description="What the file was read as.")
        text: str = Field(description="The whole text. Positions count its characters.")
        pages: list[Page] = Field(description="Where each page lies (PDF, and texts with form feeds).")
        sections: list[Section] = Field(description="Where each section lies; empty when there are no headings.")
        metadata: dict[str, Any] = Field(
            description="What the file says about itself, as far as it does: title, author, created, page_count, …"
        )
        empty_pages: list[int] = Field(description="Pages without text: pictures, scans, blank ones.")
        char_count: int = Field(description="The length of 'text'.")
        digest: str = Field(description="SHA-256 of the file.")

    def execute(self, input: Input, context: Context) -> Output:
        """Read the file.

        Raises:
            PermanentError: it is outside, missing, too large, damaged, encrypted, of an unknown format, or holds no text.
        """
        with file_errors(input.path):
            file = existing_file(context.project_dir, input.path)
            size, limit = file.stat().st_size, int(input.max_size_mib * 1024 * 1024)
            if size > limit:
                raise PermanentError(
                    f"File {input.path!r} has {size:,} bytes; 'max_size_mib' allows {limit:,}.",
                    code="document_too_large",
                )
            data = file.read_bytes()
            format = _format(input, data)
            if input.pages is not None and format != "pdf":
                raise PermanentError(
                    f"'pages' is for PDF files; {input.path!r} is read as {format!r}.", code="invalid_pages"
                )
            read = _read(file, data, format, input)
        if len(read.text) > MAX_CHARS:
            raise PermanentError(
                f"File {input.path!r} holds more than {MAX_CHARS:,} characters.", code="document_too_large"
            )
        if read.empty_pages:
            numbers = ", ".join(map(str, read.empty_pages[:20]))
            context.log("warning", f"{len(read.empty_pages)} page(s) of {input.path!r} hold no text: {numbers}.")
        return self.Output(
            path=relative(context.project_dir, file),
            format=format,
            text=read.text,
            pages=[Page(number=p.number, start=p.start, end=p.end) for p in read.pages],
            sections=[Section(heading=s.heading, level=s.level, start=s.start, end=s.end) for s in read.sections],
            metadata=dict(read.metadata),
            empty_pages=list(read.empty_pages),
            char_count=len(read.text),
            digest=sha256(data).hexdigest(),
        )


def _format(input: DocumentReader.Input, data: bytes) -> Format:
    if input.format != "auto":
        return input.format
    if data.startswith(b"%PDF-"):
        return "pdf"
    suffix = Path(input.path).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if not suffix and b"\x00" not in data[:8192]:
        return "text"
    near = nearest(suffix, SUFFIXES)
    known = ", ".join(SUFFIXES)
    raise PermanentError(
        f"File {input.path!r}: the ending {suffix!r} is not known; known are {known}."
        + (f" Did you mean {near!r}?" if near else "")
        + " Say its 'format' if you know it.",
        code="unknown_document_format",
    )


def _read(file: Path, data: bytes, format: Format, input: DocumentReader.Input) -> Read:
    # Each format's library is imported only when such a file is read.
    if format == "pdf":
        from flowmason_ray.components.documents.pdf import read_pdf

        return read_pdf(file, input.path, pages=_ranges(input.pages), password=input.password)
    if format == "docx":
        from flowmason_ray.components.documents.docx import read_docx

        return read_docx(file, input.path)
    if format == "html":
        from flowmason_ray.components.documents.html_pages import read_html

        return read_html(data, input.encoding, input.path)
    from flowmason_ray.components.documents.plain import decode, read_markdown, read_text

    text = decode(data, input.encoding, input.path)
    return read_markdown(text) if format == "markdown" else read_text(text)


def _ranges(pages: str | None) -> list[tuple[int, int | None]]:
    """Return the page ranges that a text such as `1-3,7,10-` means."""
    if pages is None:
        return []
    found: list[tuple[int, int | None]] = []
    for part in pages.split(","):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = first if match is None or match[2] is None else int(match[3]) if match[3] else None
        if match is None or first < 1 or (last is not None and last < first):
            raise PermanentError(
                f"'pages' {pages!r}: {part.strip()!r} is no range of pages. Write '1-3,7' or '10-'.",
                code="invalid_pages",
            )
        found.append((first, last))
    return found
