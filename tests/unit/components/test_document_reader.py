from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pypdf
import pytest

from flowmason_ray.components.builtin.document_reader import DocumentReader
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext
from tests.documents_kit import pdf_bytes, pdf_file, write_docx

HTML = """<!doctype html><html lang="en"><head><title> The  Handbook </title><meta name="author" content="Ada">
<style>p { color: red }</style></head><body><script>alert('x < y')</script>
<h1>Leave</h1><p>Everybody has <b>30</b>
days.</p><!-- not shown --><ul><li>summer</li><li>winter</li></ul>
<h2>Parental &amp; care</h2><table><tr><td>kind</td><td>days</td></tr><tr><td>paid</td><td>90</td></tr></table>
<pre>a
  b</pre></body></html>"""

MARKDOWN = """---
title: The Handbook
author: "Ada"
---
Before.

# Leave *of* absence

Thirty days.

```
# no heading
```

Parental
--------

Ninety `days`.
"""


def read(folder: Path, path: str, **more: Any) -> DocumentReader.Output:
    context = RecordingContext(project_dir=folder)
    return DocumentReader().execute(DocumentReader.Input(path=path, **more), context)


def refused(folder: Path, path: str, **more: Any) -> str:
    with pytest.raises(PermanentError) as caught:
        read(folder, path, **more)
    assert path in caught.value.message or "pages" in caught.value.message
    return caught.value.code


def parts(output: DocumentReader.Output) -> list[tuple[str | None, int, str]]:
    return [(s.heading, s.level, output.text[s.start : s.end].strip()) for s in output.sections]


def test_a_pdf_has_pages_where_they_say_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_bytes(["One apple.\nTwo pears.", "", "The end."], title="Fruit"))
    context = RecordingContext(project_dir=tmp_path)
    output = DocumentReader().execute(DocumentReader.Input(path="a.pdf"), context)
    texts = [output.text[p.start : p.end] for p in output.pages]
    assert [p.number for p in output.pages] == [1, 2, 3]
    assert texts[0].split() == ["One", "apple.", "Two", "pears."]
    assert (texts[1], texts[2]) == ("", "The end.")
    assert output.metadata["title"] == "Fruit"
    assert output.metadata["page_count"] == 3
    assert output.metadata["created"].startswith("2024-01-02T03:04:05")
    assert output.empty_pages == [2]
    assert context.messages("warning") == ["1 page(s) of 'a.pdf' hold no text: 2."]


def test_some_pages_of_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_bytes([f"page {n}" for n in range(1, 6)]))
    assert read(tmp_path, "a.pdf", pages="4-, 2").text.split("\n\n") == ["page 2", "page 4", "page 5"]
    assert [p.number for p in read(tmp_path, "a.pdf", pages="1-2").pages] == [1, 2]
    assert refused(tmp_path, "a.pdf", pages="6") == "invalid_pages"
    for wrong in ("0", "3-1", "x", "1,,2", ""):
        assert refused(tmp_path, "a.pdf", pages=wrong) == "invalid_pages"


def test_a_scanned_pdf_is_an_error_and_no_empty_success(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(pdf_bytes(["", ""]))
    with pytest.raises(PermanentError, match=r"None of the 2 page\(s\).*OCR") as caught:
        read(tmp_path, "scan.pdf")
    assert caught.value.code == "document_has_no_text"


def test_an_encrypted_pdf_needs_its_password(tmp_path: Path) -> None:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_bytes(["The secret."])))
    writer.encrypt("sesame", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    assert refused(tmp_path, "locked.pdf") == "document_encrypted"
    assert refused(tmp_path, "locked.pdf", password="wrong") == "document_encrypted"
    assert read(tmp_path, "locked.pdf", password="sesame").text == "The secret."


@pytest.mark.parametrize("keep", [20, 200, 400, 600])
def test_a_damaged_pdf_is_told_or_read_never_a_traceback(tmp_path: Path, keep: int) -> None:
    (tmp_path / "cut.pdf").write_bytes(pdf_bytes(["Words.", "More."])[:keep])
    assert refused(tmp_path, "cut.pdf") in ("document_damaged", "document_has_no_text")


def test_a_pdf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "no.pdf").write_bytes(b"hello")
    assert refused(tmp_path, "no.pdf") == "document_damaged"


def test_a_word_file(tmp_path: Path) -> None:
    write_docx(tmp_path / "a.docx")
    output = read(tmp_path, "a.docx")
    assert parts(output) == [
        ("Handbook", 1, "Handbook\n\nWelcome to the company."),
        ("Leave", 1, "Leave\n\nEverybody has 30 days.\n\nkind | days\nparental | 90"),
        ("Parental leave", 2, "Parental leave\n\nIt is paid."),
    ]
    assert output.metadata["title"] == "Handbook"
    assert output.metadata["author"] == "Ada"


def test_an_archive_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    write_docx(tmp_path / "a.docx")
    with zipfile.ZipFile(tmp_path / "a.docx", "a", compression=zipfile.ZIP_DEFLATED) as archive:
        zeros = bytes(1024 * 1024)
        with archive.open("word/media/bomb.bin", "w", force_zip64=True) as part:
            for _ in range(201):
                part.write(zeros)
    assert (tmp_path / "a.docx").stat().st_size < 1024 * 1024
    assert refused(tmp_path, "a.docx") == "document_too_large"


def test_an_archive_that_lies_about_its_size_is_damaged(tmp_path: Path) -> None:
    write_docx(tmp_path / "a.docx")
    with zipfile.ZipFile(tmp_path / "a.docx") as archive:
        size = archive.getinfo("word/document.xml").file_size
    data = (tmp_path / "a.docx").read_bytes()
    assert data.count(size.to_bytes(4, "little")) >= 1
    (tmp_path / "a.docx").write_bytes(data.replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little")))
    assert refused(tmp_path, "a.docx") == "document_damaged"


def test_a_word_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"PK\x03\x04nothing")
    assert refused(tmp_path, "a.docx") == "document_damaged"
    with zipfile.ZipFile(tmp_path / "b.docx", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert refused(tmp_path, "b.docx") == "document_damaged"


def test_an_entity_of_a_word_file_reaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the secret")
    write_docx(tmp_path / "a.docx")
    with zipfile.ZipFile(tmp_path / "a.docx") as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    declared = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{tmp_path}/secret.txt">]>'.encode()
    body = inside["word/document.xml"].replace(b"Everybody has", b"Everybody &e; has")
    inside["word/document.xml"] = body.replace(b"?>", b"?>" + declared, 1)
    with zipfile.ZipFile(tmp_path / "b.docx", "w") as archive:
        for name, data in inside.items():
            archive.writestr(name, data)
    try:
        assert "the secret" not in read(tmp_path, "b.docx").text
    except PermanentError as exc:
        assert exc.code == "document_damaged"  # noqa: PT017  # both ends are right, as long as nothing is read


def word(file: Path, body: str) -> None:
    """Write a Word file with a body that no library would write."""
    write_docx(file)
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    names += 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    members["word/document.xml"] = f"<w:document {names}><w:body>{body}</w:body></w:document>".encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


SPAN, HUGE = '<w:gridSpan w:val="2"/>', '<w:gridSpan w:val="999999999"/>'
RESTART, MERGED = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"


def run(words: str) -> str:
    return f"<w:r><w:t>{words}</w:t></w:r>"


def cell(words: str, facts: str = "") -> str:
    return f"<w:tc><w:tcPr>{facts}</w:tcPr><w:p>{run(words)}</w:p></w:tc>"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (f"<w:sdt><w:sdtContent><w:p>{run('a')}</w:p></w:sdtContent></w:sdt>", "a"),
        (f"<w:p>{run('a')}<w:sdt><w:sdtContent>{run('b')}</w:sdtContent></w:sdt>{run('c')}</w:p>", "abc"),
        (f"<w:p><w:ins>{run('new')}</w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>", "new"),
        (f"<w:p><w:moveTo>{run('here')}</w:moveTo><w:moveFrom>{run('there')}</w:moveFrom></w:p>", "here"),
        (f"<w:p><w:fldSimple>{run('7')}</w:fldSimple><w:smartTag>{run('b')}</w:smartTag></w:p>", "7b"),
        (f"<w:p><w:r><w:instrText>PAGE</w:instrText></w:r><w:hyperlink>{run('link')}</w:hyperlink></w:p>", "link"),
        ("<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:noBreakHyphen/></w:r></w:p>", "a\tb\nc-"),
        (f"<w:tbl><w:tr><w:tc><w:p>{run('o')}</w:p><w:tbl><w:tr>{cell('i')}{cell('j')}</w:tr></w:tbl></w:tc></w:tr></w:tbl>", "o i | j"),
        (f"<w:tbl><w:tr><w:sdt><w:sdtContent>{cell('a')}</w:sdtContent></w:sdt>{cell('b')}</w:tr></w:tbl>", "a | b"),
        (
            f"<w:tbl><w:tr>{cell('a', SPAN)}{cell('up', RESTART)}</w:tr>"
            f"<w:tr>{cell('b')}{cell('c')}{cell('', MERGED)}</w:tr></w:tbl>",
            "a | up\nb | c | up",
        ),
        (f"<w:tbl><w:tr><w:trPr><w:del/></w:trPr>{cell('old')}</w:tr><w:tr>{cell('new')}</w:tr></w:tbl>", "new"),
        (
            f"<w:p>{run('a')}<w:r><mc:AlternateContent><mc:Choice><w:txbxContent><w:p>{run('box')}</w:p></w:txbxContent></mc:Choice>"
            f"<mc:Fallback><w:txbxContent><w:p>{run('box')}</w:p></w:txbxContent></mc:Fallback></mc:AlternateContent></w:r></w:p>",
            "a\nbox",
        ),
    ],
)  # fmt: skip
def test_the_words_of_a_word_file_wherever_they_stand(tmp_path: Path, body: str, text: str) -> None:
    word(tmp_path / "a.docx", body)
    assert read(tmp_path, "a.docx").text == text


@pytest.mark.timeout(60)  # that it ends at all is the property: columns were counted out one by one
def test_a_span_of_a_cell_costs_nothing(tmp_path: Path) -> None:
    word(tmp_path / "a.docx", f"<w:tbl><w:tr>{cell('x', HUGE)}</w:tr></w:tbl>")
    assert read(tmp_path, "a.docx").text == "x"


def test_a_word_file_of_very_many_tags_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmason_ray.components.documents import docx

    word(tmp_path / "a.docx", "<w:p/>" * 5000 + f"<w:p>{run('x')}</w:p>")
    assert read(tmp_path, "a.docx").text == "x"
    monkeypatch.setattr(docx, "MAX_TAGS", 5000)
    assert refused(tmp_path, "a.docx") == "document_too_large"


def test_damaged_and_encrypted_archives_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.docx"
    word(file, f"<w:p>{run('words ' * 1000)}</w:p>")
    sound = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("word/document.xml")
    start = info.header_offset + 30 + len(info.filename)
    file.write_bytes(sound[:start] + bytes(b ^ 0xFF for b in sound[start : start + 20]) + sound[start + 20 :])
    assert refused(tmp_path, "a.docx") == "document_damaged"
    entry = sound.index(b"PK\x01\x02")
    file.write_bytes(sound[: entry + 8] + bytes([sound[entry + 8] | 1]) + sound[entry + 9 :])
    assert refused(tmp_path, "a.docx") == "document_encrypted"
    file.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512))
    assert refused(tmp_path, "a.docx") == "document_encrypted"


def test_a_tree_of_pages_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>"
    levels = [b"<< /Type /Pages /Count 8 /Kids [" + b"%d 0 R " % (n + 1) * 8 + b"] >>" for n in range(2, 22)]
    (tmp_path / "a.pdf").write_bytes(pdf_file([b"<< /Type /Catalog /Pages 2 0 R >>", *levels, page]))
    assert refused(tmp_path, "a.pdf") == "document_damaged"
    from flowmason_ray.components.documents import pdf

    monkeypatch.setattr(pdf, "MAX_PAGES", 3)
    (tmp_path / "b.pdf").write_bytes(pdf_bytes(["a", "b", "c"]))
    assert read(tmp_path, "b.pdf").metadata["page_count"] == 3
    (tmp_path / "b.pdf").write_bytes(pdf_bytes(["a", "b", "c", "d"]))
    assert refused(tmp_path, "b.pdf") == "document_too_large"


@pytest.mark.parametrize(("filter", "said"), [(b"/FlateDecode", "page 1"), (b"/BogusDecode", "BogusDecode")])
def test_a_page_that_cannot_be_unpacked_is_no_scan(tmp_path: Path, filter: bytes, said: str) -> None:
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>"
    content = b"<< /Length 22 /Filter " + filter + b" >>\nstream\nBT (Hello, world) Tj ET\nendstream"
    pages = b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>"
    (tmp_path / "a.pdf").write_bytes(pdf_file([b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, content]))
    with pytest.raises(PermanentError, match=said) as caught:
        read(tmp_path, "a.pdf")
    assert caught.value.code == "document_damaged"


def test_encryption_with_a_certificate_is_told(tmp_path: Path) -> None:
    sound = pdf_bytes(["a"])
    more = b"6 0 obj\n<< /Filter /Adobe.PubSec /SubFilter /adbe.pkcs7.s5 /V 4 /R 4 >>\nendobj\n"
    (tmp_path / "a.pdf").write_bytes(
        sound.replace(b"/Root 1 0 R", b"/Root 1 0 R /ID [(a) (a)] /Encrypt " + more[8:].split(b"\nendobj")[0])
    )
    assert refused(tmp_path, "a.pdf") == "document_encrypted"


def test_a_web_page(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(HTML)
    output = read(tmp_path, "a.html")
    assert parts(output) == [
        ("Leave", 1, "Leave\n\nEverybody has 30 days.\n- summer\n- winter"),
        ("Parental & care", 2, "Parental & care\n\nkind | days\n\npaid | 90\n\na\n  b"),
    ]
    assert output.metadata == {"title": "The Handbook", "author": "Ada", "language": "en"}


def test_a_web_page_says_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes('<meta charset="latin-1"><p>Käse</p>'.encode("latin-1"))
    (tmp_path / "b.html").write_text("<p>Käse</p>", encoding="utf-8")
    (tmp_path / "c.html").write_bytes("<p>Käse</p>".encode("latin-1"))
    assert read(tmp_path, "a.html").text == read(tmp_path, "b.html").text == "Käse"
    assert read(tmp_path, "c.html", encoding="latin-1").text == "Käse"
    assert refused(tmp_path, "empty.html" if _put(tmp_path, "empty.html", "<script>x</script>") else "") == (
        "document_has_no_text"
    )


def _put(folder: Path, name: str, text: str) -> bool:
    (folder / name).write_text(text)
    return True


@pytest.mark.parametrize("depth", [300, 1500, 5000])
def test_what_is_deep_in_a_web_page_is_read_or_told(tmp_path: Path, depth: int) -> None:
    _put(tmp_path, "a.html", "<p>before</p>" + "<div>" * depth + "deep" + "</div>" * depth + "<p>after</p>")
    if depth == 5000:
        assert refused(tmp_path, "a.html") == "document_damaged"
    else:
        assert read(tmp_path, "a.html").text.split() == ["before", "deep", "after"]


def test_a_long_text_of_a_web_page_is_read(tmp_path: Path) -> None:
    _put(tmp_path, "a.html", "<p>" + "word " * 2_200_000 + "</p><p>after</p>")
    assert read(tmp_path, "a.html").text.endswith("word\n\nafter")


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("<title>Gr\u00fc\u00dfe</title><meta charset=utf-8>", "utf-8"),
        ("<script src=a.js charset=latin-1></script>", "utf-8"),
        ("<!-- <meta charset=latin-1> -->", "utf-8"),
        ("<title><meta charset=latin-1></title>", "utf-8"),
        ("<meta charset='nonsense'>", "utf-8"),
        ("<meta charset='rot13'>", "utf-8"),
        ("<meta charset=utf-16>", "utf-8"),
        ("<meta charset=utf-8>", "utf-16"),
        ("<meta charset=latin-1>", "utf-8-sig"),
        ("<title>Gr\u00fc\u00dfe \u20ac</title><meta http-equiv=Content-Type content='text/html; charset=ISO-8859-1'>", "cp1252"),
        ("<meta charset=koi8-r>", "koi8-r"),
    ],
)  # fmt: skip
def test_a_web_page_is_decoded_as_it_says(tmp_path: Path, head: str, encoding: str) -> None:
    words = "\u0448\u0443\u0431\u0430" if encoding == "koi8-r" else "\u00fcber"
    (tmp_path / "a.html").write_bytes(f"<html><head>{head}</head><body>{words}</body></html>".encode(encoding))
    assert read(tmp_path, "a.html").text == words


@pytest.mark.parametrize("page", ["", "  \n", "<!-- nothing -->", "<?php ?>", "<html></html>"])
def test_a_web_page_without_anything_is_told(tmp_path: Path, page: str) -> None:
    _put(tmp_path, "a.html", page)
    assert refused(tmp_path, "a.html") == "document_has_no_text"


def test_bytes_that_do_not_fit_a_web_pages_encoding_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<p>caf\xe9</p>")
    assert refused(tmp_path, "a.html") == "encoding_error"
    (tmp_path / "a.html").write_bytes(b"<p>a\x00b</p>")
    assert read(tmp_path, "a.html").text == "a\ufffdb"


def test_a_deep_web_page_ends(tmp_path: Path) -> None:
    _put(tmp_path, "deep.html", "<div>" * 100_000 + "down here")
    try:
        assert "down here" in read(tmp_path, "deep.html").text
    except PermanentError as exc:
        assert exc.code in ("document_damaged", "document_has_no_text")  # noqa: PT017  # it ends, in words of ours


def test_markdown_keeps_its_text_and_finds_its_headings(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(MARKDOWN)
    output = read(tmp_path, "a.md")
    assert output.text == MARKDOWN
    assert [(heading, level) for heading, level, _ in parts(output)] == [
        (None, 0),
        ("Leave of absence", 1),
        ("Parental", 2),
    ]
    assert parts(output)[1][2].startswith("# Leave *of* absence\n\nThirty days.\n\n```\n# no heading")
    assert output.metadata == {"title": "The Handbook", "author": "Ada"}


def test_plain_text_with_form_feeds_has_pages(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\ftwo\n\f")
    output = read(tmp_path, "a.txt")
    assert output.text == "one\n\ftwo\n\f"
    assert [(p.number, output.text[p.start : p.end]) for p in output.pages] == [(1, "one\n"), (2, "two\n"), (3, "")]


def test_plain_text_in_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Käse".encode("utf-16"))
    (tmp_path / "b.txt").write_bytes("Käse".encode("latin-1"))
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfhi")
    assert read(tmp_path, "a.txt").text == "Käse"
    assert refused(tmp_path, "b.txt") == "encoding_error"
    assert read(tmp_path, "b.txt", encoding="latin-1").text == "Käse"
    assert refused(tmp_path, "b.txt", encoding="nonsense") == "encoding_error"
    assert read(tmp_path, "c.txt").text == "hi"


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"a\x00b")
    (tmp_path / "large.txt").write_bytes(b"x" * 200_000)
    assert refused(tmp_path, "a.xlsx") == "unknown_document_format"
    assert refused(tmp_path, "empty.txt") == "document_has_no_text"
    assert refused(tmp_path, "binary.txt") == "document_damaged"
    assert refused(tmp_path, "large.txt", max_size_mib=0.1) == "document_too_large"
    assert refused(tmp_path, "large.txt", pages="1") == "invalid_pages"
    assert refused(tmp_path, "missing.txt") == "file_not_found"
    assert refused(tmp_path, "../outside.txt") == "path_outside_project"


def test_the_first_bytes_tell_a_pdf_without_an_ending(tmp_path: Path) -> None:
    (tmp_path / "paper").write_bytes(pdf_bytes(["Words."]))
    (tmp_path / "notes").write_text("Words.")
    assert read(tmp_path, "paper").format == "pdf"
    assert read(tmp_path, "notes").format == "text"
