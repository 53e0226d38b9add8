"""`chart`: a picture of a table, drawn without a browser and without a network.

Altair makes the Vega-Lite specification, vl-convert draws it. The HTML form holds the drawing itself (SVG), not scripts that
a page would have to load from elsewhere.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.extras import needs
from flowmason_ray.components.files import file_errors, relative, resolve_inside, write_atomic
from flowmason_ray.components.frames import Frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

with needs("The component 'chart'", extra="tables"):
    import polars  # noqa: F401  # pyright: ignore[reportUnusedImport]  # first, so that the error names the extra that brings it
with needs("The component 'chart'", extra="charts"):
    import altair
    import vl_convert

    from flowmason_ray.components.builtin.chart_spec import Encoding, Mark, build_spec

Format = Literal["svg", "png", "html", "vega-lite"]

MEDIA_TYPES: dict[Format, str] = {
    "svg": "image/svg+xml",
    "png": "image/png",
    "html": "text/html",
    "vega-lite": "application/vnd.vegalite+json",
}
MAX_PIXELS = 40_000_000
"""A PNG is drawn in memory, at four bytes a pixel and several times over."""
_BY_EXTENSION: dict[str, Format] = {".svg": "svg", ".png": "png", ".html": "html", ".htm": "html", ".json": "vega-lite"}

Shown = str | Encoding | None


@operator(effect="idempotent", cost="cpu", category="reports")
class Chart:
    """Draws a table as an SVG, PNG or HTML chart, or gives its Vega-Lite specification."""

    class Input(BaseModel):
        """The table and what to show of it."""

        model_config = ConfigDict(extra="forbid")

        table: Frame = Field(description="The table.")
        mark: Mark = Field(
            default="bar", description="What is drawn per row; heatmap is rect, histogram counts rows in bins of x."
        )
        x: Shown = Field(
            default=None, description="The column along the x axis, or an object that says more (see Encoding)."
        )
        y: Shown = Field(default=None, description="The column along the y axis.")
        color: Shown = Field(default=None, description="The column that gives the colour.")
        size: Shown = Field(default=None, description="The column that gives the size of points.")
        theta: Shown = Field(default=None, description="For arc: the column that gives the angle.")
        text: Shown = Field(default=None, description="For text: the column that is written.")
        facet: Shown = Field(default=None, description="The column that gives a panel each.")
        x_offset: Shown = Field(default=None, description="The column that puts bars of a group side by side.")
        facet_columns: int | None = Field(default=None, ge=1, description="How many panels side by side.")
        title: str | None = Field(default=None, description="The title.")
        subtitle: str | None = Field(default=None, description="A line below the title.")
        width: int = Field(default=640, ge=16, le=8000, description="The width of the drawing area, in pixels.")
        height: int = Field(default=360, ge=16, le=8000, description="The height of the drawing area, in pixels.")
        scale: float = Field(default=2.0, gt=0, le=8, description="PNG: pixels per pixel, 2 for sharp screens.")
        format: Format | None = Field(
            default=None, description="The format; default: by the extension of 'path', else svg."
        )
        path: str | None = Field(
            default=None, description="Where to write it, relative to the project; none: only 'content'."
        )

    class Output(BaseModel):
        """The chart."""

        path: str | None = Field(description="The file, relative to the project, when one was asked for.")
        content: str | None = Field(
            description="The chart itself when no path was given: text, or base64 for PNG. Null when it is in the file."
        )
        spec: dict[str, Any] = Field(description="The Vega-Lite specification, without the data.")
        format: Format = Field(description="The format.")
        media_type: str = Field(description="The format's media type.")
        size_bytes: int = Field(description="The size of the file or content.")

    def execute(self, input: Input, context: Context) -> Output:
        """Draw the chart.

        Raises:
            PermanentError: `unknown_column`, `chart_type`, `chart_too_large`, `unknown_format`, `path_outside_project`,
                `path_protected`, `file_error`.
        """
        target = resolve_inside(context.project_dir, input.path) if input.path is not None else None
        kind = input.format or _format_of(input.path)
        if kind == "png":
            _refuse_pixels(input)
        spec = build_spec(
            input.table,
            mark=input.mark,
            encodings=_encodings(input),
            title=input.title,
            subtitle=input.subtitle,
            width=input.width,
            height=input.height,
            columns=input.facet_columns,
        )
        drawn = _draw(spec, kind, input)
        if target is not None:
            with file_errors(input.path or ""):
                write_atomic(target, lambda temporary: _put(temporary, drawn))
        text = base64.b64encode(drawn).decode("ascii") if kind == "png" else drawn.decode("utf-8")
        return self.Output(
            path=relative(context.project_dir, target) if target is not None else None,
            content=text if target is None else None,
            spec={**spec, "data": {"name": "table"}},
            format=kind,
            media_type=MEDIA_TYPES[kind],
            size_bytes=len(drawn),
        )


def _format_of(path: str | None) -> Format:
    suffix = Path(path or "").suffix.lower()
    if suffix and suffix not in _BY_EXTENSION:
        raise PermanentError(
            f"A chart is not written as {suffix!r}; known are {', '.join(_BY_EXTENSION)}. For another ending say the 'format'.",
            code="unknown_format",
        )
    return _BY_EXTENSION.get(suffix, "svg")


def _refuse_pixels(input: Chart.Input) -> None:
    panels, facet = 1, _field(input.facet)
    if facet is not None and facet in input.table.columns:
        panels = max(1, input.table[facet].n_unique())
    pixels = int(panels * input.width * input.height * input.scale**2)
    if pixels > MAX_PIXELS:
        raise PermanentError(
            f"The picture would have {pixels:,} pixels; up to {MAX_PIXELS:,} are drawn. Lower 'scale', 'width' or 'height', or draw SVG.",
            code="chart_too_large",
        )


def _field(shown: Shown) -> str | None:
    return shown.field if isinstance(shown, Encoding) else shown


def _put(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _encodings(input: Chart.Input) -> dict[str, Encoding]:
    asked: dict[str, Shown] = {
        "x": input.x,
        "y": input.y,
        "color": input.color,
        "size": input.size,
        "theta": input.theta,
        "text": input.text,
        "facet": input.facet,
        "xOffset": input.x_offset,
    }
    found = {name: Encoding(field=e) if isinstance(e, str) else e for name, e in asked.items() if e is not None}
    if input.mark == "histogram" and "y" not in found:
        found["y"] = Encoding(aggregate="count")
    required = {"arc": ["theta"], "histogram": ["x"], "text": ["text"]}.get(input.mark, [])
    missing = [name for name in required if name not in found]
    if missing or not found:
        raise PermanentError(
            f"A chart with mark {input.mark!r} needs {' and '.join(repr(m) for m in missing) or 'at least one of x and y'}.",
            code="chart_type",
        )
    for name, encoding in found.items():
        if encoding.field is None and encoding.aggregate != "count":
            raise PermanentError(f"{name!r} names no field; only aggregate 'count' goes without.", code="chart_type")
    return found


def _draw(spec: dict[str, Any], kind: Format, input: Chart.Input) -> bytes:
    if kind == "vega-lite":
        return json.dumps(spec, ensure_ascii=False, indent=2).encode()
    convert = cast("Any", vl_convert)
    # "5.20.1" → "5.20": the version whose schema Altair wrote for. No base URL is allowed, so nothing can be loaded.
    options: dict[str, Any] = {
        "vl_version": ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2]),
        "allowed_base_urls": [],
    }
    try:
        if kind == "png":
            return convert.vegalite_to_png(spec, scale=input.scale, **options)
        svg: str = convert.vegalite_to_svg(spec, **options)
    except ValueError as exc:
        raise PermanentError(
            f"The chart cannot be drawn: {str(exc).strip().splitlines()[0]}", code="chart_type"
        ) from exc
    return svg.encode() if kind == "svg" else _page(svg, input.title or "Chart").encode()


def _page(svg: str, title: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body{margin:0;display:grid;place-items:center;min-height:100vh;background:#fff}svg{max-width:100%;height:auto}</style>"
        f"</head><body>\n{svg}\n</body></html>\n"
    )
