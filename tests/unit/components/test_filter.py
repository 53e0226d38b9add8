from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from flowmason_ray.components.builtin.filter import Filter
from flowmason_ray.errors import ExpressionError, PermanentError, StageError
from flowmason_ray.testing.context import RecordingContext

ITEMS = [{"n": 1, "c": "red"}, {"n": 5, "c": "blue"}, {"n": 9}]


def run(data: Any, **options: Any) -> Filter.Output:
    return Filter().execute(Filter.Input.model_validate({"data": data, **options}), RecordingContext())


def keep(data: Any = ITEMS, **options: Any) -> Filter.Output:
    return run(data, filter_mode="filter_array", **options)


def test_a_value_passes_or_not():
    out = run({"n": 3}, condition="data.n > 2")
    assert (out.passed, out.data, out.filtered_count) == (True, {"n": 3}, 0)
    out = run({"n": 3}, condition="data.n > 5")
    assert (out.passed, out.data, out.filtered_count) == (False, None, 1)
    assert "does not hold" in out.reason
    assert run({"n": 3}, condition="data.n > 5", invert=True).passed


def test_items_are_kept():
    out = keep(condition="item.n > 2 and index < 2")
    assert out.data == [ITEMS[1]]
    assert out.filtered_count == 2
    assert keep(condition="item.n > 2", invert=True).data == [ITEMS[0]]
    assert not keep(condition="item.n > 99").passed
    assert keep([], condition="item.n > 99").data == []


def test_a_missing_value_fails_unless_it_may_pass():
    assert keep(condition="item.c == 'red'").data == [ITEMS[0]]
    assert keep(condition="item.c == 'red'", pass_if_missing=True).data == [ITEMS[0], ITEMS[2]]
    assert keep(field_conditions={"c": "red"}).data == [ITEMS[0]]
    assert keep(field_conditions={"c": "red"}, pass_if_missing=True).data == [ITEMS[0], ITEMS[2]]
    assert run(None, condition="data.x > 1", pass_if_missing=True).passed


@pytest.mark.parametrize(
    ("conditions", "numbers"),
    [
        ({"n": 5}, [5]),
        ({"n": {"gte": 5, "lt": 9}}, [5]),
        ({"n": {"ne": 5}}, [1, 9]),
        ({"n": {"in": [1, 9]}}, [1, 9]),
        ({"n": {"not_in": [1, 9]}}, [5]),
        ({"c": {"contains": "l"}}, [5]),
        ({"c": {"starts_with": "r"}}, [1]),
        ({"c": {"ends_with": "e"}}, [5]),
        ({"c": {"matches": "^(red|blue)$"}}, [1, 5]),
        ({"c": {"exists": False}}, [9]),
        ({"c": {"is_null": False}}, [1, 5]),
        ({"n": {"gt": "a"}}, []),
        ({"n": {"lte": 5}, "c": {"ne": "red"}}, [5]),
    ],
)
def test_field_conditions(conditions: dict[str, Any], numbers: list[int]):
    assert [i["n"] for i in keep(field_conditions=conditions).data] == numbers


def test_no_pattern_takes_for_ever():
    # Ends at all: a backtracking engine would not within the lifetime of this test.
    assert keep([{"c": "a" * 5000 + "!"}], field_conditions={"c": {"matches": "^(a+)+$"}}).data == []


def test_tables_stay_tables():
    table = pl.DataFrame({"n": [1, 5, None], "day": [date(2024, 1, 1), date(2024, 2, 1), None]})
    out = keep(table, condition="item.n is not none and item.day >= '2024-01-15'")
    assert isinstance(out.data, pl.DataFrame)
    assert out.data.rows() == [(5, date(2024, 2, 1))]
    assert out.filtered_count == 2
    assert keep(table, field_conditions={"n": {"lt": 3}}).data.height == 1
    assert keep(table.clear(), condition="item.n > 1").data.schema == table.schema


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give 'condition'"),
        ({"field_conditions": {"n": {"gtt": 1, "lt": 2}}}, r"'gtt'.* Did you mean 'gt'\?"),
        ({"field_conditions": {"n": {"matches": "("}}}, "regular expression"),
        ({"field_conditions": {"$.[": 1}}, "not a path"),
    ],
)
def test_what_cannot_be_judged_is_a_clear_error(options: dict[str, Any], words: str):
    with pytest.raises(PermanentError, match=words):
        keep(**options)


def test_an_error_in_the_condition_names_the_item():
    with pytest.raises(ExpressionError, match="Item 1"):
        keep([{"n": 1}, {"n": "x"}], condition="item.n / 2 > 0")
    with pytest.raises(StageError):
        keep(condition="item.n >")
    with pytest.raises(PermanentError, match="needs a list or a table"):
        keep({"a": 1}, condition="item.n > 1")


@pytest.mark.parametrize(
    ("condition", "fields"),
    [
        ("item.price == 0.1", {"price": 0.1}),
        ("item.id == 9007199254740993", {"id": 9007199254740993}),
        ("item.at == '2024-01-02T03:04:05'", {"at": "2024-01-02T03:04:05"}),
        ("item.deep.day == '2024-01-02'", {"deep.day": "2024-01-02"}),
        ("item.days[0] == '2024-01-02'", {"days[0]": "2024-01-02"}),
        ("item.took > 60", {"took": {"gt": 60}}),
    ],
)
def test_rows_of_tables_are_judged_as_json_by_both_kinds_of_condition(condition: str, fields: dict[str, Any]):
    day = date(2024, 1, 2)
    row = {
        "price": Decimal("0.10"), "id": Decimal(9007199254740993), "at": datetime(2024, 1, 2, 3, 4, 5),
        "deep": {"day": day}, "days": [day], "took": timedelta(seconds=90),
    }  # fmt: skip
    other = {
        "price": Decimal("0.20"), "id": Decimal(9007199254740992), "at": datetime(2024, 1, 2, 3, 4, 6),
        "deep": {"day": None}, "days": [None], "took": timedelta(seconds=30),
    }  # fmt: skip
    table = pl.DataFrame([row, other])
    for options in ({"condition": condition}, {"field_conditions": fields}):
        kept = keep(table, **options).data
        assert kept.rows() == table.head(1).rows(), options
