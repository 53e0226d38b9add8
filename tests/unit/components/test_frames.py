from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from datetime import date
from typing import Any, cast

import polars as pl
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]  # it ships none
import pytest
from polars.testing import assert_frame_equal
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from flowmason_ray.components.frames import Frame, is_frame
from flowmason_ray.engine.output_dump import dump_output
from flowmason_ray.errors import MissingExtra


class Tables(BaseModel):
    table: Frame
    more: dict[str, Frame] = {}
    maybe: Frame | None = None
    day: date = date(2024, 1, 2)
    extra: Any = None


FRAME = pl.DataFrame({"a": [1, 2], "b": ["x", None]})


def validate(value: object) -> Tables:
    return Tables.model_validate({"table": value})


def test_a_dataframe_is_kept_as_the_same_object():
    assert validate(FRAME).table is FRAME


def test_an_arrow_table_becomes_a_frame():
    arrow = cast("Any", pa).table({"a": [1, 2]})
    assert_frame_equal(validate(arrow).table, pl.DataFrame({"a": [1, 2]}))


def test_rows_become_a_frame_typed_by_all_of_them():
    rows = [{"a": None} for _ in range(500)] + [{"a": 1.5}]
    assert validate(rows).table.schema == {"a": pl.Float64}


def test_no_rows_are_an_empty_frame():
    assert validate([]).table.shape == (0, 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1]}, "expected a table .* found dict"),
        ("x", "found str"),
        ([{"a": 1}, 2], "row 1 is of type int"),
        ([{"a": {"b": 1}}, {"a": [1]}], r"column .a. holds objects \(row 0\) and lists \(row 1\)"),
        (
            [{"a": {"b": [1]}}, {"a": None}, {"a": {"b": [2, "x"]}}],
            r"column .a.b\[\]. holds numbers \(row 0\) and texts \(row 2\)",
        ),
        (FRAME.lazy(), "LazyFrame must be collected"),
    ],
)
def test_what_is_no_table_is_refused_with_what_was_found(value: object, words: str):
    with pytest.raises(ValidationError, match=words):
        validate(value)


def test_the_json_schema_marks_frames():
    table = Tables.model_json_schema()["properties"]["table"]
    assert table["type"] == "object"
    assert table["x-frame"] is True
    assert Tables.model_json_schema(mode="serialization")["properties"]["table"]["x-frame"] is True


def test_dumping_in_python_mode_keeps_the_object():
    assert validate(FRAME).model_dump()["table"] is FRAME


def test_dumping_an_output_keeps_frames_and_makes_the_rest_json():
    output = Tables(table=FRAME, more={"x": FRAME}, extra=[{"deep": FRAME}])
    dumped = dump_output(output, is_frame)
    assert dumped["table"] is FRAME
    assert dumped["more"]["x"] is FRAME
    assert dumped["extra"][0]["deep"] is FRAME
    assert dumped["maybe"] is None
    assert dumped["day"] == "2024-01-02"


def test_dumping_refuses_other_objects():
    with pytest.raises((PydanticSerializationError, TypeError), match="object"):
        dump_output(Tables(table=FRAME, extra=object()), is_frame)


def test_without_polars_frames_name_the_extra(monkeypatch: pytest.MonkeyPatch):
    real: Callable[..., Any] = builtins.__import__

    def hide(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "polars":
            raise ModuleNotFoundError("No module named 'polars'", name="polars")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "polars")
    monkeypatch.setattr(builtins, "__import__", hide)
    assert not is_frame(FRAME)
    with pytest.raises(MissingExtra, match=r"flowmason-ray\[tables\]"):
        validate([{"a": 1}])
