"""Files of items: read by chunks, counted first, each process for itself."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.components import datasets
from flowmason_ray.components.datasets import Dataset, open_dataset, recorded_dataset
from flowmason_ray.engine.values import Items
from flowmason_ray.errors import PermanentError
from flowmason_ray.stores.encoding import Encoder

ROWS = [{"n": n, "text": f"row {n}", "half": n / 2} for n in range(2500)]


def put(folder: Path, name: str, rows: list[dict[str, Any]] = ROWS) -> Dataset:
    frame = pl.DataFrame(rows)
    file = folder / name
    match file.suffix:
        case ".ndjson" | ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".csv":
            frame.write_csv(file)
        case ".tsv":
            frame.write_csv(file, separator="\t")
        case ".parquet":
            frame.write_parquet(file)
        case _:
            frame.write_ipc(file)
    return open_dataset({"dataset": name}, folder)


def refused(said: dict[str, Any], folder: Path) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        open_dataset(said, folder)
    return caught.value


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.arrow"])
def test_every_format_gives_its_rows_as_objects_in_order(name: str, tmp_path: Path) -> None:
    dataset = put(tmp_path, name)
    assert len(dataset) == len(ROWS)
    assert [dataset.item(i) for i in range(len(ROWS))] == ROWS
    assert dataset.item(1) == ROWS[1], "and back again"


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv", "a.parquet", "a.arrow"])
def test_a_process_keeps_a_few_chunks_of_it(name: str, tmp_path: Path) -> None:
    dataset = put(tmp_path, name, ROWS * 4)
    opened = datasets._opened(dataset)  # pyright: ignore[reportPrivateUsage]  # what it keeps is what is tested
    for i in range(len(dataset)):
        dataset.item(i)
        kept: int = sum(len(chunk) for chunk in opened._kept.values())  # pyright: ignore[reportPrivateUsage]
        assert kept <= datasets.KEPT_CHUNKS * datasets.CHUNK_ROWS
    assert len(dataset) == 10_000


def test_long_lines_are_chunks_of_their_own(tmp_path: Path) -> None:
    rows = [{"text": str(n) * 300_000} for n in range(4)]
    dataset = put(tmp_path, "a.ndjson", rows)
    assert list(datasets._opened(dataset).starts) == [0, 1, 2, 3, 4]  # pyright: ignore[reportPrivateUsage]
    assert [dataset.item(i) for i in range(4)] == rows


def test_the_format_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text('{"n": 1}\n[2]\n', encoding="utf-8")
    dataset = open_dataset({"dataset": "data.txt", "format": "ndjson"}, tmp_path)
    assert [dataset.item(0), dataset.item(1)] == [{"n": 1}, [2]]


@pytest.mark.parametrize(("text", "count"), [("", 0), ("\n\n", 0), ("1\n\n2", 2), ("1\r\n2\r\n", 2), ("\n1\n", 1)])
def test_blank_lines_are_no_items(text: str, count: int, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text(text, encoding="utf-8", newline="")
    dataset = open_dataset({"dataset": "a.ndjson"}, tmp_path)
    assert [dataset.item(i) for i in range(len(dataset))] == [1, 2][:count]


@given(
    st.lists(st.tuples(st.text(st.sampled_from('ab",\n\r '), max_size=6), st.integers(-9, 9)), min_size=1, max_size=30)
)
def test_csv_is_cut_into_the_records_that_a_csv_reader_finds(
    tmp_path_factory: Any, rows: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "n"), *rows])
    (folder / "a.csv").write_text(written.getvalue(), encoding="utf-8", newline="")
    dataset = open_dataset({"dataset": "a.csv"}, folder)
    assert len(dataset) == len(rows)
    assert [int(dataset.item(i)["n"]) for i in range(len(rows))] == [n for _, n in rows]


def test_types_of_csv_hold_for_the_whole_file(tmp_path: Path) -> None:
    lines = ["n,when", *(f"{n},2024-01-02" for n in range(1500)), "", "7.5,2024-01-03"]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    dataset = open_dataset({"dataset": "a.csv"}, tmp_path)
    assert len(dataset) == 1501
    assert {type(dataset.item(i)["n"]) for i in (0, 1499, 1500)} == {float}
    assert dataset.item(0)["when"] == "2024-01-02"


def test_a_line_that_is_no_json_costs_one_item(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('1\n{"x"\n3\n', encoding="utf-8")
    dataset = open_dataset({"dataset": "a.ndjson"}, tmp_path)
    assert (dataset.item(0), dataset.item(2)) == (1, 3)
    with pytest.raises(PermanentError, match=r"Item 1 of the dataset 'a.ndjson' is not JSON") as caught:
        dataset.item(1)
    assert caught.value.code == "dataset_error"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.arrow"])
def test_what_is_no_table_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x00\x01 no table")
    if name == "a.csv":
        (tmp_path / name).write_bytes(b"")
    error = refused({"dataset": name}, tmp_path)
    assert error.code == "table_error"
    assert name in error.message


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"dataset": "../a.ndjson"}, "path_outside_project"),
        ({"dataset": "b.ndjson"}, "file_not_found"),
        ({"dataset": "a.xlsx"}, "unknown_format"),
        ({"dataset": "a.ndjson", "format": "cvs"}, "unknown_format"),
        ({"dataset": 3}, "invalid_config"),
        ({"dataset": "a.ndjson", "fromat": "csv"}, "invalid_config"),
    ],
)
def test_what_cannot_be_a_dataset_is_refused(said: dict[str, Any], code: str, tmp_path: Path) -> None:
    for name in ("a.ndjson", "a.xlsx"):
        (tmp_path / name).write_text("1\n", encoding="utf-8")
    assert refused(said, tmp_path).code == code


def test_a_file_that_changes_is_no_longer_what_was_counted(tmp_path: Path) -> None:
    dataset = put(tmp_path, "a.ndjson")
    dataset.item(0)
    os.utime(tmp_path / "a.ndjson", ns=(1, 1))
    with pytest.raises(PermanentError) as caught:
        dataset.item(2400)
    assert caught.value.code == "dataset_changed"


def test_a_dataset_travels_as_a_path(tmp_path: Path) -> None:
    items = Items(put(tmp_path, "a.ndjson"), list(range(0, 2500, 5)))
    packed = pickle.dumps(items.only(7))
    assert len(packed) < 1000
    assert pickle.loads(packed).item(0) == ROWS[35]


def test_what_the_log_says_is_the_dataset_again(tmp_path: Path) -> None:
    dataset = put(tmp_path, "a.ndjson")
    again = recorded_dataset(json.loads(json.dumps(dataset.to_json())), tmp_path)
    assert again == dataset
    assert again.item(3) == ROWS[3]
    (tmp_path / "a.ndjson").unlink()
    assert recorded_dataset(dataset.to_json(), tmp_path) == dataset, "to be missed when it is read"


def test_the_log_says_which_file_it_was(tmp_path: Path) -> None:
    dataset = put(tmp_path, "a.ndjson")
    key, text = Encoder(None).value(Items(dataset, None, 100))
    assert key == "value"
    assert json.loads(text) == {
        "source": {
            "dataset": "a.ndjson",
            "format": "ndjson",
            "size_bytes": dataset.size_bytes,
            "modified_ns": dataset.modified_ns,
        },
        "indices": None,
        "batch": 100,
    }


@given(st.lists(st.integers(), max_size=20), st.none() | st.integers(1, 6), st.none() | st.sets(st.integers(0, 19)))
def test_batches_are_the_items_in_order(values: list[int], batch: int | None, kept: set[int] | None) -> None:
    indices = None if kept is None else sorted(i for i in kept if i < len(values))
    items = Items(values, indices, batch)
    wanted = values if indices is None else [values[i] for i in indices]
    found = [items.item(p) for p in range(len(items))]
    if batch is None:
        assert found == wanted
    else:
        assert found == [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
        assert [items.index(p) for p in range(len(items))] == list(range(len(items)))
    assert [items.only(p).item(0) for p in range(len(items))] == found


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.arrow"])
def test_items_of_tables_are_json(name: str, tmp_path: Path) -> None:
    dataset = put(tmp_path, name, [{"day": date(2024, 1, n), "at": datetime(2024, 1, n, 6, 30)} for n in (1, 2)])
    assert dataset.item(1) == {"day": "2024-01-02", "at": "2024-01-02T06:30:00"}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.ndjson"])
def test_packed_files_are_refused(name: str, tmp_path: Path) -> None:
    put(tmp_path, name)
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    error = refused({"dataset": name}, tmp_path)
    assert error.code == "table_error"
    assert "is packed (gzip)" in error.message


def test_lines_that_end_with_cr_alone_are_no_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\r1,2\r3,4\r")
    error = refused({"dataset": "a.csv"}, tmp_path)
    assert error.code == "table_error"
    assert "end with CR alone" in error.message
