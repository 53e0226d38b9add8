"""Documents for tests, made here byte by byte or by the libraries that write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def pdf_bytes(pages: Sequence[str], *, title: str | None = None) -> bytes:
    """Return a PDF file with one page for each text; an empty text makes a page with a drawn box and no text."""
    count = len(pages)
    objects: list[bytes] = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {count} /Kids [{' '.join(f'{4 + 2 * i} 0 R' for i in range(count))}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        content = _content(text)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    information = 0
    if title is not None:
        objects.append(f"<< /Title ({title}) /CreationDate (D:20240102030405Z) >>".encode())
        information = len(objects)
    return pdf_file(objects, information)


def _content(text: str) -> bytes:
    if not text:
        return b"100 100 200 200 re f"
    lines = "\n".join(f"({line}) Tj T*" for line in text.splitlines())
    return f"BT /F1 12 Tf 14 TL 72 770 Td\n{lines}\nET".encode("latin-1")


def pdf_file(objects: Sequence[bytes], information: int = 0) -> bytes:
    """Return a PDF file of these objects; the first is its catalogue, `information` the number of the one about it."""
    out = bytearray(b"%PDF-1.4\n")
    offsets: list[int] = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    about = b" /Info %d 0 R" % information if information else b""
    out += b"trailer\n<< /Size %d /Root 1 0 R%s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, about, table)
    return bytes(out)


def write_docx(file: Path) -> None:
    """Write a Word file with a title, headings, paragraphs and a table."""
    import docx

    document = docx.Document()
    document.core_properties.title = "Handbook"
    document.core_properties.author = "Ada"
    document.add_heading("Handbook", level=0)
    document.add_paragraph("Welcome to the company.")
    document.add_heading("Leave", level=1)
    document.add_paragraph("Everybody has 30 days.")
    table = document.add_table(rows=2, cols=2)
    for row, words in zip(table.rows, (("kind", "days"), ("parental", "90")), strict=True):
        for cell, word in zip(row.cells, words, strict=True):
            cell.text = word
    document.add_heading("Parental leave", level=2)
    document.add_paragraph("It is paid.")
    document.save(str(file))
