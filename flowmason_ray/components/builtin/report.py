"""`report`: texts, figures, tables and charts as one page that somebody can be sent.

The HTML page holds everything it shows and loads nothing (a content security policy says so to the browser too). What comes
from data is text, whatever it looks like: cells and headings are escaped, raw HTML in Markdown is off, and charts are
embedded as images, in which scripts do not run.
"""

from __future__ import annotations

import base64
from os.path import relpath
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.report_pages import Footer, Picture, Section, html_page, markdown_page
from flowmason_ray.components.files import existing_file, file_errors, relative, resolve_inside, write_atomic
from flowmason_ray.components.frames import Frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


class ChartPicture(BaseModel):
    """A chart to show: the output of a `chart` stage as a whole, or a path or content of an SVG or PNG picture."""

    model_config = ConfigDict(extra="ignore")  # a chart stage's output says more than is needed here

    path: str | None = Field(default=None, description="The picture's file, relative to the project.")
    content: str | None = Field(default=None, description="The picture itself: SVG text, or base64 for PNG.")
    media_type: str | None = Field(default=None, description="image/svg+xml or image/png; default: by path or content.")
    title: str | None = Field(default=None, description="Said to those who cannot see it.")


class ReportSection(BaseModel):
    """One section. What it has is shown in this order: text, metrics, chart, charts, table."""

    model_config = ConfigDict(extra="forbid")

    heading: str | None = Field(default=None, description="The heading.")
    text: str | None = Field(default=None, description="A text in Markdown; raw HTML and pictures in it stay text.")
    metrics: dict[str, Any] = Field(default={}, description="{label: figure}, shown large.")
    chart: ChartPicture | str | None = Field(default=None, description="A chart stage's output, a path, or SVG text.")
    charts: list[ChartPicture | str] = Field(default=[], description="Several charts, shown as a gallery.")
    table: Frame | None = Field(default=None, description="A table.")
    max_rows: int = Field(default=25, ge=0, description="How many of the table's rows are shown; the rest is counted.")


@operator(effect="idempotent", cost="cpu", category="reports")
class Report:
    """Puts texts, figures, tables and charts on one self-contained page."""

    class Input(BaseModel):
        """What the report says."""

        model_config = ConfigDict(extra="forbid")

        title: str = Field(description="The title.")
        subtitle: str | None = Field(default=None, description="A line below the title.")
        sections: list[ReportSection] = Field(description="The sections, in order.")
        format: Literal["html", "markdown"] | None = Field(
            default=None, description="The format; default: markdown for a path ending in .md, else html."
        )
        path: str | None = Field(
            default=None, description="Where to write it, relative to the project; none: only 'content'."
        )

    class Output(BaseModel):
        """The report."""

        path: str | None = Field(description="The file, relative to the project, when one was asked for.")
        content: str | None = Field(
            description="The report itself when no path was given. Null when it is in the file."
        )
        format: Literal["html", "markdown"] = Field(description="The format.")
        size_bytes: int = Field(description="Its size.")

    def execute(self, input: Input, context: Context) -> Output:
        """Make the report.

        Raises:
            PermanentError: `file_not_found`, `report_chart` for a chart that is no SVG or PNG, `path_outside_project`.
        """
        target = resolve_inside(context.project_dir, input.path) if input.path is not None else None
        kind = input.format or ("markdown" if (input.path or "").lower().endswith((".md", ".markdown")) else "html")
        sections = [_section(s, context, target if kind == "markdown" else None) for s in input.sections]
        footer = Footer(
            pipeline=context.pipeline, version=context.version, run_id=context.run_id, made=context.started_at
        )
        make = html_page if kind == "html" else markdown_page
        page = make(input.title, input.subtitle, sections, footer).encode()
        if target is not None:
            with file_errors(input.path or ""):
                write_atomic(target, lambda temporary: _put(temporary, page))
        return self.Output(
            path=relative(context.project_dir, target) if target is not None else None,
            content=page.decode() if target is None else None,
            format=kind,
            size_bytes=len(page),
        )


def _put(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _section(section: ReportSection, context: Context, beside: Path | None) -> Section:
    charts = [*([section.chart] if section.chart is not None else []), *section.charts]
    return Section(
        heading=section.heading,
        text=section.text,
        metrics=section.metrics,
        pictures=tuple(_picture(c, section.heading or "Chart", context, beside) for c in charts),
        table=section.table,
        max_rows=section.max_rows,
    )


def _picture(chart: ChartPicture | str, alt: str, context: Context, beside: Path | None) -> Picture:
    """Return what to show. With `beside`, a Markdown file's own place, pictures in files stay links to these files."""
    if isinstance(chart, str):
        chart = ChartPicture(content=chart) if chart.lstrip().startswith("<") else ChartPicture(path=chart)
    alt = chart.title or alt
    if chart.path is not None:
        file = existing_file(context.project_dir, chart.path)
        media_type = _MEDIA_TYPES.get(file.suffix.lower())
        if media_type is None:
            raise PermanentError(
                f"The chart {chart.path!r} is neither SVG nor PNG; a report shows these two.", code="report_chart"
            )
        if beside is not None:
            return Picture(source=Path(relpath(file, beside.parent)).as_posix(), alt=alt)
        with file_errors(chart.path):
            return Picture(source=_embedded(file.read_bytes(), media_type), alt=alt)
    content = chart.content or ""
    if content.lstrip().startswith("<svg"):
        return Picture(source=_embedded(content.encode(), "image/svg+xml"), alt=alt)
    if content.startswith("iVBOR"):  # the base64 of a PNG's first bytes
        try:
            return Picture(
                source=_embedded(base64.b64decode("".join(content.split()), validate=True), "image/png"), alt=alt
            )
        except ValueError:
            pass  # what else it is, the page must not repeat
    raise PermanentError(
        "A chart in a report is an SVG text, a PNG in base64, or the path of such a file.", code="report_chart"
    )


def _embedded(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
