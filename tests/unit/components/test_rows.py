"""`aggregate`, `join`, `pivot`, `unpivot`, `sort`, `deduplicate`, `sample`: on lists and on tables, which must agree."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flowmason_ray.components.registry import Registry
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext

REGISTRY = Registry(entry_points=False)
CONTEXT = RecordingContext()


def do(name: str, **config: Any) -> Any:
    spec = REGISTRY.get(name)
    assert spec is not None
    return spec.create().execute(spec.input_model.model_validate(config), CONTEXT)


def both(name: str, rows_in: list[dict[str, Any]], **config: Any) -> Any:
    """Do it with a list and with a table; return the list's answer when both agree."""
    rows = do(name, data=rows_in, **config)
    data: Any = rows.data
    table = do(name, data=pl.DataFrame(rows_in, infer_schema_length=None), **config)
    assert isinstance(table.data, pl.DataFrame), "a table stays a table"
    assert type(rows.data).__name__ == "list", "a list stays a list"
    filled = [{n: r.get(n) for n in table.data.columns} for r in data]
    assert filled == table.data.to_dicts()
    assert rows.count == table.count == len(data)
    return rows


KEYS = st.one_of(st.none(), st.integers(-3, 3))
ROWS = st.lists(st.fixed_dictionaries({"a": KEYS, "b": KEYS, "n": st.integers(0, 100)}), min_size=1, max_size=30)


@settings(max_examples=60)
@given(
    ROWS, st.lists(st.sampled_from(["a", "-a", "b", "-b"]), min_size=1, max_size=2), st.sampled_from(["first", "last"])
)
def test_sorting_agrees_and_keeps_every_row(data: list[dict[str, Any]], by: list[str], nulls: str) -> None:
    for key in ("a", "b"):  # polars cannot tell the type of a column of nulls
        data = [*data, {"a": 0, "b": 0, "n": 0, key: 1}]
    done = both("sort", data, by=by, nulls=nulls)
    assert sorted(map(json.dumps, done.data)) == sorted(map(json.dumps, data))
    assert do("sort", data=done.data, by=by, nulls=nulls).data == done.data


@settings(max_examples=60)
@given(ROWS, st.sampled_from([None, ["a"], ["a", "b"], "b"]), st.sampled_from(["first", "last", "none"]))
def test_deduplicating_agrees_and_leaves_no_two_alike(data: list[dict[str, Any]], by: Any, keep: str) -> None:
    done = both("deduplicate", data, by=by, keep=keep)
    assert done.removed == len(data) - done.count
    fields = ["a", "b", "n"] if by is None else [by] if isinstance(by, str) else by
    keys = [tuple(row[f] for f in fields) for row in done.data]
    assert len(set(keys)) == len(keys)
    assert all(row in data for row in done.data)


@settings(max_examples=40)
@given(ROWS, st.integers(0, 40), st.integers(), st.booleans())
def test_sampling_agrees_repeats_and_draws_each_row_once(
    data: list[dict[str, Any]], n: int, seed: int, shuffle: bool
) -> None:
    data = [{**row, "i": i} for i, row in enumerate(data)]
    drawn = both("sample", data, n=n, seed=seed, shuffle=shuffle)
    assert drawn.count == min(n, len(data))
    indices = [row["i"] for row in drawn.data]
    assert len(set(indices)) == len(indices)
    assert shuffle or indices == sorted(indices)
    assert do("sample", data=data, n=n, seed=seed, shuffle=shuffle).data == drawn.data


def test_sampling_by_share_and_by_other_seeds() -> None:
    data = [{"i": i} for i in range(100)]
    assert do("sample", data=data, fraction=0.25).count == 25
    draws = {json.dumps(do("sample", data=data, n=3, seed=seed).data) for seed in range(20)}
    assert len(draws) > 10


@settings(max_examples=40)
@given(ROWS)
def test_aggregating_agrees_and_loses_nothing(data: list[dict[str, Any]]) -> None:
    data = [*data, {"a": 1, "b": 1, "n": 1}]
    done = both("aggregate", data, group_by=["a"], aggregations={"total": "sum(n)", "rows": "count()"})
    assert sum(row["total"] for row in done.data) == sum(row["n"] for row in data)
    assert sum(row["rows"] for row in done.data) == len(data)
    whole = both("aggregate", data, aggregations={"most": {"op": "max", "column": "n"}})
    assert whole.data == [{"most": max(row["n"] for row in data)}]


@settings(max_examples=40)
@given(st.dictionaries(st.tuples(st.sampled_from("xyz"), st.sampled_from("pqr")), st.integers(0, 9), min_size=1))
def test_unpivoting_what_was_pivoted_gives_it_back(values: dict[tuple[str, str], int]) -> None:
    data = [{"row": r, "column": c, "value": v} for (r, c), v in values.items()]
    wide = both("pivot", data, index=["row"], columns="column", values="value")
    assert set(wide.columns) == {c for _, c in values}
    long = do("unpivot", data=wide.data, index="row", names_to="column")
    back = {(r["row"], r["column"]): r["value"] for r in long.data if r["value"] is not None}
    assert back == values


def test_lists_stay_the_objects_that_they_held() -> None:
    data = [{"k": 2, "x": {"deep": [1, "a"]}}, {"k": 1, "only": "here"}, {"k": 1, "x": "another type"}]
    assert do("sort", data=data, by="k").data == [data[1], data[2], data[0]]
    assert do("deduplicate", data=data, by="k").data == [data[0], data[1]]
    assert do("deduplicate", data=[{"a": 1}, {"a": 1.0, "b": None}]).count == 1
    assert do("sample", data=data, n=9).data == data
    assert do("sort", data=[], by="k").data == []


def test_joining_gives_the_form_of_the_left_side() -> None:
    left = [{"k": 1, "a": "x"}, {"k": 2, "a": "y"}]
    right = [{"k": 1, "b": "z"}]
    expected = [{"k": 1, "a": "x", "b": "z"}, {"k": 2, "a": "y", "b": None}]
    assert do("join", left=left, right=pl.DataFrame(right), on="k", how="left").data == expected
    table = do("join", left=pl.DataFrame(left), right=right, on="k", how="left").data
    assert table.to_dicts() == expected
    other = do("join", left=left, right=[{"id": 1, "b": "z"}], left_on="k", right_on="id")
    assert other.data == [expected[0]]


def test_pivoting_several_values_for_one_place() -> None:
    data = [{"r": "x", "c": "p", "v": 1}, {"r": "x", "c": "p", "v": 5}, {"r": "y", "c": "q", "v": 2}]
    with pytest.raises(PermanentError, match="say with 'aggregate'") as caught:
        do("pivot", data=data, index="r", columns="c", values="v")
    assert caught.value.code == "duplicate_values"
    summed = both("pivot", data, index="r", columns="c", values="v", aggregate="sum", fill=0)
    assert summed.data == [{"r": "x", "p": 6, "q": 0}, {"r": "y", "p": 0, "q": 2}]
    counted = both("pivot", data, index="r", columns="c", values="v", aggregate="count")
    assert counted.data[0]["p"] == 2
    wide = [{"r": 1, "c": i, "v": 1} for i in range(1001)]
    with pytest.raises(PermanentError, match="1001 different values"):
        do("pivot", data=wide, index="r", columns="c", values="v")


@pytest.mark.parametrize("data", [3, ["a"], {"a": 1}, None])
def test_what_is_neither_list_nor_table_is_refused(data: Any) -> None:
    with pytest.raises(ValidationError, match=r"expected (a list of objects or a table|objects in the list)"):
        do("sort", data=data, by="a")


@pytest.mark.parametrize(
    ("name", "config", "code", "words"),
    [
        ("sort", {"by": "nmae"}, "unknown_column", "Did you mean 'name'"),
        ("sort", {"by": []}, "invalid_input", "at least one"),
        ("sort", {"by": "mixed"}, "invalid_input", "numbers and texts"),
        ("sort", {"by": "deep"}, "invalid_input", "an object"),
        ("deduplicate", {"by": "nmae"}, "unknown_column", "'name'"),
        ("sample", {}, "invalid_input", "either 'n' or 'fraction'"),
        ("sample", {"n": 1, "fraction": 0.5}, "invalid_input", "either"),
        ("aggregate", {"aggregations": {"x": "sum(nmae)"}}, "unknown_column", "Did you mean 'name'"),
        ("unpivot", {"index": "nmae"}, "unknown_column", "'name'"),
        ("pivot", {"index": "name", "columns": "no", "values": "deep"}, "unknown_column", "'no'"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, config: dict[str, Any], code: str, words: str) -> None:
    data: list[Any] = [{"name": "a", "mixed": 1, "deep": {}}, {"name": "b", "mixed": "x", "deep": {}}]
    with pytest.raises(PermanentError, match=words) as caught:
        do(name, data=data, **config)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        (
            "aggregate",
            {"group_by": "m", "aggregations": {"n": "count()"}},
            "'m' holds numbers .row 0. and texts .row 2.",
        ),
        ("aggregate", {"aggregations": {"s": "sum(b)"}}, "'b' holds true or false .row 0. and numbers .row 1."),
        ("aggregate", {"group_by": "i", "aggregations": {"n": "count()"}}, "9007199254740993 .row 0.*fraction .row 2."),
        ("join", {"right": [{"m": 1}], "on": "m"}, "'m' holds numbers"),
        ("join", {"right": [{"k": 1}, {"k": "1"}], "left_on": "b", "right_on": "k"}, "holds"),
        ("pivot", {"index": "m", "columns": "k", "values": "b"}, "'m' holds numbers"),
        ("unpivot", {"columns": ["k", "t"]}, "'k' is of the type number and 't' of the type String"),
    ],
)
def test_mixed_types_are_refused_where_they_are_compared_or_computed_with(
    name: str, config: dict[str, Any], words: str
) -> None:
    data = [
        {"k": 1, "m": 1, "b": True, "i": 9007199254740993, "t": "a"},
        {"k": 2, "m": None, "b": 2, "i": 9007199254740992, "t": "b"},
        {"k": 3, "m": "1", "b": None, "i": 1.5, "t": "c"},
    ]
    with pytest.raises(PermanentError, match=words) as caught:
        do(name, **{"left" if name == "join" else "data": data}, **config)
    assert caught.value.code == "table_error"


def test_what_is_only_moved_stays_what_it_was() -> None:
    odd: list[Any] = [1, "1", True, 1.0, {"a": 1}, {"b": [1, "x", None]}, [], None, "x", 2**53 + 1]
    data = [{"k": n, "odd": each} for n, each in enumerate(odd)]
    joined = do("join", left=data, right=[{"k": n, "other": each} for n, each in enumerate(odd)], on="k").data
    long = do("unpivot", data=data, index="odd", columns=["k"]).data
    wide = do("pivot", data=[{**row, "c": "x"} for row in data], index="k", columns="c", values="odd").data
    for found in (
        [row["odd"] for row in joined],
        [row["other"] for row in joined],
        [row["odd"] for row in long],
        [row["x"] for row in wide],
    ):
        assert [(type(each), each) for each in found] == [(type(each), each) for each in odd]
    summed = do("aggregate", data=data, aggregations={"s": "sum(k)"}).data
    assert summed == [{"s": sum(range(len(odd)))}]
    by_object = do("aggregate", data=[{"o": {"a": 1, "b": 2}}, {"o": {"b": 2, "a": 1}}], group_by="o",
                   aggregations={"n": "count()"})  # fmt: skip
    assert by_object.data == [{"o": {"a": 1, "b": 2}, "n": 2}]


def test_no_rows_are_no_groups_and_no_partners() -> None:
    counted = {"n": "count()", "s": "sum(x)", "most": "max(x)", "mean": {"op": "mean", "column": "x"}}
    assert do("aggregate", data=[], group_by=["c"], aggregations=counted).data == []
    assert do("aggregate", data=[], aggregations=counted).data == [{"n": 0, "s": 0, "most": None, "mean": None}]
    for key in (1, "a", None, 1.5):
        one = [{"id": key}]
        assert do("join", left=[], right=one, on="id").data == []
        assert do("join", left=one, right=[], on="id").data == []
        assert do("join", left=one, right=[], left_on="id", right_on="other", how="left").data == one
        assert do("join", left=one, right=[], on="id", how="anti").data == one
        assert do("join", left=[], right=one, on="id", how="right").data == one
        assert do("join", left=[], right=one, on="id", how="full").data == one
        assert do("join", left=one, right=[], how="cross").data == []
    assert do("join", left=[], right=[], on="id").data == []
    assert do("join", left=pl.DataFrame({"id": [1]}), right=[], on="id").data.height == 0
    assert do("pivot", data=[], index="a", columns="b", values="c").data == []
    assert do("unpivot", data=[], index="a").data == []


@pytest.mark.parametrize("as_table", [False, True])
def test_sums_do_not_wrap_around(as_table: bool) -> None:
    def given_as(rows: list[dict[str, Any]]) -> Any:
        return pl.DataFrame(rows) if as_table else rows

    def read(done: Any) -> Any:
        return done.data.to_dicts() if as_table else done.data

    most = [{"g": 1, "c": "x", "n": 2**63 - 1}, {"g": 1, "c": "x", "n": 1}]
    assert read(do("aggregate", data=given_as(most), aggregations={"s": "sum(n)"})) == [{"s": 2**63}]
    wide = do("pivot", data=given_as(most), index="g", columns="c", values="n", aggregate="sum")
    assert read(wide) == [{"g": 1, "x": 2**63}]
    for rows in ([*most, most[0], most[0]], [{"g": 1, "c": "x", "n": -(2**63)}] * 2):
        with pytest.raises(PermanentError, match="no number of 64 bits") as caught:
            do("aggregate", data=given_as(rows), group_by="g", aggregations={"s": "sum(n)"})
        assert caught.value.code == "table_error"
        with pytest.raises(PermanentError, match="no number of 64 bits"):
            do("pivot", data=given_as(rows), index="g", columns="c", values="n", aggregate="sum")


def test_sums_of_short_numbers_do_not_wrap_around() -> None:
    table = pl.DataFrame({"n": [2**31 - 1, 1]}, schema={"n": pl.Int32})
    assert do("aggregate", data=table, aggregations={"s": "sum(n)"}).data.to_dicts() == [{"s": 2**31}]


def test_filling_keeps_the_types() -> None:
    numbers = [{"c": "a", "m": "j", "r": 1}, {"c": "b", "m": "f", "r": 2}]
    texts = [{**row, "r": str(row["r"])} for row in numbers]
    how: dict[str, Any] = {"index": "c", "columns": "m", "values": "r"}
    filled = both("pivot", numbers, **how, fill=0).data
    assert json.dumps(filled) == json.dumps([{"c": "a", "j": 1, "f": 0}, {"c": "b", "j": 0, "f": 2}])
    assert do("pivot", data=texts, **how, fill=0).data[0] == {"c": "a", "j": "1", "f": 0}
    assert do("pivot", data=numbers, **how, fill="-").data[0] == {"c": "a", "j": 1, "f": "-"}
    assert both("pivot", texts, **how, fill="-").data[0] == {"c": "a", "j": "1", "f": "-"}
    for rows, fill in ((texts, 0), (numbers, "-")):
        with pytest.raises(PermanentError, match="does not fit column 'j'") as caught:
            do("pivot", data=pl.DataFrame(rows), **how, fill=fill)
        assert caught.value.code == "invalid_input"
    for wrong in ({"index": "m"}, {"values": "m"}, {"values": "c"}):
        with pytest.raises(PermanentError, match="are different fields") as caught:
            do("pivot", data=numbers, **{**how, **wrong})
        assert caught.value.code == "invalid_input"
    with pytest.raises(PermanentError, match="cannot be names of fields"):
        do("pivot", data=[{**row, "m": [1]} for row in numbers], **how)


@pytest.mark.parametrize("how", ["inner", "left", "right", "full", "semi", "anti"])
def test_a_right_side_that_has_to_be_unique(how: str) -> None:
    left, right = [{"id": 1}], [{"id": 1, "a": 1}, {"id": None, "a": 2}, {"id": None, "a": 3}]
    do("join", left=left, right=right, on="id", how=how, unique_right=True)
    with pytest.raises(PermanentError, match=r"\{'id': 1\} occurs more than once in the right table"):
        do("join", left=left, right=[*right, {"id": 1, "a": 4}], on="id", how=how, unique_right=True)


@pytest.mark.parametrize("by", ["x", "-x"])
@pytest.mark.parametrize("nulls", ["first", "last"])
def test_what_is_no_number_is_sorted_as_null_is(by: str, nulls: str) -> None:
    nan = float("nan")
    data = [{"x": 3.0, "n": 0}, {"x": nan, "n": 1}, {"x": 1.0, "n": 2}, {"x": None, "n": 3}, {"x": nan, "n": 4}, {"x": 2.0, "n": 5}]  # fmt: skip
    numbers = [2, 5, 0] if by == "x" else [0, 5, 2]
    expected = [*numbers, 1, 4, 3] if nulls == "last" else [3, 1, 4, *numbers]
    for given_as in (data, pl.DataFrame(data)):
        done = do("sort", data=given_as, by=by, nulls=nulls).data
        rows: Any = done if given_as is data else done.to_dicts()
        assert [row["n"] for row in rows] == expected


def test_no_fields_are_all_fields() -> None:
    data = [{"a": 1}, {"a": 2}, {"a": 2}]
    assert both("deduplicate", data, by=[]).data == data[:2]
