"""The pages of `report`: from sections to HTML or Markdown text. Pure; everything that comes from data is escaped here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markdown_it import MarkdownIt

from flowmason_ray.components.builtin.report_style import STYLE

if TYPE_CHECKING:
    from polars import DataFrame


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture: a data URI, or for Markdown a relative path."""

    source: str
    alt: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """What one section shows."""

    heading: str | None = None
    text: str | None = None
    metrics: Mapping[str, Any]
    pictures: Sequence[Picture] = ()
    table: DataFrame | None = None
    max_rows: int = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """Where the report comes from."""

    pipeline: str
    version: str
    run_id: str
    made: datetime

    def __str__(self) -> str:
        return f"{self.pipeline} {self.version} · run {self.run_id} · {self.made:%Y-%m-%d %H:%M} UTC"


# Pictures in Markdown would be fetched when the page is opened; charts have a place of their own.
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def html_page(title: str, subtitle: str | None, sections: Sequence[Section], footer: Footer) -> str:
    """Return the report as one HTML document that needs nothing else."""
    lead = f'<p class="lead">{escape(subtitle)}</p>' if subtitle else ""
    body = "\n".join(_html_section(s) for s in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>{lead}</header>\n{body}\n"
        f"<footer>{escape(str(footer))}</footer>\n</main>\n</body>\n</html>\n"
    )


def _html_section(section: Section) -> str:
    parts: list[str] = []
    if section.heading:
        parts.append(f"<h2>{escape(section.heading)}</h2>")
    if section.text:
        parts.append(f'<div class="text">{_markdown.render(section.text)}</div>')
    if section.metrics:
        cards = "".join(
            f'<div class="metric"><dt>{escape(label)}</dt><dd>{escape(_short(value))}</dd></div>'
            for label, value in section.metrics.items()
        )
        parts.append(f'<dl class="metrics">{cards}</dl>')
    if section.pictures:
        shown = "".join(
            f'<figure><img src="{escape(p.source)}" alt="{escape(p.alt)}"></figure>' for p in section.pictures
        )
        parts.append(f'<div class="{"gallery" if len(section.pictures) > 1 else "single"}">{shown}</div>')
    if section.table is not None:
        parts.append(_html_table(section.table, section.max_rows))
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _html_table(table: DataFrame, max_rows: int) -> str:
    aligned = [' class="n"' if dtype.is_numeric() else "" for dtype in table.dtypes]
    head = "".join(f"<th{a}>{escape(words(c))}</th>" for a, c in zip(aligned, table.columns, strict=True))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{a}>{escape(figure(v))}</td>" for a, v in zip(aligned, row, strict=True)) + "</tr>"
        for row in table.head(max_rows).iter_rows()
    )
    left = table.height - max_rows
    more = f'<p class="more">and {left:,} more rows</p>' if left > 0 else ""
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>{more}'


def markdown_page(title: str, subtitle: str | None, sections: Sequence[Section], footer: Footer) -> str:
    """Return the report as Markdown (CommonMark with tables)."""
    parts = [f"# {_inline(title)}"]
    if subtitle:
        parts.append(_inline(subtitle))
    for section in sections:
        if section.heading:
            parts.append(f"## {_inline(section.heading)}")
        if section.text:
            # No raw HTML here either, and no pictures.
            parts.append(section.text.replace("<", "&lt;").replace("![", "!\\["))
        if section.metrics:
            parts.append("\n".join(f"- **{_inline(k)}:** {_inline(_short(v))}" for k, v in section.metrics.items()))
        parts.extend(f"![{_inline(p.alt)}](<{_address(p.source)}>)" for p in section.pictures)
        if section.table is not None:
            parts.append(_markdown_table(section.table, section.max_rows))
    parts.append(f"---\n\n*{_inline(str(footer))}*")
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: DataFrame, max_rows: int) -> str:
    lines = [
        "| " + " | ".join(_inline(words(c)) for c in table.columns) + " |",
        "|" + "|".join(" ---: " if d.is_numeric() else " --- " for d in table.dtypes) + "|",
    ]
    lines += ["| " + " | ".join(_inline(figure(v)) for v in row) + " |" for row in table.head(max_rows).iter_rows()]
    left = table.height - max_rows
    return "\n".join(lines) + (f"\n\nand {left:,} more rows" if left > 0 else "")


def _inline(text: str) -> str:
    """Return the text so that Markdown shows it as it is, on one line."""
    one_line = " ".join(text.split())
    return (
        re.sub(r"([\\`*_\[\]#|~])", r"\\\1", one_line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )


def _address(source: str) -> str:
    """Return an address as it stands in Markdown between `<` and `>`: what would end it, the name of a file may hold."""
    return re.sub(r"[<>\\\x00-\x1f]", lambda found: quote(found.group()), source)


def words(column: str) -> str:
    """Return a column's name as a heading: `mean_delay` → `Mean delay`."""
    text = column.replace("_", " ").strip() or column
    return text[:1].upper() + text[1:]


def figure(value: Any) -> str:
    """Return a value as people read it: 12,345; 3.14; 2024-01-31; – for nothing. Numbers below 10,000 have no comma: years."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float() | Decimal():
            return _decimal(float(value))
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00").removesuffix(" 00:00")
        case date():
            return value.isoformat()
        case _:
            return str(value)


def _short(value: Any) -> str:
    """Return a figure that stands alone: no zeros at its end, which only a column needs."""
    text = figure(value)
    return text.rstrip("0").rstrip(".") if isinstance(value, float) and "." in text and "e" not in text else text


def _decimal(value: float) -> str:
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e15:
        return f"{value:.3g}"
    digits = 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
