from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.components.builtin.json_paths import MISSING, find, parse_path
from flowmason_ray.components.builtin.json_search import InvalidPath, search

DATA = {
    "a": {"b": [{"id": 1}, {"id": 2}, {}], "n": None, "with space": {"x": 9}, "dash-key": 3},
    "items": [1, 2, 3],
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", DATA),
        ("$.a.b[0].id", 1),
        ("a.b[1].id", 2),
        ("a.b.1.id", 2),
        ("a.b[-3].id", 1),
        ("$.a['with space'].x", 9),
        ('$.a["with space"].x', 9),
        ("a.dash-key", 3),
        ("$['a']['n']", None),
        ("$.a.b[*].id", [1, 2]),
        ("$.items[1:]", [2, 3]),
        ("items[0:2]", [1, 2]),
        ("$.a.*.id", []),
        ("length(items)", 3),
        ("a.b[?id > `1`].id", [2]),
    ],
)
def test_paths_find(path: str, expected: Any):
    assert find(DATA, path) == expected


@pytest.mark.parametrize(
    "path", ["$.nope", "a.b[7]", "a.n.x", "items.x", "$.a.b[0].id.deep", "items[*].x.y[9]", "nope(a)"]
)
def test_what_is_not_there_is_missing_or_an_error(path: str):
    try:
        found = find(DATA, path)
    except InvalidPath:
        assert path == "nope(a)"
    else:
        assert found is MISSING or found == []


@pytest.mark.parametrize("path", ["$a", "$.a..b", "$.a[", "$.a[x]", "[?", "a |", ""])
def test_what_is_no_path_is_refused(path: str):
    with pytest.raises(InvalidPath):
        find(DATA, path)


@pytest.mark.parametrize(
    "expression",
    [
        "|".join(["[@,@]"] * 40),
        "|".join(["[@,@][]"] * 40),
        "|".join(["{a: @, b: @}"] * 40),
        "|".join(["[@,@]"] * 25) + "|to_string(@)",
        "|".join(["[@,@]"] * 15) + "|" + "|".join(["[?@ == @]"] * 400),
        "to_string(to_array(" * 40 + "'\"'" + "))" * 40,
        "|".join(["[@]"] * 5000),
        "(" * 5000 + "a" + ")" * 5000,
        "map(&[@,@], @)|" * 40 + "@",
    ],
    ids=range(9),
)  # fmt: skip
@pytest.mark.timeout(60)  # that it ends at all is the property
def test_an_expression_cannot_make_more_than_there_is_room_for(expression: str):
    with pytest.raises(InvalidPath) as caught:
        search([1], expression)
    assert len(str(caught.value)) < 1000


def test_large_data_can_be_rearranged():
    rows = [{"id": n, "words": "word " * 20, "tags": ["a", "b"]} for n in range(20_000)]
    found = search(rows, "[?length(words) > `5`].{id: id, first: tags[0], all: [words, words]}")
    assert len(found) == 20_000
    assert search(rows, "[?id > `19998`].id") == [19_999]


@pytest.mark.parametrize(
    "expression", ["items[?name > `3`]", "items[::0]", "items[::0].name", "{a: items[?name > `3`]}", "{a: items[::0]}"]
)
def test_what_does_not_fit_the_values_is_told(expression: str):
    with pytest.raises(InvalidPath):
        search({"items": [{"name": "text"}]}, expression)


KEYS = st.text(min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(KEYS, st.integers(0, 3)), max_size=6), st.integers())
def test_a_path_written_from_steps_finds_what_was_put_there(steps: list[str | int], leaf: int):
    value: Any = leaf
    for step in reversed(steps):
        value = [None] * step + [value] if isinstance(step, int) else {step: value}
    text = "$"
    for step in steps:
        quoted = str(step).replace("\\", "\\\\").replace("'", "\\'")
        text += f"[{step}]" if isinstance(step, int) else f"['{quoted}']"
    # A newline inside a quoted key is the one thing that the grammar leaves to the dot.
    if not any(isinstance(s, str) and ("\n" in s or "\\" in s) for s in steps) and text == text.strip():
        assert find(value, text) == leaf


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=20))
def test_parsing_any_text_ends_and_never_raises(text: str):
    assert parse_path(text) is None or isinstance(parse_path(text), list)
