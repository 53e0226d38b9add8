"""Positions: `locate` against a slow reference that parses character by character."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.spec.source import Source, join_pointer, split_pointer, too_deep_at

SPACE = " \t\n\r"


def reference(text: str) -> dict[str, tuple[int, int]]:
    """Pointer → offsets of key and value of every value, found in one naive recursive descent."""
    places: dict[str, tuple[int, int]] = {}

    def skip(at: int) -> int:
        while at < len(text) and text[at] in SPACE:
            at += 1
        return at

    def string(at: int) -> tuple[str, int]:
        end = at + 1
        while text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        return json.loads(text[at : end + 1]), end + 1

    def value(at: int, key_at: int, pointer: str) -> int:
        places[pointer] = (key_at, at)
        if text[at] == '"':
            return string(at)[1]
        if text[at] in "[{":
            closing = "]" if text[at] == "[" else "}"
            is_object, at, index = text[at] == "{", skip(at + 1), 0
            while text[at] != closing:
                start = at
                if is_object:
                    name, at = string(at)
                    at = skip(skip(at) + 1)
                else:
                    name, index = str(index), index + 1
                at = skip(value(at, start, f"{pointer}{join_pointer(name)}"))
                if text[at] == ",":
                    at = skip(at + 1)
            return at + 1
        while at < len(text) and text[at] not in ",]}" + SPACE:
            at += 1
        return at

    start = skip(0)
    value(start, start, "")
    return places


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def with_random_spaces(value: Any, chance: random.Random) -> str:
    def space() -> str:
        return "".join(chance.choices(SPACE, k=chance.randrange(3)))

    def write(inner: Any) -> str:
        if isinstance(inner, dict):
            members = (f"{space()}{json.dumps(k)}{space()}:{write(v)}" for k, v in inner.items())  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]  # any JSON
            return f"{space()}{{{','.join(members) or space()}}}{space()}"
        if isinstance(inner, list):
            return f"{space()}[{','.join(map(write, inner)) or space()}]{space()}"  # pyright: ignore[reportUnknownArgumentType]  # any JSON
        return f"{space()}{json.dumps(inner, ensure_ascii=chance.random() < 0.5)}{space()}"

    return write(value)


texts = st.text(alphabet='ab/~"\\{}[],: \n\té0', max_size=6)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(documents, st.randoms(use_true_random=False))
def test_locate_agrees_with_the_reference(document: object, chance: random.Random):
    text = with_random_spaces(document, chance)
    source = Source(file="f", text=text)
    for pointer, (key_at, value_at) in reference(text).items():
        found = source.locate(pointer)
        assert (found.line, found.column) == line_and_column(text, value_at)
        found = source.locate(pointer, key=True)
        assert (found.line, found.column) == line_and_column(text, key_at)
        assert source.locate(f"{pointer}/nowhere/else") == source.locate(pointer)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='{}[]",:\\ \na1', max_size=30), st.text(alphabet="/a01~", max_size=6))
def test_locate_answers_on_any_text(text: str, pointer: str):
    found = Source(file="f", text=text).locate(pointer)
    assert found.file == "f"
    assert (found.line is None) == (text == "")


def test_the_last_of_repeated_keys_is_meant():
    source = Source(file=None, text='{"a": 1, "b": {"c": 1, "c": 2}, "a": 3}')
    assert source.locate("/a").column == 38
    assert [place.column for place in source.repeated("")["a"]] == [2, 33]
    assert [place.column for place in source.repeated("/b")["c"]] == [16, 24]
    assert source.repeated("/a") == {}


def test_without_text_there_are_no_lines():
    assert Source(file=None, text="").locate("/a/b").line is None


@given(st.lists(st.text(alphabet="a/~01", max_size=4)))
def test_pointers_round_trip(tokens: list[str]):
    assert split_pointer(join_pointer(*tokens)) == tokens


@pytest.mark.parametrize(("text", "at"), [("[[[]]]", 2), ('["[[["]', None), ("[[],[[", 5)])
def test_too_deep_at(text: str, at: int | None):
    assert too_deep_at(text, 2) == at
