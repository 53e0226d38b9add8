"""What stands for a value: the same for the same content, whoever computes it, and another one for any other content."""

from __future__ import annotations

from typing import Any, cast

import polars
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.engine.digests import (
    MISSING,
    SHORT_BYTES,
    content_of,
    contents_of,
    item_content,
    item_in,
    part_in,
    part_of,
)
from flowmason_ray.engine.values import Items

pl: Any = polars  # its types are partly unknown
scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=80)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=4))
outputs = st.dictionaries(st.text(max_size=4), values, max_size=5) | values


@settings(max_examples=200, deadline=None)
@given(outputs, st.none() | st.text(max_size=4))
def test_a_worker_says_what_the_coordinator_would_say(value: Any, key: str | None) -> None:
    assert part_in(contents_of(value), key) == part_of(value, key)


@settings(max_examples=200, deadline=None)
@given(values, values)
def test_content_tells_values_apart(one: Any, other: Any) -> None:
    same = repr(one) == repr(other) or content_of(one) == content_of(other)
    assert (content_of(one) == content_of(other)) == same
    if repr(sort(one)) != repr(sort(other)):
        assert content_of(one) != content_of(other)


def sort(value: Any) -> Any:
    """Return a value with the keys of its objects sorted."""
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return {key: sort(found[key]) for key in sorted(found, key=lambda k: k.encode("utf-16-be", "surrogatepass"))}
    return [sort(each) for each in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]  # JSON


def test_the_order_of_keys_does_not_count_and_length_decides_the_form() -> None:
    assert content_of({"a": 1, "b": 2}) == content_of({"b": 2, "a": 1}) == b'{"a":1,"b":2}'
    long = content_of("x" * SHORT_BYTES)
    assert (long[:1], len(long)) == (b"#", 33)
    assert part_of({"a": 1}, "b") == MISSING


@settings(max_examples=50, deadline=None)
@given(st.lists(values, max_size=6), st.integers(1, 3))
def test_items_count_one_by_one(items: list[Any], batch: int) -> None:
    for source in (Items(items), Items(items, batch=batch), Items(items, list(range(0, len(items), 2)))):
        contents = contents_of(source)
        assert [item_in(contents, p) for p in range(len(source))] == [
            item_content(source, p) for p in range(len(source))
        ]
    assert [item_content(Items(items), p) for p in range(len(items))][::-1] == [
        item_content(Items(items[::-1]), p) for p in range(len(items))
    ]


def test_frames_count_by_what_is_in_them() -> None:
    whole = pl.DataFrame({"n": [1, 2, 3, None], "t": ["a" * 40, None, "c", "d"]})
    pieces = pl.concat([whole[:2], whole[2:]], rechunk=False)
    assert (
        part_of({"t": whole}, "t")
        == part_of({"t": pieces}, "t")
        == part_of({"t": pl.from_arrow(whole.to_arrow())}, "t")
    )
    assert part_of({"t": whole}, "t") != part_of({"t": whole.with_columns(n=pl.lit(1))}, "t")
    rows = Items(whole)
    assert item_content(rows, 0) == item_content(Items([{"n": 1, "t": "a" * 40}]), 0)
