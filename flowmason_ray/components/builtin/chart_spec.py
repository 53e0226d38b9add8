"""From a table and a few words to a Vega-Lite specification: `chart`'s pure half.

Types are taken from the table's columns, not guessed from values. Only the columns that the chart names go into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import altair
import polars as pl
from altair.utils.schemapi import SchemaValidationError
from polars import selectors
from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.builtin.table_errors import require_columns
from flowmason_ray.errors import PermanentError

Mark = Literal[
    "bar", "line", "area", "point", "circle", "arc", "rect", "heatmap", "boxplot", "tick", "rule", "text", "histogram"
]

MAX_ROWS = 100_000
"""More marks than this nobody can tell apart, and each is an element of the picture."""

_ALTAIR = cast("Any", altair)  # its generated classes are only partly typed


class Encoding(BaseModel):
    """How a column is shown, where its name alone does not say enough."""

    model_config = ConfigDict(extra="forbid")

    field: str | None = Field(default=None, description="The column; none for aggregate 'count'.")
    title: str | None = Field(
        default=None, description="The axis's or legend's title; default: the column's name in words."
    )
    type: Literal["quantitative", "temporal", "nominal", "ordinal"] | None = Field(
        default=None, description="Default: by the column's type."
    )
    aggregate: Literal["count", "sum", "mean", "median", "min", "max"] | None = Field(
        default=None, description="Computed per group of the other columns."
    )
    bin: bool | int = Field(default=False, description="Whether to sort numbers into bins; a number: at most so many.")
    time_unit: str | None = Field(default=None, description="Cut times, for example 'yearmonth', 'hours', 'day'.")
    sort: Literal["ascending", "descending", "x", "-x", "y", "-y"] | list[Any] | None = Field(
        default=None, description="The order of categories; default: as in the table."
    )
    format: str | None = Field(
        default=None, description="How labels are written (d3-format or d3-time-format), such as '.1%' or '%b %Y'."
    )
    scale: Literal["linear", "log", "sqrt", "symlog"] | None = Field(default=None, description="The scale of numbers.")
    zero: bool | None = Field(default=None, description="Whether the scale must hold 0; default: for bars and areas.")
    legend: bool = Field(default=True, description="For colours, sizes: whether a legend explains them.")
    scheme: str | None = Field(
        default=None, description="For colours: a Vega colour scheme such as 'viridis' or 'blueorange'."
    )


PALETTE = ["#2a6fbb", "#e69f00", "#009e73", "#cc5a9b", "#56b4e9", "#d55e00", "#7a5cc2", "#8c8c8c", "#b8a500", "#004b87"]
"""After Okabe and Ito's colours (2008), which people with any colour vision can tell apart; yellow darkened for white paper."""

_FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
_INK, _SOFT, _LINE = "#1f2933", "#52606d", "#e4e7eb"

THEME: Mapping[str, Any] = {
    "background": "#ffffff",
    "font": _FONT,
    "padding": 16,
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "fontSize": 17,
        "fontWeight": 600,
        "color": _INK,
        "offset": 14,
        "subtitleColor": _SOFT,
        "subtitleFontSize": 12.5,
        "subtitlePadding": 5,
    },
    "axis": {
        "labelColor": _SOFT,
        "labelFontSize": 11.5,
        "labelPadding": 6,
        "labelLimit": 220,
        "titleColor": _INK,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "titlePadding": 10,
        "gridColor": _LINE,
        "domain": False,
        "ticks": False,
    },
    "axisBand": {"grid": False},
    "legend": {
        "labelColor": _SOFT,
        "labelFontSize": 11.5,
        "titleColor": _INK,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "symbolType": "circle",
        "offset": 18,
    },
    "header": {
        "labelColor": _INK,
        "labelFontSize": 12.5,
        "labelFontWeight": 500,
        "titleColor": _INK,
        "titleFontSize": 12,
    },
    "range": {"category": PALETTE, "heatmap": {"scheme": "viridis"}, "ramp": {"scheme": "viridis"}},
    "bar": {"color": PALETTE[0], "cornerRadiusEnd": 2},
    "line": {"color": PALETTE[0], "strokeWidth": 2.25, "strokeJoin": "round", "strokeCap": "round"},
    "area": {"color": PALETTE[0], "fillOpacity": 0.75, "line": True},
    "point": {"color": PALETTE[0], "filled": True, "size": 42, "opacity": 0.7},
    "circle": {"color": PALETTE[0], "size": 42, "opacity": 0.7},
    "arc": {"innerRadius": 62, "padAngle": 0.012, "cornerRadius": 2},
    "boxplot": {"color": PALETTE[0], "size": 22},
    "rect": {"color": PALETTE[0]},
    "tick": {"color": PALETTE[0], "thickness": 1.5},
    "rule": {"color": _SOFT},
    "text": {"color": _INK, "fontSize": 12},
}
"""Vega-Lite's `config`: quiet axes, strong data."""

_KINDS: Mapping[str, str] = {"heatmap": "rect", "histogram": "bar"}
_ZERO_MARKS = frozenset({"bar", "area", "histogram"})


def build_spec(
    table: pl.DataFrame,
    *,
    mark: str,
    encodings: Mapping[str, Encoding],
    title: str | None,
    subtitle: str | None,
    width: int,
    height: int,
    columns: int | None,
) -> dict[str, Any]:
    """Return the Vega-Lite specification, the data inline.

    Args:
        table: The table; only the columns that the encodings name are taken.
        mark: What is drawn per row or group.
        encodings: {Vega-Lite channel: what it shows}.
        title, subtitle: Above the chart.
        width, height: In pixels, of the drawing area (of one panel when there are facets).
        columns: How many facets side by side.

    Raises:
        PermanentError: `unknown_column`, `chart_type` for columns that cannot be drawn, `chart_too_large`.
    """
    fields = list(dict.fromkeys(e.field for e in encodings.values() if e.field is not None))
    require_columns(fields, table.columns, of="the chart's table")
    if table.height > MAX_ROWS:
        raise PermanentError(
            f"The table has {table.height} rows, and a chart takes up to {MAX_ROWS}; aggregate or sample it first.",
            code="chart_too_large",
        )
    data = _ALTAIR.Data(values=_rows(cast("Any", table).select(fields)))
    base = _ALTAIR.Chart(data)
    kind = _KINDS.get(mark, mark)
    drawn = getattr(base, f"mark_{kind}")(**_mark_options(mark, encodings, table.height))
    size: dict[str, Any] = {"width": width, "height": height}
    if title:
        size["title"] = _ALTAIR.TitleParams(text=title, **({"subtitle": subtitle} if subtitle else {}))
    try:
        channels = {name: _channel(name, e, table, mark, columns) for name, e in encodings.items()}
        if "x" in channels and _labels_fit(encodings["x"], table, width):
            channels["x"] = channels["x"].axis(labelAngle=0)
        chart = drawn.encode(**channels)
        spec: dict[str, Any] = chart.properties(**size).to_dict()
    except SchemaValidationError as exc:
        raise PermanentError(f"The chart is not possible like this: {_first_words(exc)}", code="chart_type") from exc
    spec["config"] = dict(THEME)
    return spec


def _first_words(exc: Exception) -> str:
    words = " ".join(str(exc).split())
    return words if len(words) <= 400 else f"{words[:400]}…"


def _labels_fit(encoding: Encoding, table: pl.DataFrame, width: int) -> bool:
    """Tell whether the names of an axis's categories fit side by side; Vega-Lite would turn them in any case."""
    if encoding.field is None or encoding.format is not None or encoding.time_unit is not None or encoding.bin:
        return False
    if (encoding.type or _type_of(encoding, table)) not in ("nominal", "ordinal"):
        return False
    names = [str(v) for v in table[encoding.field].drop_nulls().unique()]
    return bool(names) and (max(map(len, names)) + 1) * len(names) * 7 <= width


def _mark_options(mark: str, encodings: Mapping[str, Encoding], rows: int) -> dict[str, Any]:
    if mark in ("point", "circle") and rows > 2000 and "size" not in encodings:
        return {"opacity": 0.3, "size": 16}  # many points: let density show
    return {}


def _channel(name: str, encoding: Encoding, table: pl.DataFrame, mark: str, columns: int | None) -> Any:
    kind = encoding.type or _type_of(encoding, table)
    facts: dict[str, Any] = {"type": kind}
    if encoding.field is not None:
        facts["field"] = _escaped(encoding.field)
    if encoding.aggregate is not None:
        facts["aggregate"] = encoding.aggregate
    if encoding.bin is not False:
        facts["bin"] = True if encoding.bin is True else _ALTAIR.Bin(maxbins=encoding.bin)
    elif mark == "histogram" and name == "x" and kind == "quantitative":
        facts["bin"] = _ALTAIR.Bin(maxbins=40)
    if encoding.time_unit is not None:
        facts["timeUnit"] = encoding.time_unit
    if name not in ("tooltip", "facet", "row", "column"):
        facts.update(_scale(name, encoding, kind, mark))
    if name not in ("tooltip", "size_value"):
        facts["title"] = encoding.title if encoding.title is not None else _words(encoding)
    as_in_table = encoding.time_unit is None and encoding.bin is False
    if kind in ("nominal", "ordinal") and as_in_table and name not in ("tooltip", "text", "theta"):
        facts["sort"] = encoding.sort  # null: as in the table
    elif encoding.sort is not None:
        facts["sort"] = encoding.sort
    if name == "facet" and columns:
        facts["columns"] = columns
    if not encoding.legend and name in ("color", "size"):
        facts["legend"] = None
    elif encoding.format is not None:
        _put_format(name, facts, encoding.format)
    makers = {"xOffset": "XOffset", "yOffset": "YOffset", "strokeDash": "StrokeDash"}
    return getattr(_ALTAIR, makers.get(name, name.capitalize()))(**facts)


def _scale(name: str, encoding: Encoding, kind: str, mark: str) -> dict[str, Any]:
    scale: dict[str, Any] = {}
    if encoding.scale is not None:
        scale["type"] = encoding.scale
    if kind == "quantitative" and name in ("x", "y") and encoding.scale != "log":
        zero = encoding.zero if encoding.zero is not None else (mark in _ZERO_MARKS or None)
        if zero is not None:
            scale["zero"] = zero
        elif mark in ("line", "point", "circle", "boxplot", "tick"):
            scale["zero"] = False
    if encoding.scheme is not None:
        scale["scheme"] = encoding.scheme
    return {"scale": _ALTAIR.Scale(**scale)} if scale else {}


def _put_format(name: str, facts: dict[str, Any], pattern: str) -> None:
    if name in ("x", "y"):
        facts["axis"] = _ALTAIR.Axis(format=pattern)
    elif name in ("color", "size", "opacity", "shape"):
        facts["legend"] = _ALTAIR.Legend(format=pattern)
    elif name in ("facet", "row", "column"):
        facts["header"] = _ALTAIR.Header(format=pattern)
    else:
        facts["format"] = pattern


def _words(encoding: Encoding) -> str:
    if encoding.field is None:
        return "Number of rows"
    name = encoding.field.replace("_", " ").strip()
    name = name[:1].upper() + name[1:]
    return f"{name} ({encoding.aggregate})" if encoding.aggregate in ("mean", "median", "min", "max", "sum") else name


def _escaped(field: str) -> str:
    """Return the name as Vega-Lite wants it: dots and brackets would mean nested fields."""
    return "".join("\\" + c if c in ".[]\\'\"" else c for c in field)


def _type_of(encoding: Encoding, table: pl.DataFrame) -> str:
    if encoding.field is None or encoding.aggregate is not None:
        return "quantitative"
    dtype = table.schema[encoding.field]
    if dtype.is_numeric():
        return "quantitative"
    if dtype.is_temporal() and not isinstance(dtype, (pl.Time, pl.Duration)):
        return "temporal"
    if dtype.is_nested() or isinstance(dtype, (pl.Binary, pl.Object)):
        raise PermanentError(
            f"Column {encoding.field!r} is of type {dtype} and cannot be drawn; take it apart with table_sql.",
            code="chart_type",
        )
    return "nominal"


def _rows(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON: times as local ISO texts (a zone would shift days), what is no number as null."""
    plain = cast("Any", table).with_columns(
        selectors.date().cast(pl.Datetime("ms")).dt.to_string("%Y-%m-%dT%H:%M:%S"),
        selectors.datetime().dt.replace_time_zone(None).dt.to_string("%Y-%m-%dT%H:%M:%S%.3f"),
        selectors.time().dt.to_string("%H:%M:%S"),
        selectors.duration().dt.total_milliseconds() / 1000,
        selectors.decimal().cast(pl.Float64),
        selectors.categorical().cast(pl.String),
    )
    finite = plain.with_columns(cast("Any", pl.when(selectors.float().is_finite())).then(selectors.float()).name.keep())
    return finite.to_dicts()
