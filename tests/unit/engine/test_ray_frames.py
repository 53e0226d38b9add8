"""Frames arrive as they were sent, whatever they are made of, and large buffers are handed over as they are."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.engine.executors.ray_frames import portable, restore
from flowmason_ray.errors import StageError

polars: Any = import_module("polars")  # its types are partly unknown

COLUMNS: dict[str, list[Any]] = {
    "int": [1, None, -(2**60), 4],
    "float": [0.5, float("inf"), None, -0.0],
    "bool": [True, None, False, True],
    "text": ["a", None, "é" * 40, ""],
    "bytes": [b"\0", b"x" * 100, None, b""],
    "when": [
        datetime(2026, 1, 1, tzinfo=UTC),
        None,
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
    "span": [timedelta(seconds=1), None, timedelta(days=-3), timedelta(0)],
    "money": [Decimal("1.50"), None, Decimal("-3.25"), Decimal("0.00")],
    "list": [[1, 2], None, [], [3]],
    "struct": [{"a": 1, "b": "x"}, {"a": None, "b": None}, {"a": 2, "b": "y" * 30}, {"a": 3, "b": ""}],
    "nothing": [None, None, None, None],
}


def sent(frame: Any) -> tuple[Any, int, list[Any]]:
    """Return a frame after its journey, the size of the message in bytes, and what went beside it."""
    beside: list[Any] = []
    message = pickle.dumps(portable({"t": frame}), protocol=5, buffer_callback=beside.append)
    within = restore(pickle.loads(pickle.dumps(portable({"t": frame}), protocol=5)))["t"]
    arrived = restore(pickle.loads(message, buffers=beside))["t"]
    assert within.equals(arrived)
    return arrived, len(message), beside


@given(
    names=st.lists(st.sampled_from([*COLUMNS, "category"]), unique=True),
    repeat=st.integers(0, 40),
    cut=st.tuples(st.integers(0, 20), st.integers(0, 200)),
    chunks=st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_a_frame_arrives_as_it_was_sent(names: list[str], repeat: int, cut: tuple[int, int], chunks: int) -> None:
    columns: dict[str, Any] = {name: COLUMNS[name] * repeat for name in names if name != "category"}
    if "category" in names:
        columns["category"] = polars.Series(["x", "y", None, "x"] * repeat, dtype=polars.Categorical)
    frame = polars.DataFrame(columns)
    frame = polars.concat([frame] * chunks, rechunk=False).slice(*cut)
    arrived, _, _ = sent(frame)
    assert arrived.equals(frame)
    assert arrived.schema == frame.schema


def test_large_buffers_are_handed_over_and_not_written_down() -> None:
    frame = polars.DataFrame({"n": range(100_000), "s": ["x" * 30] * 100_000})
    _, message_bytes, beside = sent(frame)
    assert message_bytes < 10_000
    values = 100_000 * (8 + 16 + 30)  # numbers, views, texts
    assert sum(buffer.raw().nbytes for buffer in beside) < 1.05 * values


def test_a_slice_leaves_behind_what_it_was_cut_from() -> None:
    frame = polars.DataFrame({"n": range(1_000_000)}).slice(500_000, 1_000)
    arrived, _, beside = sent(frame)
    assert arrived.equals(frame)
    assert sum(buffer.raw().nbytes for buffer in beside) < 20_000


def test_a_frame_of_very_many_pieces_travels_as_one() -> None:
    frame = polars.concat([polars.DataFrame({"n": [i]}) for i in range(2_000)], rechunk=False)
    arrived, _, beside = sent(frame)
    assert arrived.equals(frame)
    assert len(beside) == 1


@pytest.mark.parametrize("kind", ["Int128", "UInt128"])
def test_whole_numbers_of_128_bits_arrive_also_within_others(kind: str) -> None:
    dtype = getattr(polars, kind, None)
    if dtype is None:
        pytest.skip(f"this polars has no {kind}")
    large = polars.Series("n", [1, None, 2**100], dtype=dtype)
    frame = polars.DataFrame([large, polars.Series("t", ["a", None, "c"])]).with_columns(
        within=polars.struct(polars.col("n").reshape((-1, 1)))
    )
    for each in (frame, frame.slice(1, 1), frame.clear(), polars.concat([frame, frame], rechunk=False)):
        arrived, _, _ = sent(each)
        assert arrived.equals(each)
        assert arrived.schema == each.schema


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["a", "b", None], polars.Enum(["a", "b"])),
        ([Decimal("1.5"), None], polars.Decimal(38, 20)),
        ([[1, 2], None], polars.Array(polars.Int8, 2)),
        ([1.5, None], polars.Float32),
    ],
)
def test_the_type_of_a_column_arrives_too(values: list[Any], dtype: Any) -> None:
    frame = polars.DataFrame({"c": polars.Series(values, dtype=dtype)})
    arrived, _, _ = sent(frame)
    assert arrived.equals(frame)
    assert arrived.schema == frame.schema


def test_python_objects_in_a_table_are_refused_by_the_column_that_holds_them() -> None:
    with pytest.raises(StageError, match="Column 'things' of a table holds Python objects") as caught:
        portable({"t": polars.DataFrame({"n": [1], "things": [object()]})})
    assert caught.value.code == "invalid_output"
