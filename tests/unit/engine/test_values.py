"""Values: loop items, what can be recorded, what is shown."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from flowmason_ray.engine.values import Items, is_frame, not_recordable, presentable, printable


def test_items_of_a_list_and_of_a_frame() -> None:
    items = Items(["a", "b", "c"])
    assert (len(items), items.index(1), items.item(1)) == (3, 1, "b")
    rows = Items(pl.DataFrame({"n": [1, 2, 3]}), [0, 2])
    assert (len(rows), rows.index(1), rows.item(1)) == (2, 2, {"n": 3})


def test_a_frame_is_told_by_its_type_alone() -> None:
    class DataFrame: ...

    assert is_frame(pl.DataFrame())
    assert not is_frame(DataFrame())
    assert not is_frame(pl.Series())
    assert not is_frame([])


@pytest.mark.parametrize(
    "value", [None, {"x": [1, "é", 1.5, True]}, {1: 2}, 2**64 - 1, float("nan"), pl.DataFrame(), Items([1])]
)
def test_what_can_be_recorded(value: Any) -> None:
    assert not_recordable(value) is None


@pytest.mark.parametrize("value", [object(), {"x": 10**30}, ["\ud800"], {"x": {1, 2}}])
def test_what_cannot_be_recorded_is_told_why(value: Any) -> None:
    assert not_recordable(value)


def test_half_surrogates_become_question_marks() -> None:
    assert printable("a\udc80b") == "a?b"
    assert printable("é😀") == "é😀"


def test_frames_are_shown_wherever_they_are() -> None:
    frame = pl.DataFrame({"n": [1]})
    assert presentable({"a": [{"b": frame}], "c": 1}) == {"a": [{"b": [{"n": 1}]}], "c": 1}
    long = presentable(pl.DataFrame({"n": range(2000)}))
    assert (long["rows"], long["columns"], long["head"][9]) == (2000, ["n"], {"n": 9})


def test_a_frames_rows_are_items_of_json() -> None:
    frame = pl.DataFrame(
        {
            "day": [date(2024, 1, 3)],
            "at": [datetime(2024, 1, 3, 4, 5)],
            "price": [Decimal("1.50")],
            "took": [timedelta(seconds=90)],
            "raw": [b"\x00\x01"],
            "odd": [float("nan")],
            "deep": [{"days": [date(2024, 1, 4)]}],
        }
    )
    item = Items(frame).item(0)
    assert item == {
        "day": "2024-01-03",
        "at": "2024-01-03T04:05:00",
        "price": 1.5,
        "took": 90.0,
        "raw": "AAE=",
        "odd": None,
        "deep": {"days": ["2024-01-04"]},
    }
    assert json.loads(json.dumps(item)) == item, "as it is read from a log"
