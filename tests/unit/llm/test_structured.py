"""Answers as data: what is read out of what models write around it, and what is left as it is."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason_ray.llm.structured import Expected

TEXT: dict[str, Any] = {"type": "string"}
THING: dict[str, Any] = {"type": "object"}


@pytest.mark.parametrize(
    ("schema", "answer", "data"),
    [
        (TEXT, '"use {x} here"', "use {x} here"),
        (TEXT, '"a [list] in words"', "a [list] in words"),
        (TEXT, '"```json is a fence"', "```json is a fence"),
        (TEXT, '```json\n"use {x} here"\n```', "use {x} here"),
        (THING, '{"a": "```"}', {"a": "```"}),
        (THING, 'Here it is: {"a": 1}. Anything else?', {"a": 1}),
        (THING, '```json\n{"a": 1}\n```', {"a": 1}),
        (THING, '```\n{"a": 1}\n```\nI hope that helps.', {"a": 1}),
        ({"type": "array"}, "The list: [1, 2]", [1, 2]),
        ({"type": "number"}, " 7 ", 7),
    ],
)
def test_data_is_read_as_it_was_meant(schema: dict[str, Any], answer: str, data: Any) -> None:
    read = Expected(schema).read(answer)
    assert (read.data, read.problem) == (data, None)


@pytest.mark.parametrize("answer", ["", "no idea", "{", '{"a": }', "```json\n```", "it is {a} or [b"])
def test_what_is_no_json_is_told(answer: str) -> None:
    problem = Expected(THING).read(answer).problem
    assert problem is not None
    assert "not JSON" in problem
