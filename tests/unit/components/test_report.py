from __future__ import annotations

import re
from datetime import date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from flowmason_ray.components.builtin.report import Report
from flowmason_ray.components.builtin.report_pages import figure
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext

SVG = "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def names(self) -> set[str]:
        return {t for t, _ in self.tags}


def make(folder: Path | None = None, **options: Any) -> Report.Output:
    context = RecordingContext(project_dir=folder) if folder else RecordingContext()
    return Report().execute(Report.Input.model_validate({"title": "T", "sections": [], **options}), context)


def page(*sections: dict[str, Any], **options: Any) -> str:
    content = make(sections=list(sections), **options).content
    assert content is not None
    return content


def everything(text: str) -> dict[str, Any]:
    return {
        "heading": text,
        "text": text,
        "metrics": {text: text},
        "table": pl.DataFrame({text or "c": [text, None]}),
        "chart": {"content": SVG, "title": text},
    }


def test_what_comes_from_data_stays_text():
    found = Tags(page(everything(EVIL), title=EVIL, subtitle=EVIL))
    assert "script" not in found.names()
    images = [attrs for tag, attrs in found.tags if tag == "img"]
    assert all((a["src"] or "").startswith("data:image/svg+xml;base64,") and set(a) == {"src", "alt"} for a in images)
    assert len(images) == 1
    assert sum(EVIL in t for t in found.texts) >= 4


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("<>&\"'/=!-[]()`*_#|~\\ \nax:javscript"), max_size=40))
def test_no_text_becomes_a_tag_that_acts(text: str):
    found = Tags(page(everything(text), title=text or "t"))
    assert not {"script", "iframe", "object", "svg", "link", "form", "base"} & found.names()
    for _, attrs in found.tags:
        assert not [a for a in attrs if a.startswith("on")]
        assert not re.match(r"\s*javascript:", attrs.get("href") or "")


def test_the_page_loads_nothing():
    found = Tags(page(everything("x"), {"text": "![p](http://example.com/p.png) [link](https://example.com)"}))
    for tag, attrs in found.tags:
        assert "src" not in attrs or (attrs["src"] or "").startswith("data:"), tag
        assert tag != "link"
    policy = next(a["content"] for t, a in found.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_markdown_in_texts_is_rendered():
    content = page({"text": "**bold** and\n\n| a | b |\n|---|---|\n| 1 | 2 |"})
    assert "<strong>bold</strong>" in content
    assert "<td>1</td>" in content


def test_metrics_stand_alone_without_trailing_zeros():
    content = page({"metrics": {"a": 22.8, "b": 3.0, "c": 100, "d": "1.50"}})
    assert re.findall(r"<dd>(.*?)</dd>", content) == ["22.8", "3", "100", "1.50"]


def test_tables_are_cut_and_the_rest_is_counted():
    content = page({"table": pl.DataFrame({"mean_delay": range(30)}), "max_rows": 10})
    assert content.count("<tr>") == 11
    assert "and 20 more rows" in content
    assert '<th class="n">Mean delay</th>' in content


def test_charts_come_from_stages_files_and_texts(tmp_path: Path):
    (tmp_path / "c.svg").write_text(SVG)
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / "c.pdf").write_text("x")
    stage: dict[str, Any] = {
        "path": "c.svg",
        "content": None,
        "spec": {},
        "media_type": "image/svg+xml",
        "size_bytes": 1,
        "format": "svg",
    }
    out = make(
        tmp_path, sections=[{"chart": stage, "charts": [SVG, "c.png", {"content": "iVBORw0K"}]}], path="deep/r.html"
    )
    content = (tmp_path / "deep/r.html").read_text()
    assert (out.path, out.content, out.size_bytes) == ("deep/r.html", None, len(content.encode()))
    assert content.count("<img src=") == 4
    assert "gallery" in content
    for chart, words in (
        (".c.svg", "no file"),
        ("c.pdf", "neither SVG nor PNG"),
        ({"content": "x"}, "SVG text"),
        ("../c.svg", "outside"),
    ):
        with pytest.raises(PermanentError, match=words):
            make(tmp_path, sections=[{"chart": chart}])


MARKDOWN = MarkdownIt("commonmark").enable("table")


@pytest.mark.parametrize(
    "text",
    ["![x](http://e/t.png)", "\\\\![x](http://e/t.png)", "a![][r]\n\n[r]: http://e/t.png", "!![x](http://e/t.png)"],
)
@pytest.mark.parametrize("kind", ["html", "markdown"])
def test_pictures_in_texts_stay_text(text: str, kind: str):
    """A picture would be fetched when the page is opened, also by who reads the Markdown."""
    content = page({"text": text, "heading": text, "metrics": {text: text}}, format=kind)
    assert "img" not in Tags(content if kind == "html" else MARKDOWN.render(content)).names()


@pytest.mark.parametrize("kind", ["html", "markdown"])
@pytest.mark.parametrize("content", ["iVBOR>)\n\n# injected [x](http://e)", "iVBORw0KGgo", "iVBORé==", "iVBOR)!?"])
def test_what_only_begins_like_a_picture_is_none(content: str, kind: str):
    with pytest.raises(PermanentError) as caught:
        make(sections=[{"chart": {"content": content}}], format=kind)
    assert caught.value.code == "report_chart"


def test_the_name_of_a_picture_says_nothing_in_markdown(tmp_path: Path):
    name = "a>)\n\n# injected.svg"
    (tmp_path / name).write_text(SVG)
    make(tmp_path, sections=[{"chart": {"path": name}}], path="r.md")
    tags = Tags(MARKDOWN.render((tmp_path / "r.md").read_text()))
    assert [attrs["src"] for tag, attrs in tags.tags if tag == "img"] == ["a%3E)%0A%0A#%20injected.svg"]
    assert len([tag for tag, _ in tags.tags if tag == "h1"]) == 1


def test_markdown_pages_link_files_and_escape_cells(tmp_path: Path):
    (tmp_path / "c.svg").write_text(SVG)
    table = pl.DataFrame({"a": ["x|y", EVIL, "*b*\nc", None], "n": [1, 2, 3, 4]})
    make(
        tmp_path,
        sections=[{"heading": "H", "chart": "c.svg", "table": table, "text": EVIL, "metrics": {"m": 1.5}}],
        path="out/r.md",
    )
    text = (tmp_path / "out/r.md").read_text()
    assert "![H](<../c.svg>)" in text
    rendered = Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert {"script"} & rendered.names() == set()
    cells = [t for t in rendered.texts if t.strip()]
    assert "x|y" in cells
    assert "*b* c" in cells
    assert make(format="markdown").content is not None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (True, "yes"),
        (2001, "2001"),
        (1234567, "1,234,567"),
        (-12345, "-12,345"),
        (3.14159, "3.14"),
        (0.12345, "0.123"),
        (12345.678, "12,345.68"),
        (1e-9, "1e-09"),
        (0.0, "0"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (date(2024, 1, 2), "2024-01-02"),
        (datetime(2024, 1, 2), "2024-01-02"),
        (datetime(2024, 1, 2, 3, 4), "2024-01-02 03:04"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_figures_read_well(value: Any, shown: str):
    assert figure(value) == shown
