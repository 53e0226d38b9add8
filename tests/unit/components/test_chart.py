from __future__ import annotations

import base64
import json
import socket
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest

from flowmason_ray.components.builtin.chart import Chart
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext

TABLE = pl.DataFrame(
    {"name": ["b", "a", "<script>alert(1)</script>"], "n": [3, 1, None], "x": [1.5, float("nan"), 2.0]}
)


def draw(folder: Path | None = None, **options: Any) -> Chart.Output:
    context = RecordingContext(project_dir=folder) if folder else RecordingContext()
    return Chart().execute(Chart.Input.model_validate({"table": TABLE, **options}), context)


def values(**options: Any) -> list[dict[str, Any]]:
    content = draw(format="vega-lite", **options).content
    assert content is not None
    return json.loads(content)["data"]["values"]


def svg(**options: Any) -> str:
    content = draw(format="svg", **options).content
    assert content is not None
    ElementTree.fromstring(content)
    return content


def test_an_svg_holds_the_title_and_the_names_as_text():
    content = svg(x="name", y="n", title="Sales & <more>")
    assert "Sales &amp; &lt;more&gt;" in content
    assert "<script" not in content


def test_every_format_is_what_it_says(tmp_path: Path):
    for name, start in (("a.svg", b"<svg"), ("a.png", b"\x89PNG"), ("a.html", b"<!doctype html>"), ("a.json", b"{")):
        out = draw(tmp_path, x="name", y="n", path=f"out/{name}")
        data = (tmp_path / "out" / name).read_bytes()
        assert data.startswith(start)
        assert (out.path, out.content, out.size_bytes) == (f"out/{name}", None, len(data))
    png = draw(x="name", y="n", format="png")
    assert base64.b64decode(png.content or "").startswith(b"\x89PNG")
    assert png.media_type == "image/png"


def test_the_html_page_loads_nothing():
    content = draw(x="name", y="n", format="html").content or ""
    ElementTree.fromstring(content[content.index("<svg") : content.index("</svg>") + 6])
    outside = content.replace("http://www.w3.org/", "")
    assert "http" not in outside
    assert "<script" not in content


def test_drawing_needs_no_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a chart reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert svg(x="name", y="n")


def test_nulls_and_what_is_no_number_become_null():
    assert values(x="n", y="x", mark="point") == [{"n": 3, "x": 1.5}, {"n": 1, "x": None}, {"n": None, "x": 2.0}]


def test_times_keep_their_wall_clock():
    table = pl.DataFrame(
        {
            "d": [date(2024, 2, 29)],
            "t": [datetime(2024, 1, 1, 23, 5)],
            "z": [datetime(2024, 1, 1, 23, 5, tzinfo=UTC)],
            "clock": [time(7, 30)],
            "took": [timedelta(minutes=2)],
            "price": [Decimal("1.25")],
        }
    )
    for column, shown in {
        "d": "2024-02-29T00:00:00",
        "t": "2024-01-01T23:05:00.000",
        "z": "2024-01-01T23:05:00.000",
        "clock": "07:30:00",
        "took": 120.0,
        "price": 1.25,
    }.items():
        assert values(table=table, x=column, y={"aggregate": "count"}) == [{column: shown}]


def test_more_than_5000_rows_work_and_far_too_many_do_not():
    table = pl.DataFrame({"x": range(6000), "y": range(6000)})
    assert len(values(table=table, mark="point", x="x", y="y")) == 6000
    with pytest.raises(PermanentError, match="aggregate or sample"):
        values(table=pl.DataFrame({"x": range(100_001)}), mark="histogram", x="x")


@pytest.mark.parametrize(
    "options",
    [
        {"mark": "line", "x": "x", "y": "n", "color": "name"},
        {"mark": "area", "x": "x", "y": {"field": "n", "aggregate": "sum", "format": ".1f"}},
        {"mark": "arc", "theta": "n", "color": "name"},
        {
            "mark": "heatmap",
            "x": "name",
            "y": {"field": "x", "bin": 5},
            "color": {"field": "n", "aggregate": "mean", "scheme": "blues"},
        },
        {"mark": "boxplot", "x": "name", "y": "n"},
        {"mark": "histogram", "x": "n"},
        {"mark": "text", "x": "x", "y": "n", "text": "name"},
        {"mark": "bar", "x": "name", "y": "n", "facet": "name", "facet_columns": 2, "x_offset": "name"},
        {"mark": "circle", "x": {"field": "x", "scale": "log"}, "y": "n", "size": "n"},
        {"mark": "tick", "x": "n", "subtitle": "below", "title": "above"},
    ],
)
def test_every_mark_draws(options: dict[str, Any]):
    assert svg(**options)


def test_an_empty_table_draws_empty_axes():
    assert svg(table=TABLE.clear(), x="name", y="n")


def test_names_with_dots_and_brackets_are_columns():
    assert values(table=pl.DataFrame({"a.b[0]": ["x"], "n": [1]}), x="a.b[0]", y="n") == [{"a.b[0]": "x", "n": 1}]
    assert ">x<" in svg(table=pl.DataFrame({"a.b[0]": ["x"], "n": [1]}), x="a.b[0]", y="n")


def test_the_spec_in_the_output_holds_no_data():
    assert draw(x="name", y="n").spec["data"] == {"name": "table"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": "nam", "y": "n"}, r"'nam' in the chart's table. Did you mean 'name'\?"),
        ({}, "at least one of x and y"),
        ({"mark": "arc", "x": "n"}, "'theta'"),
        ({"x": {"title": "t"}}, "names no field"),
        ({"table": pl.DataFrame({"l": [[1]]}), "x": "l"}, "cannot be drawn"),
        ({"x": "name", "y": "n", "path": "../x.svg"}, "outside"),
        ({"x": {"field": "n", "time_unit": "nonsense"}}, "not possible"),
    ],
)
def test_what_cannot_be_drawn_is_a_clear_error(options: dict[str, Any], words: str):
    with pytest.raises(PermanentError, match=words):
        draw(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"x": {"field": "n", "bin": 0}},
        {"x": {"field": "n", "bin": -1}},
        {"x": "n", "color": {"field": "n", "scheme": "nosuch"}},
    ],
)
def test_settings_that_mean_nothing_are_told(options: dict[str, Any]):
    with pytest.raises(PermanentError) as caught:
        draw(y="x", **options)
    assert caught.value.code == "chart_type"


def test_a_picture_of_too_many_pixels_is_refused():
    large: dict[str, Any] = {"width": 4000, "height": 4000}
    more: list[dict[str, Any]] = [{"scale": 4}, {"facet": "name", "scale": 1}]
    for options in more:
        with pytest.raises(PermanentError) as caught:
            draw(None, x="n", y="x", format="png", **large, **options)
        assert caught.value.code == "chart_too_large"
    assert draw(x="n", y="x", format="svg", width=4000, height=4000, scale=4).size_bytes > 0


def test_a_path_of_another_format_is_refused(tmp_path: Path):
    with pytest.raises(PermanentError, match=r"'\.pdf'") as caught:
        draw(tmp_path, x="n", y="x", path="a.pdf")
    assert caught.value.code == "unknown_format"
    assert not (tmp_path / "a.pdf").exists()
    assert draw(tmp_path, x="n", y="x", path="a.xml", format="svg").format == "svg"
    assert draw(tmp_path, x="n", y="x", path="noending").format == "svg"
