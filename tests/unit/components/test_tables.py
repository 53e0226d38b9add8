from __future__ import annotations

import gzip
import re
import zlib
from datetime import date
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]  # it has none
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from flowmason_ray.components import table_texts
from flowmason_ray.components.builtin import table_sql
from flowmason_ray.components.builtin.table_files import TableRead, TableWrite
from flowmason_ray.components.builtin.table_shape import TableAggregate, TableJoin
from flowmason_ray.components.builtin.table_sql import TableSql, with_parameters
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext

SALES = pl.DataFrame(
    {
        "region": ["north", "south", "north", "south", None],
        "price": [1.5, 2.0, None, 4.0, 8.0],
        "day": [date(2024, 1, d) for d in range(1, 6)],
    }
)


def read(folder: Path, path: str, **options: Any) -> TableRead.Output:
    return TableRead().execute(
        TableRead.Input.model_validate({"path": path, **options}), RecordingContext(project_dir=folder)
    )


def write(folder: Path, path: str, table: pl.DataFrame = SALES, **options: Any) -> TableWrite.Output:
    return TableWrite().execute(
        TableWrite.Input.model_validate({"path": path, "table": table, **options}), RecordingContext(project_dir=folder)
    )


def sql(query: str, parameters: dict[str, Any] | None = None, **tables: Any) -> pl.DataFrame:
    given = TableSql.Input(tables=tables or {"sales": SALES}, query=query, parameters=parameters or {})
    return TableSql().execute(given, RecordingContext()).table


def aggregate(**options: Any) -> TableAggregate.Output:
    return TableAggregate().execute(
        TableAggregate.Input.model_validate({"table": SALES, **options}), RecordingContext()
    )


def join(left: Any, right: Any, **options: Any) -> TableJoin.Output:
    return TableJoin().execute(
        TableJoin.Input.model_validate({"left": left, "right": right, **options}), RecordingContext()
    )


@pytest.mark.parametrize("extension", ["csv", "tsv", "parquet", "arrow", "pq", "feather"])
def test_what_is_written_is_read_again(tmp_path: Path, extension: str):
    out = write(tmp_path, f"deep/sales.{extension}")
    assert (out.path, out.rows) == (f"deep/sales.{extension}", 5)
    assert out.size_bytes == (tmp_path / out.path).stat().st_size
    back = read(tmp_path, out.path)
    assert_frame_equal(back.table, SALES)
    assert (back.rows, back.columns, back.files) == (5, ["region", "price", "day"], [out.path])


@pytest.mark.parametrize("extension", ["json", "ndjson", "jsonl"])
def test_json_keeps_values_and_takes_types(tmp_path: Path, extension: str):
    write(tmp_path, f"sales.{extension}")
    assert_frame_equal(read(tmp_path, f"sales.{extension}", dtypes={"day": "date"}).table, SALES)


def test_csv_options(tmp_path: Path):
    (tmp_path / "x.txt").write_text("# made by hand\na;b;zip\n1;NA;01234\n2;x;00001\n")
    out = read(
        tmp_path,
        "x.txt",
        format="csv",
        separator=";",
        skip_rows=1,
        null_values=["NA"],
        dtypes={"zip": "string"},
        columns=["zip", "b"],
    )
    assert out.table.rows() == [("01234", None), ("00001", "x")]
    assert read(tmp_path, "x.txt", format="csv", separator=";", skip_rows=2, has_header=False).columns[0] == "column_0"
    (tmp_path / "late.csv").write_text("a\n" + "1\n" * 500 + "x\n")
    assert read(tmp_path, "late.csv").table.schema == {"a": pl.String}
    assert read(tmp_path, "late.csv", limit=7).rows == 7


def test_several_files_are_one_table_in_the_order_of_their_names(tmp_path: Path):
    for n in (2, 1, 3):
        write(tmp_path, f"in/part-{n}.csv", pl.DataFrame({"n": [n]}))
    out = read(tmp_path, "in/part-*.csv", limit=2)
    assert out.table["n"].to_list() == [1, 2]
    assert out.files == ["in/part-1.csv", "in/part-2.csv", "in/part-3.csv"]


def test_reading_nothing_is_an_empty_table_or_an_error(tmp_path: Path):
    (tmp_path / "header.csv").write_text("a,b\n")
    assert read(tmp_path, "header.csv").table.shape == (0, 2)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(PermanentError, match=r"'empty.csv' failed"):
        read(tmp_path, "empty.csv")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "sale.csv"}, r"no file 'sale.csv' in the project. Did you mean 'sales.csv'\?"),
        ({"path": "sales.csv", "columns": ["pric"]}, r"no column 'pric' in file 'sales.csv'. Did you mean 'price'\?"),
        ({"path": "sales.csv", "dtypes": {"pricee": "int"}}, r"'pricee' in file 'sales.csv'. Did you mean 'price'\?"),
        ({"path": "sales.csv", "dtypes": {"price": "flot"}}, r"'flot' for column 'price'.* Did you mean 'float'\?"),
        (
            {"path": "sales.csv", "dtypes": {"region": "int"}},
            r"'sales.csv' failed: could not parse `north` .* column 'region'",
        ),
        ({"path": "data.xyz"}, "extension"),
        ({"path": "bad.parquet"}, r"'bad.parquet' failed"),
        ({"path": "bad.json"}, r"'bad.json' failed"),
        ({"path": "nope/*.csv"}, "matches 'nope/"),
        ({"path": "../x.csv"}, "outside"),
        ({"path": "../*.csv"}, "inside the project"),
    ],
)
def test_reading_errors_name_file_column_and_nearest(tmp_path: Path, options: dict[str, Any], words: str):
    project = tmp_path / "p"
    write(project, "sales.csv")
    for name in ("data.xyz", "bad.parquet", "bad.json"):
        (project / name).write_text("{nonsense")
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(PermanentError, match=words):
        read(project, **options)


def test_a_line_with_too_many_fields_is_told_without_advice_about_polars(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(PermanentError, match=r"a\.csv.* found more fields than defined in 'Schema'\.$"):
        TableRead().execute(TableRead.Input(path="a.csv"), RecordingContext(project_dir=tmp_path))


def test_a_glob_does_not_follow_links_out_of_the_project(tmp_path: Path):
    project = tmp_path / "p"
    project.mkdir()
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (project / "x.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(PermanentError, match="matches"):
        read(project, "*.csv")


def test_writing_errors(tmp_path: Path):
    with pytest.raises(PermanentError, match=r"nested columns \['x'\]"):
        write(tmp_path, "a.csv", pl.DataFrame({"x": [[1]]}))
    with pytest.raises(PermanentError, match="outside"):
        write(tmp_path, "../a.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(PermanentError, match="directory"):
        write(tmp_path, "dir.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["dir.csv"]


def test_sql_joins_groups_and_windows():
    regions = [{"name": "north", "boss": "Ann"}]
    out = sql(
        "select s.region, sum(s.price) as total, max(r.boss) as boss from sales s left join regions r on s.region = r.name "
        "where s.region is not null group by s.region order by s.region",
        sales=SALES,
        regions=regions,
    )
    assert out.rows() == [("north", 1.5, "Ann"), ("south", 6.0, None)]


def test_sql_parameters_are_values():
    out = sql(
        "select count(*) as n from sales where region in :names or region = :odd -- :not_this\n or ':nor this' = region or price::int = :big",
        {"names": ["north", "o'brien"], "odd": "' or 1=1 --", "big": 8},
    )
    assert out["n"].to_list() == [3]


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_any_value_comes_out_of_a_query_as_it_went_in(value: Any):
    if isinstance(value, str) and "\\" in value:
        return  # escapes are checked apart
    out = sql("select :v as v from sales limit 1", {"v": value})["v"].to_list()
    assert out == [value]


def test_backslashes_stay_backslashes():
    assert sql("select :v as v from sales limit 1", {"v": "a\\'b\\n"})["v"].to_list() == ["a\\'b\\n"]


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("select pric from sales", "unknown_column", r"'pric' in the tables.* Did you mean 'price'\?"),
        ("select * from sale", "unknown_table", r"Did you mean 'sales'\?"),
        ("selec * from sales", "sql_error", "Line: 1"),
        ("select foo(price) from sales", "sql_error", "unsupported function 'foo'"),
        ("select * from sales where region = :x", "unknown_parameter", "'x' has no value"),
        ("select price from sales; drop table sales", "sql_error", "one\\) statement"),
        ("select price + region from sales", "table_error", "failed"),
    ],
)
def test_sql_errors(query: str, code: str, words: str):
    with pytest.raises(PermanentError, match=words) as caught:
        sql(query)
    assert caught.value.code == code
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('{f}')",
        "select * from READ_CSV/**/('{f}')",
        "select * from \"read_csv\"('{f}')",
        "select * from sales where region in (select a from read_csv('{f}'))",
        "with x as (select * from read_ndjson('{f}')) select * from x",
        "select * from read_csv\n-- a comment\n('{f}')",
        "select 'it''s' as x, a from read_csv('{f}')",
        "select '\\' as x, a from read_csv('{f}')",
        "select '--' as x, a from read_csv('{f}')",
        "select '/*' as x, a from read_csv('{f}') where a <> '*/'",
        "select * from `read_csv`('{f}')",
        "select * from Read_Parquet ('{f}')",
        "select * from sales join read_ipc('{f}') as t on true",
        "select '$$' as x, a from read_csv('{f}') where '$$' = '$$'",
    ],
)
def test_a_query_cannot_open_files(tmp_path: Path, query: str):
    (tmp_path / "secret").write_text("a\n1\n")
    with pytest.raises(PermanentError, match="no files"):
        sql(query.format(f=tmp_path / "secret"))


@pytest.mark.parametrize(
    "query",
    ["select * from read_csv('{f}')", "select region from sales where price in (select a from read_csv('{f}'))"],
)
def test_what_is_not_seen_in_the_query_is_seen_in_the_plan(tmp_path: Path, query: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "secret").write_text("a\n1\n")
    monkeypatch.setattr(table_sql, "_READS_FILES", re.compile("(?!)"))
    with pytest.raises(PermanentError, match="no files"):
        sql(query.format(f=tmp_path / "secret"))


@pytest.mark.parametrize("text", ["CSV SCAN [x]", "Csv SCAN [a.csv]", "read_csv('a')", "x read_csv (", "SCAN ["])
def test_texts_and_names_are_no_files(text: str):
    table = pl.DataFrame({"a": [text, "other"], text: [1, 2]})
    found = sql("select a as read_csv from t where a = :text", {"text": text}, t=table)
    assert found.to_dicts() == [{"read_csv": text}]
    literal = text.replace("'", "''")
    assert sql(f"select '{literal}' as x from t -- read_csv('x')", t=table).height == 2
    assert sql("select read_csv.a from t as read_csv /* read_csv(1) */", t=table).height == 2


def test_positive_control_polars_itself_would_open_the_file(tmp_path: Path):
    (tmp_path / "secret").write_text("a\n1\n")
    found = pl.SQLContext(eager=True).execute(f"select * from read_csv('{tmp_path / 'secret'}')")
    assert found["a"].to_list() == [1]


def test_parameters_leave_texts_names_comments_and_casts_alone():
    query = """select ':a', ":a", x::int /* :a */ -- :a"""
    assert with_parameters(query, {}) == query


def test_aggregating_groups():
    out = aggregate(
        group_by=["region"],
        aggregations={
            "n": "count()",
            "priced": "count(price)",
            "total": "sum(price)",
            "q": "quantile(price, 0.5)",
            "last": {"op": "max", "column": "day"},
        },
        sort=["-total"],
    )
    assert out.columns == ["region", "n", "priced", "total", "q", "last"]
    assert out.table.rows()[0] == (None, 1, 1, 8.0, 8.0, date(2024, 1, 5))
    assert out.table.rows()[2] == ("north", 2, 1, 1.5, 1.5, date(2024, 1, 3))


def test_aggregating_a_whole_table_and_limits():
    assert aggregate(aggregations={"n": "count(*)", "regions": "n_unique(region)"}).table.rows() == [(5, 3)]
    assert aggregate(group_by=["region"], aggregations={"n": "rows()"}, sort=["-n", "region"], limit=1).rows == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group_by": ["regio"]}, r"'regio' in the table. Did you mean 'region'\?"),
        ({"aggregations": {"x": "sum(prise)"}}, r"Did you mean 'price'\?"),
        ({"aggregations": {"x": "summ(price)"}}, r"'summ'.* Did you mean 'sum'\?"),
        ({"aggregations": {"x": "price"}}, "does not read like"),
        ({"aggregations": {"x": "quantile(price)"}}, "which quantile"),
        ({"aggregations": {"x": "sum()"}}, "needs a column"),
        ({"aggregations": {"x": "sum(price)"}, "sort": ["-y"]}, "'y' in the result"),
        ({"group_by": ["region"], "aggregations": {"region": "sum(price)"}}, "two columns of one name"),
        ({"aggregations": {"x": "mean(region)"}}, "not supported for dtype `str`"),
    ],
)
def test_aggregation_errors(options: dict[str, Any], words: str):
    with pytest.raises(PermanentError, match=words):
        aggregate(**{"aggregations": {"n": "count()"}, **options})


LEFT = pl.DataFrame({"id": [3, 1, 2], "v": ["c", "a", "b"]})
RIGHT = pl.DataFrame({"key": [1, 2, 2, 9], "v": ["x", "y", "z", "w"]})


def test_joins_keep_the_left_order():
    out = join(LEFT, RIGHT, left_on="id", right_on="key", how="left", suffix="_r")
    assert out.table.rows() == [(3, "c", None), (1, "a", "x"), (2, "b", "y"), (2, "b", "z")]
    assert out.columns == ["id", "v", "v_r"]
    assert join(LEFT, RIGHT, left_on="id", right_on="key", how="anti").table["id"].to_list() == [3]
    assert join(LEFT, RIGHT, left_on="id", right_on="key", how="semi").table["id"].to_list() == [1, 2]
    assert join(LEFT, RIGHT, left_on="id", right_on="key", how="full").rows == 5
    assert join(LEFT, RIGHT, left_on="id", right_on="key", how="right").table["key"].to_list() == [1, 2, 2, 9]
    assert join(LEFT, RIGHT, how="cross").rows == 12
    assert join(LEFT, LEFT, on=["id"]).columns == ["id", "v", "v_right"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "do not pair up"),
        ({"left_on": ["id"], "right_on": ["key", "v"]}, "do not pair up"),
        ({"on": "id", "left_on": "id"}, "not both"),
        ({"on": "id"}, "'id' in the right table"),
        ({"left_on": "idd", "right_on": "key"}, r"left table. Did you mean 'id'\?"),
        ({"left_on": "id", "right_on": "v"}, "failed"),
        ({"left_on": "id", "right_on": "key", "unique_right": True}, "{'key': 2} occurs more than once"),
        ({"on": "id", "how": "cross"}, "no keys"),
    ],
)
def test_join_errors(options: dict[str, Any], words: str):
    with pytest.raises(PermanentError, match=words):
        join(LEFT, RIGHT, **options)


@pytest.mark.parametrize("component", [TableRead, TableWrite])
@pytest.mark.parametrize("separator", ["é", '"', "\n", "\r"])
def test_separators_that_cannot_be(component: Any, separator: str):
    with pytest.raises(ValidationError, match="a separator is one ASCII character"):
        component.Input.model_validate({"path": "a.csv", "table": SALES, "separator": separator})


@pytest.mark.parametrize("pattern", ["**a.csv", "in/a**/*.csv", "\0*.csv"])
def test_patterns_that_cannot_be(tmp_path: Path, pattern: str):
    with pytest.raises(PermanentError, match="stands alone between slashes") as caught:
        read(tmp_path, pattern)
    assert caught.value.code == "invalid_path"


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.json"])
def test_packed_files_are_read_within_bounds(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, name, pl.DataFrame({"a": [1] * 1000}))
    plain = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(plain[:100]) + gzip.compress(plain[100:]))  # several parts are one file
    assert read(tmp_path, name).rows == 1000
    monkeypatch.setattr(table_texts, "UNPACKED_BYTES", len(plain) - 1)
    monkeypatch.setattr(table_texts, "UNPACKED_TIMES", 1)
    with pytest.raises(PermanentError, match="becomes more than") as caught:
        read(tmp_path, name)
    assert caught.value.code == "table_error"
    (tmp_path / name).write_bytes(gzip.compress(plain)[:-20])
    with pytest.raises(PermanentError, match="cannot be unpacked"):
        read(tmp_path, name)


def test_zstd_is_measured_and_zlib_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = b"a,b\n" + b"1,2\n" * 1000
    (tmp_path / "a.csv").write_bytes(cast("Any", pa).compress(plain, codec="zstd", asbytes=True))
    assert read(tmp_path, "a.csv").rows == 1000
    monkeypatch.setattr(table_texts, "UNPACKED_BYTES", 1000)
    monkeypatch.setattr(table_texts, "UNPACKED_TIMES", 1)
    with pytest.raises(PermanentError, match="becomes more than"):
        read(tmp_path, "a.csv")
    (tmp_path / "a.csv").write_bytes(zlib.compress(plain))
    with pytest.raises(PermanentError, match="packed with zlib"):
        read(tmp_path, "a.csv")


@pytest.mark.parametrize("text", ["a,b\r1,2\r3,4\r", "a,b\r1,2\n", '"a\n",b\r1,2\r'])
def test_lines_that_end_with_cr_alone_are_no_empty_table(tmp_path: Path, text: str):
    (tmp_path / "a.csv").write_bytes(text.encode())
    with pytest.raises(PermanentError, match="end with CR alone"):
        read(tmp_path, "a.csv")
    (tmp_path / "a.csv").write_bytes(b'"a\r1",b\r\n"1\r2",3\r\n')
    assert read(tmp_path, "a.csv").table.to_dicts() == [{"a\r1": "1\r2", "b": 3}]
